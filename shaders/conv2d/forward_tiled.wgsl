// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// Shapes: x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: TI x TR rows of y, all Q columns, FT quads of filters (tile.wgsl). For each row of the kernel a thread slides
// its window over the S taps, here S = 3, INNER_W = 1, TP = 4:
//
//      window    o  o  o  o  o  o         staged x, one quad of channels
//      s = 0     y0 y1 y2 y3              y_t += window[t INNER_W + s] w[r,s]: four multiply-adds of a quad of filters
//      s = 1        y0 y1 y2 y3
//      s = 2           y0 y1 y2 y3
//
// Workgroup: WORKGROUP threads, in the order of tile.wgsl.
// Grid, outermost first: member, group, tile of filters, tile of rows.
// Entry points: main; statistics, which also does the first pass of a batch-norm of y.
//
//   SAMPLE_H, SAMPLE_W   distance in x between two staged pixels                         pixels
//   INNER_H, INNER_W     distance in the patch between two pixels of y                   staged pixels
//   WINDOW               pixels of the window                                            staged pixels
//   C4, K4, KG4          channels of x, filters of y, filters of a group                 quads
//   ALIGNED              true if tiles end where y does: then there is no code for edges
//   ROW_TILES            tiles over the rows of all images                               tiles
//   FILTER_TILES         tiles over the filters of a group                               tiles
//   WEIGHT_QUADS         weights that are staged at a time                               quads
//   WEIGHT_STEPS         of these, those of a thread                                     quads
// Of tile.wgsl:
//   TI, TR, TC, LINES    images, rows of each, columns, rows in all of a tile            images, rows, pixels, rows
//   TP, TK, THREAD_SUMS  pixels, filters and sums of a thread                            pixels, quads, quads
//   FT, FILTER_THREADS   filters of a tile, threads side by side along them              quads, threads
//   CQ, DEPTH            channels staged at a time, channels of a group                  quads
//   PATCH, PITCH         size and row of the staged patch                                quads, pixels
//   CHUNK_WEIGHTS        staged weights of one quad of channels                          quads
//   SHARES, OWN          threads that divide channels, pixels that each keeps            threads, pixels
//   TILE_THREADS         threads of one share                                            threads
//
// x, stats, gamma and beta are bindings 0, 2, 3 and 4 (source.wgsl).
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;               // [M,R,S,CG,K]
@group(0) @binding(5) var<storage, read_write> y: array<Stored>;            // [M,N,P,Q,K]
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;  // [ROW_TILES,M,2,K], statistics only

const SOURCE_H: u32 = H;
const SOURCE_W: u32 = W;
// A kernel of one row or column skips pixels: those between are not staged.
const SAMPLE_H: u32 = select(1u, STRIDE_H, R == 1u);
const SAMPLE_W: u32 = select(1u, STRIDE_W, S == 1u);
const INNER_H: u32 = STRIDE_H / SAMPLE_H;
const INNER_W: u32 = STRIDE_W / SAMPLE_W;
const PATCH_ROWS: u32 = (TR - 1u) * INNER_H + R;
const PATCH_COLUMNS: u32 = (TC - 1u) * INNER_W + S;
const STEP_H: u32 = STRIDE_H;
const TOP: u32 = PAD_H;
const LEFT: u32 = PAD_W;
const TILED_H: u32 = P;
const DEPTH: u32 = CG / 4u;

const PIXEL_SUMS: u32 = TK;
const WINDOW: u32 = (TP - 1u) * INNER_W + S;
const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const KG4: u32 = KG / 4u;
const ALIGNED: bool = TC == Q && N * P % LINES == 0u && KG4 % FT == 0u;
const ROW_TILES: u32 = (N * P + LINES - 1u) / LINES;
const FILTER_TILES: u32 = (KG4 + FT - 1u) / FT;
const WEIGHT_QUADS: u32 = CQ * CHUNK_WEIGHTS;
const WEIGHT_STEPS: u32 = (WEIGHT_QUADS + WORKGROUP - 1u) / WORKGROUP;

