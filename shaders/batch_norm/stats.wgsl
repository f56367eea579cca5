// partials[p, m, 0, c] = sum of x, partials[p, m, 1, c] = sum of (x - mean)^2, over the rows of chunk p and their mean.
// Shapes: x [M, ROWS, C], partials [P, M, 2, C]; C = VECTORS elements, P = ceil(ROWS / CHUNK_ROWS).
// Tiles: CHUNK_ROWS rows by COLUMNS elements per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: P * M * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read_write> partials: array<Elem>; // [P, M, 2, C]

// Sums are of x - x0, where x0 is the chunk's first row: a sample of the very distribution, so that the squares hardly
// cancel, and one pass over x is enough.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let member = index / TILES % MEMBERS;
    let chunk = index / (TILES * MEMBERS);
    let column = index % TILES * COLUMNS + lid % COLUMNS;
    let lane = lid / COLUMNS;
    let start = chunk * CHUNK_ROWS;
    let end = min(start + CHUNK_ROWS, ROWS);
    var shift = Elem();
    var sum = Elem();
    var square = Elem();
    if lane < LANES && column < VECTORS {
        let base = member * ROWS * VECTORS + column;
        shift = unpack(x[base + start * VECTORS]);
        for (var row = start + lane; row < end; row += LANES) {
            let deviation = unpack(x[base + row * VECTORS]) - shift;
            sum += deviation;
            square += deviation * deviation;
        }
    }
    reduce_lanes(lid, lane, sum, square);
    if lane == 0u && column < VECTORS {
        let n = f32(end - start);
        let at = (chunk * MEMBERS + member) * 2u * VECTORS + column;
        partials[at] = n * shift + first[lid];
        partials[at + VECTORS] = max(second[lid] - first[lid] * first[lid] / n, Elem());
    }
}
