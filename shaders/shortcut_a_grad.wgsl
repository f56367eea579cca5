// dx[m, n, h, w, c] = dy[m, n, h / STRIDE, w / STRIDE, c + BEFORE] if both divide, else 0 (+ addend[m, n, h, w, c]).
// Shapes: dy [M, N, P, Q, K], addend, dx [M, N, H, W, C], channels counted in elements; ELEMENTS is those of dx.
// Tiles: one element of dx per thread; neighbours are neighbours along c.
// Workgroup: 256 threads.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> dy: array<Stored>; // [M, N, P, Q, K]
@group(0) @binding(1) var<storage, read> addend: array<Stored>; // [M, N, H, W, C], ADDEND only, else dy again
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>; // [M, N, H, W, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= ELEMENTS {
        return;
    }
    let c = i % C;
    let w = i / C % W;
    let h = i / (C * W) % H;
    let image = i / (C * W * H);
    var value = Elem();
    if ADDEND {
        value = unpack(addend[i]);
    }
    if h % STRIDE == 0u && w % STRIDE == 0u {
        value += unpack(dy[((image * P + h / STRIDE) * Q + w / STRIDE) * K + c + BEFORE]);
    }
    dx[i] = pack(value);
}
