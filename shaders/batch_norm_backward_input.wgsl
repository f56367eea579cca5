// dx = scale * g - (x - mean) * slope - offset (+ addend), where g = dy, or 0 where (x - mean) * scale + beta <= 0 (RELU).
// Shapes: x, g, addend, dx [M, ROWS, C], coefficients [M, 5, C] = (mean, scale, beta, slope, offset); C = VECTORS elements.
// Tiles: BLOCK_ROWS rows by COLUMNS elements per workgroup; a thread keeps its column's coefficients in registers.
// Workgroup: 256 threads, thread = lane * COLUMNS + column; a thread strides over the rows by LANES.
// Grid: M * BLOCKS * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<Elem>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read> upstream: array<Elem>; // [M, ROWS, C]: g, or dy if RELU
@group(0) @binding(2) var<storage, read> coefficients: array<Elem>; // [M, COEFFICIENTS, C]
@group(0) @binding(3) var<storage, read> addend: array<Elem>; // [M, ROWS, C], ADDEND only, else x again
@group(0) @binding(4) var<storage, read_write> dx: array<Elem>; // [M, ROWS, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x + group.y * GRID_ROW;
    let column = index % TILES * COLUMNS + thread % COLUMNS;
    let lane = thread / COLUMNS;
    if index >= WORKGROUPS || lane >= LANES || column >= VECTORS {
        return;
    }
    let block = index / TILES % BLOCKS;
    let member = index / (TILES * BLOCKS);
    let first = member * COEFFICIENTS * VECTORS + column;
    let mean = coefficients[first];
    let scale = coefficients[first + VECTORS];
    let shift = coefficients[first + 2u * VECTORS];
    let slope = coefficients[first + 3u * VECTORS];
    let offset = coefficients[first + 4u * VECTORS];
    let base = member * ROWS * VECTORS + column;
    let end = min((block + 1u) * BLOCK_ROWS, ROWS);
    for (var row = block * BLOCK_ROWS + lane; row < end; row += LANES) {
        let at = base + row * VECTORS;
        let deviation = x[at] - mean;
        var g = upstream[at];
        if RELU {
            g = select(Elem(), g, deviation * scale + shift > Elem());
        }
        var value = scale * g - deviation * slope - offset;
        if ADDEND {
            value += addend[at];
        }
        dx[at] = value;
    }
}
