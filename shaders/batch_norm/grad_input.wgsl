// dx = scale * g - (x - mean) * slope - offset (+ addend), where scale = gamma * inv_std,
//   slope = scale * inv_std * dgamma / ROWS, offset = scale * dbeta / ROWS.
// Shapes: x, g, addend, dx [M, ROWS, C], stats [M, 2, C], gamma, dgamma, dbeta [M, C]; C = VECTORS elements.
// Tiles: BLOCK_ROWS rows by COLUMNS elements per workgroup; a thread keeps its column's coefficients in registers.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; a thread strides over the rows by LANES.
// Grid: M * BLOCKS * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read> g: array<Stored>; // [M, ROWS, C]
@group(0) @binding(2) var<storage, read> stats: array<Elem>; // [M, 2, C] (mean, inv_std)
@group(0) @binding(3) var<storage, read> gamma: array<Elem>; // [M, C]
@group(0) @binding(4) var<storage, read> dgamma: array<Elem>; // [M, C]
@group(0) @binding(5) var<storage, read> dbeta: array<Elem>; // [M, C]
@group(0) @binding(6) var<storage, read> addend: array<Stored>; // [M, ROWS, C], ADDEND only, else x again
@group(0) @binding(7) var<storage, read_write> dx: array<Stored>; // [M, ROWS, C]

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
    let mean = stats[parameter + member * VECTORS];
    let inv_std = stats[parameter + (member + 1u) * VECTORS];
    let scale = gamma[parameter] * inv_std;
    let slope = scale * inv_std * (dgamma[parameter] / f32(ROWS));
    let offset = scale * (dbeta[parameter] / f32(ROWS));
    let base = member * ROWS * VECTORS + column;
    let end = min((block + 1u) * BLOCK_ROWS, ROWS);
    for (var row = block * BLOCK_ROWS + lane; row < end; row += LANES) {
        let at = base + row * VECTORS;
        var value = scale * unpack(g[at]) - (unpack(x[at]) - mean) * slope - offset;
        if ADDEND {
            value += unpack(addend[at]);
        }
        dx[at] = pack(value);
    }
}
