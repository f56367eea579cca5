//! A batch from the images that lie on the device: pick, crop, mirror, normalise.
//!
//! For sample `n` with image `i`, offsets `(dx, dy)` and `flip` (see [`crate::pack`]), output pixel `(y, x)` is
//!
//! ```text
//! x' = flip ? size - 1 - x : x
//! v  = image[i][y + dy - padding][x' + dx - padding]      black where that lies outside
//! out[n][y][x] = ((v.r / 255 - mean_r) / std_r, … g, … b, 0)
//! ```
//!
//! Images are packed: three bytes a pixel, red first, each image from a whole word on ([`pack_image`]).
//!
//! The formula is torchvision's `RandomCrop(size, padding)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize`: the
//! padding is black before normalisation, not zero after it. The fourth channel pads a pixel to a `vec4`.
//!
//! A storage binding holds 128 MiB by default, and CIFAR-10's training set is 146 MiB, so images lie in up to
//! [`MAX_SHARDS`] shards; see [`shards`].

use rayon::prelude::*;
use tensor::{Activations, Binding, Cost, Kernel, Launch, Slice, SliceMut, Spec, Target};

use crate::error::{DataError, Result};

/// Shards that the kernel reads at most: with labels, picks and two outputs they use the seven bindings there are.
pub const MAX_SHARDS: usize = 3;

const WORKGROUP: usize = 64;

/// Inputs: one to three shards U32 `[n_s, image_words(size)]`, labels U32 `[sum n_s]`, picks U32 `[batch, 2]`.
/// Outputs: images F32 `[1, batch, size, size, 4]`, labels U32 `[batch]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Augment {
    /// Images in each shard, one to three of them, none empty.
    pub shard_images: Vec<usize>,
    /// Height and width of an image.
    pub size: usize,
    /// Samples in a batch.
    pub batch: usize,
    /// Black pixels on every side before the crop.
    pub padding: usize,
    /// Mean of each channel, for pixels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

/// Words of a packed image.
pub fn image_words(size: usize) -> usize {
    (3 * size * size).div_ceil(4)
}

/// Packs the pixels of an image, words `r | g << 8 | b << 16`, in [`image_words`] words: three bytes a pixel, the first
/// of a word in its lowest bits.
pub fn pack_image(pixels: &[u32], packed: &mut [u32]) {
    for (pixels, words) in pixels.chunks(4).zip(packed.chunks_mut(3)) {
        let pixel = |i: usize| pixels.get(i).map_or(0, |pixel| pixel & 0xff_ffff);
        let all = [pixel(0) | pixel(1) << 24, pixel(1) >> 8 | pixel(2) << 16, pixel(2) >> 16 | pixel(3) << 8];
        words.iter_mut().zip(all).for_each(|(to, word)| *to = word);
    }
}

/// Pixel `pixel` of a packed image: `r | g << 8 | b << 16`.
fn packed_pixel(image: &[u32], pixel: usize) -> u32 {
    let (word, bit) = (3 * pixel / 4, 3 * pixel % 4 * 8);
    // The rest of a pixel that begins in the upper half of a word is in the next word.
    let rest = if bit > 8 { image[word + 1] << (32 - bit) } else { 0 };
    image[word] >> bit | rest
}

/// Splits `images` of `words` words each into contiguous shards of nearly equal size that hold at most `max_words`
/// words each; returns the number of images in each.
///
/// # Errors
///
/// There are no images, or they need more than [`MAX_SHARDS`] shards.
pub fn shards(images: usize, words: usize, max_words: usize) -> Result<Vec<usize>> {
    if images == 0 {
        return Err(DataError::NoImages);
    }
    let per_shard = max_words / words.max(1);
    if images.div_ceil(per_shard.max(1)) > MAX_SHARDS || per_shard == 0 {
        return Err(DataError::Shards { images, words, max_words, most: MAX_SHARDS, fitting: MAX_SHARDS * per_shard });
    }
    let count = images.div_ceil(per_shard);
    Ok((0..count).map(|shard| images / count + usize::from(shard < images % count)).collect())
}

impl Augment {
    fn images(&self) -> usize {
        self.shard_images.iter().sum()
    }

    fn pixels(&self) -> usize {
        self.size * self.size
    }
}

