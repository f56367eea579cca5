// stats = (mean, 1 / sqrt(biased variance + EPS)); running = (1 - MOMENTUM) * running + MOMENTUM * batch (unbiased).
// Shapes: partials [PARTIALS, M, 2, C], x [M, ROWS, C] (row 0 is the shift), stats [M, 2, C], running [M, C].
// Tiles: COLUMNS channels per workgroup; C = VECTORS; a thread strides over the partials by LANES.
// Workgroup: 256 threads, thread = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> partials: array<f32>; // [PARTIALS, M, 2, C]
@group(0) @binding(1) var<storage, read> x: array<f32>; // [M, ROWS, C]
@group(0) @binding(2) var<storage, read_write> stats: array<f32>; // [M, 2, C]
@group(0) @binding(3) var<storage, read_write> running_mean: array<f32>; // [M, C]
@group(0) @binding(4) var<storage, read_write> running_var: array<f32>; // [M, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x + group.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let member = index / TILES;
    let channel = index % TILES * COLUMNS + thread % COLUMNS;
    let lane = thread / COLUMNS;
    var sum = 0.0;
    var square = 0.0;
    if channel < VECTORS {
        for (var p = lane; p < PARTIALS; p += LANES) {
            let at = (p * MEMBERS + member) * 2u * VECTORS + channel;
            sum += partials[at];
            square += partials[at + VECTORS];
        }
    }
    reduce_lanes(thread, lane, sum, square);
    if lane == 0u && channel < VECTORS {
        let n = f32(ROWS);
        let offset = first[thread] / n;
        let mean = x[member * ROWS * VECTORS + channel] + offset;
        let variance = max(second[thread] / n - offset * offset, 0.0);
        let unbiased = variance * (n / max(n - 1.0, 1.0));
        stats[member * 2u * VECTORS + channel] = mean;
        stats[(member * 2u + 1u) * VECTORS + channel] = 1.0 / sqrt(variance + EPS);
        let at = member * VECTORS + channel;
        running_mean[at] += MOMENTUM * (mean - running_mean[at]);
        running_var[at] += MOMENTUM * (unbiased - running_var[at]);
    }
}
