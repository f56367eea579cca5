// y = act(gamma * (x - mean) * inv_std + beta + residual), with the statistics of the batch or running ones.
// Shapes: x, y [M, ROWS, C], gamma, beta [M, C], residual [M or 1, ROWS, C]; C = VECTORS elements. NORMALISED_RESIDUAL:
// the residual is normalised as it is read.
// Tiles: BLOCK_ROWS rows by COLUMNS elements per workgroup; a thread keeps its column's parameters in registers.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; a thread strides over the rows by LANES.
// Grid: M * BLOCKS * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, ROWS, C]
// [M, 2, C] (mean, inv_std); INFERENCE: running mean [M, C]
@group(0) @binding(1) var<storage, read> stats: array<Elem>;
@group(0) @binding(2) var<storage, read> running_var: array<Elem>; // [M, C], INFERENCE only, else stats again
@group(0) @binding(3) var<storage, read> gamma: array<Elem>; // [M, C]
@group(0) @binding(4) var<storage, read> beta: array<Elem>; // [M, C]
@group(0) @binding(5) var<storage, read> residual: array<Stored>; // [M or 1, ROWS, C], HAS_RESIDUAL only, else x again
// [M, 3, C] (mean, scale, shift), NORMALISED_RESIDUAL only, else stats again
@group(0) @binding(6) var<storage, read> affine: array<Elem>;
@group(0) @binding(7) var<storage, read_write> y: array<Stored>; // [M, ROWS, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let column = index % TILES * COLUMNS + lid % COLUMNS;
    let lane = lid / COLUMNS;
    if lane >= LANES || column >= VECTORS {
        return;
    }
    let block = index / TILES % BLOCKS;
    let member = index / (TILES * BLOCKS);
    let parameter = member * VECTORS + column;
    var mean: Elem;
    var inv_std: Elem;
    if INFERENCE {
        mean = stats[parameter];
        inv_std = Elem(1.0) / sqrt(running_var[parameter] + Elem(EPS));
    } else {
        mean = stats[parameter + member * VECTORS];
        inv_std = stats[parameter + (member + 1u) * VECTORS];
    }
    let scale = gamma[parameter] * inv_std;
    let shift = beta[parameter];
    // The residual stands for (residual - affine_mean) * affine_scale + affine_shift.
    var affine_mean = Elem();
    var affine_scale = Elem(1.0);
    var affine_shift = Elem();
    if NORMALISED_RESIDUAL {
        let first = member * 3u * VECTORS + column;
        affine_mean = affine[first];
        affine_scale = affine[first + VECTORS];
        affine_shift = affine[first + 2u * VECTORS];
    }
    let base = member * ROWS * VECTORS;
    let end = min((block + 1u) * BLOCK_ROWS, ROWS);
    for (var row = block * BLOCK_ROWS + lane; row < end; row += LANES) {
        let at = row * VECTORS + column;
        var value = (unpack(x[base + at]) - mean) * scale + shift;
        if HAS_RESIDUAL {
            var other = unpack(residual[select(base, 0u, SHARED_RESIDUAL) + at]);
            if NORMALISED_RESIDUAL {
                other = (other - affine_mean) * affine_scale + affine_shift;
            }
            value += other;
        }
        if RELU {
            value = select(value, Elem(), value < Elem());
        }
        y[base + at] = pack(value);
    }
}
