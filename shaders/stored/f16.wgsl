// Helper: four elements, stored as floats of 16 bits. Kernels compute in Elem, which is vec4<f32>.
alias Stored = vec4<f16>;

fn unpack(stored: Stored) -> Elem {
    return Elem(stored);
}

fn pack(value: Elem) -> Stored {
    return Stored(value);
}
