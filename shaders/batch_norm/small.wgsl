// y = act(gamma * (x - mean) * inv_std + beta) with the statistics of the rows, which update the running ones.
// stats = (mean, 1 / sqrt(biased variance + EPS)); running = (1 - MOMENTUM) * running + MOMENTUM * batch (unbiased).
// Shapes: x, y [M, ROWS, C], stats [M, 2, C], the others [M, C]; C = VECTORS.
// Tiles: all rows of COLUMNS channels per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read> gamma: array<f32>; // [M, C]
@group(0) @binding(2) var<storage, read> beta: array<f32>; // [M, C]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [M, ROWS, C]
@group(0) @binding(4) var<storage, read_write> stats: array<f32>; // [M, 2, C]
@group(0) @binding(5) var<storage, read_write> running_mean: array<f32>; // [M, C]
@group(0) @binding(6) var<storage, read_write> running_var: array<f32>; // [M, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let member = index / TILES;
    let column = lid % COLUMNS;
    let channel = index % TILES * COLUMNS + column;
    let lane = lid / COLUMNS;
    let base = member * ROWS * VECTORS + channel;
    let own = channel < VECTORS;
    // Sums are of x - x0, where x0 is the first row: the squares hardly cancel.
    var shift = 0.0;
    var sum = 0.0;
    var square = 0.0;
    if own {
        shift = x[base];
        for (var row = lane; row < ROWS; row += LANES) {
            let deviation = x[base + row * VECTORS] - shift;
            sum += deviation;
            square += deviation * deviation;
        }
    }
    reduce_lanes(lid, lane, sum, square);
    if !own {
        return;
    }
    let n = f32(ROWS);
    let offset = first[column] / n;
    let mean = shift + offset;
    let variance = max(second[column] / n - offset * offset, 0.0);
    let inv_std = 1.0 / sqrt(variance + EPS);
    let parameter = member * VECTORS + channel;
    if lane == 0u {
        let unbiased = variance * (n / max(n - 1.0, 1.0));
        stats[parameter + member * VECTORS] = mean;
        stats[parameter + (member + 1u) * VECTORS] = inv_std;
        running_mean[parameter] += MOMENTUM * (mean - running_mean[parameter]);
        running_var[parameter] += MOMENTUM * (unbiased - running_var[parameter]);
    }
    let scale = gamma[parameter] * inv_std;
    for (var row = lane; row < ROWS; row += LANES) {
        let at = base + row * VECTORS;
        let value = (x[at] - mean) * scale + beta[parameter];
        y[at] = select(value, 0.0, RELU && value < 0.0);
    }
}