var<private> group_channel: u32;  // first quad of the group's channels, counted through members

fn source_quad(pixel: u32, c: u32) -> vec4<f32> {
    return normalise(unpack(x[pixel * C4 + group_channel % C4 + c]), group_channel + c);
}

// Stages the weights w[m, all taps, channels from quad c on, filters from quad `filters` of the group on].
fn stage_weights(lid: u32, m: u32, group: u32, filters: u32, c: u32) {
    for (var step = 0u; step < WEIGHT_STEPS; step++) {
        let e = lid + step * WORKGROUP;
        if WEIGHT_QUADS % WORKGROUP == 0u || e < WEIGHT_QUADS {
            let channel = 4u * (c + e / CHUNK_WEIGHTS) + e / FT % 4u;
            let tap = e % CHUNK_WEIGHTS / (4u * FT);
            let filter_quad = min(filters + e % FT, KG4 - 1u);
            weights[e] = w[((m * R * S + tap) * CG + min(channel, CG - 1u)) * K4 + group * KG4 + filter_quad];
        }
    }
}

// Adds the products of the staged channels of the thread's share to its sums.
fn multiply_staged(at: Place, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    let corner = (at.line / TR * PATCH_ROWS + at.line % TR * INNER_H) * PITCH + at.column * INNER_W;
    for (var first = 0u; first < CQ; first += SHARES) {
        let q = first + at.share;
        for (var r = 0u; r < R; r++) {
            // Load the window of source pixels of this row of the kernel.
            var window = array<vec4<f32>, WINDOW>();
            for (var i = 0u; i < WINDOW; i++) {
                window[i] = staged[q * PATCH + corner + r * PITCH + i];
            }
            // Slide it over the taps: four weights of each quad of filters serve all TP pixels.
            for (var s = 0u; s < S; s++) {
                for (var k = 0u; k < TK; k++) {
                    let w = ((q * R + r) * S + s) * 4u * FT + at.filter_thread + k * FILTER_THREADS;
                    let w0 = weights[w];
                    let w1 = weights[w + FT];
                    let w2 = weights[w + 2u * FT];
                    let w3 = weights[w + 3u * FT];
                    for (var t = 0u; t < TP; t++) {
                        let pixel = window[t * INNER_W + s];
                        (*acc)[t * TK + k] += pixel.x * w0;
                        (*acc)[t * TK + k] += pixel.y * w1;
                        (*acc)[t * TK + k] += pixel.z * w2;
                        (*acc)[t * TK + k] += pixel.w * w3;
                    }
                }
            }
        }
    }
}

// The work of a thread.
struct Place {
    m: u32,
    group: u32,
    filters: u32,        // first quad of the tile's filters, in the group
    filter_thread: u32,
    tile: u32,           // among the tiles of rows
    line: u32,           // row of the tile
    row: u32,            // row of the result, counted through images
    column: u32,         // first of TP pixels that are summed
    share: u32,
    own: u32,            // first of OWN pixels that are kept
}

fn place_of(index: u32, lid: u32) -> Place {
    var at: Place;
    at.tile = index % ROW_TILES;
    at.filters = index / ROW_TILES % FILTER_TILES * FT;
    at.group = index / (ROW_TILES * FILTER_TILES) % G;
    at.m = index / (ROW_TILES * FILTER_TILES * G);
    let thread = select(lid % TILE_THREADS, lid, SHARES == 1u);
    at.filter_thread = thread % FILTER_THREADS;
    at.line = thread / FILTER_THREADS % LINES;
    at.row = at.tile * LINES + at.line;
    at.column = thread / (FILTER_THREADS * LINES) * TP;
    // A constant where nothing is shared, so that all addresses stay what they would be without shares.
    at.share = select(lid / TILE_THREADS, 0u, SHARES == 1u);
    at.own = at.column + at.share * OWN;
    return at;
}

