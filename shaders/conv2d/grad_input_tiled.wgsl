// dx[m,n,i,j,c] = addend + sum of dy[m,n,p,q,k] w[m,r,s,c,k] over p STRIDE_H + r - PAD_H = i,
//   q STRIDE_W + s - PAD_W = j, and over the members m if X_MEMBERS < M.
// Shapes: dy [M,N,P,Q,K], w [M,R,S,CG,K], dx and addend [X_MEMBERS,N,H,W,C]; CG = C/G, KG = K/G, both multiples of 4.
// Tiles: positions are (u STRIDE_H + a, v STRIDE_W + b). The class (a, b) meets its own taps; no zeros are inserted. A
// tile (tile.wgsl, with dy as the source) holds all classes of TI x TR rows u and all columns v, and FT quads of
// channels of dx. A row with stride 2, kernel 3 and padding 1, which has two classes b:
//
//      dy, staged   o0      o1      o2      o3            one quad of filters
//      dx           x0  x1  x2  x3  x4  x5  x6  x7        x0 = o0 w[s=1], x1 = o0 w[s=2] + o1 w[s=0]
//      class b      0   1   0   1   0   1   0   1         v is the index of o
//
// Thread: TP consecutive v in all classes b of one class a, TK quads of channels. Weights are transposed as they are
// staged.
// Workgroup: WORKGROUP threads, in the order of tile.wgsl, then the classes a of rows.
// Grid, outermost first: input member, group, tile of channels, tile of rows.
// Entry points: main; relu and relu_of_sum, which also do the first pass of the gradient of a batch-norm.
//
//   CLASS_H              rows u of an image                                              rows
//   SPAN_H, SPAN_W       rows and columns of dy beyond one that a position reads         pixels
//   MARGIN_H, MARGIN_W   offsets of taps that keep numbers from becoming negative        taps
//   WINDOW               pixels of the window                                            staged pixels
//   C4, K4, CG4          channels of dx, filters of dy, channels of a group              quads
//   ALIGNED              true if tiles end where dx does: then there is no code for edges
//   ROW_TILES            tiles over the rows u of all images                             tiles
//   CHANNEL_TILES        tiles over the channels of a group                              tiles
//   SUMMED               members that are added up                                       members
//   BLOCKS               blocks of 4 x 4 weights that are staged at a time               blocks
//   WEIGHT_STEPS         of these, those of a thread                                     blocks
// Of tile.wgsl, where filters are the channels of dx, and channels the filters of dy:
//   TI, TR, TC, LINES    images, rows of each, columns, rows in all of a tile            images, rows, pixels, rows
//   TP, TK, THREAD_SUMS  columns v, channels and sums of a thread                        pixels, quads, quads
//   FT, FILTER_THREADS   channels of a tile, threads side by side along them             quads, threads
//   CQ, DEPTH            filters staged at a time, filters of a group                    quads
//   PATCH, PITCH         size and row of the staged patch                                quads, pixels
//   SHARES, OWN          threads that divide filters, columns v that each keeps          threads, pixels
//   TILE_THREADS         threads of one share                                            threads
@group(0) @binding(0) var<storage, read> dy: array<Stored>;                 // [M,N,P,Q,K]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;               // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read> addend: array<Stored>;             // [X_MEMBERS,N,H,W,C] if ADDEND, else dy
@group(0) @binding(3) var<storage, read_write> dx: array<Stored>;           // [X_MEMBERS,N,H,W,C], main only
// The batch-norm whose gradient begins here: relu and relu_of_sum only.
@group(0) @binding(2) var<storage, read> norm_x_relu: array<Stored>;        // [X_MEMBERS,N,H,W,C], relu only
@group(0) @binding(3) var<storage, read> norm_stats: array<vec4<f32>>;      // [X_MEMBERS,2,C] (mean, inv_std)
@group(0) @binding(4) var<storage, read> gamma: array<vec4<f32>>;           // [X_MEMBERS,C], relu only
@group(0) @binding(5) var<storage, read> beta: array<vec4<f32>>;            // [X_MEMBERS,C], relu only
@group(0) @binding(4) var<storage, read> norm_x: array<Stored>;             // [X_MEMBERS,N,H,W,C], relu_of_sum only
@group(0) @binding(5) var<storage, read> norm_y: array<Stored>;             // [X_MEMBERS,N,H,W,C], relu_of_sum only
@group(0) @binding(6) var<storage, read_write> masked: array<Stored>;       // g [X_MEMBERS,N,H,W,C]
@group(0) @binding(7) var<storage, read_write> partials: array<vec4<f32>>;  // [ROW_TILES,X_MEMBERS,2,C]

