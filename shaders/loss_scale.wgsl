// The scale of the loss in mixed precision. state [4]: scale, steps since it changed, factor of the gradients, steps
// skipped.
// scale_gradient: y = x * scale. check: flags[i] = 1 if chunk i of the gradients holds a value that is not finite, else
// 0.
// update: sum of the flags = 0: factor = 1 / scale, and twice the scale after INTERVAL such steps; else factor = 0,
// half the scale.
// Shapes: x, y [ELEMENTS], gradient [ELEMENTS] of four words, flags [FLAGS].
// Tiles: one element per thread (scale_gradient), CHUNK elements per workgroup (check), everything in one workgroup
// (update).
@group(0) @binding(0) var<storage, read> x: array<f32>; // [ELEMENTS], or flags [FLAGS]
@group(0) @binding(1) var<storage, read> scale: array<f32>; // state [4], scale_gradient only
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [ELEMENTS], or flags [FLAGS], or state [4]
@group(0) @binding(3) var<storage, read> gradient: array<vec4<u32>>; // [ELEMENTS] as words, check only

var<workgroup> found: array<u32, 256>;

@compute @workgroup_size(256)
fn scale_gradient(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let i = (group.x + group.y * GRID_ROW) * 256u + thread;
    if i < ELEMENTS {
        y[i] = x[i] * scale[0];
    }
}

// How many of the workgroup's threads found something.
fn count(thread: u32, value: u32) -> u32 {
    found[thread] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            found[thread] += found[thread + half];
        }
    }
    workgroupBarrier();
    return found[0];
}

@compute @workgroup_size(256)
fn check(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let index = group.x + group.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    var wrong = 0u;
    for (var i = index * CHUNK + thread; i < min((index + 1u) * CHUNK, ELEMENTS); i += 256u) {
        // Infinities and what is no number have an exponent of ones.
        let exponent = gradient[i] & vec4<u32>(0x7f800000u);
        wrong += u32(any(exponent == vec4<u32>(0x7f800000u)));
    }
    let total = count(thread, wrong);
    if thread == 0u {
        y[index] = f32(min(total, 1u));
    }
}

@compute @workgroup_size(256)
fn update(@builtin(local_invocation_index) thread: u32) {
    var wrong = 0u;
    for (var i = thread; i < FLAGS; i += 256u) {
        wrong += u32(x[i] != 0.0);
    }
    let total = count(thread, wrong);
    if thread > 0u {
        return;
    }
    if total > 0u {
        y[2] = 0.0;
        y[0] = max(y[0] * 0.5, SMALLEST);
        y[1] = 0.0;
        y[3] += 1.0;
        return;
    }
    y[2] = 1.0 / y[0];
    y[1] += 1.0;
    if y[1] >= f32(INTERVAL) {
        y[0] = min(y[0] * 2.0, LARGEST);
        y[1] = 0.0;
    }
}
