// The inner part of the tiled convolutions: a workgroup computes TI images times TR rows of the result, all their
// columns, times FT quads of filters. It stages, CQ quads of channels at a time, the patch of the source that these
// pixels read, and the weights of all taps; each source pixel is fetched and normalised once, not once for each tap.
//
// staged [CQ,TI,PATCH_ROWS,PITCH]: an odd PITCH, so that threads one row apart meet different banks.
// weights [CQ,R,S,4,FT]. Thread: TP pixels of a row times TK quads of filters, FILTER_THREADS apart; a window of
// source pixels slides over the taps of a row in registers. Threads of the same pixels are neighbours.
//
// Who uses it defines source_quad(pixel, c), the staged value, and the constants SOURCE_H, SOURCE_W (extents of the source),
// PATCH_ROWS, PATCH_COLUMNS (extents of what the tile reads of one image), STEP_H (rows of the source from one row
// of the tile to the next), TOP, LEFT (the patch begins so far above and left), SAMPLE_H, SAMPLE_W (it has every so many-th pixel), TILED_H (rows of an image that are
// tiled), DEPTH (quads of channels to sum over), SUMS (quads that a thread gives to sums over the tile, or 0).

const PITCH: u32 = PATCH_COLUMNS | 1u;
const PATCH: u32 = TI * PATCH_ROWS * PITCH;
const PATCH_PIXELS: u32 = TI * PATCH_ROWS * PATCH_COLUMNS;
const PATCH_STEPS: u32 = (PATCH_PIXELS + WORKGROUP - 1u) / WORKGROUP;
const FT: u32 = FILTER_THREADS * TK;
const LINES: u32 = TI * TR;
const CHUNK_WEIGHTS: u32 = R * S * 4u * FT;
const PIXEL_THREADS: u32 = WORKGROUP / FILTER_THREADS;
const NOWHERE: u32 = 0xffffffffu;

var<workgroup> staged: array<vec4<f32>, max(CQ * PATCH, SUMS * WORKGROUP)>;
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
            var value: vec4<f32>;
            if pixel != NOWHERE && (DEPTH % CQ == 0u || c + q < DEPTH) {
                value = source_quad(first + pixel, c + q);
            }
            if e < PATCH_PIXELS {
                staged[q * PATCH + e / PATCH_COLUMNS * PITCH + e % PATCH_COLUMNS] = value;
            }
        }
    }
}

// Adds up what `staged` holds of each thread, quad `slot` at slot WORKGROUP + lane, over the threads of the same filters,
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