impl Kernel for Augment {
    fn name(&self) -> &'static str {
        "augment"
    }

    fn inputs(&self) -> Vec<Spec> {
        debug_assert!((1..=MAX_SHARDS).contains(&self.shard_images.len()) && !self.shard_images.contains(&0));
        let shards = self.shard_images.iter().map(|&images| Spec::u32([images, image_words(self.size)]));
        shards.chain([Spec::u32([self.images()]), Spec::u32([self.batch, 2])]).collect()
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([1, self.batch, self.size, self.size, 4]), Spec::u32([self.batch])]
    }

    fn activations(&self) -> Activations {
        Activations::new([], [0])
    }

    /// Three operations per channel. Only the picked images are read, not the whole shards: three bytes per pixel in,
    /// four words out, and per sample two words of pick and a label in and out.
    fn cost(&self) -> Cost {
        let pixels = self.batch * self.pixels();
        Cost { flops: (pixels * 3 * 3) as u64, bytes: (19 * pixels + 16 * self.batch) as u64 }
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let shards: Vec<&[u32]> = self.shard_images.iter().zip(inputs).map(|(_, input)| input.u32()).collect();
        let (labels, picks) = (inputs[shards.len()].u32(), inputs[shards.len() + 1].u32());
        let [images_out, labels_out] = outputs else { unreachable!("two outputs are declared") };
        let (size, pixels) = (self.size, self.pixels());
        let black = self.normalise(0);
        images_out
            .f32()
            .par_chunks_exact_mut(4 * pixels)
            .zip(labels_out.u32())
            .zip(picks.par_chunks_exact(2))
            .for_each(|((out, label), pick)| {
                let index = (pick[0] as usize).min(labels.len() - 1);
                *label = labels[index];
                let image = self.image(&shards, index);
                let (dx, dy) = ((pick[1] & 255) as usize, ((pick[1] >> 8) & 255) as usize);
                let flip = (pick[1] >> 16) & 1 == 1;
                for (y, row) in out.chunks_exact_mut(4 * size).enumerate() {
                    for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
                        let source_y = (y + dy).wrapping_sub(self.padding);
                        let column = if flip { size - 1 - x } else { x };
                        let source_x = (column + dx).wrapping_sub(self.padding);
                        let inside = source_y < size && source_x < size;
                        let value = if inside {
                            self.normalise(packed_pixel(image, source_y * size + source_x))
                        } else {
                            black
                        };
                        pixel.copy_from_slice(&value);
                    }
                }
            });
    }

    fn launch(&self, _: &Target) -> Launch {
        let first = self.shard_images[0];
        let second = first + self.shard_images.get(1).unwrap_or(&0);
        let inputs = self.shard_images.len();
        // An absent shard's binding sees shard 0 and is never read.
        let shard = |index: usize| Binding::Input(if index < inputs { index } else { 0 });
        let threads = self.batch * self.pixels();
        Launch::new(tensor::shader!("augment"), 0, 0, threads.div_ceil(WORKGROUP))
            .bindings([
                shard(0),
                shard(1),
                shard(2),
                Binding::Input(inputs),
                Binding::Input(inputs + 1),
                Binding::Output(0),
                Binding::Output(1),
            ])
            .stored(4)
            .size("WORKGROUP", WORKGROUP)
            .size("SIZE", self.size)
            .size("IMAGE_WORDS", image_words(self.size))
            .size("THREADS", threads)
            .size("PADDING", self.padding)
            .size("IMAGES", self.images())
            .size("FIRST", first)
            .size("SECOND", second)
            .float("MEAN_R", self.mean[0])
            .float("MEAN_G", self.mean[1])
            .float("MEAN_B", self.mean[2])
            .float("STD_R", self.std[0])
            .float("STD_G", self.std[1])
            .float("STD_B", self.std[2])
    }
}

impl Augment {
    /// A packed pixel as the network sees it.
    fn normalise(&self, pixel: u32) -> [f32; 4] {
        let channel = |c: usize| (((pixel >> (8 * c)) & 255) as f32 / 255.0 - self.mean[c]) / self.std[c];
        [channel(0), channel(1), channel(2), 0.0]
    }

    /// Image `index` of all shards.
    fn image<'a>(&self, shards: &[&'a [u32]], mut index: usize) -> &'a [u32] {
        let mut shard = 0;
        while index >= self.shard_images[shard] {
            index -= self.shard_images[shard];
            shard += 1;
        }
        let words = image_words(self.size);
        &shards[shard][index * words..][..words]
    }
}

#[cfg(test)]
mod tests {
    use tensor::Rng;

    use super::*;
    use crate::sampler::pack;

