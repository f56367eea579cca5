// y[i,p,q,c] = over r,s: the largest (MAXIMUM) or the mean of x[i, p STRIDE_H + r - PAD_H, q STRIDE_W + s - PAD_W, c].
// A maximum leaves positions outside out; a mean counts them as zeros: it divides by R S.
// Shapes: x [M N, H, W, C], y [M N, P, Q, C], channels counted in elements; ELEMENTS is those of y.
// Tiles: one element of y per thread.
// Workgroup: 256 threads, neighbours along c.
// Grid: ceil(ELEMENTS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<Stored>; // [M N, H, W, C]
@group(0) @binding(1) var<storage, read_write> y: array<Stored>; // [M N, P, Q, C]

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let element = workgroup_index(wid) * 256u + lid;
    if element >= ELEMENTS {
        return;
    }
    let c = element % C;
    let q = element / C % Q;
    let p = element / (C * Q) % P;
    let image = element / (C * Q * P);
    var result = Elem();
    if MAXIMUM {
        result = Elem(-3.4028234e38);
    }
    for (var r = 0u; r < R; r++) {
        // Positions above or left of the image wrap to huge numbers: one comparison serves both ends.
        let i = p * STRIDE_H + r - PAD_H;
        if i < H {
            for (var s = 0u; s < S; s++) {
                let j = q * STRIDE_W + s - PAD_W;
                if j < W {
                    let value = unpack(x[((image * H + i) * W + j) * C + c]);
                    if MAXIMUM {
                        result = max(result, value);
                    } else {
                        result += value;
                    }
                }
            }
        }
    }
    if !MAXIMUM {
        result = result / Elem(f32(R * S));
    }
    y[element] = pack(result);
}
