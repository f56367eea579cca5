// y[m, i] = x[i] for every m.
// Shapes: x [1, ELEMENTS], y [MEMBERS, ELEMENTS].
// Tiles: one element of every member per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [1, ELEMENTS]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [MEMBERS, ELEMENTS]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.x + group.y * GRID_ROW) * 256u + thread;
    if i < ELEMENTS {
        let value = x[i];
        for (var m = 0u; m < MEMBERS; m += 1u) {
            y[m * ELEMENTS + i] = value;
        }
    }
}
