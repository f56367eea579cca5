// g = softmax(gate) or 1/M, z_e = sum_i g_i z_i; q = softmax(z/T) of a teacher or of peers, held constant. Per sample,
//   loss = c (sum_i CE(z_i, y) + CE(z_e, y) if ENSEMBLE) + w T^2 sum_i D_i,
//   its terms, and d(loss)/dz, d(loss)/dgate over n, where D_i = KL(q_e || q_i) with z_e that of the ENSEMBLE or GIVEN
//   from outside, or for PEERS the mean over j != i of KL(q_j || q_i).
// Shapes: logits [M, N, K], labels [N], hyper [3] = (w, n, c), gate [N, M] or given [N, K]
//   -> terms [N, M + 1, 4], dlogits [M, N, K], dgate [N, M].
// Tiles: the logit rows of one sample, read once into workgroup memory where they fit (STAGED). Three sweeps over the
//   classes, each followed by one tree for all its quantities: maxima and ranks; sums of exponentials; KL, dgate,
//   dlogits.
// Workgroup: 64 threads across the K classes.
// Grid: N workgroups. Entry points: evaluate (terms), train (+ dlogits), train_gated (+ dgate).

const THREADS: u32 = 64u;
// Eight words more than the threads: the columns of neighbouring quantities then fall into different banks.
const PITCH: u32 = THREADS + 8u;
// The ensemble or the given teacher among the networks, if there is one.
const TEACHER: u32 = NETWORKS - 1u;
const QUANTITIES: u32 = 2u * NETWORKS;
const INVERSE_TEMPERATURE: f32 = 1.0 / TEMPERATURE;
const PEER_SHARE: f32 = 1.0 / f32(max(BRANCHES, 2u) - 1u);

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [M, N, K]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [N]
// [3]: weight of the distillation term, valid rows, weight of the cross-entropies
@group(0) @binding(2) var<storage, read> hyper: array<f32>;
// GATED: gate [N, M]; GIVEN: [N, K]; else the logits once more, unread
@group(0) @binding(3) var<storage, read> guide: array<f32>;
@group(0) @binding(4) var<storage, read_write> terms: array<f32>; // [N, M + 1, 4]
@group(0) @binding(5) var<storage, read_write> dlogits: array<f32>; // [M, N, K]; train, train_gated
@group(0) @binding(6) var<storage, read_write> dgate: array<f32>; // [N, M]; train_gated

var<workgroup> stage: array<f32, STAGE>; // [M, K] if STAGED, [M + 1, K] if GIVEN, too
var<workgroup> tree: array<f32, QUANTITIES * PITCH>;

// Indexed by branch, or by network: the branches, then the ensemble or the given teacher if there is one.
var<private> share: array<f32, BRANCHES>; // g
var<private> value: array<f32, NETWORKS>; // logits of the current class
var<private> label_value: array<f32, NETWORKS>; // logits of the true class
var<private> peak: array<f32, NETWORKS>; // largest logit
var<private> rank: array<f32, NETWORKS>; // classes in front of the true one
var<private> log_sum: array<f32, NETWORKS>; // log sum exp(z - peak)
var<private> scale: array<f32, NETWORKS>; // 1 / sum exp(z - peak)
var<private> soft_log_sum: array<f32, NETWORKS>; // the same two of (z - peak) / T
var<private> soft_scale: array<f32, NETWORKS>;
var<private> soft: array<f32, BRANCHES>; // softmax(z/T) of the current class, and its logarithm
var<private> soft_log: array<f32, BRANCHES>;
var<private> slope: array<f32, BRANCHES>; // n times the gradient of the current class
var<private> tally: array<f32, QUANTITIES>; // this thread's part of a reduction, then the whole of it

// A bit test: compilers may assume that no comparison meets a NaN.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn clear_tally() {
    for (var q = 0u; q < QUANTITIES; q++) {
        tally[q] = 0.0;
    }
}

// Combines `tally` over the threads in a fixed order, eight at a time: the first `maxima` quantities by max, the others
// by sum.
fn reduce(lid: u32, maxima: u32) {
    for (var q = 0u; q < QUANTITIES; q++) {
        tree[q * PITCH + lid] = tally[q];
    }
    workgroupBarrier();
    for (var index = lid; index < QUANTITIES * 8u; index += THREADS) {
        let q = index / 8u;
        let column = q * PITCH + index % 8u;
        var total = tree[column];
        for (var step = 1u; step < 8u; step++) {
            let next = tree[column + 8u * step];
            total = select(total + next, max(total, next), q < maxima);
        }
        tree[column] = total;
    }
    workgroupBarrier();
    if lid < QUANTITIES {
        var total = tree[lid * PITCH];
        for (var step = 1u; step < 8u; step++) {
            let next = tree[lid * PITCH + step];
            total = select(total + next, max(total, next), lid < maxima);
        }
        tree[lid * PITCH] = total;
    }
    workgroupBarrier();
    for (var q = 0u; q < QUANTITIES; q++) {
        tally[q] = tree[q * PITCH];
    }
    workgroupBarrier();
}

