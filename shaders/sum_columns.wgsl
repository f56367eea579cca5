// sums[m, c] = sum over r of values[m, r, c]; ACCUMULATE adds that to what is there.
// Shapes: values [M, ROWS, C], sums [M, C]; C = VECTORS.
// Tiles: COLUMNS columns per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, thread = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> values: array<Elem>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read_write> sums: array<Elem>; // [M, C]

var<workgroup> lane_sums: array<Elem, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x + group.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let member = index / TILES;
    let column = index % TILES * COLUMNS + thread % COLUMNS;
    let lane = thread / COLUMNS;
    var sum = Elem();
    if column < VECTORS {
        for (var row = lane; row < ROWS; row += LANES) {
            sum += values[(member * ROWS + row) * VECTORS + column];
        }
    }
    lane_sums[thread] = sum;
    workgroupBarrier();
    for (var stride = HALF; stride > 0u; stride = stride / 2u) {
        if lane < stride {
            lane_sums[thread] += lane_sums[thread + stride * COLUMNS];
        }
        workgroupBarrier();
    }
    if lane == 0u && column < VECTORS {
        let at = member * VECTORS + column;
        if ACCUMULATE {
            sums[at] += lane_sums[thread];
        } else {
            sums[at] = lane_sums[thread];
        }
    }
}
