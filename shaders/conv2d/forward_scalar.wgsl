// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// Shapes: x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G, KG = K/G, any numbers.
// Tiles: one element of y per thread, for channels that do not come in fours.
// Workgroup: WORKGROUP threads, neighbours in memory.
// Grid: ceil(elements of y / WORKGROUP) workgroups.
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> w: array<f32>;        // [M,R,S,CG,K]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [M,N,P,Q,K]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let element = workgroup_index(wid) * WORKGROUP + lid;
    if element >= M * N * P * Q * K {
        return;
    }
    let k = element % K;
    let q = element / K % Q;
    let p = element / (K * Q) % P;
    let n = element / (K * Q * P) % N;
    let m = element / (K * Q * P * N);
    let x_member = select(m, 0u, X_MEMBERS == 1u);
    let image = x_member * N + n;

    var sum = 0.0;
    for (var r = 0u; r < R; r++) {
        for (var s = 0u; s < S; s++) {
            let i = p * STRIDE_H + r - PAD_H;
            let j = q * STRIDE_W + s - PAD_W;
            if i < H && j < W {
                let pixel = ((image * H + i) * W + j) * C + k / KG * CG;
                let weights = ((m * R + r) * S + s) * CG;
                for (var c = 0u; c < CG; c++) {
                    let value = normalise(unpack(x[pixel + c]), x_member * C + k / KG * CG + c);
                    sum += value * w[(weights + c) * K + k];
                }
            }
        }
    }
    y[element] = sum;
}
