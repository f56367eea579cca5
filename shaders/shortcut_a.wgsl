// y[m, n, p, q, k] = x[m, n, p * STRIDE, q * STRIDE, k - BEFORE] if BEFORE <= k < BEFORE + C, else 0.
// Shapes: x [M, N, H, W, C], y [M, N, P, Q, K], channels counted in elements; ELEMENTS is those of y.
// Tiles: one element of y per thread; neighbours are neighbours along k.
// Workgroup: 256 threads.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, N, H, W, C]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [M, N, P, Q, K]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    let k = i % K;
    let q = i / K % Q;
    let p = i / (K * Q) % P;
    let image = i / (K * Q * P);
    var value = Stored();
    if k >= BEFORE && k < BEFORE + C {
        value = x[((image * H + p * STRIDE) * W + q * STRIDE) * C + k - BEFORE];
    }
    y[i] = value;
}
