// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G, KG = K/G, both multiples of 4 and counted in fours.
// Thread: TP consecutive pixels of an output row times TK quads of filters; a run of source pixels serves all taps s.
// Workgroup: WORKGROUP such pixel tiles at the same filters, so that weights are uniform over the workgroup.
// Grid, outermost first: member, group, tile of filters, run of WORKGROUP pixel tiles.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;        // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;        // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // [M,N,P,Q,K]

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
const Q_TILES: u32 = (Q + TP - 1u) / TP;
const TILES: u32 = N * P * Q_TILES;
const RUNS: u32 = (TILES + WORKGROUP - 1u) / WORKGROUP;
const K_TILES: u32 = (KG4 + TK - 1u) / TK;
// Source pixels under the S taps of TP output pixels.
const SPAN: u32 = (TP - 1u) * STRIDE_W + S;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let filter_tile = index / RUNS % K_TILES * TK;
    let group = index / (RUNS * K_TILES) % G;
    let m = index / (RUNS * K_TILES * G);

    let thread = index % RUNS * WORKGROUP + lane;
    let tile = min(thread, TILES - 1u);
    let q = tile % Q_TILES * TP;
    let p = tile / Q_TILES % P;
    let n = tile / (Q_TILES * P);
    let image = (select(m, 0u, X_MEMBERS == 1u) * N + n) * H;

    var acc: array<vec4<f32>, TP * TK>;
    for (var r = 0u; r < R; r++) {
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = p * STRIDE_H + r - PAD_H;
        let row = (image + select(0u, i, i < H)) * W;
        for (var c = 0u; c < CG4; c++) {
            var pixels: array<vec4<f32>, SPAN>;
            for (var t = 0u; t < SPAN; t++) {
                let j = q * STRIDE_W + t - PAD_W;
                let inside = i < H && j < W;
                let pixel = x[(row + select(0u, j, inside)) * C4 + group * CG4 + c];
                pixels[t] = select(vec4<f32>(), pixel, inside);
            }
            for (var s = 0u; s < S; s++) {
                for (var e = 0u; e < 4u; e++) {
                    let weights = (((m * R + r) * S + s) * CG + 4u * c + e) * K4 + group * KG4;
                    for (var k = 0u; k < TK; k++) {
                        let weight = w[weights + min(filter_tile + k, KG4 - 1u)];
                        for (var t = 0u; t < TP; t++) {
                            acc[t * TK + k] += pixels[t * STRIDE_W + s][e] * weight;
                        }
                    }
                }
            }
        }
    }

    if thread >= TILES {
        return;
    }
    for (var t = 0u; t < TP; t++) {
        if q + t < Q {
            let pixel = ((m * N + n) * P + p) * Q + q + t;
            for (var k = 0u; k < TK; k++) {
                if filter_tile + k < KG4 {
                    y[pixel * K4 + group * KG4 + filter_tile + k] = acc[t * TK + k];
                }
            }
        }
    }
}
