// y[m, i] = x[i] for every m.
// Shapes: x [1, ELEMENTS], y [MEMBERS, ELEMENTS].
// Tiles: one element of every member per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [1, ELEMENTS]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [MEMBERS, ELEMENTS]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    let value = x[i];
    for (var m = 0u; m < MEMBERS; m++) {
        y[m * ELEMENTS + i] = value;
    }
}