// `value` of class k.
fn gather(row: u32, k: u32) {
    var mixture = 0.0;
    for (var i = 0u; i < BRANCHES; i++) {
        var z = 0.0;
        if STAGED {
            z = stage[i * CLASSES + k];
        } else {
            z = logits[(i * BATCH + row) * CLASSES + k];
        }
        value[i] = z;
        if ENSEMBLE {
            mixture += share[i] * z;
        }
    }
    if ENSEMBLE {
        value[TEACHER] = mixture;
    }
    if GIVEN {
        if STAGED {
            value[TEACHER] = stage[BRANCHES * CLASSES + k];
        } else {
            value[TEACHER] = guide[row * CLASSES + k];
        }
    }
}

fn load_shares(row: u32) {
    for (var i = 0u; i < BRANCHES; i++) {
        share[i] = 1.0 / f32(BRANCHES);
    }
    if GATED {
        var largest = guide[row * BRANCHES];
        for (var i = 1u; i < BRANCHES; i++) {
            largest = max(largest, guide[row * BRANCHES + i]);
        }
        var sum = 0.0;
        for (var i = 0u; i < BRANCHES; i++) {
            share[i] = exp(guide[row * BRANCHES + i] - largest);
            sum += share[i];
        }
        for (var i = 0u; i < BRANCHES; i++) {
            share[i] /= sum;
        }
    }
}

fn label_of(row: u32) -> u32 {
    return min(labels[row], CLASSES - 1u);
}

// The first two sweeps: the parts of each network's softmax at temperatures 1 and T that no class changes.
fn normalise(row: u32, lid: u32) {
    load_shares(row);
    if STAGED {
        for (var i = 0u; i < BRANCHES; i++) {
            for (var k = lid; k < CLASSES; k += THREADS) {
                stage[i * CLASSES + k] = logits[(i * BATCH + row) * CLASSES + k];
            }
        }
        if GIVEN {
            for (var k = lid; k < CLASSES; k += THREADS) {
                stage[BRANCHES * CLASSES + k] = guide[row * CLASSES + k];
            }
        }
        workgroupBarrier();
    }
    let label = label_of(row);
    gather(row, label);
    label_value = value;

    for (var net = 0u; net < NETWORKS; net++) {
        tally[net] = -3.4028234e38;
        tally[NETWORKS + net] = 0.0;
    }
    for (var k = lid; k < CLASSES; k += THREADS) {
        gather(row, k);
        for (var net = 0u; net < NETWORKS; net++) {
            let z = value[net];
            let target_z = label_value[net];
            let in_front = is_nan(z) || z > target_z || (z == target_z && k < label);
            tally[net] = max(tally[net], z);
            tally[NETWORKS + net] += select(0.0, 1.0, in_front && k != label);
        }
    }
    reduce(lid, NETWORKS);
    for (var net = 0u; net < NETWORKS; net++) {
        peak[net] = tally[net];
        rank[net] = tally[NETWORKS + net];
    }

    clear_tally();
    for (var k = lid; k < CLASSES; k += THREADS) {
        gather(row, k);
        for (var net = 0u; net < NETWORKS; net++) {
            let x = value[net] - peak[net];
            tally[net] += exp(x);
            if DISTILL {
                tally[NETWORKS + net] += exp(x * INVERSE_TEMPERATURE);
            }
        }
    }
    reduce(lid, 0u);
    for (var net = 0u; net < NETWORKS; net++) {
        log_sum[net] = log(tally[net]);
        scale[net] = 1.0 / tally[net];
        if DISTILL {
            soft_log_sum[net] = log(tally[NETWORKS + net]);
            soft_scale[net] = 1.0 / tally[NETWORKS + net];
        }
    }
    clear_tally();
}

// Class k in the third sweep: adds to the KL of each branch and to <z_i, p_e - onehot>, sets `slope`.
// The second is measured from the true class's logit, which changes nothing since p_e - onehot sums to 0, and cancels
// less.
fn visit(row: u32, k: u32) {
    gather(row, k);
    let onehot = select(0.0, 1.0, k == label_of(row));
    var residual = 0.0; // p_e - onehot
    var q = 0.0;
    var log_q = 0.0;
    if ENSEMBLE || GIVEN {
        let x = value[TEACHER] - peak[TEACHER];
        if GRADIENT && ENSEMBLE {
            residual = exp(x) * scale[TEACHER] - onehot;
        }
        if DISTILL {
            q = exp(x * INVERSE_TEMPERATURE) * soft_scale[TEACHER];
            log_q = x * INVERSE_TEMPERATURE - soft_log_sum[TEACHER];
        }
    }
    if DISTILL {
        for (var i = 0u; i < BRANCHES; i++) {
            let x = (value[i] - peak[i]) * INVERSE_TEMPERATURE;
            soft[i] = exp(x) * soft_scale[i];
            soft_log[i] = x - soft_log_sum[i];
        }
    }
    for (var i = 0u; i < BRANCHES; i++) {
        var push = 0.0; // q_i minus the q that it learns from
        if DISTILL && PEERS {
            var divergence = 0.0;
            for (var j = 0u; j < BRANCHES; j++) {
                divergence += soft[j] * (soft_log[j] - soft_log[i]);
                push += soft[i] - soft[j];
            }
            tally[i] += divergence * PEER_SHARE;
            push *= PEER_SHARE;
        } else if DISTILL {
            tally[i] += q * (log_q - soft_log[i]);
            push = soft[i] - q;
        }
        if GRADIENT {
            slope[i] = hyper[2] * (exp(value[i] - peak[i]) * scale[i] - onehot);
            if DISTILL {
                slope[i] += hyper[0] * TEMPERATURE * push;
            }
            if ENSEMBLE {
                slope[i] += hyper[2] * share[i] * residual;
                tally[NETWORKS + i] += residual * (value[i] - label_value[i]);
            }
        }
    }
}

