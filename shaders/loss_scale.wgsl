// The scale of the loss in mixed precision; state [4]: scale, steps since it changed, factor of the gradients, steps
// skipped.
//   scale_gradient: y = x * scale.
//   check: flags[i] = 1 if chunk i of the gradients holds a value that is not finite, else 0.
//   update: without a flag, factor = 1 / scale, and scale is doubled after INTERVAL such steps; with one, factor = 0,
//   and scale is halved.
// Shapes: x, y [ELEMENTS], gradient [ELEMENTS] of four words, flags [FLAGS].
// Tiles: one element per thread (scale_gradient), CHUNK elements per workgroup (check), all flags in one (update).
// Workgroup: 256 threads.
// Grid: ceil(ELEMENTS / 256) workgroups (scale_gradient), FLAGS (check), 1 (update).
@group(0) @binding(0) var<storage, read> x: array<f32>; // [ELEMENTS], scale_gradient
@group(0) @binding(1) var<storage, read> scale: array<f32>; // state [4], scale_gradient
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [ELEMENTS], scale_gradient
@group(0) @binding(0) var<storage, read> gradient: array<vec4<u32>>; // [ELEMENTS] as words, check
@group(0) @binding(1) var<storage, read_write> flags_out: array<f32>; // [FLAGS], check
@group(0) @binding(0) var<storage, read> flags: array<f32>; // [FLAGS], update
@group(0) @binding(1) var<storage, read_write> state: array<f32>; // [4], update

var<workgroup> found: array<u32, 256>;

@compute @workgroup_size(256)
fn scale_gradient(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    y[i] = x[i] * scale[0];
}

// The sum of `value` over the workgroup.
fn count(lid: u32, value: u32) -> u32 {
    found[lid] = value;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lid < half {
            found[lid] += found[lid + half];
        }
    }
    workgroupBarrier();
    return found[0];
}

@compute @workgroup_size(256)
fn check(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    var wrong = 0u;
    for (var i = index * CHUNK + lid; i < min((index + 1u) * CHUNK, ELEMENTS); i += 256u) {
        // Infinities and NaN have an exponent of ones.
        let exponent = gradient[i] & vec4<u32>(0x7f800000u);
        wrong += u32(any(exponent == vec4<u32>(0x7f800000u)));
    }
    let total = count(lid, wrong);
    if lid == 0u {
        flags_out[index] = f32(min(total, 1u));
    }
}

@compute @workgroup_size(256)
fn update(@builtin(local_invocation_index) lid: u32) {
    var wrong = 0u;
    for (var i = lid; i < FLAGS; i += 256u) {
        wrong += u32(flags[i] != 0.0);
    }
    let total = count(lid, wrong);
    if lid > 0u {
        return;
    }
    if total > 0u {
        state[2] = 0.0;
        state[0] = max(state[0] * 0.5, SMALLEST);
        state[1] = 0.0;
        state[3] += 1.0;
        return;
    }
    state[2] = 1.0 / state[0];
    state[1] += 1.0;
    if state[1] >= f32(INTERVAL) {
        state[0] = min(state[0] * 2.0, LARGEST);
        state[1] = 0.0;
    }
}
