// dx[m,n,i,j,c] = addend + sum of dy[m,n,p,q,k] w[m,r,s,c,k] where p STRIDE_H + r - PAD_H = i, q STRIDE_W + s - PAD_W = j.
// dy [M,N,P,Q,K], w [M,R,S,CG,K], dx and addend [X_MEMBERS,N,H,W,C]; CG = C/G and KG = K/G are multiples of 4.
// Only the taps r = (i + PAD_H) mod STRIDE_H, and so on, meet row i: a workgroup works on one class (i, j) modulo strides.
// Thread: TP pixels of the class in a row, TC quads of channels. Workgroup: WORKGROUP such tiles at the same channels.
// Grid, outermost first: input member, group, tile of channels, class, run of tiles. Members are summed if X_MEMBERS < M.

@group(0) @binding(0) var<storage, read> dy: array<vec4<f32>>;        // [M,N,P,Q,K]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;         // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read_write> dx: array<vec4<f32>>;  // [X_MEMBERS,N,H,W,C]
@group(0) @binding(3) var<storage, read> addend: array<vec4<f32>>;    // [X_MEMBERS,N,H,W,C], read only if ADDEND

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
// Extents of the largest class.
const CLASS_H: u32 = (H + STRIDE_H - 1u) / STRIDE_H;
const CLASS_W: u32 = (W + STRIDE_W - 1u) / STRIDE_W;
const W_TILES: u32 = (CLASS_W + TP - 1u) / TP;
const TILES: u32 = N * CLASS_H * W_TILES;
const RUNS: u32 = (TILES + WORKGROUP - 1u) / WORKGROUP;
const CLASSES: u32 = STRIDE_H * STRIDE_W;
const C_TILES: u32 = (CG4 + TC - 1u) / TC;
// Most taps of a class along a row, and pixels of dy under those of TP pixels.
const TAPS: u32 = (S + STRIDE_W - 1u) / STRIDE_W;
const SPAN: u32 = TP + TAPS - 1u;
const SUMMED: u32 = M / X_MEMBERS;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let class_h = index / RUNS % CLASSES / STRIDE_W;
    let class_w = index / RUNS % STRIDE_W;
    let channel_tile = index / (RUNS * CLASSES) % C_TILES * TC;
    let group = index / (RUNS * CLASSES * C_TILES) % G;
    let x_member = index / (RUNS * CLASSES * C_TILES * G);

    let thread = index % RUNS * WORKGROUP + lane;
    let tile = min(thread, TILES - 1u);
    let v = tile % W_TILES * TP;
    let u = tile / W_TILES % CLASS_H;
    let n = tile / (W_TILES * CLASS_H);

    let first_r = (class_h + PAD_H) % STRIDE_H;
    let first_s = (class_w + PAD_W) % STRIDE_W;
    var acc: array<vec4<f32>, TP * TC>;
    for (var m = x_member * SUMMED; m < (x_member + 1u) * SUMMED; m++) {
        for (var r = first_r; r < R; r += STRIDE_H) {
            // Positions outside wrap to huge numbers: one comparison serves both ends.
            let p = u + (class_h + PAD_H) / STRIDE_H - (r - first_r) / STRIDE_H;
            let row = ((m * N + n) * P + select(0u, p, p < P)) * Q;
            for (var k = 0u; k < KG4; k++) {
                var pixels: array<vec4<f32>, SPAN>;
                for (var t = 0u; t < SPAN; t++) {
                    let q = v + (class_w + PAD_W) / STRIDE_W + t - (TAPS - 1u);
                    let inside = p < P && q < Q;
                    let pixel = dy[(row + select(0u, q, inside)) * K4 + group * KG4 + k];
                    pixels[t] = select(vec4<f32>(), pixel, inside);
                }
                for (var tap = 0u; tap < TAPS; tap++) {
                    let s = first_s + tap * STRIDE_W;
                    if s < S {
                        let weights = ((m * R + r) * S + s) * CG;
                        for (var c = 0u; c < TC; c++) {
                            let first = (weights + 4u * min(channel_tile + c, CG4 - 1u)) * K4 + group * KG4 + k;
                            let w0 = w[first];
                            let w1 = w[first + K4];
                            let w2 = w[first + 2u * K4];
                            let w3 = w[first + 3u * K4];
                            for (var t = 0u; t < TP; t++) {
                                let d = pixels[t + TAPS - 1u - tap];
                                acc[t * TC + c] += vec4<f32>(dot(d, w0), dot(d, w1), dot(d, w2), dot(d, w3));
                            }
                        }
                    }
                }
            }
        }
    }

    let i = u * STRIDE_H + class_h;
    if thread >= TILES || i >= H {
        return;
    }
    for (var t = 0u; t < TP; t++) {
        let j = (v + t) * STRIDE_W + class_w;
        if v + t < CLASS_W && j < W {
            let pixel = ((x_member * N + n) * H + i) * W + j;
            for (var c = 0u; c < TC; c++) {
                if channel_tile + c < CG4 {
                    let element = pixel * C4 + group * CG4 + channel_tile + c;
                    if ADDEND {
                        dx[element] = addend[element] + acc[t * TC + c];
                    } else {
                        dx[element] = acc[t * TC + c];
                    }
                }
            }
        }
    }
}
