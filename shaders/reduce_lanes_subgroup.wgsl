// Helper: reduce_lanes with the last steps of its tree in registers of one subgroup, without barriers between them. The
// additions and their order are those of the plain helper, so the bits are, too, whatever the subgroup's size.
// TAIL is the stride from which on the 2 * TAIL * COLUMNS remaining values fit every subgroup of the adapter.
// Every thread of the workgroup must call it. Afterwards lane 0 of a column finds the sums at its own index.
var<workgroup> first: array<Elem, 256>;
var<workgroup> second: array<Elem, 256>;

fn reduce_lanes(lid: u32, lane: u32, a: Elem, b: Elem) {
    first[lid] = a;
    second[lid] = b;
    workgroupBarrier();
    for (var stride = HALF; stride > TAIL; stride = stride / 2u) {
        if lane < stride && lane + stride < LANES {
            first[lid] += first[lid + stride * COLUMNS];
            second[lid] += second[lid + stride * COLUMNS];
        }
        workgroupBarrier();
    }
    // The driver chooses the place that a thread has in its subgroup: values go by the place, not by the thread.
    let place = subgroupExclusiveAdd(1u);
    let chosen = subgroupAny(lid == 0u);
    var x = Elem();
    var y = Elem();
    if chosen && place < 2u * TAIL * COLUMNS {
        x = first[place];
        y = second[place];
    }
    let row = place / COLUMNS;
    for (var stride = TAIL; stride > 0u; stride = stride / 2u) {
        let right = subgroupShuffleDown(x, stride * COLUMNS);
        let below = subgroupShuffleDown(y, stride * COLUMNS);
        if row < stride && row + stride < LANES {
            x += right;
            y += below;
        }
    }
    if chosen && place < COLUMNS {
        first[place] = x;
        second[place] = y;
    }
    workgroupBarrier();
}
