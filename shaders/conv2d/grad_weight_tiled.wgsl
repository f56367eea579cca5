// dw[m,r,s,c,k] = sum over n,p,q of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] dy[m,n,p,q,k], in parts:
//   part i sums rows (n,p) from i ROWS on.
// Shapes: x [X_MEMBERS,N,H,W,C], dy [M,N,P,Q,K], partials [PARTS,M,R,S,CG,K]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: all taps of CT quads of channels by KT quads of filters. Staged are TR rows of dy at a time, [TR,TC,KT], and
// the rows of x that they meet, [ROWS_X,COLUMNS_X,CT]. A thread takes TP pixels of a row of dy at once, and with them
// the window of x that one row r of the kernel meets; here R = S = 3, stride 1, TR = 2, TC = 8, TP = 4, r = 0:
//
//      x, one quad of channels                      dy, one quad of filters
//
//     [o  o  o  o  o  o] o  o  o  o   ^
//      o  o  o  o  o  o  o  o  o  o   | ROWS_X         [g  g  g  g] g  g  g  g   ^ TR
//      o  o  o  o  o  o  o  o  o  o   |                 g  g  g  g  g  g  g  g   v
//      o  o  o  o  o  o  o  o  o  o   v                 <-------- TC -------->
//      <-------- COLUMNS_X ------->                     dw[r,s] += window[t STRIDE_W + s] g[t]
//
// Thread: the S taps of one kernel row, a quad of channels by TK quads of filters, over every SPLIT-th block of TP
// pixels. The SPLIT sums are added through workgroup memory, in order.
// Workgroup: WORKGROUP threads, filters fastest, then channels, then kernel rows, then the SPLIT.
// Grid, outermost first: part, member, group, tile of filters, tile of channels.
//
// The prelude (kernels/conv2d/tile.rs) defines:
//   TR, TC               rows and columns of dy that are staged; TC is Q rounded up to TP   rows, pixels
//   TP, TK               pixels that a thread takes at once, filters of a thread            pixels, quads
//   CT                   channels of a tile                                                 quads
//   FILTER_THREADS       threads side by side along the filters                             threads
//   SPLIT                threads that divide the pixels of a sum                            threads
//   ROWS, PARTS          rows (n,p) of a part, number of parts                              rows, parts
//   WORKGROUP            size of a workgroup                                                threads
// This file defines:
//   C4, K4, CG4, KG4     channels of x, filters of dy, and both of a group                  quads
//   KT                   filters of a tile                                                  quads
//   CHANNEL_TILES        tiles over the channels of a group                                 tiles
//   FILTER_TILES         tiles over the filters of a group                                  tiles
//   ROWS_X, COLUMNS_X    extents of the staged part of x                                    pixels
//   SOURCE, GRADIENT     sizes of the staged parts of x and of dy                           quads
//   SOURCE_STEPS         quads of x that a thread stages at a time                          quads
//   GRADIENT_STEPS       quads of dy that a thread stages at a time                         quads
//   WINDOW               pixels of x that TP pixels of dy meet in one kernel row            pixels
//   ROW_BLOCKS, BLOCKS   blocks of TP pixels in a staged row, and in all staged rows        blocks
//   THREAD_SUMS          sums of a thread                                                   quads
//   SUMMING_THREADS      threads that have a sum of their own in the end                    threads
//   SUMS                 room that adding the SPLIT sums takes, or 0                        quads
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> dy: array<Stored>;                 // [M,N,P,Q,K]
@group(0) @binding(5) var<storage, read_write> partials: array<vec4<f32>>;  // [PARTS,M,R,S,CG,K]

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const KG4: u32 = KG / 4u;
const KT: u32 = FILTER_THREADS * TK;
const CHANNEL_TILES: u32 = (CG4 + CT - 1u) / CT;
const FILTER_TILES: u32 = (KG4 + KT - 1u) / KT;
const ROWS_X: u32 = (TR - 1u) * STRIDE_H + R;
const COLUMNS_X: u32 = (TC - 1u) * STRIDE_W + S;
const SOURCE: u32 = ROWS_X * COLUMNS_X * CT;
const GRADIENT: u32 = TR * TC * KT;
const SOURCE_STEPS: u32 = (SOURCE + WORKGROUP - 1u) / WORKGROUP;
const GRADIENT_STEPS: u32 = (GRADIENT + WORKGROUP - 1u) / WORKGROUP;
const WINDOW: u32 = (TP - 1u) * STRIDE_W + S;
const ROW_BLOCKS: u32 = TC / TP;
const BLOCKS: u32 = TR * ROW_BLOCKS;
const THREAD_SUMS: u32 = S * 4u * TK;
const SUMMING_THREADS: u32 = WORKGROUP / SPLIT;
const SUMS: u32 = select(0u, SUMMING_THREADS * THREAD_SUMS, SPLIT > 1u);

// The part of x, then that of dy; in the end the sums of one of the SPLIT groups of threads.
var<workgroup> staged: array<vec4<f32>, max(SOURCE + GRADIENT, SUMS)>;

