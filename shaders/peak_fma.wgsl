// y = x after STEPS times x <- f[0] x + f[1]: how fast multiply-adds can be, with nothing else to do.
// Shapes: x [8, THREADS, 4], f [2], y [8, THREADS, 4].
// Tiles: eight independent vectors per thread, in registers from the first step to the last.
// Workgroup: 256 threads, neighbours in memory.
// Grid: ceil(THREADS / 256) workgroups.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [8, THREADS]
@group(0) @binding(1) var<storage, read> f: array<f32>; // [2]
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>; // [8, THREADS]

// Four steps: the loop around them costs little then.
fn four(a: vec4<f32>, factor: vec4<f32>, addend: vec4<f32>) -> vec4<f32> {
    var b = fma(a, factor, addend);
    b = fma(b, factor, addend);
    b = fma(b, factor, addend);
    return fma(b, factor, addend);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let thread = workgroup_index(wid) * 256u + lid;
    if thread >= THREADS {
        return;
    }
    let factor = vec4<f32>(f[0]);
    let addend = vec4<f32>(f[1]);
    var a = x[thread];
    var b = x[thread + THREADS];
    var c = x[thread + 2u * THREADS];
    var d = x[thread + 3u * THREADS];
    var e = x[thread + 4u * THREADS];
    var g = x[thread + 5u * THREADS];
    var h = x[thread + 6u * THREADS];
    var i = x[thread + 7u * THREADS];
    for (var step = 0u; step < STEPS; step += 4u) {
        a = four(a, factor, addend);
        b = four(b, factor, addend);
        c = four(c, factor, addend);
        d = four(d, factor, addend);
        e = four(e, factor, addend);
        g = four(g, factor, addend);
        h = four(h, factor, addend);
        i = four(i, factor, addend);
    }
    y[thread] = a;
    y[thread + THREADS] = b;
    y[thread + 2u * THREADS] = c;
    y[thread + 3u * THREADS] = d;
    y[thread + 4u * THREADS] = e;
    y[thread + 5u * THREADS] = g;
    y[thread + 6u * THREADS] = h;
    y[thread + 7u * THREADS] = i;
}
