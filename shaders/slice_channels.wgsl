// y[i, k] = x[i, FIRST + k].
// Shapes: x [ROWS, C], y [ROWS, K], channels counted in elements; ELEMENTS is those of y.
// Tiles: one element of y per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [ROWS, C]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [ROWS, K]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    y[i] = x[i / K * C + FIRST + i % K];
}