// The rows of class a = (r - PAD_H) mod STRIDE_H meet tap r. In it, row u reads row u + (a + PAD_H - r) / STRIDE_H of
// dy, which falls as r grows: the patch begins with the row of the last tap, TOP above u, and the first tap reads
// SPAN_H rows below that. Adding PAD_H STRIDE_H keeps numbers from becoming negative. Likewise for columns.
const PATCH_ROWS: u32 = TR + SPAN_H;
const PATCH_COLUMNS: u32 = TC + SPAN_W;
const STEP_H: u32 = 1u;
const SAMPLE_H: u32 = 1u;
const SAMPLE_W: u32 = 1u;
const SOURCE_H: u32 = P;
const SOURCE_W: u32 = Q;
const CLASS_H: u32 = (H + STRIDE_H - 1u) / STRIDE_H;
const TILED_H: u32 = CLASS_H;
const DEPTH: u32 = KG / 4u;
const MARGIN_H: u32 = PAD_H * (STRIDE_H - 1u);
const MARGIN_W: u32 = PAD_W * (STRIDE_W - 1u);
const PIXEL_SUMS: u32 = STRIDE_W * TK;
const WINDOW: u32 = TP + SPAN_W;

const C4: u32 = C / 4u;
const K4: u32 = K / 4u;
const CG4: u32 = CG / 4u;
const ALIGNED: bool = TC * STRIDE_W == W && H % STRIDE_H == 0u && N * CLASS_H % LINES == 0u && CG4 % FT == 0u;
const ROW_TILES: u32 = (N * CLASS_H + LINES - 1u) / LINES;
const CHANNEL_TILES: u32 = (CG4 + FT - 1u) / FT;
const SUMMED: u32 = M / X_MEMBERS;
const BLOCKS: u32 = CQ * R * S * FT;
const WEIGHT_STEPS: u32 = (BLOCKS + WORKGROUP - 1u) / WORKGROUP;

var<private> group_filter: u32;  // first quad of the group's filters

fn source_quad(pixel: u32, k: u32) -> vec4<f32> {
    return unpack(dy[pixel * K4 + group_filter + k]);
}

// Stages the weights w[m, all taps, FT quads of channels from `channels` on, CQ quads of filters from k on], each block
// of 4 x 4 transposed.
fn stage_weights(lid: u32, m: u32, channels: u32, k: u32) {
    for (var step = 0u; step < WEIGHT_STEPS; step++) {
        let e = lid + step * WORKGROUP;
        if BLOCKS % WORKGROUP == 0u || e < BLOCKS {
            let f = e % FT;
            let tap = e / FT % (R * S);
            let filter_quad = min(k + e / (FT * R * S), DEPTH - 1u);
            let channel = 4u * min(channels + f, CG4 - 1u);
            let first = ((m * R * S + tap) * CG + channel) * K4 + group_filter + filter_quad;
            let columns = transpose(mat4x4<f32>(w[first], w[first + K4], w[first + 2u * K4], w[first + 3u * K4]));
            let to = e / FT * 4u * FT + f;
            weights[to] = columns[0];
            weights[to + FT] = columns[1];
            weights[to + 2u * FT] = columns[2];
            weights[to + 3u * FT] = columns[3];
        }
    }
}

