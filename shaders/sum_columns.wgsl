// totals[c] += sum over r of values[r, c].
// Shapes: values [ROWS, C], totals [C]; C = VECTORS.
// Tiles: COLUMNS columns per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: TILES workgroups.
@group(0) @binding(0) var<storage, read> values: array<Elem>; // [ROWS, C]
@group(0) @binding(1) var<storage, read_write> totals: array<Elem>; // [C]

var<workgroup> lane_sums: array<Elem, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let column = index * COLUMNS + lid % COLUMNS;
    let lane = lid / COLUMNS;
    var sum = Elem();
    if column < VECTORS {
        for (var row = lane; row < ROWS; row += LANES) {
            sum += values[row * VECTORS + column];
        }
    }
    lane_sums[lid] = sum;
    workgroupBarrier();
    for (var stride = HALF; stride > 0u; stride = stride / 2u) {
        if lane < stride {
            lane_sums[lid] += lane_sums[lid + stride * COLUMNS];
        }
        workgroupBarrier();
    }
    if lane == 0u && column < VECTORS {
        totals[column] += lane_sums[lid];
    }
}
