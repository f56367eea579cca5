// y[i, c] = a[i, c] for c < A, else b[i, c - A].
// Shapes: a [ROWS, A], b [ROWS, B], y [ROWS, A + B], channels counted in elements; ELEMENTS is those of y.
// Tiles: one element of y per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> a: array<Stored>; // [ROWS, A]
@group(0) @binding(1) var<storage, read> b: array<Stored>; // [ROWS, B]
@group(0) @binding(2) var<storage, read_write> y: array<Stored>; // [ROWS, A + B]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    let row = i / (A + B);
    let c = i % (A + B);
    if c < A {
        y[i] = a[row * A + c];
    } else {
        y[i] = b[row * B + c - A];
    }
}
