// y[i, k] = x[i, FIRST + k].
// Shapes: x [ROWS, C], y [ROWS, K], channels counted in elements; ELEMENTS is those of y.
// Tiles: one element of y per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [ROWS, C]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [ROWS, K]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.x + group.y * GRID_ROW) * 256u + thread;
    if i < ELEMENTS {
        y[i] = x[i / K * C + FIRST + i % K];
    }
}
