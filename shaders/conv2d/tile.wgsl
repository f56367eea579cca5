// Helper: the inner part of the tiled convolutions. A workgroup computes TI images times TR rows of the result, with
// all their columns, times FT quads of filters. It stages, CQ quads of channels at a time, the patch of the source that
// these pixels read, and the weights of all taps: a source pixel is fetched and normalised once, not once for each tap.
//
// The patch for TR = 2 rows of TC = 8 pixels and a kernel of 3 x 3. In brackets the window that one thread keeps in
// registers for one row of the kernel, and the TP = 4 pixels of the result that it serves:
//
//      source, one quad of channels                 result, one quad of filters
//
//     [o  o  o  o  o  o] o  o  o  o   ^
//      o  o  o  o  o  o  o  o  o  o   | PATCH_ROWS     [x  x  x  x] x  x  x  x   ^ TR
//      o  o  o  o  o  o  o  o  o  o   |                 x  x  x  x  x  x  x  x   v
//      o  o  o  o  o  o  o  o  o  o   v                 <-------- TC -------->
//      <------ PATCH_COLUMNS ----->
//
// Thread: TP pixels of a row times TK quads of filters, FILTER_THREADS apart. Neighbouring threads have the same pixels
// and neighbouring filters, then the rows of the tile, then the columns.
//
// SHARES threads, TILE_THREADS apart, may divide the staged quads of channels among them: more threads where a small
// result leaves a GPU idle. In the end each has added up SHARES parts for OWN = TP / SHARES of the pixels (keep_own).
//
// The shader that uses it defines source_quad(pixel, c), the value to stage, and these constants:
//   SOURCE_H, SOURCE_W         extents of the source                                            pixels
//   PATCH_ROWS, PATCH_COLUMNS  extents of the patch of one image                                staged pixels
//   STEP_H                     distance in the source between two rows of the tile              pixels
//   TOP, LEFT                  offset of the patch's corner above and left of the tile's        pixels
//   SAMPLE_H, SAMPLE_W         distance in the source between two staged pixels                 pixels
//   TILED_H                    rows of an image that are tiled                                  rows
//   DEPTH                      length of the sum over channels                                  quads
//   PIXEL_SUMS                 sums of a thread for each of its TP pixels                       quads
// The prelude (kernels/conv2d/tile.rs) defines:
//   TI, TR, TC                 images, rows of each, and columns of a tile                      images, rows, pixels
//   TP, TK                     pixels and filters of a thread                                   pixels, quads
//   FILTER_THREADS             threads side by side along the filters                           threads
//   CQ                         channels staged at a time                                        quads
//   SHARES                     threads that divide the staged channels                          threads
//   SUMS                       sums over the tile that a thread contributes to, or 0            quads
//   WORKGROUP                  size of a workgroup                                              threads
// This file defines:
//   PITCH                      length of a staged row: odd, so that threads one row apart
//                              meet different banks                                             pixels
//   PATCH                      size of the staged patches of TI images                          quads
//   PATCH_PIXELS, PATCH_STEPS  pixels of these patches, and those that a thread stages          pixels
//   FT                         filters of a tile                                                quads
//   LINES                      rows of a tile in all images                                     rows
//   CHUNK_WEIGHTS              staged weights of one quad of channels                           quads
//   PIXEL_THREADS              threads of the same filters                                      threads
//   TILE_THREADS               threads of one share                                             threads
//   OWN                        pixels that a thread keeps in the end                            pixels
//   THREAD_SUMS, OWN_SUMS      sums of a thread, and those that it keeps in the end             quads
//   EXCHANGED                  room for keep_own                                                quads
//   NOWHERE                    index of a pixel outside the image

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

// The patches [CQ,TI,PATCH_ROWS,PITCH]; later sums over the tile [SUMS,WORKGROUP], or the sums that keep_own exchanges.
var<workgroup> staged: array<vec4<f32>, max(CQ * PATCH, max(SUMS * WORKGROUP, EXCHANGED))>;
// [CQ,R,S,4,FT]
var<workgroup> weights: array<vec4<f32>, CQ * CHUNK_WEIGHTS>;

// The pixels of the source that a thread stages: the same ones for all channels.
struct Staging {
    pixel: array<u32, PATCH_STEPS>,  // counted through images, NOWHERE beyond their edges
}

// The staging of thread `lid` for the tile whose first row of the result, counted through images, is `row`.
fn staging_of(lid: u32, row: u32) -> Staging {
    var staging: Staging;
    for (var step = 0u; step < PATCH_STEPS; step++) {
        let e = lid + step * WORKGROUP;
        let n = row / TILED_H + e / (PATCH_ROWS * PATCH_COLUMNS);
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = row % TILED_H * STEP_H + e / PATCH_COLUMNS % PATCH_ROWS * SAMPLE_H - TOP;
        let j = e % PATCH_COLUMNS * SAMPLE_W - LEFT;
        let inside = e < PATCH_PIXELS && n < N && i < SOURCE_H && j < SOURCE_W;
        staging.pixel[step] = select(NOWHERE, (n * SOURCE_H + i) * SOURCE_W + j, inside);
    }
    return staging;
}

// Stages CQ quads of channels from `c` on; `first` is the member's first pixel.
fn stage_patch(lid: u32, staging: ptr<function, Staging>, first: u32, c: u32) {
    for (var q = 0u; q < CQ; q++) {
        for (var step = 0u; step < PATCH_STEPS; step++) {
            let e = lid + step * WORKGROUP;
            let pixel = (*staging).pixel[step];
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

// Adds up, in a fixed order, the sums of the SHARES threads that divide channels among them, for this thread's own
// pixels, and puts them first: pixel t of `acc` then is pixel share * OWN + t of the tile's row.
fn keep_own(lid: u32, acc: ptr<function, array<vec4<f32>, THREAD_SUMS>>) {
    if SHARES == 1u {
        return;
    }
    let share = lid / TILE_THREADS;
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
            staged[lid] = given;
            workgroupBarrier();
            sum += staged[(lid + (SHARES - distance) * TILE_THREADS) % WORKGROUP];
        }
        (*acc)[i] = sum;
    }
    // The next writer of `staged` waits for the last reader.
    workgroupBarrier();
}

// Adds up the quads in `staged`, which thread `lid` put at slot * WORKGROUP + lid, over the threads of the same
// filters, in a fixed order. The first of these threads has the sum at its place.
fn sum_over_tile(lid: u32) {
    let pixel_thread = lid / FILTER_THREADS;
    var width = PIXEL_THREADS;
    while width > 1u {
        let half = (width + 1u) / 2u;
        workgroupBarrier();
        if pixel_thread + half < width {
            for (var slot = 0u; slot < SUMS; slot++) {
                let at = slot * WORKGROUP + lid;
                staged[at] += staged[at + half * FILTER_THREADS];
            }
        }
        width = half;
    }
    workgroupBarrier();
}
