// Row `first + n` of the table, for each valid sample n: of every network its cross-entropy, its largest probability,
// the class that has it, and the number of classes in front of the true one; then g = softmax(gate) if GATED.
// Networks: the M members; if there are several, softmax(mean_i z_i) and mean_i softmax(z_i); if GATED,
// softmax(sum_i g_i z_i).
// Shapes: logits [M, N, K], labels [N], position [2] = (first, valid), gate [N, M]
//   -> table [ROWS, NETWORKS * 4 + M if GATED].
// Tiles: one network and one sample per thread, the networks of a sample fastest.
// Workgroup: 64 threads.
// Grid: ceil(N * NETWORKS / 64) workgroups.

const MEAN_LOGITS: u32 = MEMBERS;
const MEAN_PROBABILITIES: u32 = MEMBERS + 1u;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // [M, N, K]
@group(0) @binding(1) var<storage, read> labels: array<u32>; // [N]
@group(0) @binding(2) var<storage, read> position: array<u32>; // [2]: first row of the table, valid samples
@group(0) @binding(3) var<storage, read> gate: array<f32>; // [N, M]; the logits once more, unread, unless GATED
@group(0) @binding(4) var<storage, read_write> table: array<f32>; // [ROWS, COLUMNS]

// Shares of the members in the thread's network, and log sum exp(z_i), which makes their probabilities.
var<private> share: array<f32, MEMBERS>;
var<private> log_sum: array<f32, MEMBERS>;

// A bit test: compilers may assume that no comparison meets a NaN.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

fn logit(member: u32, sample: u32, k: u32) -> f32 {
    return logits[(member * BATCH + sample) * CLASSES + k];
}

// The value that the network ranks classes by: its logit, or its probability if it is the mean of the members'.
fn score(network: u32, sample: u32, k: u32) -> f32 {
    if network < MEMBERS {
        return logit(network, sample, k);
    }
    var sum = 0.0;
    for (var i = 0u; i < MEMBERS; i++) {
        let z = logit(i, sample, k);
        sum += share[i] * select(z, exp(z - log_sum[i]), network == MEAN_PROBABILITIES);
    }
    return sum;
}

fn load_shares(network: u32, sample: u32) {
    for (var i = 0u; i < MEMBERS; i++) {
        share[i] = 1.0 / f32(MEMBERS);
    }
    if GATED && network > MEAN_PROBABILITIES {
        var largest = gate[sample * MEMBERS];
        for (var i = 1u; i < MEMBERS; i++) {
            largest = max(largest, gate[sample * MEMBERS + i]);
        }
        var sum = 0.0;
        for (var i = 0u; i < MEMBERS; i++) {
            share[i] = exp(gate[sample * MEMBERS + i] - largest);
            sum += share[i];
        }
        for (var i = 0u; i < MEMBERS; i++) {
            share[i] /= sum;
        }
    }
}

fn load_log_sums(sample: u32) {
    for (var i = 0u; i < MEMBERS; i++) {
        var largest = -3.4028234e38;
        for (var k = 0u; k < CLASSES; k++) {
            largest = max(largest, logit(i, sample, k));
        }
        var sum = 0.0;
        for (var k = 0u; k < CLASSES; k++) {
            sum += exp(logit(i, sample, k) - largest);
        }
        log_sum[i] = largest + log(sum);
    }
}

// -log mean_i p_i(label), by way of logarithms: the probabilities may underflow.
fn cross_entropy_of_mean(sample: u32, label: u32) -> f32 {
    var largest = -3.4028234e38;
    for (var i = 0u; i < MEMBERS; i++) {
        largest = max(largest, logit(i, sample, label) - log_sum[i]);
    }
    var sum = 0.0;
    for (var i = 0u; i < MEMBERS; i++) {
        sum += exp(logit(i, sample, label) - log_sum[i] - largest);
    }
    return -(largest + log(sum)) + log(f32(MEMBERS));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid) * 64u + lid;
    let network = index % NETWORKS;
    let sample = index / NETWORKS;
    let row = position[0] + sample;
    if sample >= min(position[1], BATCH) || row >= ROWS {
        return;
    }
    let label = min(labels[sample], CLASSES - 1u);
    let of_probabilities = MEMBERS > 1u && network == MEAN_PROBABILITIES;
    load_shares(network, sample);
    if of_probabilities {
        load_log_sums(sample);
    }

    let target_score = score(network, sample, label);
    var largest = -3.4028234e38;
    var prediction = 0u;
    var rank = 0u;
    for (var k = 0u; k < CLASSES; k++) {
        let s = score(network, sample, k);
        if s > largest {
            largest = s;
            prediction = k;
        }
        let in_front = is_nan(s) || s > target_score || (s == target_score && k < label);
        rank += select(0u, 1u, in_front && k != label);
    }
    if is_nan(target_score) {
        rank = CLASSES;
    }
    var cross_entropy: f32;
    var confidence: f32;
    if of_probabilities {
        cross_entropy = cross_entropy_of_mean(sample, label);
        confidence = largest;
    } else {
        var sum = 0.0;
        for (var k = 0u; k < CLASSES; k++) {
            sum += exp(score(network, sample, k) - largest);
        }
        cross_entropy = (largest - target_score) + log(sum);
        confidence = 1.0 / sum;
    }
    let at = row * COLUMNS + network * 4u;
    table[at] = cross_entropy;
    table[at + 1u] = confidence;
    table[at + 2u] = f32(prediction);
    table[at + 3u] = f32(rank);
    if GATED && network == NETWORKS - 1u {
        for (var i = 0u; i < MEMBERS; i++) {
            table[row * COLUMNS + NETWORKS * 4u + i] = share[i];
        }
    }
}
