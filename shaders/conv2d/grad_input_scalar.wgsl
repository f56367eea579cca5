// dx[m,n,i,j,c] = addend + sum of dy[m,n,p,q,k] w[m,r,s,c,k] over p STRIDE_H + r - PAD_H = i,
//   q STRIDE_W + s - PAD_W = j, and over the members m if X_MEMBERS < M.
// Shapes: dy [M,N,P,Q,K], w [M,R,S,CG,K], dx and addend [X_MEMBERS,N,H,W,C]; CG = C/G, KG = K/G, any numbers.
// Tiles: one element of dx per thread, for channels that do not come in fours.
// Workgroup: WORKGROUP threads, neighbours in memory.
// Grid: ceil(elements of dx / WORKGROUP) workgroups.
@group(0) @binding(0) var<storage, read> dy: array<f32>;        // [M,N,P,Q,K]
@group(0) @binding(1) var<storage, read> w: array<f32>;         // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read> addend: array<f32>;    // [X_MEMBERS,N,H,W,C] if ADDEND, else dy
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [X_MEMBERS,N,H,W,C]

const SUMMED: u32 = M / X_MEMBERS;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let element = workgroup_index(wid) * WORKGROUP + lid;
    if element >= X_MEMBERS * N * H * W * C {
        return;
    }
    let c = element % C;
    let j = element / C % W;
    let i = element / (C * W) % H;
    let n = element / (C * W * H) % N;
    let x_member = element / (C * W * H * N);
    let first_k = c / CG * KG;

    var sum = 0.0;
    for (var m = x_member * SUMMED; m < (x_member + 1u) * SUMMED; m++) {
        for (var r = 0u; r < R; r++) {
            for (var s = 0u; s < S; s++) {
                let p = (i + PAD_H - r) / STRIDE_H;
                let q = (j + PAD_W - s) / STRIDE_W;
                let met = i + PAD_H == p * STRIDE_H + r && j + PAD_W == q * STRIDE_W + s;
                if met && p < P && q < Q {
                    let pixel = (((m * N + n) * P + p) * Q + q) * K + first_k;
                    let weights = (((m * R + r) * S + s) * CG + c % CG) * K + first_k;
                    for (var k = 0u; k < KG; k++) {
                        sum += dy[pixel + k] * w[weights + k];
                    }
                }
            }
        }
    }
    if ADDEND {
        sum += addend[element];
    }
    dx[element] = sum;
}
