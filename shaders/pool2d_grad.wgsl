// dx[i,h,w,c] = sum over the windows (p,q) that cover (h,w), in their order: dy[i,p,q,c] / (R S), or, of a maximum,
// dy[i,p,q,c] if x[i,h,w,c] is the first of the window's largest values, else 0.
// Shapes: dy [M N, P, Q, C], x and dx [M N, H, W, C], channels counted in elements; ELEMENTS is those of dx.
// Tiles: one element of dx per thread.
// Workgroup: 256 threads, neighbours along c.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> dy: array<Stored>; // [M N, P, Q, C]
@group(0) @binding(1) var<storage, read> x: array<Stored>; // [M N, H, W, C], MAXIMUM only, else dy again
@group(0) @binding(2) var<storage, read_write> dx: array<Stored>; // [M N, H, W, C]

// The share of element (h, w) in the gradient of window (p, q).
fn share(image: u32, h: u32, w: u32, c: u32, p: u32, q: u32) -> Elem {
    var result = unpack(dy[((image * P + p) * Q + q) * C + c]);
    if !MAXIMUM {
        return result / Elem(f32(R * S));
    }
    let value = unpack(x[((image * H + h) * W + w) * C + c]);
    for (var r = 0u; r < R; r++) {
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = p * STRIDE_H + r - PAD_H;
        if i < H {
            for (var s = 0u; s < S; s++) {
                let j = q * STRIDE_W + s - PAD_W;
                if j < W {
                    let other = unpack(x[((image * H + i) * W + j) * C + c]);
                    // The first of equals wins.
                    if i < h || (i == h && j < w) {
                        result = select(result, Elem(), other >= value);
                    } else {
                        result = select(result, Elem(), other > value);
                    }
                }
            }
        }
    }
    return result;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let element = workgroup_index(wid) * 256u + lid;
    if element >= ELEMENTS {
        return;
    }
    let c = element % C;
    let w = element / C % W;
    let h = element / (C * W) % H;
    let image = element / (C * W * H);
    // A window p covers the rows from p STRIDE_H - PAD_H on.
    let first_p = (max(h + PAD_H + 1u, R) - R + STRIDE_H - 1u) / STRIDE_H;
    let first_q = (max(w + PAD_W + 1u, S) - S + STRIDE_W - 1u) / STRIDE_W;
    var sum = Elem();
    for (var p = first_p; p < min((h + PAD_H) / STRIDE_H + 1u, P); p++) {
        for (var q = first_q; q < min((w + PAD_W) / STRIDE_W + 1u, Q); q++) {
            sum += share(image, h, w, c, p, q);
        }
    }
    dx[element] = pack(sum);
}
