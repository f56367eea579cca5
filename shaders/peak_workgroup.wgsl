// y[g, l] = sum over i < STEPS of x[g, (l + i) mod 256]: how fast workgroup memory can be read.
// Shapes: x [WORKGROUPS, 256, 4], y [WORKGROUPS, 256, 4].
// Tiles: the 256 vectors of a workgroup in its memory, read eight at a time: one address and seven offsets.
// Workgroup: 256 threads, neighbours in memory.
// Grid: WORKGROUPS workgroups.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>; // [WORKGROUPS, 256]
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>; // [WORKGROUPS, 256]

// The first seven once more behind the last: no read of eight wraps around.
var<workgroup> tile: array<vec4<f32>, 263>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let index = workgroup_index(wid);
    if index >= WORKGROUPS {
        return;
    }
    let own = x[index * 256u + lid];
    tile[lid] = own;
    if lid < 7u {
        tile[256u + lid] = own;
    }
    workgroupBarrier();
    var even = vec4<f32>();
    var odd = vec4<f32>();
    for (var step = 0u; step < STEPS; step += 8u) {
        let first = (lid + step) & 255u;
        even += tile[first];
        odd += tile[first + 1u];
        even += tile[first + 2u];
        odd += tile[first + 3u];
        even += tile[first + 4u];
        odd += tile[first + 5u];
        even += tile[first + 6u];
        odd += tile[first + 7u];
    }
    y[index * 256u + lid] = even + odd;
}
