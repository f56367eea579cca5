// Elements, or four of them, stored as what kernels compute in: Elem, which is f32 or vec4<f32>.
alias Stored = Elem;

fn unpack(stored: Stored) -> Elem {
    return stored;
}

fn pack(value: Elem) -> Stored {
    return value;
}
