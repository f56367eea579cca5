// g = gradient + weight_decay * decay_scale * values; velocity = momentum * velocity + g;
// values -= learning_rate * (NESTEROV: g + momentum * velocity, else velocity).
// Shapes: gradient, values, velocity [ELEMENTS] of four words, decay_scale [ELEMENTS / DECAY_BLOCK], hyper [3].
// LOSS_SCALED, gradients are multiplied by loss_scale[2] first, and nothing is updated where that is 0.
// Tiles: one element per thread.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> gradient: array<vec4<f32>>; // [ELEMENTS]
@group(0) @binding(1) var<storage, read> decay_scale: array<f32>; // [ELEMENTS / DECAY_BLOCK]
@group(0) @binding(2) var<storage, read> hyper: array<f32>; // [3]: learning rate, momentum, weight decay
@group(0) @binding(3) var<storage, read> loss_scale: array<f32>; // [4], LOSS_SCALED only, else hyper again
@group(0) @binding(4) var<storage, read_write> values: array<vec4<f32>>; // [ELEMENTS]
@group(0) @binding(5) var<storage, read_write> velocity: array<vec4<f32>>; // [ELEMENTS]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    var given = gradient[i];
    if LOSS_SCALED {
        if loss_scale[2] == 0.0 {
            return;
        }
        given *= loss_scale[2];
    }
    let value = values[i];
    let g = given + hyper[2] * decay_scale[i / DECAY_BLOCK] * value;
    let v = hyper[1] * velocity[i] + g;
    velocity[i] = v;
    if NESTEROV {
        values[i] = value - hyper[0] * (g + hyper[1] * v);
    } else {
        values[i] = value - hyper[0] * v;
    }
}
