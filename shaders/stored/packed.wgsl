// Helper: four elements, stored as floats of 16 bits in two words, for adapters whose shaders have no such floats.
// Kernels compute in Elem, which is vec4<f32>.
alias Stored = vec2<u32>;

fn unpack(stored: Stored) -> Elem {
    return Elem(unpack2x16float(stored.x), unpack2x16float(stored.y));
}

fn pack(value: Elem) -> Stored {
    return Stored(pack2x16float(value.xy), pack2x16float(value.zw));
}
