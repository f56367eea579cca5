// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
// part i sums rows (n,p) from i ROWS on. x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G
// and
// KG = K/G are multiples of 4. Thread: one (r, s, quad of channels) times TK quads of filters.
// Workgroup: WORKGROUP such rows of the result at the same filters, so that dy is uniform over the workgroup.
// Grid, outermost first: part, member, group, tile of filters, chunk of WORKGROUP rows of the result.

@group(0) @binding(0) var<storage, read> x: array<Stored>;                  // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> dy: array<Stored>;                 // [M,N,P,Q,K]
@group(0) @binding(2) var<storage, read_write> partials: array<vec4<f32>>;  // [PARTS,M,R,S,CG,K]
// [X_MEMBERS,2,C] (mean, inv_std); NORMALISED only, else x
@group(0) @binding(3) var<storage, read> stats: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gamma: array<vec4<f32>>;    // [X_MEMBERS,C], likewise
@group(0) @binding(5) var<storage, read> beta: array<vec4<f32>>;     // [X_MEMBERS,C], likewise

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
const LANES: u32 = R * S * CG4;
const CHUNKS: u32 = (LANES + WORKGROUP - 1u) / WORKGROUP;
const K_TILES: u32 = (KG4 + TK - 1u) / TK;

// The input as it is read: NORMALISED, x stands for relu((x - mean) inv_std gamma + beta), by the channel.
fn normalise(value: vec4<f32>, channel: u32) -> vec4<f32> {
    let member = channel / C4;
    let at = channel + member * C4;
    let result = (value - stats[at]) * (stats[at + C4] * gamma[channel]) + beta[channel];
    return select(result, vec4<f32>(), result < vec4<f32>());
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let filter_tile = index / CHUNKS % K_TILES * TK;
    let group = index / (CHUNKS * K_TILES) % G;
    let m = index / (CHUNKS * K_TILES * G) % M;
    let part = index / (CHUNKS * K_TILES * G * M);

    let thread = index % CHUNKS * WORKGROUP + lane;
    let line = min(thread, LANES - 1u);
    let c = line % CG4;
    let s = line / CG4 % S;
    let r = line / (CG4 * S);
    let x_member = select(m, 0u, X_MEMBERS == 1u);
    let x_image = x_member * N;

    var acc: array<vec4<f32>, 4u * TK>;
    for (var row = part * ROWS; row < min((part + 1u) * ROWS, N * P); row++) {
        // Positions outside wrap to huge numbers: one comparison serves both ends.
        let i = row % P * STRIDE_H + r - PAD_H;
        let x_row = ((x_image + row / P) * H + select(0u, i, i < H)) * W;
        let dy_row = (m * N * P + row) * Q;
        for (var q = 0u; q < Q; q++) {
            let j = q * STRIDE_W + s - PAD_W;
            let inside = i < H && j < W;
            var value = unpack(x[(x_row + select(0u, j, inside)) * C4 + group * CG4 + c]);
            if NORMALISED {
                value = normalise(value, x_member * C4 + group * CG4 + c);
            }
            let pixel = select(vec4<f32>(), value, inside);
            for (var k = 0u; k < TK; k++) {
                let gradient = unpack(dy[(dy_row + q) * K4 + group * KG4 + min(filter_tile + k, KG4 - 1u)]);
                for (var e = 0u; e < 4u; e++) {
                    acc[e * TK + k] += pixel[e] * gradient;
                }
            }
        }
    }

    if thread >= LANES {
        return;
    }
    for (var e = 0u; e < 4u; e++) {
        let first = ((part * M + m) * R * S * CG + 4u * line + e) * K4 + group * KG4;
        for (var k = 0u; k < TK; k++) {
            if filter_tile + k < KG4 {
                partials[first + filter_tile + k] = acc[e * TK + k];
            }
        }
    }
}