fn write_terms(row: u32, lid: u32) {
    if lid != 0u {
        return;
    }
    let first = row * (BRANCHES + 1u) * 4u;
    for (var net = 0u; net <= BRANCHES; net++) {
        var term = vec4<f32>();
        if net < NETWORKS {
            term.x = (peak[net] - label_value[net]) + log_sum[net];
            if DISTILL && net < BRANCHES {
                term.y = TEMPERATURE * TEMPERATURE * tally[net];
            }
            let lost = is_nan(label_value[net]);
            term.z = select(0.0, 1.0, lost || rank[net] >= 1.0);
            term.w = select(0.0, 1.0, lost || rank[net] >= 5.0);
        }
        terms[first + 4u * net] = term.x;
        terms[first + 4u * net + 1u] = term.y;
        terms[first + 4u * net + 2u] = term.z;
        terms[first + 4u * net + 3u] = term.w;
    }
}

fn write_blank_terms(row: u32, lid: u32) {
    for (var index = lid; index < (BRANCHES + 1u) * 4u; index += THREADS) {
        terms[row * (BRANCHES + 1u) * 4u + index] = 0.0;
    }
}

// A row of a ragged last batch that holds no sample.
fn is_padding(row: u32) -> bool {
    return f32(row) >= hyper[1];
}

// Everything but dgate; leaves <z_i, p_e - onehot> in the second half of `tally`.
fn terms_and_dlogits(row: u32, lid: u32) {
    normalise(row, lid);
    let mean = 1.0 / hyper[1];
    for (var k = lid; k < CLASSES; k += THREADS) {
        visit(row, k);
        for (var i = 0u; i < BRANCHES; i++) {
            dlogits[(i * BATCH + row) * CLASSES + k] = slope[i] * mean;
        }
    }
    if ENSEMBLE || DISTILL {
        reduce(lid, 0u);
    }
    write_terms(row, lid);
}

fn write_blank_dlogits(row: u32, lid: u32) {
    for (var i = 0u; i < BRANCHES; i++) {
        for (var k = lid; k < CLASSES; k += THREADS) {
            dlogits[(i * BATCH + row) * CLASSES + k] = 0.0;
        }
    }
}

@compute @workgroup_size(64)
fn evaluate(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let row = workgroup_index(wid);
    if row >= WORKGROUPS {
        return;
    }
    if is_padding(row) {
        write_blank_terms(row, lid);
        return;
    }
    normalise(row, lid);
    if DISTILL {
        for (var k = lid; k < CLASSES; k += THREADS) {
            visit(row, k);
        }
        reduce(lid, 0u);
    }
    write_terms(row, lid);
}

@compute @workgroup_size(64)
fn train(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let row = workgroup_index(wid);
    if row >= WORKGROUPS {
        return;
    }
    if is_padding(row) {
        write_blank_terms(row, lid);
        write_blank_dlogits(row, lid);
        return;
    }
    terms_and_dlogits(row, lid);
}

@compute @workgroup_size(64)
fn train_gated(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let row = workgroup_index(wid);
    if row >= WORKGROUPS {
        return;
    }
    if is_padding(row) {
        write_blank_terms(row, lid);
        write_blank_dlogits(row, lid);
        if lid < BRANCHES {
            dgate[row * BRANCHES + lid] = 0.0;
        }
        return;
    }
    terms_and_dlogits(row, lid);
    if lid == 0u {
        for (var i = 0u; i < BRANCHES; i++) {
            // g_i (s_i - sum_j g_j s_j), as differences: equal branches give exactly 0.
            var advantage = 0.0;
            for (var j = 0u; j < BRANCHES; j++) {
                advantage += share[j] * (tally[NETWORKS + i] - tally[NETWORKS + j]);
            }
            dgate[row * BRANCHES + i] = hyper[2] * share[i] * advantage / hyper[1];
        }
    }
}
