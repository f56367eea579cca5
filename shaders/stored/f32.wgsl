// Helper: elements stored as kernels compute in them: Elem, which is f32, vec2<f32> or vec4<f32>.
alias Stored = Elem;

fn unpack(stored: Stored) -> Elem {
    return stored;
}

fn pack(value: Elem) -> Stored {
    return value;
}
