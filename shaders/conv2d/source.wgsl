// Helper: reads the input of a convolution. NORMALISED, x stands for relu((x - mean) inv_std gamma + beta), by the
// channel. C is a multiple of WIDTH, the floats of an Elem.
@group(0) @binding(0) var<storage, read> x: array<Stored>;      // [X_MEMBERS,N,H,W,C]
@group(0) @binding(2) var<storage, read> stats: array<Elem>;    // [X_MEMBERS,2,C] (mean, inv_std) if NORMALISED, else x
@group(0) @binding(3) var<storage, read> gamma: array<Elem>;    // [X_MEMBERS,C], likewise
@group(0) @binding(4) var<storage, read> beta: array<Elem>;     // [X_MEMBERS,C], likewise

const X_CHANNELS: u32 = C / WIDTH;

// The value to convolve, from an element of x; `channel` is counted through members, in elements.
fn normalise(value: Elem, channel: u32) -> Elem {
    if !NORMALISED {
        return value;
    }
    let at = channel + channel / X_CHANNELS * X_CHANNELS;
    let result = (value - stats[at]) * (stats[at + X_CHANNELS] * gamma[channel]) + beta[channel];
    return select(result, Elem(), result < Elem());
}
