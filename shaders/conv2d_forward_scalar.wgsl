// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G and KG = K/G may be anything.
// The rare case whose channels do not come in fours: one thread, one element.
// Workgroup: WORKGROUP consecutive elements of y.
// Grid: the elements of y.

@group(0) @binding(0) var<storage, read> x: array<f32>;        // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> w: array<f32>;        // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;  // [M,N,P,Q,K]
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
                    var value = x[pixel + c];
                    if NORMALISED {
                        value = normalise(value, x_member * C + k / KG * CG + c);
                    }
                    sum += value * w[(weights + c) * K + k];
                }
            }
        }
    }
    y[element] = sum;
}
