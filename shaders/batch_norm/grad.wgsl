// partials[p, m, 0, c] = sum of g, partials[p, m, 1, c] = sum of g * (x - mean) * inv_std, over the rows of chunk p.
// Shapes: x, dy, y, g [M, ROWS, C], stats [M, 2, C], gamma, beta [M, C], partials [P, M, 2, C]; C = VECTORS elements.
// Tiles: CHUNK_ROWS rows by COLUMNS elements per workgroup; a thread strides over the rows by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column; the lanes of a column are summed as a fixed tree.
// Grid: P * M * TILES workgroups, tiles of a row fastest. Entry points: linear, relu, relu_of_sum, by activation.
// The gradient of the output is dy if WHOLE, or the values that g replaces if IN_PLACE, plus, if AREA is not 0, the
// gradient of a pooling over images of AREA rows.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M, ROWS, C]
@group(0) @binding(1) var<storage, read> dy: array<Stored>; // [M, ROWS, C], WHOLE or linear only, else x again
@group(0) @binding(2) var<storage, read> stats: array<Elem>; // [M, 2, C] (mean, inv_std)
@group(0) @binding(3) var<storage, read> gamma: array<Elem>; // [M, C], relu only
@group(0) @binding(3) var<storage, read> y: array<Stored>; // [M, ROWS, C], relu_of_sum only
@group(0) @binding(4) var<storage, read> beta: array<Elem>; // [M, C], relu only
@group(0) @binding(5) var<storage, read> pooled: array<Elem>; // [M, ROWS / AREA, C] if AREA is not 0, else x again
@group(0) @binding(6) var<storage, read_write> partials: array<Elem>; // [P, M, 2, C]
@group(0) @binding(7) var<storage, read_write> masked: array<Stored>; // g [M, ROWS, C], not linear

// The work of a thread: one column of one chunk. `start >= end` for a thread without work.
struct Place {
    member: u32,
    chunk: u32,
    column: u32,
    lane: u32,
    base: u32,
    start: u32,
    end: u32,
}

fn place_of(index: u32, lid: u32) -> Place {
    var at: Place;
    at.member = index / TILES % MEMBERS;
    at.chunk = index / (TILES * MEMBERS);
    at.column = index % TILES * COLUMNS + lid % COLUMNS;
    at.lane = lid / COLUMNS;
    at.base = at.member * ROWS * VECTORS + at.column;
    at.start = at.chunk * CHUNK_ROWS + at.lane;
    at.end = min((at.chunk + 1u) * CHUNK_ROWS, ROWS);
    if at.lane >= LANES || at.column >= VECTORS {
        at.column = VECTORS;
        at.end = 0u;
    }
    return at;
}

// The gradient of the output at row `row`, which is element `i`.
fn upstream(at: Place, row: u32, i: u32) -> Elem {
    var gradient = Elem();
    if IN_PLACE {
        gradient = unpack(masked[i]);
    }
    if WHOLE {
        gradient = unpack(dy[i]);
    }
    if AREA > 0u {
        let image = (at.member * ROWS + row) / max(AREA, 1u);
        gradient += pooled[image * VECTORS + at.column] / f32(AREA);
    }
    return gradient;
}

// The sums of g and of g * (x - mean) of all lanes become partials; lane 0 of each column writes them.
fn finish(at: Place, lid: u32, sum: Elem, product: Elem) {
    reduce_lanes(lid, at.lane, sum, product);
    if at.lane == 0u && at.column < VECTORS {
        let to = (at.chunk * MEMBERS + at.member) * 2u * VECTORS + at.column;
        partials[to] = first[lid];
        partials[to + VECTORS] = second[lid] * stats[(at.member * 2u + 1u) * VECTORS + at.column];
    }
}

@compute @workgroup_size(256)
fn linear(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var sum = Elem();
    var product = Elem();
    if at.start < at.end {
        let mean = stats[at.member * 2u * VECTORS + at.column];
        for (var row = at.start; row < at.end; row += LANES) {
            let i = at.base + row * VECTORS;
            let g = unpack(dy[i]);
            sum += g;
            product += g * (unpack(x[i]) - mean);
        }
    }
    finish(at, lid, sum, product);
}

@compute @workgroup_size(256)
fn relu(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var sum = Elem();
    var product = Elem();
    if at.start < at.end {
        let statistic = at.member * 2u * VECTORS + at.column;
        let parameter = at.member * VECTORS + at.column;
        let mean = stats[statistic];
        let scale = gamma[parameter] * stats[statistic + VECTORS];
        let shift = beta[parameter];
        for (var row = at.start; row < at.end; row += LANES) {
            let i = at.base + row * VECTORS;
            let deviation = unpack(x[i]) - mean;
            let g = select(Elem(), upstream(at, row, i), deviation * scale + shift > Elem());
            masked[i] = pack(g);
            sum += g;
            product += g * deviation;
        }
    }
    finish(at, lid, sum, product);
}

@compute @workgroup_size(256)
fn relu_of_sum(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let at = place_of(index, lid);
    var sum = Elem();
    var product = Elem();
    if at.start < at.end {
        let mean = stats[at.member * 2u * VECTORS + at.column];
        for (var row = at.start; row < at.end; row += LANES) {
            let i = at.base + row * VECTORS;
            let g = select(Elem(), upstream(at, row, i), unpack(y[i]) > Elem());
            masked[i] = pack(g);
            sum += g;
            product += g * (unpack(x[i]) - mean);
        }
    }
    finish(at, lid, sum, product);
}
