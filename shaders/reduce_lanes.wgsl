// Helper: sums a pair of values over the LANES threads of a workgroup that share a column, as a binary tree whose
// order is fixed. lid = lane * COLUMNS + column; HALF is half of the least power of two that is not below LANES.
// Every thread of the workgroup must call it. Afterwards lane 0 of a column finds the sums at its own index.
var<workgroup> first: array<Elem, 256>;
var<workgroup> second: array<Elem, 256>;

fn reduce_lanes(lid: u32, lane: u32, a: Elem, b: Elem) {
    first[lid] = a;
    second[lid] = b;
    workgroupBarrier();
    for (var stride = HALF; stride > 0u; stride = stride / 2u) {
        if lane < stride && lane + stride < LANES {
            first[lid] += first[lid + stride * COLUMNS];
            second[lid] += second[lid + stride * COLUMNS];
        }
        workgroupBarrier();
    }
}