// Sums up the thread's tile: stage some channels, multiply them, until all channels of the group are through.
fn convolve(at: Place, lid: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    let x_member = select(at.m, 0u, X_MEMBERS == 1u);
    group_channel = x_member * C4 + at.group * DEPTH;
    var staging = staging_of(lid, at.tile * LINES);
    for (var c = 0u; c < DEPTH; c += CQ) {
        // Stage the patch [CQ,TI,PATCH_ROWS,PITCH] and the weights [CQ,R,S,4,FT].
        stage_patch(lid, &staging, x_member * N * H * W, c);
        stage_weights(lid, at.m, at.group, at.filters, c);
        workgroupBarrier();
        // Multiply: each thread its pixels by its filters.
        multiply_staged(at, acc);
        workgroupBarrier();
    }
    // Exchange sums among the threads that divided the channels.
    keep_own(lid, acc);
}

// Writes the thread's OWN pixels of y.
fn store(at: Place, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    if !ALIGNED && at.row >= N * P {
        return;
    }
    for (var t = 0u; t < OWN; t++) {
        if ALIGNED || at.own + t < Q {
            let pixel = (at.m * N * P + at.row) * Q + at.own + t;
            for (var k = 0u; k < TK; k++) {
                let quad = at.filters + at.filter_thread + k * FILTER_THREADS;
                if ALIGNED || quad < KG4 {
                    y[pixel * K4 + at.group * KG4 + quad] = pack((*acc)[t * TK + k]);
                }
            }
        }
    }
}

// Puts into `staged` the thread's sums over its pixels of y, or of (y - mean)^2 if `square`.
fn sum_pixels(at: Place, lid: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>, square: bool) {
    for (var k = 0u; k < TK; k++) {
        let mean = staged[k * WORKGROUP + at.filter_thread];
        var sum = vec4<f32>();
        for (var t = 0u; t < OWN; t++) {
            if ALIGNED || (at.row < N * P && at.own + t < Q) {
                let value = (*acc)[t * TK + k];
                if square {
                    sum += (value - mean) * (value - mean);
                } else {
                    sum += value;
                }
            }
        }
        // All have read the mean before its place is written.
        workgroupBarrier();
        staged[k * WORKGROUP + lid] = sum;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, lid, &acc);
    store(at, &acc);
}

// As main, and writes of each tile, which is a chunk of rows, the sum and the squared deviations from its mean.
@compute @workgroup_size(WORKGROUP)
fn statistics(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, lid, &acc);
    store(at, &acc);

    let count = f32(min(LINES, N * P - at.tile * LINES) * Q);
    let first = (at.tile * M + at.m) * 2u * K4 + at.group * KG4 + at.filters + at.filter_thread;
    // First the sums, which are written and then divided: the mean of the tile.
    sum_pixels(at, lid, &acc, false);
    sum_over_tile(lid);
    for (var k = 0u; k < TK; k++) {
        let quad = at.filters + at.filter_thread + k * FILTER_THREADS;
        if lid < FILTER_THREADS && (ALIGNED || quad < KG4) {
            partials[first + k * FILTER_THREADS] = staged[k * WORKGROUP + lid];
        }
        workgroupBarrier();
        if lid < FILTER_THREADS {
            staged[k * WORKGROUP + lid] /= count;
        }
    }
    workgroupBarrier();
    // Then the squares of the deviations from that mean.
    sum_pixels(at, lid, &acc, true);
    sum_over_tile(lid);
    for (var k = 0u; k < TK; k++) {
        let quad = at.filters + at.filter_thread + k * FILTER_THREADS;
        if lid < FILTER_THREADS && (ALIGNED || quad < KG4) {
            partials[first + k * FILTER_THREADS + K4] = staged[k * WORKGROUP + lid];
        }
    }
}
