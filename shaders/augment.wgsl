// A batch from the images on the device: pick, crop out of black padding, mirror, normalise.
//   out[n, y, x] = (rgb(image[n][y + dy - PADDING][x' + dx - PADDING]) / 255 - MEAN) / STD,
//   where x' = SIZE - 1 - x if flipped, else x.
// Shapes: shards of [images, IMAGE_WORDS] -> [1, N, SIZE, SIZE, 4]; labels [IMAGES] -> [N]. Images are packed, three
// bytes a pixel.
// Tiles: none, since a pixel is read once. Neighbouring threads read and write neighbouring pixels of a row.
// Workgroup: WORKGROUP threads, one pixel each.
// Grid: ceil(THREADS / WORKGROUP) workgroups, where THREADS = N * SIZE * SIZE.

// Images 0..FIRST: [FIRST, IMAGE_WORDS], bytes r, g, b of a pixel after those of the one before, from the lowest bits
// of a word up.
@group(0) @binding(0) var<storage, read> shard0: array<u32>;
// Images FIRST..SECOND, or shard 0 again where SECOND = FIRST.
@group(0) @binding(1) var<storage, read> shard1: array<u32>;
// Images SECOND..IMAGES, or shard 0 again where SECOND = IMAGES.
@group(0) @binding(2) var<storage, read> shard2: array<u32>;
// [IMAGES]
@group(0) @binding(3) var<storage, read> labels: array<u32>;
// [N]: image index, dx | dy << 8 | flip << 16
@group(0) @binding(4) var<storage, read> picks: array<vec2<u32>>;
// [1, N, SIZE, SIZE]: r, g, b, 0
@group(0) @binding(5) var<storage, read_write> images_out: array<Stored>;
// [N]
@group(0) @binding(6) var<storage, read_write> labels_out: array<u32>;

const PIXELS: u32 = SIZE * SIZE;

fn image_word(image: u32, word: u32) -> u32 {
    if image < FIRST {
        return shard0[image * IMAGE_WORDS + word];
    }
    if image < SECOND {
        return shard1[(image - FIRST) * IMAGE_WORDS + word];
    }
    return shard2[(image - SECOND) * IMAGE_WORDS + word];
}

// r | g << 8 | b << 16, and the bits behind them.
fn packed_pixel(image: u32, pixel: u32) -> u32 {
    let word = 3u * pixel / 4u;
    let bit = (3u * pixel) % 4u * 8u;
    var packed = image_word(image, word) >> bit;
    // The rest of a pixel that begins in the upper half of a word is in the next word.
    if bit > 8u {
        packed |= image_word(image, word + 1u) << (32u - bit);
    }
    return packed;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let thread = workgroup_index(wid) * WORKGROUP + lid;
    if thread >= THREADS {
        return;
    }
    let n = thread / PIXELS;
    let pixel = thread % PIXELS;
    let pick = picks[n];
    let image = min(pick.x, IMAGES - 1u);
    if pixel == 0u {
        labels_out[n] = labels[image];
    }
    let column = pixel % SIZE;
    let flipped = ((pick.y >> 16u) & 1u) == 1u;
    // Left of or above the image the subtraction wraps round to a number far above SIZE.
    let x = select(column, SIZE - 1u - column, flipped) + (pick.y & 255u) - PADDING;
    let y = pixel / SIZE + ((pick.y >> 8u) & 255u) - PADDING;
    var packed = 0u;
    if x < SIZE && y < SIZE {
        packed = packed_pixel(image, y * SIZE + x);
    }
    let rgb = vec3<f32>(vec3<u32>(packed, packed >> 8u, packed >> 16u) & vec3<u32>(255u));
    let normalised = (rgb / 255.0 - vec3<f32>(MEAN_R, MEAN_G, MEAN_B)) / vec3<f32>(STD_R, STD_G, STD_B);
    images_out[thread] = pack(vec4<f32>(normalised, 0.0));
}
