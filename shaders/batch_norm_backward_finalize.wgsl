// dbeta, dgamma = sums of partials over p; coefficients = (mean, scale = gamma * inv_std, beta,
//   slope = scale * inv_std * dgamma / ROWS, offset = scale * dbeta / ROWS).
// Shapes: partials [PARTIALS, M, 2, C], stats [M, 2, C], gamma, beta, dgamma, dbeta [M, C], coefficients [M, 5, C].
// Tiles: COLUMNS channels per workgroup; C = VECTORS; a thread strides over the partials by LANES.
// Workgroup: 256 threads, thread = lane * COLUMNS + column. Grid: M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> partials: array<f32>; // [PARTIALS, M, 2, C]
@group(0) @binding(1) var<storage, read> stats: array<f32>; // [M, 2, C] (mean, inv_std)
@group(0) @binding(2) var<storage, read> gamma: array<f32>; // [M, C]
@group(0) @binding(3) var<storage, read> beta: array<f32>; // [M, C]
@group(0) @binding(4) var<storage, read_write> dgamma: array<f32>; // [M, C]
@group(0) @binding(5) var<storage, read_write> dbeta: array<f32>; // [M, C]
@group(0) @binding(6) var<storage, read_write> coefficients: array<f32>; // [M, COEFFICIENTS, C]

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
    var product = 0.0;
    if channel < VECTORS {
        for (var p = lane; p < PARTIALS; p += LANES) {
            let at = (p * MEMBERS + member) * 2u * VECTORS + channel;
            sum += partials[at];
            product += partials[at + VECTORS];
        }
    }
    reduce_lanes(thread, lane, sum, product);
    if lane == 0u && channel < VECTORS {
        let at = member * VECTORS + channel;
        let mean = stats[member * 2u * VECTORS + channel];
        let inv_std = stats[(member * 2u + 1u) * VECTORS + channel];
        let scale = gamma[at] * inv_std;
        dbeta[at] = first[thread];
        dgamma[at] = second[thread];
        let to = member * COEFFICIENTS * VECTORS + channel;
        coefficients[to] = mean;
        coefficients[to + VECTORS] = scale;
        coefficients[to + 2u * VECTORS] = beta[at];
        coefficients[to + 3u * VECTORS] = scale * inv_std * (second[thread] / f32(ROWS));
        coefficients[to + 4u * VECTORS] = scale * (first[thread] / f32(ROWS));
    }
}