// Adds the products of the staged filters of the thread's share to its sums.
fn multiply_staged(at: Place, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    let corner = (at.line / TR * PATCH_ROWS + at.line % TR) * PITCH + at.column;
    for (var first = 0u; first < CQ; first += SHARES) {
        let q = first + at.share;
        for (var r = (at.a + MARGIN_H * (STRIDE_H - 1u)) % STRIDE_H; r < R; r += STRIDE_H) {
            let below = (R - 1u + MARGIN_H) / STRIDE_H - (r + MARGIN_H) / STRIDE_H;
            // Load the window of dy that this row of the kernel reads.
            var window = array<vec4<f32>, WINDOW>();
            for (var i = 0u; i < WINDOW; i++) {
                window[i] = staged[q * PATCH + corner + below * PITCH + i];
            }
            // Go over the taps, each of which belongs to one class b: four weights of each quad serve all TP columns.
            for (var s = 0u; s < S; s++) {
                let b = (s + MARGIN_W) % STRIDE_W;
                let right = (S - 1u + MARGIN_W) / STRIDE_W - (s + MARGIN_W) / STRIDE_W;
                for (var k = 0u; k < TK; k++) {
                    let w = ((q * R + r) * S + s) * 4u * FT + at.channel_thread + k * FILTER_THREADS;
                    let w0 = weights[w];
                    let w1 = weights[w + FT];
                    let w2 = weights[w + 2u * FT];
                    let w3 = weights[w + 3u * FT];
                    for (var t = 0u; t < TP; t++) {
                        let pixel = window[t + right];
                        let to = (t * STRIDE_W + b) * TK + k;
                        (*acc)[to] += pixel.x * w0;
                        (*acc)[to] += pixel.y * w1;
                        (*acc)[to] += pixel.z * w2;
                        (*acc)[to] += pixel.w * w3;
                    }
                }
            }
        }
    }
}

// The work of a thread.
struct Place {
    x_member: u32,
    group: u32,
    channels: u32,        // first quad of the tile's channels, in the group
    channel_thread: u32,
    tile: u32,            // among the tiles of rows
    line: u32,            // row of the tile
    row: u32,             // row u, counted through images
    a: u32,               // class of rows
    column: u32,          // first of the TP columns v that are summed
    share: u32,
    own: u32,             // first of OWN columns v that are kept
}

fn place_of(index: u32, lid: u32) -> Place {
    var at: Place;
    at.tile = index % ROW_TILES;
    at.channels = index / ROW_TILES % CHANNEL_TILES * FT;
    at.group = index / (ROW_TILES * CHANNEL_TILES) % G;
    at.x_member = index / (ROW_TILES * CHANNEL_TILES * G);
    let thread = select(lid % TILE_THREADS, lid, SHARES == 1u);
    at.channel_thread = thread % FILTER_THREADS;
    at.line = thread / FILTER_THREADS % LINES;
    at.row = at.tile * LINES + at.line;
    at.column = thread / (FILTER_THREADS * LINES) % (TC / TP) * TP;
    at.a = thread / (FILTER_THREADS * LINES * (TC / TP));
    // A constant where nothing is shared, so that all addresses stay what they would be without shares.
    at.share = select(lid / TILE_THREADS, 0u, SHARES == 1u);
    at.own = at.column + at.share * OWN;
    return at;
}

// Sums up the thread's tile: stage some filters, multiply them, until all filters of the group and all members are
// through. `x_member` is a parameter of its own because there are barriers in the loops: no field of a Place counts as
// uniform, since others differ between threads.
fn convolve(at: Place, x_member: u32, lid: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    group_filter = at.group * DEPTH;
    var staging = staging_of(lid, at.tile * LINES);
    for (var m = x_member * SUMMED; m < (x_member + 1u) * SUMMED; m++) {
        for (var k = 0u; k < DEPTH; k += CQ) {
            // Stage the patch [CQ,TI,PATCH_ROWS,PITCH] of dy and the transposed weights [CQ,R,S,4,FT].
            stage_patch(lid, &staging, m * N * P * Q, k);
            stage_weights(lid, m, at.channels, k);
            workgroupBarrier();
            // Multiply: each thread its columns by its channels.
            multiply_staged(at, acc);
            workgroupBarrier();
        }
    }
    // Exchange sums among the threads that divided the filters.
    keep_own(lid, acc);
}

// The index in dx, in quads, of sum t of class b at quad k; NOWHERE beyond the image or the channels.
fn element_of(at: Place, b: u32, t: u32, k: u32) -> u32 {
    let i = at.row % CLASS_H * STRIDE_H + at.a;
    let j = (at.own + t) * STRIDE_W + b;
    let quad = at.channels + at.channel_thread + k * FILTER_THREADS;
    if !ALIGNED && (at.row >= N * CLASS_H || i >= H || j >= W || quad >= CG4) {
        return NOWHERE;
    }
    return (((at.x_member * N + at.row / CLASS_H) * H + i) * W + j) * C4 + at.group * CG4 + quad;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, index / (ROW_TILES * CHANNEL_TILES * G), lid, &acc);
    for (var b = 0u; b < STRIDE_W; b++) {
        for (var t = 0u; t < OWN; t++) {
            for (var k = 0u; k < TK; k++) {
                let element = element_of(at, b, t, k);
                if element != NOWHERE {
                    var sum = acc[(t * STRIDE_W + b) * TK + k];
                    if ADDEND {
                        sum += unpack(addend[element]);
                    }
                    dx[element] = pack(sum);
                }
            }
        }
    }
}

