// dx[m,n,i,j,c] = addend + sum of dy[m,n,p,q,k] w[m,r,s,c,k] over p STRIDE_H + r - PAD_H = i,
//   q STRIDE_W + s - PAD_W = j, and over the members m if X_MEMBERS < M.
// Shapes: dy [M,N,P,Q,K], w [M,R,S,CG,K], dx and addend [X_MEMBERS,N,H,W,C]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: TP pixels of a row, all of one class, times TC quads of channels per thread. Row i meets only the taps
// r = (i + PAD_H) mod STRIDE_H, r + STRIDE_H, …, and columns likewise: a workgroup works on one class of (i, j) modulo
// the strides.
// Workgroup: WORKGROUP such tiles at the same channels.
// Grid, outermost first: input member, group, tile of channels, class, run of WORKGROUP tiles of pixels.
@group(0) @binding(0) var<storage, read> dy: array<Stored>;           // [M,N,P,Q,K]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;         // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read> addend: array<Stored>;       // [X_MEMBERS,N,H,W,C] if ADDEND, else dy
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;     // [X_MEMBERS,N,H,W,C]

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
const SUMMED: u32 = M / X_MEMBERS;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let class_h = index / RUNS % CLASSES / STRIDE_W;
    let class_w = index / RUNS % STRIDE_W;
    let channel_tile = index / (RUNS * CLASSES) % C_TILES * TC;
    let group = index / (RUNS * CLASSES * C_TILES) % G;
    let x_member = index / (RUNS * CLASSES * C_TILES * G);

    let thread = index % RUNS * WORKGROUP + lid;
    let tile = min(thread, TILES - 1u);
    let v = tile % W_TILES * TP;
    let u = tile / W_TILES % CLASS_H;
    let n = tile / (W_TILES * CLASS_H);

    let first_r = (class_h + PAD_H) % STRIDE_H;
    let first_s = (class_w + PAD_W) % STRIDE_W;
    let taps = (max(S, first_s) - first_s + STRIDE_W - 1u) / STRIDE_W;
    var acc: array<vec4<f32>, TP * TC>;
    for (var m = x_member * SUMMED; m < (x_member + 1u) * SUMMED; m++) {
        for (var r = first_r; r < R; r += STRIDE_H) {
            // Positions outside wrap to huge numbers: one comparison serves both ends.
            let p = u + (class_h + PAD_H) / STRIDE_H - (r - first_r) / STRIDE_H;
            let row = ((m * N + n) * P + select(0u, p, p < P)) * Q;
            for (var k = 0u; k < KG4; k++) {
                // The tile slides along the row of dy: one new pixel for each tap after the first.
                var pixels = array<vec4<f32>, TP>();
                for (var tap = 0u; tap < taps; tap++) {
                    for (var t = 1u; t < TP; t++) {
                        pixels[t - 1u] = pixels[t];
                    }
                    for (var t = 0u; t < TP; t++) {
                        if tap == 0u || t == TP - 1u {
                            let q = v + (class_w + PAD_W) / STRIDE_W + t + tap - (taps - 1u);
                            let inside = p < P && q < Q;
                            let pixel = unpack(dy[(row + select(0u, q, inside)) * K4 + group * KG4 + k]);
                            pixels[t] = select(vec4<f32>(), pixel, inside);
                        }
                    }
                    let s = first_s + (taps - 1u - tap) * STRIDE_W;
                    let weights = ((m * R + r) * S + s) * CG;
                    for (var c = 0u; c < TC; c++) {
                        let first = (weights + 4u * min(channel_tile + c, CG4 - 1u)) * K4 + group * KG4 + k;
                        let rows = mat4x4<f32>(w[first], w[first + K4], w[first + 2u * K4], w[first + 3u * K4]);
                        let columns = transpose(rows);
                        for (var t = 0u; t < TP; t++) {
                            acc[t * TC + c] += pixels[t].x * columns[0];
                            acc[t * TC + c] += pixels[t].y * columns[1];
                            acc[t * TC + c] += pixels[t].z * columns[2];
                            acc[t * TC + c] += pixels[t].w * columns[3];
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
                        dx[element] = pack(unpack(addend[element]) + acc[t * TC + c]);
                    } else {
                        dx[element] = pack(acc[t * TC + c]);
                    }
                }
            }
        }
    }
}
