// relu: out = max(a, 0), a NaN stays a NaN. gradient: out = b where a > 0, else 0 (a is the output y, b is dy).
// Shapes: every operand is ELEMENTS elements.
// Tiles: one element per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read_write> out: array<Stored>; // [ELEMENTS]: y, or dx
@group(0) @binding(1) var<storage, read> a: array<Stored>; // [ELEMENTS]: x, or y
@group(0) @binding(2) var<storage, read> b: array<Stored>; // [ELEMENTS]: dy, gradient only

@compute @workgroup_size(256)
fn relu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.x + group.y * GRID_ROW) * 256u + thread;
    if i < ELEMENTS {
        let x = unpack(a[i]);
        out[i] = pack(select(x, Elem(), x < Elem()));
    }
}

@compute @workgroup_size(256)
fn gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.x + group.y * GRID_ROW) * 256u + thread;
    if i < ELEMENTS {
        out[i] = pack(select(Elem(), unpack(b[i]), unpack(a[i]) > Elem()));
    }
}
