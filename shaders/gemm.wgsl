// y[m] = op(a[m]) op(b[m]) + bias[m] for every member m, or the sum of that over SUMMED members.
// Shapes: op(a) [ROWS,INNER], op(b) [INNER,COLUMNS], y [M / SUMMED,ROWS,COLUMNS]; op transposes if TRANSPOSE_A or _B.
// A and B are vec4 where lines come in fours, else f32.
// Tiles: 4 rows times 4 columns per thread. With the rows of a and of b as the columns of two 4x4 matrices, four steps
// of the reduction are the product of b's matrix and a's.
// Workgroup: WORKGROUP such tiles of one output member.
// Grid, outermost first: output member, run of WORKGROUP tiles.
@group(0) @binding(0) var<storage, read> a: array<A>;           // [A_MEMBERS,A_LINES,A_LENGTH]
@group(0) @binding(1) var<storage, read> b: array<B>;           // [M,B_LINES,B_LENGTH]
@group(0) @binding(2) var<storage, read> bias: array<f32>;      // [M,COLUMNS] if BIAS, else b again
@group(0) @binding(3) var<storage, read_write> y: array<f32>;   // [M / SUMMED,ROWS,COLUMNS]

const A_LINES: u32 = select(ROWS, INNER, TRANSPOSE_A);
const A_LENGTH: u32 = select(INNER, ROWS, TRANSPOSE_A);
const B_LINES: u32 = select(INNER, COLUMNS, TRANSPOSE_B);
const B_LENGTH: u32 = select(COLUMNS, INNER, TRANSPOSE_B);
const COLUMN_TILES: u32 = (COLUMNS + 3u) / 4u;
const TILES: u32 = (ROWS + 3u) / 4u * COLUMN_TILES;
const RUNS: u32 = (TILES + WORKGROUP - 1u) / WORKGROUP;

// Four elements of a line, zero beyond the matrix. vec4<f32>(v)[0] reads v in either type of element.
fn load_a(m: u32, line: u32, first: u32) -> vec4<f32> {
    let start = (m * A_LINES + min(line, A_LINES - 1u)) * A_LENGTH;
    var value: vec4<f32>;
    if A_WIDTH == 4u {
        value = vec4<f32>(a[(start + min(first, max(A_LENGTH, 4u) - 4u)) / 4u]);
    } else {
        for (var e = 0u; e < 4u; e++) {
            value[e] = vec4<f32>(a[start + min(first + e, A_LENGTH - 1u)])[0];
        }
    }
    let position = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
    return select(vec4<f32>(), value, position < vec4<u32>(select(0u, A_LENGTH, line < A_LINES)));
}

fn load_b(m: u32, line: u32, first: u32) -> vec4<f32> {
    let start = (m * B_LINES + min(line, B_LINES - 1u)) * B_LENGTH;
    var value: vec4<f32>;
    if B_WIDTH == 4u {
        value = vec4<f32>(b[(start + min(first, max(B_LENGTH, 4u) - 4u)) / 4u]);
    } else {
        for (var e = 0u; e < 4u; e++) {
            value[e] = vec4<f32>(b[start + min(first + e, B_LENGTH - 1u)])[0];
        }
    }
    let position = vec4<u32>(first, first + 1u, first + 2u, first + 3u);
    return select(vec4<f32>(), value, position < vec4<u32>(select(0u, B_LENGTH, line < B_LINES)));
}

// Column i holds op(a)[row + i, k..k+4].
fn tile_a(m: u32, row: u32, k: u32) -> mat4x4<f32> {
    let line = select(row, k, TRANSPOSE_A);
    let first = select(k, row, TRANSPOSE_A);
    let tile = mat4x4<f32>(
        load_a(m, line, first),
        load_a(m, line + 1u, first),
        load_a(m, line + 2u, first),
        load_a(m, line + 3u, first),
    );
    if TRANSPOSE_A {
        return transpose(tile);
    }
    return tile;
}

// Column i holds op(b)[k + i, column..column+4].
fn tile_b(m: u32, k: u32, column: u32) -> mat4x4<f32> {
    let line = select(k, column, TRANSPOSE_B);
    let first = select(column, k, TRANSPOSE_B);
    let tile = mat4x4<f32>(
        load_b(m, line, first),
        load_b(m, line + 1u, first),
        load_b(m, line + 2u, first),
        load_b(m, line + 3u, first),
    );
    if TRANSPOSE_B {
        return transpose(tile);
    }
    return tile;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let tile = index % RUNS * WORKGROUP + lid;
    if tile >= TILES {
        return;
    }
    let output = index / RUNS;
    let row = tile / COLUMN_TILES * 4u;
    let column = tile % COLUMN_TILES * 4u;

    var acc = mat4x4<f32>();
    for (var m = output * SUMMED; m < (output + 1u) * SUMMED; m++) {
        let a_member = select(m, 0u, A_MEMBERS == 1u);
        for (var k = 0u; k < INNER; k += 4u) {
            acc += tile_b(m, k, column) * tile_a(a_member, row, k);
        }
        if BIAS {
            var added = vec4<f32>();
            for (var e = 0u; e < 4u; e++) {
                added[e] = bias[m * COLUMNS + min(column + e, COLUMNS - 1u)];
            }
            acc += mat4x4<f32>(added, added, added, added);
        }
    }
    for (var i = 0u; i < 4u; i++) {
        for (var j = 0u; j < 4u; j++) {
            if row + i < ROWS && column + j < COLUMNS {
                y[(output * ROWS + row + i) * COLUMNS + column + j] = acc[i][j];
            }
        }
    }
}
