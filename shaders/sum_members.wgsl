// y[i] = sum over m of x[m, i], in the order of m.
// Shapes: x [MEMBERS, ELEMENTS], y [1, ELEMENTS].
// Tiles: one element per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [MEMBERS, ELEMENTS]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [1, ELEMENTS]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    var sum = unpack(x[i]);
    for (var m = 1u; m < MEMBERS; m++) {
        sum += unpack(x[m * ELEMENTS + i]);
    }
    y[i] = pack(sum);
}