// The one quad of channels that a thread stages of x, since WORKGROUP is a multiple of CT, and its normalisation, which
// stays in registers: NORMALISED, x stands for relu((x - mean) scale + shift).
struct Channels {
    quad: u32,
    mean: vec4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

fn channels_of(lid: u32, x_member: u32, first: u32) -> Channels {
    var channels: Channels;
    channels.quad = min(first + lid % CT, C4 - 1u);
    if NORMALISED {
        let at = x_member * C4 + channels.quad;
        channels.mean = stats[at + x_member * C4];
        channels.scale = stats[at + x_member * C4 + C4] * gamma[at];
        channels.shift = beta[at];
    }
    return channels;
}

// Stages the rows of x that the rows of dy from row p of `image` on meet: zeros beyond the image.
fn stage_source(lid: u32, channels: Channels, image: u32, p: u32) {
    for (var step = 0u; step < SOURCE_STEPS; step++) {
        let e = lid + step * WORKGROUP;
        let pixel = e / CT;
        // Positions outside wrap to huge numbers: one comparison serves both ends.
        let i = p * STRIDE_H + pixel / COLUMNS_X - PAD_H;
        let j = pixel % COLUMNS_X - PAD_W;
        if SOURCE % WORKGROUP == 0u || e < SOURCE {
            var value = vec4<f32>();
            if i < H && j < W {
                value = unpack(x[((image * H + i) * W + j) * C4 + channels.quad]);
                if NORMALISED {
                    value = (value - channels.mean) * channels.scale + channels.shift;
                    value = select(value, vec4<f32>(), value < vec4<f32>());
                }
            }
            staged[e] = value;
        }
    }
}

// Stages `count` rows of dy from row `row` (counted through members and images) on: zeros beyond them.
fn stage_gradient(lid: u32, row: u32, count: u32, first: u32) {
    for (var step = 0u; step < GRADIENT_STEPS; step++) {
        let e = lid + step * WORKGROUP;
        let pixel = e / KT;
        let q = pixel % TC;
        if GRADIENT % WORKGROUP == 0u || e < GRADIENT {
            var value = vec4<f32>();
            if pixel / TC < count && q < Q {
                value = unpack(dy[((row + pixel / TC) * Q + q) * K4 + min(first + e % KT, K4 - 1u)]);
            }
            staged[SOURCE + e] = value;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let first_channel = index % CHANNEL_TILES * CT;
    let first_filter = index / CHANNEL_TILES % FILTER_TILES * KT;
    let group = index / (CHANNEL_TILES * FILTER_TILES) % G;
    let m = index / (CHANNEL_TILES * FILTER_TILES * G) % M;
    let part = index / (CHANNEL_TILES * FILTER_TILES * G * M);
    let x_member = select(m, 0u, X_MEMBERS == 1u);

    let thread = lid % SUMMING_THREADS;
    let split = lid / SUMMING_THREADS;
    let filter_thread = thread % FILTER_THREADS;
    let c = thread / FILTER_THREADS % CT;
    let r = thread / (FILTER_THREADS * CT);
    let channels = channels_of(lid, x_member, group * CG4 + first_channel);

    var acc: array<vec4<f32>, THREAD_SUMS>;
    let end = min((part + 1u) * ROWS, N * P);
    var row = part * ROWS;
    while row < end {
        // Stage `count` rows of dy, all of one image, so that those of x follow each other.
        let count = min(min(TR, P - row % P), end - row);
        stage_source(lid, channels, x_member * N + row / P, row % P);
        stage_gradient(lid, m * N * P + row, count, group * KG4 + first_filter);
        workgroupBarrier();
        // Multiply, a block of TP pixels at a time.
        for (var block = split; block < BLOCKS; block += SPLIT) {
            let line = block / ROW_BLOCKS;
            let column = block % ROW_BLOCKS * TP;
            let at = ((line * STRIDE_H + r) * COLUMNS_X + column * STRIDE_W) * CT + c;
            // Load the window of x that the block meets in kernel row r.
            var window = array<vec4<f32>, WINDOW>();
            for (var i = 0u; i < WINDOW; i++) {
                window[i] = staged[at + i * CT];
            }
            // Each pixel of dy serves all S taps and four channels.
            for (var t = 0u; t < TP; t++) {
                for (var k = 0u; k < TK; k++) {
                    let filter_quad = filter_thread + k * FILTER_THREADS;
                    let value = staged[SOURCE + (line * TC + column + t) * KT + filter_quad];
                    for (var s = 0u; s < S; s++) {
                        let pixel = window[t * STRIDE_W + s];
                        let to = s * 4u * TK + k;
                        acc[to] += pixel.x * value;
                        acc[to + TK] += pixel.y * value;
                        acc[to + 2u * TK] += pixel.z * value;
                        acc[to + 3u * TK] += pixel.w * value;
                    }
                }
            }
        }
        workgroupBarrier();
        row += count;
    }

    // Add the sums of the other SPLIT - 1 groups of threads to those of the first, one group after another.
    for (var other = 1u; other < SPLIT; other++) {
        if split == other {
            for (var i = 0u; i < THREAD_SUMS; i++) {
                staged[i * SUMMING_THREADS + thread] = acc[i];
            }
        }
        workgroupBarrier();
        if split == 0u {
            for (var i = 0u; i < THREAD_SUMS; i++) {
                acc[i] += staged[i * SUMMING_THREADS + thread];
            }
        }
        workgroupBarrier();
    }

    // Write the tile: four rows of the result for each tap and quad of channels.
    let channel = first_channel + c;
    if split > 0u || channel >= CG4 {
        return;
    }
    for (var s = 0u; s < S; s++) {
        for (var e = 0u; e < 4u; e++) {
            let line = (((part * M + m) * R + r) * S + s) * CG + 4u * channel + e;
            for (var k = 0u; k < TK; k++) {
                let filter_quad = first_filter + filter_thread + k * FILTER_THREADS;
                if filter_quad < KG4 {
                    partials[line * K4 + group * KG4 + filter_quad] = acc[(s * 4u + e) * TK + k];
                }
            }
        }
    }
}