// Adds up over the tile, which is a chunk of rows, the sums of its threads for each quad k: those of g and of
// g (x - mean) inv_std.
fn write_partials(at: Place, lid: u32, sum: array<vec4<f32>, TK>, product: array<vec4<f32>, TK>) {
    for (var k = 0u; k < TK; k++) {
        staged[2u * k * WORKGROUP + lid] = sum[k];
        staged[(2u * k + 1u) * WORKGROUP + lid] = product[k];
    }
    sum_over_tile(lid);
    for (var k = 0u; k < TK; k++) {
        let quad = at.channels + at.channel_thread + k * FILTER_THREADS;
        if lid < FILTER_THREADS && (ALIGNED || quad < CG4) {
            let channel = at.group * CG4 + quad;
            let to = (at.tile * X_MEMBERS + at.x_member) * 2u * C4 + channel;
            let inv_std = norm_stats[(at.x_member * 2u + 1u) * C4 + channel];
            partials[to] = staged[2u * k * WORKGROUP + lid];
            partials[to + C4] = staged[(2u * k + 1u) * WORKGROUP + lid] * inv_std;
        }
    }
}

// As main, and the first pass of the gradient of a batch-norm with a ReLU behind it, where dx is the gradient of its
// output: writes g, which is dx where the ReLU is open, else 0, and takes the sums.
@compute @workgroup_size(WORKGROUP)
fn relu(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, index / (ROW_TILES * CHANNEL_TILES * G), lid, &acc);
    var sum: array<vec4<f32>, TK>;
    var product: array<vec4<f32>, TK>;
    for (var k = 0u; k < TK; k++) {
        let channel = at.group * CG4 + min(at.channels + at.channel_thread + k * FILTER_THREADS, CG4 - 1u);
        let statistic = at.x_member * 2u * C4 + channel;
        let parameter = at.x_member * C4 + channel;
        let mean = norm_stats[statistic];
        let scale = gamma[parameter] * norm_stats[statistic + C4];
        let shift = beta[parameter];
        for (var b = 0u; b < STRIDE_W; b++) {
            for (var t = 0u; t < OWN; t++) {
                let element = element_of(at, b, t, k);
                if element != NOWHERE {
                    let deviation = unpack(norm_x_relu[element]) - mean;
                    let open = deviation * scale + shift > vec4<f32>();
                    let g = select(vec4<f32>(), acc[(t * STRIDE_W + b) * TK + k], open);
                    masked[element] = pack(g);
                    sum[k] += g;
                    product[k] += g * deviation;
                }
            }
        }
    }
    write_partials(at, lid, sum, product);
}

// The same where a residual was added in front of the ReLU, with its output y.
@compute @workgroup_size(WORKGROUP)
fn relu_of_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, index / (ROW_TILES * CHANNEL_TILES * G), lid, &acc);
    var sum: array<vec4<f32>, TK>;
    var product: array<vec4<f32>, TK>;
    for (var k = 0u; k < TK; k++) {
        let channel = at.group * CG4 + min(at.channels + at.channel_thread + k * FILTER_THREADS, CG4 - 1u);
        let mean = norm_stats[at.x_member * 2u * C4 + channel];
        for (var b = 0u; b < STRIDE_W; b++) {
            for (var t = 0u; t < OWN; t++) {
                let element = element_of(at, b, t, k);
                if element != NOWHERE {
                    var value = acc[(t * STRIDE_W + b) * TK + k];
                    if ADDEND {
                        value += unpack(addend[element]);
                    }
                    let g = select(vec4<f32>(), value, unpack(norm_y[element]) > vec4<f32>());
                    masked[element] = pack(g);
                    sum[k] += g;
                    product[k] += g * (unpack(norm_x[element]) - mean);
                }
            }
        }
    }
    write_partials(at, lid, sum, product);
}
