// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
// part i sums rows (n,p) from i ROWS on. x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G
// and
// KG = K/G may be anything. The rare case whose channels do not come in fours: one thread, one element.
// Workgroup: WORKGROUP consecutive elements of partials.
// Grid: the elements of partials.

@group(0) @binding(0) var<storage, read> x: array<f32>;               // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> dy: array<f32>;              // [M,N,P,Q,K]
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;  // [PARTS,M,R,S,CG,K]
// [X_MEMBERS,2,C] (mean, inv_std); NORMALISED only, else x
@group(0) @binding(3) var<storage, read> stats: array<f32>;
@group(0) @binding(4) var<storage, read> gamma: array<f32>;    // [X_MEMBERS,C], likewise
@group(0) @binding(5) var<storage, read> beta: array<f32>;     // [X_MEMBERS,C], likewise

// The input as it is read: NORMALISED, x stands for relu((x - mean) inv_std gamma + beta), by the channel.
fn normalise(value: f32, channel: u32) -> f32 {
    let member = channel / C;
    let at = channel + member * C;
    let result = (value - stats[at]) * (stats[at + C] * gamma[channel]) + beta[channel];
    return select(result, 0.0, result < 0.0);
}

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
                    var value = x[pixel * C + c];
                    if NORMALISED {
                        value = normalise(value, x_member * C + c);
                    }
                    sum += value * dy[((m * N * P + row) * Q + q) * K + k];
                }
            }
        }
    }
    partials[element] = sum;
}
