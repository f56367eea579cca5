// The inner part of the tiled convolutions: a workgroup computes TI images times TR rows of the result, all their
// columns, times FT quads of filters. It stages, CQ quads of channels at a time, the patch of the source that these
// pixels read, and the weights of all taps; each source pixel is fetched and normalised once, not once for each tap.
//
// staged [CQ,TI,PATCH_ROWS,PITCH]: an odd PITCH, so that threads one row apart meet different banks.
// weights [CQ,R,S,4,FT]. Thread: TP pixels of a row times TK quads of filters, FILTER_THREADS apart; a window of
// source pixels slides over the taps of a row in registers. Threads of the same pixels are neighbours.
//
// SHARES threads, TILE_THREADS apart, may divide the staged quads of channels among them: more threads where a small
// result leaves a GPU idle. In the end each has summed SHARES parts for OWN = TP / SHARES of the pixels (keep_own).
//
// Who uses it defines source_quad(pixel, c), the staged value, and these constants:
//   SOURCE_H, SOURCE_W         extents of the source
//   PATCH_ROWS, PATCH_COLUMNS  extents of what the tile reads of one image
//   STEP_H                     rows of the source from one row of the tile to the next
//   TOP, LEFT                  the patch begins so far above and left of the tile
//   SAMPLE_H, SAMPLE_W         steps in the source from one staged pixel to the next
//   TILED_H                    rows of an image that are tiled
//   DEPTH                      quads of channels to sum over
//   SUMS                       quads that a thread gives to sums over the tile, or 0
//   PIXEL_SUMS                 quads of sums that a thread has of each of its TP pixels

const PITCH: u32 = PATCH_COLUMNS | 1u;
const PATCH: u32 = TI * PATCH_ROWS * PITCH;
const PATCH_PIXELS: u32 = TI * PATCH_ROWS * PATCH_COLUMNS;
const PATCH_STEPS: u32 = (PATCH_PIXELS + WORKGROUP - 1u) / WORKGROUP;
const FT: u32 = FILTER_THREADS * TK;
const LINES: u32 = TI * TR;
const CHUNK_WEIGHTS: u32 = R * S * 4u * FT;
const PIXEL_THREADS: u32 = WORKGROUP / FILTER_THREADS;
const TILE_THREADS: u32 = WORKGROUP / SHARES;
const OWN: u32 = TP / SHARES;
const THREAD_SUMS: u32 = TP * PIXEL_SUMS;
const OWN_SUMS: u32 = OWN * PIXEL_SUMS;
const EXCHANGED: u32 = select(0u, WORKGROUP, SHARES > 1u);
const NOWHERE: u32 = 0xffffffffu;

var<workgroup> staged: array<vec4<f32>, max(CQ * PATCH, max(SUMS * WORKGROUP, EXCHANGED))>;
var<workgroup> weights: array<vec4<f32>, CQ * CHUNK_WEIGHTS>;

// Which pixels of the source a thread stages: they are the same for every chunk of channels.
struct Places {
    pixel: array<u32, PATCH_STEPS>,  // counted through images, NOWHERE beyond their edges
}

// Pixels of the source that `lane` stages for the tile whose first row of the result, counted through images, is `row`.
fn source_places(lane: u32, row: u32) -> Places {
    var places: Places;
    for (var step = 0u; step < PATCH_STEPS; step++) {
        let e = lane + step * WORKGROUP;
        let n = row / TILED_H + e / (PATCH_ROWS * PATCH_COLUMNS);
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = row % TILED_H * STEP_H + e / PATCH_COLUMNS % PATCH_ROWS * SAMPLE_H - TOP;
        let j = e % PATCH_COLUMNS * SAMPLE_W - LEFT;
        let inside = e < PATCH_PIXELS && n < N && i < SOURCE_H && j < SOURCE_W;
        places.pixel[step] = select(NOWHERE, (n * SOURCE_H + i) * SOURCE_W + j, inside);
    }
    return places;
}

// Stages the channels from quad `c` on.
fn stage_patch(lane: u32, places: ptr<function, Places>, first: u32, c: u32) {
    for (var q = 0u; q < CQ; q++) {
        for (var step = 0u; step < PATCH_STEPS; step++) {
            let e = lane + step * WORKGROUP;
            let pixel = (*places).pixel[step];
            var value = vec4<f32>();
            if pixel != NOWHERE && (DEPTH % CQ == 0u || c + q < DEPTH) {
                value = source_quad(first + pixel, c + q);
            }
            if e < PATCH_PIXELS {
                staged[q * PATCH + e / PATCH_COLUMNS * PITCH + e % PATCH_COLUMNS] = value;
            }
        }
    }
}

// Of the sums of the SHARES threads that divide channels among them, adds up those of this thread's own pixels, in a
// fixed
// order, and puts them first: pixel t of `acc` then is pixel share * OWN + t of the tile's row.
fn keep_own(lane: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    if SHARES == 1u {
        return;
    }
    let share = lane / TILE_THREADS;
    for (var i = 0u; i < OWN_SUMS; i++) {
        // No index of `acc` depends on the thread: it lies in registers.
        var sum = (*acc)[i];
        for (var other = 1u; other < SHARES; other++) {
            sum = select(sum, (*acc)[other * OWN_SUMS + i], share == other);
        }
        for (var distance = 1u; distance < SHARES; distance++) {
            let to = (share + distance) % SHARES;
            var given = (*acc)[i];
            for (var other = 1u; other < SHARES; other++) {
                given = select(given, (*acc)[other * OWN_SUMS + i], to == other);
            }
            workgroupBarrier();
            staged[lane] = given;
            workgroupBarrier();
            sum += staged[(lane + (SHARES - distance) * TILE_THREADS) % WORKGROUP];
        }
        (*acc)[i] = sum;
    }
    // Whoever comes next may write what was read here.
    workgroupBarrier();
}

// Adds up what `staged` holds of each thread, quad `slot` at slot WORKGROUP + lane, over the threads of the same
// filters,
// in a fixed order: the sum is that of the first of them.
fn sum_over_tile(lane: u32) {
    let pixel_thread = lane / FILTER_THREADS;
    var width = PIXEL_THREADS;
    while width > 1u {
        let half = (width + 1u) / 2u;
        workgroupBarrier();
        if pixel_thread + half < width {
            for (var slot = 0u; slot < SUMS; slot++) {
                let at = slot * WORKGROUP + lane;
                staged[at] += staged[at + half * FILTER_THREADS];
            }
        }
        width = half;
    }
    workgroupBarrier();
}
