// dx = scale * (g - dbeta / ROWS - xhat * dgamma / ROWS), and over the rows dgamma = sum of g * xhat, dbeta = sum of g,
//   where xhat = (x - mean) * inv_std, scale = gamma * inv_std, and g = dy, or 0 where gamma * xhat + beta <= 0 (RELU).
// Shapes: x, dy, dx [M, ROWS, C], stats [M, 2, C], the others [M, C]; C = VECTORS.
// Tiles: all rows of COLUMNS channels per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<f32>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read> dy: array<f32>; // [M, ROWS, C]
@group(0) @binding(2) var<storage, read> stats: array<f32>; // [M, 2, C] (mean, inv_std)
@group(0) @binding(3) var<storage, read> gamma: array<f32>; // [M, C]
@group(0) @binding(4) var<storage, read> beta: array<f32>; // [M, C]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>; // [M, ROWS, C]
@group(0) @binding(6) var<storage, read_write> dgamma: array<f32>; // [M, C]
@group(0) @binding(7) var<storage, read_write> dbeta: array<f32>; // [M, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let member = index / TILES;
    let column = lid % COLUMNS;
    let channel = min(index % TILES * COLUMNS + column, VECTORS - 1u);
    let own = index % TILES * COLUMNS + column < VECTORS;
    let lane = lid / COLUMNS;
    let base = member * ROWS * VECTORS + channel;
    let parameter = member * VECTORS + channel;
    let mean = stats[parameter + member * VECTORS];
    let inv_std = stats[parameter + (member + 1u) * VECTORS];
    let scale = gamma[parameter] * inv_std;
    let shift = beta[parameter];
    var sum = 0.0;
    var product = 0.0;
    for (var row = lane; row < ROWS; row += LANES) {
        let at = base + row * VECTORS;
        let deviation = x[at] - mean;
        let g = select(dy[at], 0.0, RELU && deviation * scale + shift <= 0.0);
        sum += g;
        product += g * deviation;
    }
    reduce_lanes(lid, lane, sum, product);
    if !own {
        return;
    }
    let total = first[column];
    let total_product = second[column] * inv_std;
    if lane == 0u {
        dbeta[parameter] = total;
        dgamma[parameter] = total_product;
    }
    let slope = scale * inv_std * (total_product / f32(ROWS));
    let offset = scale * (total / f32(ROWS));
    for (var row = lane; row < ROWS; row += LANES) {
        let at = base + row * VECTORS;
        let deviation = x[at] - mean;
        let g = select(dy[at], 0.0, RELU && deviation * scale + shift <= 0.0);
        dx[at] = scale * g - deviation * slope - offset;
    }
}
