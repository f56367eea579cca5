// stats = (mean, 1 / sqrt(biased variance + EPS)); running = (1 - MOMENTUM) * running + MOMENTUM * batch (unbiased).
// With means m_p and squares s_p of chunks of n_p rows: sum of squares = sum of s_p + n_p (m_p - mean)^2.
// Shapes: partials [PARTIALS, M, 2, C] (sum, s_p), stats [M, 2, C], running, gamma, beta [M, C], affine [M, 3, C].
// Tiles: COLUMNS channels per workgroup; C = VECTORS; a thread strides over the partials by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: M * TILES workgroups, tiles of a row fastest.
// Entry points: main; affine, which also writes (mean, scale, beta).
@group(0) @binding(0) var<storage, read> partials: array<f32>; // [PARTIALS, M, 2, C]
@group(0) @binding(1) var<storage, read> gamma: array<f32>; // [M, C], affine only
@group(0) @binding(2) var<storage, read> beta: array<f32>; // [M, C], affine only
@group(0) @binding(3) var<storage, read_write> stats: array<f32>; // [M, 2, C]
@group(0) @binding(4) var<storage, read_write> running_mean: array<f32>; // [M, C]
@group(0) @binding(5) var<storage, read_write> running_var: array<f32>; // [M, C]
@group(0) @binding(6) var<storage, read_write> normaliser: array<f32>; // [M, 3, C], affine only

// The statistics of one channel of one member; `write` is true in the thread that writes them.
struct Found {
    write: bool,
    member: u32,
    channel: u32,
    mean: f32,
    inv_std: f32,
}

fn finalize(index: u32, lid: u32) -> Found {
    let member = index / TILES;
    let channel = index % TILES * COLUMNS + lid % COLUMNS;
    let lane = lid / COLUMNS;
    var shift = 0.0;
    var sum = 0.0;
    var square = 0.0;
    if channel < VECTORS {
        // Means are taken relative to the first chunk's: they differ little.
        let at = member * 2u * VECTORS + channel;
        shift = partials[at] / f32(min(CHUNK_ROWS, ROWS));
        for (var p = lane; p < PARTIALS; p += LANES) {
            let part = p * MEMBERS * 2u * VECTORS + at;
            let n = f32(min(CHUNK_ROWS, ROWS - p * CHUNK_ROWS));
            let distance = partials[part] / n - shift;
            sum += n * distance;
            square += partials[part + VECTORS] + n * distance * distance;
        }
    }
    reduce_lanes(lid, lane, sum, square);
    var found = Found(lane == 0u && channel < VECTORS, member, channel, 0.0, 0.0);
    if found.write {
        let n = f32(ROWS);
        let offset = first[lid] / n;
        let variance = max(second[lid] / n - offset * offset, 0.0);
        let unbiased = variance * (n / max(n - 1.0, 1.0));
        found.mean = shift + offset;
        found.inv_std = 1.0 / sqrt(variance + EPS);
        stats[member * 2u * VECTORS + channel] = found.mean;
        stats[(member * 2u + 1u) * VECTORS + channel] = found.inv_std;
        let at = member * VECTORS + channel;
        running_mean[at] += MOMENTUM * (found.mean - running_mean[at]);
        running_var[at] += MOMENTUM * (unbiased - running_var[at]);
    }
    return found;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    finalize(index, lid);
}

@compute @workgroup_size(256)
fn affine(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let found = finalize(index, lid);
    if found.write {
        let at = found.member * VECTORS + found.channel;
        let to = found.member * 3u * VECTORS + found.channel;
        normaliser[to] = found.mean;
        normaliser[to + VECTORS] = gamma[at] * found.inv_std;
        normaliser[to + 2u * VECTORS] = beta[at];
    }
}
