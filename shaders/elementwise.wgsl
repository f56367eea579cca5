// out = a + b, VALUE * a, a, or VALUE: entry points add, scale, copy, fill.
// Shapes: every operand is ELEMENTS elements.
// Tiles: one element per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read_write> out: array<Stored>; // [ELEMENTS]
@group(0) @binding(1) var<storage, read> a: array<Stored>; // [ELEMENTS], all but fill
@group(0) @binding(2) var<storage, read> b: array<Stored>; // [ELEMENTS], add

fn element(group: vec3<u32>, thread: u32) -> u32 {
    return (group.x + group.y * GRID_ROW) * 256u + thread;
}

@compute @workgroup_size(256)
fn add(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = element(group, thread);
    if i < ELEMENTS {
        out[i] = pack(unpack(a[i]) + unpack(b[i]));
    }
}

@compute @workgroup_size(256)
fn scale(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = element(group, thread);
    if i < ELEMENTS {
        out[i] = pack(VALUE * unpack(a[i]));
    }
}

@compute @workgroup_size(256)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = element(group, thread);
    if i < ELEMENTS {
        out[i] = a[i];
    }
}

@compute @workgroup_size(256)
fn fill(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = element(group, thread);
    if i < ELEMENTS {
        out[i] = pack(Elem(VALUE));
    }
}
