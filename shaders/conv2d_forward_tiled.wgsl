// y[m,n,p,q,k] = sum over r,s,c of x[m,n, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c] w[m,r,s,c,k].
// x [X_MEMBERS,N,H,W,C], w [M,R,S,CG,K], y [M,N,P,Q,K]; CG = C/G, KG = K/G, both multiples of 4 and counted in fours.
// Tiles, threads and staging: conv2d_tile.wgsl.
// Grid, outermost first: member, group, tile of filters, tile of rows.

@group(0) @binding(0) var<storage, read> x: array<Stored>;           // [X_MEMBERS,N,H,W,C]
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;        // [M,R,S,CG,K]
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;     // [M,N,P,Q,K]
// [X_MEMBERS,2,C] (mean, inv_std); NORMALISED only, else x
@group(0) @binding(3) var<storage, read> stats: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> gamma: array<vec4<f32>>;    // [X_MEMBERS,C], likewise
@group(0) @binding(5) var<storage, read> beta: array<vec4<f32>>;     // [X_MEMBERS,C], likewise
@group(0) @binding(6) var<storage, read_write> partials: array<vec4<f32>>;  // [ROW_TILES,M,2,K], statistics only

const SOURCE_H: u32 = H;
const SOURCE_W: u32 = W;
// Of what lies between the pixels that a kernel of one row or column reads, nothing is staged.
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
// Whether tiles end where the result does: then there is no code for edges.
const ALIGNED: bool = TC == Q && N * P % LINES == 0u && KG4 % FT == 0u;
const ROW_TILES: u32 = (N * P + LINES - 1u) / LINES;
const FILTER_TILES: u32 = (KG4 + FT - 1u) / FT;
const WEIGHT_QUADS: u32 = CQ * CHUNK_WEIGHTS;
const WEIGHT_STEPS: u32 = (WEIGHT_QUADS + WORKGROUP - 1u) / WORKGROUP;

var<private> group_channel: u32;  // first quad of the group's channels, counted through members

// The input as it is read: NORMALISED, x stands for relu((x - mean) inv_std gamma + beta), by the channel.
fn source_quad(pixel: u32, c: u32) -> vec4<f32> {
    let value = unpack(x[pixel * C4 + group_channel % C4 + c]);
    if !NORMALISED {
        return value;
    }
    let channel = group_channel + c;
    let at = channel + channel / C4 * C4;
    let result = (value - stats[at]) * (stats[at + C4] * gamma[channel]) + beta[channel];
    return select(result, vec4<f32>(), result < vec4<f32>());
}

// Stages the weights of the channels from quad `c` on, and of FT quads of filters from `filters` (of the member) on.
fn stage_weights(lane: u32, m: u32, group: u32, filters: u32, c: u32) {
    for (var step = 0u; step < WEIGHT_STEPS; step++) {
        let e = lane + step * WORKGROUP;
        if WEIGHT_QUADS % WORKGROUP == 0u || e < WEIGHT_QUADS {
            let channel = 4u * (c + e / CHUNK_WEIGHTS) + e / FT % 4u;
            let tap = e % CHUNK_WEIGHTS / (4u * FT);
            let filter_quad = min(filters + e % FT, KG4 - 1u);
            weights[e] = w[((m * R * S + tap) * CG + min(channel, CG - 1u)) * K4 + group * KG4 + filter_quad];
        }
    }
}

// Adds what the staged channels of the thread's share contribute to its tile.
fn multiply_staged(at: Place, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    let corner = (at.line / TR * PATCH_ROWS + at.line % TR * INNER_H) * PITCH + at.column * INNER_W;
    for (var first = 0u; first < CQ; first += SHARES) {
        let q = first + at.share;
        for (var r = 0u; r < R; r++) {
            var window = array<vec4<f32>, WINDOW>();
            for (var i = 0u; i < WINDOW; i++) {
                window[i] = staged[q * PATCH + corner + r * PITCH + i];
            }
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

// What a thread works on.
struct Place {
    m: u32,
    group: u32,
    filters: u32,
    filter_thread: u32,
    tile: u32,
    line: u32,    // row of the tile
    row: u32,     // row of the result, counted through images
    column: u32,  // first of TP pixels that are summed
    share: u32,
    own: u32,     // first of OWN pixels that are kept
}

fn place_of(index: u32, lane: u32) -> Place {
    var at: Place;
    at.tile = index % ROW_TILES;
    at.filters = index / ROW_TILES % FILTER_TILES * FT;
    at.group = index / (ROW_TILES * FILTER_TILES) % G;
    at.m = index / (ROW_TILES * FILTER_TILES * G);
    let thread = select(lane % TILE_THREADS, lane, SHARES == 1u);
    at.filter_thread = thread % FILTER_THREADS;
    at.line = thread / FILTER_THREADS % LINES;
    at.row = at.tile * LINES + at.line;
    at.column = thread / (FILTER_THREADS * LINES) * TP;
    // A constant where nothing is shared, so that all addresses stay what they would be without shares.
    at.share = select(lane / TILE_THREADS, 0u, SHARES == 1u);
    at.own = at.column + at.share * OWN;
    return at;
}

fn convolve(at: Place, lane: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    let x_member = select(at.m, 0u, X_MEMBERS == 1u);
    group_channel = x_member * C4 + at.group * DEPTH;
    var places = source_places(lane, at.tile * LINES);
    for (var c = 0u; c < DEPTH; c += CQ) {
        stage_patch(lane, &places, x_member * N * H * W, c);
        stage_weights(lane, at.m, at.group, at.filters, c);
        workgroupBarrier();
        multiply_staged(at, acc);
        workgroupBarrier();
    }
    keep_own(lane, acc);
}

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

// Puts the thread's sums over its pixels of (y - mean), or of its square, where the tile's are added up.
fn sum_pixels(at: Place, lane: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>, square: bool) {
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
        // The mean is read by all before its place is written.
        workgroupBarrier();
        staged[k * WORKGROUP + lane] = sum;
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lane);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, lane, &acc);
    store(at, &acc);
}

// As main; and of each tile, which is a chunk of rows, the sum and the squared distance from its mean.
@compute @workgroup_size(WORKGROUP)
fn statistics(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lane);
    var acc: array<vec4<f32>, THREAD_SUMS>;
    convolve(at, lane, &acc);
    store(at, &acc);

    let count = f32(min(LINES, N * P - at.tile * LINES) * Q);
    let first = (at.tile * M + at.m) * 2u * K4 + at.group * KG4 + at.filters + at.filter_thread;
    sum_pixels(at, lane, &acc, false);
    sum_over_tile(lane);
    for (var k = 0u; k < TK; k++) {
        let quad = at.filters + at.filter_thread + k * FILTER_THREADS;
        if lane < FILTER_THREADS && (ALIGNED || quad < KG4) {
            partials[first + k * FILTER_THREADS] = staged[k * WORKGROUP + lane];
        }
        workgroupBarrier();
        if lane < FILTER_THREADS {
            staged[k * WORKGROUP + lane] /= count;
        }
    }
    workgroupBarrier();
    sum_pixels(at, lane, &acc, true);
    sum_over_tile(lane);
    for (var k = 0u; k < TK; k++) {
        let quad = at.filters + at.filter_thread + k * FILTER_THREADS;
        if lane < FILTER_THREADS && (ALIGNED || quad < KG4) {
            partials[first + k * FILTER_THREADS + K4] = staged[k * WORKGROUP + lane];
        }
    }
}
