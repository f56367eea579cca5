// totals[c] += sum over r of values[r, c].
// Shapes: values [ROWS, C], totals [C]; C = VECTORS.
// Tiles: COLUMNS columns per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, thread = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: TILES workgroups.
@group(0) @binding(0) var<storage, read> values: array<Elem>; // [ROWS, C]
@group(0) @binding(1) var<storage, read_write> totals: array<Elem>; // [C]

var<workgroup> lane_sums: array<Elem, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x + group.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let column = index * COLUMNS + thread % COLUMNS;
    let lane = thread / COLUMNS;
    var sum = Elem();
    if column < VECTORS {
        for (var row = lane; row < ROWS; row += LANES) {
            sum += values[row * VECTORS + column];
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
        totals[column] += lane_sums[thread];
    }
}
