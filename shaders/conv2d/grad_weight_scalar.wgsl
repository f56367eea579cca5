// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
//   part i sums rows (n,p) from i ROWS on.
// Shapes: x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G, KG = K/G, any numbers.
// Tiles: one element of partials per thread, for channels that do not come in fours.
// Workgroup: WORKGROUP threads, neighbours in memory.
// Grid: ceil(elements of partials / WORKGROUP) workgroups.
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> dy: array<f32>;              // [M,N,P,Q,K]
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;  // [PARTS,M,R,S,CG,K]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let element = workgroup_index(wid) * WORKGROUP + lid;
    if element >= PARTS * M * R * S * CG * K {
        return;
    }
    let k = element % K;
    let c = element / K % CG + k / KG * CG;
    let s = element / (K * CG) % S;
    let r = element / (K * CG * S) % R;
    let m = element / (K * CG * S * R) % M;
    let part = element / (K * CG * S * R * M);
    let x_member = select(m, 0u, X_MEMBERS == 1u);
    let x_image = x_member * N;

    var sum = 0.0;
    for (var row = part * ROWS; row < min((part + 1u) * ROWS, N * P); row++) {
        let i = row % P * STRIDE_H + r - PAD_H;
        if i < H {
            for (var q = 0u; q < Q; q++) {
                let j = q * STRIDE_W + s - PAD_W;
                if j < W {
                    let pixel = ((x_image + row / P) * H + i) * W + j;
                    let value = normalise(unpack(x[pixel * C + c]), x_member * C + c);
                    sum += value * dy[((m * N * P + row) * Q + q) * K + k];
                }
            }
        }
    }
    partials[element] = sum;
}