    /// Pads, cuts and mirrors as three separate images, the way torchvision does.
    fn naive(kernel: &Augment, image: &[u32], dx: usize, dy: usize, flip: bool) -> Vec<f32> {
        let (size, padding) = (kernel.size, kernel.padding);
        let mut padded = vec![vec![[0.0_f32; 3]; size + 2 * padding]; size + 2 * padding];
        for y in 0..size {
            for x in 0..size {
                padded[y + padding][x + padding] =
                    [0, 8, 16].map(|shift| f32::from((image[y * size + x] >> shift) as u8) / 255.0);
            }
        }
        let mut cropped: Vec<Vec<[f32; 3]>> =
            padded[dy..dy + size].iter().map(|row| row[dx..dx + size].to_vec()).collect();
        if flip {
            cropped.iter_mut().for_each(|row| row.reverse());
        }
        let normalised = |pixel: [f32; 3]| {
            let [r, g, b] = [0, 1, 2].map(|c| (pixel[c] - kernel.mean[c]) / kernel.std[c]);
            [r, g, b, 0.0]
        };
        cropped.into_iter().flatten().flat_map(normalised).collect()
    }

    #[test]
    fn the_reference_is_pad_crop_flip_normalise_for_every_offset() {
        let kernel = Augment {
            shard_images: vec![2, 1, 3],
            size: 7,
            batch: 6 * 81 * 2,
            padding: 4,
            mean: [0.5, 0.4, 0.3],
            std: [0.25, 0.5, 0.2],
        };
        let mut rng = Rng::new(&[1]);
        let images: Vec<u32> = (0..6 * 49).map(|_| rng.below(1 << 24) as u32).collect();
        let labels = [3, 1, 4, 1, 5, 9];
        let wanted: Vec<(usize, usize, usize, bool)> =
            (0..kernel.batch).map(|n| (n / 162, n % 9, n / 9 % 9, n / 81 % 2 == 1)).collect();
        let picks: Vec<u32> =
            wanted.iter().flat_map(|&(image, dx, dy, flip)| [image as u32, pack(dx, dy, flip)]).collect();
        let mut out = vec![f32::NAN; kernel.batch * 49 * 4];
        let mut labels_out = vec![u32::MAX; kernel.batch];
        let words = image_words(7);
        let mut packed = vec![0; 6 * words];
        images.chunks(49).zip(packed.chunks_mut(words)).for_each(|(image, packed)| pack_image(image, packed));
        let (first, rest) = packed.split_at(2 * words);
        let (second, third) = rest.split_at(words);
        let inputs = [first, second, third, &labels, &picks].map(Slice::U32);
        kernel.reference(&inputs, &mut [SliceMut::F32(&mut out), SliceMut::U32(&mut labels_out)]);
        for (n, &(image, dx, dy, flip)) in wanted.iter().enumerate() {
            assert_eq!(labels_out[n], labels[image]);
            let expected = naive(&kernel, &images[image * 49..][..49], dx, dy, flip);
            assert_eq!(out[n * 196..][..196], expected, "image {image} dx {dx} dy {dy} flip {flip}");
        }
    }

    #[test]
    fn packed_images_are_the_bytes_of_their_pixels_in_order() {
        for size in 1..6 {
            let pixels: Vec<u32> = (0..size * size).map(|i| i as u32 * 0x01_0305 + 0x04_0201).collect();
            let mut packed = vec![u32::MAX; image_words(size)];
            pack_image(&pixels, &mut packed);
            let bytes: Vec<u8> = packed.iter().flat_map(|word| word.to_le_bytes()).collect();
            let wanted: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()[..3].to_vec()).collect();
            let (own, padding) = bytes.split_at(wanted.len());
            assert_eq!(own, wanted);
            assert!(padding.len() < 4 && padding.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn shards_are_as_few_and_as_equal_as_possible() {
        let words = 128 << 20 >> 2;
        assert_eq!(shards(50_000, 1024, words).expect("fits"), [25_000, 25_000]);
        assert_eq!(shards(10, 1024, words).expect("fits"), [10]);
        assert_eq!(shards(98_304, 1024, words).expect("exactly three"), [32_768; 3]);
        assert_eq!(shards(7, 10, 30).expect("uneven"), [3, 2, 2]);
        let error = shards(98_305, 1024, words).expect_err("too many").to_string();
        assert!(error.contains("more than 3 buffers") && error.ends_with("to 98304"), "{error}");
        assert!(shards(1, 10, 9).is_err() && shards(0, 10, 90).is_err());
    }

    #[test]
    fn absent_shards_are_bound_to_the_first() {
        let kernel = Augment { shard_images: vec![4], size: 2, batch: 3, padding: 1, mean: [0.5; 3], std: [0.5; 3] };
        let launch = kernel.launch(&Target::HARDWARE);
        assert_eq!(launch.bindings[..5], [0, 0, 0, 1, 2].map(Binding::Input));
        assert_eq!(launch.bindings[5..], [0, 1].map(Binding::Output));
    }
}
