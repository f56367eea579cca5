// y[o,i] = sum over p of x[o,p,i], for up to three sums of their own sizes; those of a workgroup's sum are in `Sum`.
// Shapes: x [O,PARTIALS,INNER], y [O,INNER], in elements of type Elem: vec4 or f32. Where COLUMNS is not 0, i runs over
// [M,2,COLUMNS], and pairs are taken apart: [.,0,.] goes to one output [M,COLUMNS], and [.,1,.] to the next.
// Tiles: every slices-th part of one element per thread; then the first slice adds up the slices, in order.
// Workgroup: 256 threads, slices of consecutive elements.
// Grid: workgroups up to END0 for the first sum, up to END1 for the second, up to END2 for the third.
// Entry points: by the number of outputs.
@group(0) @binding(0) var<storage, read> x0: array<Elem>;  // [O,PARTIALS,INNER]
@group(0) @binding(1) var<storage, read> x1: array<Elem>;  // likewise of the second sum, or x0 again
@group(0) @binding(2) var<storage, read> x2: array<Elem>;  // likewise of the third
@group(0) @binding(3) var<storage, read_write> y0: array<Elem>;  // [O,INNER] or [M,COLUMNS]
@group(0) @binding(4) var<storage, read_write> y1: array<Elem>;
@group(0) @binding(5) var<storage, read_write> y2: array<Elem>;
@group(0) @binding(6) var<storage, read_write> y3: array<Elem>;
@group(0) @binding(7) var<storage, read_write> y4: array<Elem>;

const THREADS: u32 = 256u;

struct Sum {
    which: u32,
    // The workgroup's index among those of the sum.
    index: u32,
    partials: u32,
    inner: u32,
    elements: u32,
    slices: u32,
    columns: u32,
    output: u32,
}

// The element that a thread writes; `output` is NO_OUTPUT for a thread without one.
struct Result {
    value: Elem,
    output: u32,
    at: u32,
}

const NO_OUTPUT: u32 = 8u;

var<workgroup> slices: array<Elem, THREADS>;

fn part(which: u32, at: u32) -> Elem {
    switch which {
        case 0u: { return x0[at]; }
        case 1u: { return x1[at]; }
        default: { return x2[at]; }
    }
}

fn sum_of(index: u32) -> Sum {
    if index < END0 {
        return Sum(0u, index, PARTIALS0, INNER0, ELEMENTS0, SLICES0, COLUMNS0, OUTPUT0);
    }
    if index < END1 {
        return Sum(1u, index - END0, PARTIALS1, INNER1, ELEMENTS1, SLICES1, COLUMNS1, OUTPUT1);
    }
    return Sum(2u, index - END1, PARTIALS2, INNER2, ELEMENTS2, SLICES2, COLUMNS2, OUTPUT2);
}

fn compute(index: u32, lid: u32) -> Result {
    if index >= WORKGROUPS {
        return Result(Elem(), NO_OUTPUT, 0u);
    }
    let sum = sum_of(index);
    let run = THREADS / sum.slices;
    let element = sum.index * run + lid % run;
    let source = min(element, sum.elements - 1u);
    let first = source / sum.inner * sum.partials * sum.inner + source % sum.inner;
    var total = Elem();
    for (var p = lid / run; p < sum.partials; p += sum.slices) {
        total += part(sum.which, first + p * sum.inner);
    }
    slices[lid] = total;
    workgroupBarrier();
    if lid >= run || element >= sum.elements {
        return Result(total, NO_OUTPUT, 0u);
    }
    for (var slice = 1u; slice < sum.slices; slice++) {
        total += slices[slice * run + lid];
    }
    if sum.columns == 0u {
        return Result(total, sum.output, element);
    }
    let row = element / max(sum.columns, 1u);
    return Result(total, sum.output + row % 2u, row / 2u * sum.columns + element % max(sum.columns, 1u));
}

@compute @workgroup_size(THREADS)
fn outputs_1(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let result = compute(workgroup_index(wid), lid);
    if result.output == 0u { y0[result.at] = result.value; }
}

@compute @workgroup_size(THREADS)
fn outputs_2(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let result = compute(workgroup_index(wid), lid);
    switch result.output {
        case 0u: { y0[result.at] = result.value; }
        case 1u: { y1[result.at] = result.value; }
        default: {}
    }
}

@compute @workgroup_size(THREADS)
fn outputs_3(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let result = compute(workgroup_index(wid), lid);
    switch result.output {
        case 0u: { y0[result.at] = result.value; }
        case 1u: { y1[result.at] = result.value; }
        case 2u: { y2[result.at] = result.value; }
        default: {}
    }
}

@compute @workgroup_size(THREADS)
fn outputs_4(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let result = compute(workgroup_index(wid), lid);
    switch result.output {
        case 0u: { y0[result.at] = result.value; }
        case 1u: { y1[result.at] = result.value; }
        case 2u: { y2[result.at] = result.value; }
        case 3u: { y3[result.at] = result.value; }
        default: {}
    }
}

@compute @workgroup_size(THREADS)
fn outputs_5(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let result = compute(workgroup_index(wid), lid);
    switch result.output {
        case 0u: { y0[result.at] = result.value; }
        case 1u: { y1[result.at] = result.value; }
        case 2u: { y2[result.at] = result.value; }
        case 3u: { y3[result.at] = result.value; }
        case 4u: { y4[result.at] = result.value; }
        default: {}
    }
}
