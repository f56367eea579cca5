// y[i] = sum over p of x[p,i].
// x [PARTIALS,ELEMENTS], y [ELEMENTS], in elements of type Elem: vec4 or f32.
// Thread: every SLICES-th part of one element; then the first slice adds up the slices, in order.
// Workgroup: SLICES slices of WIDTH consecutive elements.
// Grid: runs of WIDTH elements.

@group(0) @binding(0) var<storage, read> x: array<Elem>;        // [PARTIALS,ELEMENTS]
@group(0) @binding(1) var<storage, read_write> y: array<Elem>;  // [ELEMENTS]

var<workgroup> slices: array<Elem, SLICES * WIDTH>;

@compute @workgroup_size(SLICES * WIDTH)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = wid.x + wid.y * GRID_ROW;
    if index >= WORKGROUPS {
        return;
    }
    let element = index * WIDTH + lane % WIDTH;
    let source = min(element, ELEMENTS - 1u);
    var sum = Elem();
    for (var p = lane / WIDTH; p < PARTIALS; p += SLICES) {
        sum += x[p * ELEMENTS + source];
    }
    slices[lane] = sum;
    workgroupBarrier();
    if lane < WIDTH && element < ELEMENTS {
        for (var slice = 1u; slice < SLICES; slice++) {
            sum += slices[slice * WIDTH + lane];
        }
        y[element] = sum;
    }
}
