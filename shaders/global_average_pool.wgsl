// y[m, n, c] = mean over the area of x[m, n, :, c].
// Shapes: x [M, N, AREA, C], y [M, N, C]; C = VECTORS elements, OUTPUTS = M * N * VECTORS.
// Tiles: one element of y per thread; neighbours are neighbours along c.
// Workgroup: 64 threads.
// Grid: ceil(OUTPUTS / 64) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, N, AREA, C]
@group(0) @binding(1) var<storage, read_write> y: array<Elem>; // [M, N, C]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 64u + lid;
    if i >= OUTPUTS {
        return;
    }
    let base = i / VECTORS * AREA * VECTORS + i % VECTORS;
    var sum = unpack(x[base]);
    for (var position = 1u; position < AREA; position++) {
        sum += unpack(x[base + position * VECTORS]);
    }
    y[i] = sum / Elem(f32(AREA));
}
