// add: a + b; scale: VALUE * a; copy: a; fill: VALUE.
// Shapes: every operand is ELEMENTS elements.
// Tiles: one element per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> a: array<Stored>; // [ELEMENTS], all but fill
@group(0) @binding(1) var<storage, read> b: array<Stored>; // [ELEMENTS], add
// The output [ELEMENTS], behind as many inputs as its name says.
@group(0) @binding(0) var<storage, read_write> out0: array<Stored>; // fill
@group(0) @binding(1) var<storage, read_write> out1: array<Stored>; // scale, copy
@group(0) @binding(2) var<storage, read_write> out2: array<Stored>; // add

@compute @workgroup_size(256)
fn add(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    out2[i] = pack(unpack(a[i]) + unpack(b[i]));
}

@compute @workgroup_size(256)
fn scale(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    out1[i] = pack(VALUE * unpack(a[i]));
}

@compute @workgroup_size(256)
fn copy(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    out1[i] = a[i];
}

@compute @workgroup_size(256)
fn fill(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    out0[i] = pack(Elem(VALUE));
}
