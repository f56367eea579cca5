// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
// part i sums rows (n,p) from i ROWS on. x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G and
// KG = K/G may be anything. The rare case whose channels do not come in fours: one thread, one element.
// Workgroup: WORKGROUP consecutive elements of partials.
// Grid: the elements of partials.

@group(0) @binding(0) var<storage, read> x: array<f32>;               // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> dy: array<f32>;              // [M,N,P,Q,K]
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;  // [PARTS,M,R,S,CG,K]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let element = (wid.x + wid.y * GRID_ROW) * WORKGROUP + lane;
    if element >= PARTS * M * R * S * CG * K {
        return;
    }
    let k = element % K;
    let c = element / K % CG + k / KG * CG;
    let s = element / (K * CG) % S;
    let r = element / (K * CG * S) % R;
    let m = element / (K * CG * S * R) % M;
    let part = element / (K * CG * S * R * M);
    let x_image = select(m, 0u, X_MEMBERS == 1u) * N;

    var sum = 0.0;
    for (var row = part * ROWS; row < min((part + 1u) * ROWS, N * P); row++) {
        let i = row % P * STRIDE_H + r - PAD_H;
        if i < H {
            for (var q = 0u; q < Q; q++) {
                let j = q * STRIDE_W + s - PAD_W;
                if j < W {
                    let pixel = ((x_image + row / P) * H + i) * W + j;
                    sum += x[pixel * C + c] * dy[((m * N * P + row) * Q + q) * K + k];
                }
            }
        }
    }
    partials[element] = sum;
}
