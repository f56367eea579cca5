// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
//   part i sums rows (n,p) from i ROWS on.
// Shapes: x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: one (r, s, quad of channels) times TK quads of filters per thread; nothing is staged.
// Workgroup: WORKGROUP such rows of the result at the same filters, so that dy is uniform over the workgroup.
// Grid, outermost first: part, member, group, tile of filters, chunk of WORKGROUP rows of the result.
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> dy: array<Stored>;                 // [M,N,P,Q,K]
@group(0) @binding(5) var<storage, read_write> partials: array<vec4<f32>>;  // [PARTS,M,R,S,CG,K]

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
const LINES: u32 = R * S * CG4;
const CHUNKS: u32 = (LINES + WORKGROUP - 1u) / WORKGROUP;
const K_TILES: u32 = (KG4 + TK - 1u) / TK;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let filter_tile = index / CHUNKS % K_TILES * TK;
    let group = index / (CHUNKS * K_TILES) % G;
    let m = index / (CHUNKS * K_TILES * G) % M;
    let part = index / (CHUNKS * K_TILES * G * M);

    let thread = index % CHUNKS * WORKGROUP + lid;
    let line = min(thread, LINES - 1u);
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
            let value = unpack(x[(x_row + select(0u, j, inside)) * C4 + group * CG4 + c]);
            let pixel = select(vec4<f32>(), normalise(value, x_member * C4 + group * CG4 + c), inside);
            for (var k = 0u; k < TK; k++) {
                let gradient = unpack(dy[(dy_row + q) * K4 + group * KG4 + min(filter_tile + k, KG4 - 1u)]);
                for (var e = 0u; e < 4u; e++) {
                    acc[e * TK + k] += pixel[e] * gradient;
                }
            }
        }
    }

    if thread >= LINES {
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
