// errors[m, 0] += samples of rank >= 1, errors[m, 1] += samples of rank >= TOP, over the first `count` samples, where
// rank = number of classes with a larger logit than the label's, or an equal one and a smaller index.
// Shapes: logits [M, BATCH, CLASSES], labels [BATCH], count [1], errors [M, 2].
// Tiles: one member per workgroup, one sample per thread and turn. Workgroup: 256 threads.
// Grid: M workgroups.
@group(0) @binding(0) var<storage, read> logits: array<u32>; // [M, BATCH, CLASSES], the bits of f32
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [BATCH]
@group(0) @binding(2) var<storage, read> count: array<u32>; // [1]
@group(0) @binding(3) var<storage, read_write> errors: array<u32>; // [M, 2]

var<workgroup> top_1: array<u32, 256>;
var<workgroup> top_k: array<u32, 256>;

const NAN_ORDER: u32 = 0xffffffffu;

// An integer in the order of the floats, NaN on top and both zeros equal. Compilers may assume that no float is NaN,
// but not that of integers.
fn order(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return NAN_ORDER;
    }
    return select(bits | 0x80000000u, ~bits + 1u, bits >= 0x80000000u);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let member = group.x + group.y * GRID_ROW;
    if member >= WORKGROUPS {
        return;
    }
    var wrong_1 = 0u;
    var wrong_k = 0u;
    let samples = min(count[0], BATCH);
    for (var sample = thread; sample < samples; sample += 256u) {
        let base = (member * BATCH + sample) * CLASSES;
        let label = labels[sample];
        let own = order(logits[base + min(label, CLASSES - 1u)]);
        var rank = 0u;
        for (var k = 0u; k < CLASSES; k += 1u) {
            let other = order(logits[base + k]);
            rank += select(0u, 1u, other > own || (other == own && k < label));
        }
        let void_label = own == NAN_ORDER || label >= CLASSES;
        wrong_1 += select(0u, 1u, void_label || rank >= 1u);
        wrong_k += select(0u, 1u, void_label || rank >= TOP);
    }
    top_1[thread] = wrong_1;
    top_k[thread] = wrong_k;
    workgroupBarrier();
    for (var stride = 128u; stride > 0u; stride = stride / 2u) {
        if thread < stride {
            top_1[thread] += top_1[thread + stride];
            top_k[thread] += top_k[thread + stride];
        }
        workgroupBarrier();
    }
    if thread == 0u {
        errors[member * 2u] += top_1[0];
        errors[member * 2u + 1u] += top_k[0];
    }
}
