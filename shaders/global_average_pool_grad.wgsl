// dx[m, n, p, c] = dy[m, n, c] / AREA (+ addend[m, n, p, c]).
// Shapes: dy [M, N, C], addend, dx [M, N, AREA, C]; C = VECTORS elements.
// Tiles: one image by COLUMNS elements per workgroup; a thread strides over the positions by LANES.
// Workgroup: 256 threads, lid = lane * COLUMNS + column.
// Grid: M * N * TILES workgroups, tiles of a row fastest.
@group(0) @binding(0) var<storage, read> dy: array<Elem>; // [M, N, C]
@group(0) @binding(1) var<storage, read> addend: array<Stored>; // [M, N, AREA, C], ADDEND only, else dy again
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>; // [M, N, AREA, C]

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
    let image = index / TILES;
    let share = dy[image * VECTORS + column] / Elem(f32(AREA));
    for (var position = lane; position < AREA; position += LANES) {
        let at = (image * AREA + position) * VECTORS + column;
        if ADDEND {
            dx[at] = pack(share + unpack(addend[at]));
        } else {
            dx[at] = pack(share);
        }
    }
}
