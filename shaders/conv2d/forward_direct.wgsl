// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// Shapes: x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: TP consecutive pixels of an output row times TK quads of filters per thread; nothing is staged.
// Workgroup: WORKGROUP such tiles at the same filters, so that weights are uniform over the workgroup.
// Grid, outermost first: member, group, tile of filters, run of WORKGROUP tiles of pixels.
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;     // [M,R,S,CG,K]
@group(0) @binding(5) var<storage, read_write> y: array<Stored>;  // [M,N,P,Q,K]

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
const Q_TILES: u32 = (Q + TP - 1u) / TP;
const TILES: u32 = N * P * Q_TILES;
const RUNS: u32 = (TILES + WORKGROUP - 1u) / WORKGROUP;
const K_TILES: u32 = (KG4 + TK - 1u) / TK;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let filter_tile = index / RUNS % K_TILES * TK;
    let group = index / (RUNS * K_TILES) % G;
    let m = index / (RUNS * K_TILES * G);

    let thread = index % RUNS * WORKGROUP + lid;
    let tile = min(thread, TILES - 1u);
    let q = tile % Q_TILES * TP;
    let p = tile / Q_TILES % P;
    let n = tile / (Q_TILES * P);
    let x_member = select(m, 0u, X_MEMBERS == 1u);
    let image = (x_member * N + n) * H;

    var acc: array<vec4<f32>, TP * TK>;
    for (var r = 0u; r < R; r++) {
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = p * STRIDE_H + r - PAD_H;
        let row = (image + select(0u, i, i < H)) * W;
        for (var c = 0u; c < CG4; c++) {
            var pixels = array<vec4<f32>, TP>();
            for (var s = 0u; s < S; s++) {
                // With stride 1 the tile slides along the row: one new pixel for each tap after the first.
                let kept = select(0u, TP - 1u, STRIDE_W == 1u && s > 0u);
                if STRIDE_W == 1u {
                    for (var t = 1u; t < TP; t++) {
                        pixels[t - 1u] = pixels[t];
                    }
                }
                for (var t = 0u; t < TP; t++) {
                    if t >= kept {
                        let j = (q + t) * STRIDE_W + s - PAD_W;
                        let inside = i < H && j < W;
                        let value = unpack(x[(row + select(0u, j, inside)) * C4 + group * CG4 + c]);
                        let pixel = normalise(value, x_member * C4 + group * CG4 + c);
                        pixels[t] = select(vec4<f32>(), pixel, inside);
                    }
                }
                let weights = (((m * R + r) * S + s) * CG + 4u * c) * K4 + group * KG4;
                for (var k = 0u; k < TK; k++) {
                    let first = weights + min(filter_tile + k, KG4 - 1u);
                    let w0 = w[first];
                    let w1 = w[first + K4];
                    let w2 = w[first + 2u * K4];
                    let w3 = w[first + 3u * K4];
                    for (var t = 0u; t < TP; t++) {
                        acc[t * TK + k] += pixels[t].x * w0;
                        acc[t * TK + k] += pixels[t].y * w1;
                        acc[t * TK + k] += pixels[t].z * w2;
                        acc[t * TK + k] += pixels[t].w * w3;
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
                    y[pixel * K4 + group * KG4 + filter_tile + k] = pack(acc[t * TK + k]);
                }
            }
        }
    }
}
