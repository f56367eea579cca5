//! The order in which samples are visited, and their augmentation: pure functions of (seed, epoch, image).

use std::ops::Range;
use std::sync::Arc;

use tensor::Rng;

use crate::error::{DataError, Result};

/// Black pixels added on every side before the crop.
pub const PADDING: usize = 4;

/// One sample: the image's index, and its augmentation, packed by [`pack`].
pub type Pick = [u32; 2];

/// Packs an augmentation into one word, `dx | dy << 8 | flip << 16`: the crop starts `dx` pixels from the left and
/// `dy` from the top of the padded image, and is then mirrored if `flip`. The unchanged image is `(PADDING, PADDING,
/// false)`.
pub fn pack(dx: usize, dy: usize, flip: bool) -> u32 {
    debug_assert!(dx < 256 && dy < 256, "each offset has eight bits");
    dx as u32 | (dy as u32) << 8 | u32::from(flip) << 16
}

/// Augmentation of training images, new in each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// No augmentation.
    None,
    /// [`PADDING`] black pixels on every side, a random crop of the image's size, and a flip with probability 1/2.
    Padded,
    /// A random part of the file's image, resized ([`crate::View::Random`]), and a flip with probability 1/2.
    Resized,
}

/// Order and augmentation of a training set.
///
/// Shapes are fixed when a program is compiled, so every batch is full: the rest of an epoch's permutation after the
/// last full batch is dropped in that epoch (the next one drops others). PyTorch's default instead ends with a
/// smaller batch: 391 steps on CIFAR-10 with 128 samples, where this makes 390.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    seed: u64,
    count: usize,
    batch: usize,
    augment: Augmentation,
}

impl Sampler {
    /// Makes batches of `batch` from `count` images, augmented by `augment`.
    ///
    /// # Errors
    ///
    /// There are no images, or fewer than one batch needs.
    pub fn new(seed: u64, count: usize, batch: usize, augment: Augmentation) -> Result<Self> {
        if count == 0 {
            return Err(DataError::NoImages);
        }
        if batch == 0 || batch > count {
            return Err(DataError::Batch { batch, count });
        }
        Ok(Self { seed, count, batch, augment })
    }

    /// Steps in an epoch: full batches.
    pub fn steps(&self) -> usize {
        self.count / self.batch
    }

    /// Samples in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The picks of every step of an epoch: the same on every call, whatever came before.
    pub fn epoch(&self, epoch: usize) -> Epoch {
        let order = Rng::named("order", &[self.seed, epoch as u64]).permutation(self.count);
        let picks = order[..self.steps() * self.batch].iter().map(|&image| [image, self.augmentation(epoch, image)]);
        let crops = (self.augment == Augmentation::Resized).then_some(self.seed);
        Epoch { number: epoch, picks: picks.collect(), batch: self.batch, crops }
    }

    /// The augmentation of an image in an epoch.
    fn augmentation(&self, epoch: usize, image: u32) -> u32 {
        let mut rng = Rng::named("augmentation", &[self.seed, epoch as u64, u64::from(image)]);
        let offsets = 2 * PADDING + 1;
        match self.augment {
            Augmentation::None => pack(PADDING, PADDING, false),
            Augmentation::Padded => pack(rng.below(offsets), rng.below(offsets), rng.below(2) == 1),
            Augmentation::Resized => pack(PADDING, PADDING, rng.below(2) == 1),
        }
    }
}

/// Picks of the steps of one epoch. Copies share them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    pub(crate) number: usize,
    pub(crate) picks: Arc<[Pick]>,
    pub(crate) batch: usize,
    /// The seed of random-resized crops, if there are any.
    pub(crate) crops: Option<u64>,
}

impl Epoch {
    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.picks.len().div_ceil(self.batch)
    }

    /// The picks of a step: `batch` of them, except in the last step of an evaluation. `step` must be below
    /// [`Epoch::steps`].
    pub fn step(&self, step: usize) -> &[Pick] {
        let first = step * self.batch;
        &self.picks[first..self.picks.len().min(first + self.batch)]
    }

    /// Part `index` of `parts` of every step. All parts have equally many picks, and no pick is in two parts.
    ///
    /// # Panics
    ///
    /// The batch is not divisible by the number of parts, or there is no such part.
    #[must_use]
    pub fn part(&self, index: usize, parts: usize) -> Self {
        assert!(index < parts && self.batch.is_multiple_of(parts), "part {index} of {parts} of {}", self.batch);
        if parts == 1 {
            return self.clone();
        }
        let own = self.batch / parts;
        let picks = self.iter().flat_map(|step| &step[index * own..(index + 1) * own]).copied().collect();
        Self { picks, batch: own, ..self.clone() }
    }

    /// The picks of every step, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[Pick]> {
        self.picks.chunks(self.batch)
    }
}

/// Images in order, without augmentation, for measuring errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evaluation {
    first: usize,
    count: usize,
    batch: usize,
}

/// A batch of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalBatch {
    /// As many picks as the batch has samples; those after the valid ones repeat image 0.
    pub picks: Vec<Pick>,
    /// Number of valid picks.
    pub valid: usize,
}

impl Evaluation {
    /// Makes batches of `batch` from `count` images; a batch may be larger than the set.
    ///
    /// # Errors
    ///
    /// There are no images, or a batch has none.
    pub fn new(count: usize, batch: usize) -> Result<Self> {
        if count == 0 {
            return Err(DataError::NoImages);
        }
        if batch == 0 {
            return Err(DataError::Batch { batch, count });
        }
        Ok(Self { first: 0, count, batch })
    }

    /// Part `index` of `parts`: consecutive images that no other part has. If there are fewer images than parts, some
    /// have none.
    #[must_use]
    pub fn part(self, index: usize, parts: usize) -> Self {
        let begin = |index: usize| self.count * index / parts;
        Self { first: self.first + begin(index), count: begin(index + 1) - begin(index), ..self }
    }

    /// Samples in a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The images of a step, by their numbers. `step` must be below [`Evaluation::steps`].
    pub fn images(&self, step: usize) -> Range<usize> {
        let done = step * self.batch;
        self.first + done..self.first + self.count.min(done + self.batch)
    }

    /// Number of steps: the last batch is padded.
    pub fn steps(&self) -> usize {
        self.count.div_ceil(self.batch)
    }

    /// The batch of a step. `step` must be below [`Evaluation::steps`].
    pub fn step(&self, step: usize) -> EvalBatch {
        let images = self.images(step);
        let valid = images.len();
        let index = |i: usize| if i < valid { (images.start + i) as u32 } else { 0 };
        EvalBatch { picks: (0..self.batch).map(|i| [index(i), pack(PADDING, PADDING, false)]).collect(), valid }
    }

    /// The batches of all steps, in order.
    pub fn iter(&self) -> impl Iterator<Item = EvalBatch> + '_ {
        (0..self.steps()).map(|step| self.step(step))
    }

    /// The picks of all steps, without the padding of the last one.
    pub fn epoch(&self) -> Epoch {
        let images = self.first as u32..(self.first + self.count) as u32;
        let picks = images.map(|image| [image, pack(PADDING, PADDING, false)]).collect();
        Epoch { number: 0, picks, batch: self.batch, crops: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn parts_share_a_step_and_an_evaluation_without_overlap() {
        let epoch = Sampler::new(3, 1000, 64, Augmentation::Padded).expect("valid").epoch(5);
        for parts in [1, 2, 4, 64] {
            let shares: Vec<Epoch> = (0..parts).map(|index| epoch.part(index, parts)).collect();
            for step in 0..epoch.steps() {
                let together: Vec<Pick> = shares.iter().flat_map(|share| share.step(step)).copied().collect();
                assert_eq!(together, epoch.step(step), "in the order of the parts they are the whole");
            }
            assert!(shares.iter().all(|share| share.steps() == epoch.steps()));
        }
        for (count, batch, parts) in [(10, 4, 3), (7, 7, 2), (2, 1, 4), (1000, 64, 7)] {
            let whole = Evaluation::new(count, batch).expect("valid");
            let shares = (0..parts).map(|index| whole.part(index, parts));
            let mut images: Vec<u32> = Vec::new();
            for share in shares {
                let stepwise: Vec<u32> =
                    share.iter().flat_map(|step| step.picks[..step.valid].to_vec()).map(|pick| pick[0]).collect();
                assert_eq!(stepwise, share.epoch().iter().flatten().map(|pick| pick[0]).collect::<Vec<_>>());
                images.extend(stepwise);
            }
            assert_eq!(images, (0..count as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_epoch_visits_each_image_at_most_once_and_drops_less_than_a_batch() {
        let sampler = Sampler::new(3, 1000, 64, Augmentation::Padded).expect("valid");
        let epoch = sampler.epoch(5);
        assert_eq!((sampler.steps(), epoch.steps(), epoch.iter().count()), (15, 15, 15));
        let seen: HashSet<u32> = epoch.iter().flatten().map(|pick| pick[0]).collect();
        assert_eq!(seen.len(), 15 * 64);
        assert!(seen.iter().all(|&image| image < 1000));
        let all = Sampler::new(3, 1000, 100, Augmentation::Padded).expect("valid").epoch(0);
        let mut images: Vec<u32> = all.iter().flatten().map(|pick| pick[0]).collect();
        images.sort_unstable();
        assert_eq!(images, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn an_epoch_is_a_pure_function_of_seed_and_number() {
        let sampler = Sampler::new(3, 500, 50, Augmentation::Padded).expect("valid");
        let later = sampler.epoch(7);
        let _ = sampler.epoch(1);
        assert_eq!(later, Sampler::new(3, 500, 50, Augmentation::Padded).expect("valid").epoch(7));
        assert_ne!(later, sampler.epoch(8));
        assert_ne!(later, Sampler::new(4, 500, 50, Augmentation::Padded).expect("valid").epoch(7));
        // Another batch size divides the same order differently, and changes no augmentation.
        let other = Sampler::new(3, 500, 20, Augmentation::Padded).expect("valid").epoch(7);
        assert!(later.iter().flatten().eq(other.iter().flatten()));
    }

    #[test]
    fn augmentations_are_uniform() {
        let epoch = Sampler::new(1, 16_200, 162, Augmentation::Padded).expect("valid").epoch(0);
        let mut counts = [0_usize; 162];
        for &[_, packed] in epoch.iter().flatten() {
            let (dx, dy, flip) = (packed & 255, (packed >> 8) & 255, packed >> 16);
            assert!(dx <= 8 && dy <= 8 && flip <= 1);
            counts[((dx * 9 + dy) * 2 + flip) as usize] += 1;
        }
        // Mean 100, standard deviation 10.
        assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
        let plain = Sampler::new(1, 100, 10, Augmentation::None).expect("valid").epoch(0);
        assert!(plain.iter().flatten().all(|pick| pick[1] == pack(4, 4, false)));
        let resized = Sampler::new(1, 1000, 10, Augmentation::Resized).expect("valid").epoch(0);
        let flipped = resized.iter().flatten().filter(|pick| pick[1] == pack(4, 4, true)).count();
        let still = resized.iter().flatten().filter(|pick| pick[1] == pack(4, 4, false)).count();
        assert!(flipped + still == 1000 && (400..600).contains(&flipped), "{flipped}");
    }

    #[test]
    fn an_evaluation_goes_in_order_and_counts_the_valid_ones() {
        let evaluation = Evaluation::new(10, 4).expect("valid");
        let batches: Vec<EvalBatch> = evaluation.iter().collect();
        let images: Vec<u32> = batches.iter().flat_map(|batch| &batch.picks).map(|pick| pick[0]).collect();
        assert_eq!(images, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]);
        assert_eq!(batches.iter().map(|batch| batch.valid).collect::<Vec<usize>>(), [4, 4, 2]);
        let epoch = evaluation.epoch();
        assert_eq!(epoch.iter().flatten().map(|pick| pick[0]).collect::<Vec<u32>>(), (0..10).collect::<Vec<u32>>());
        assert_eq!((epoch.steps(), epoch.step(2).len()), (3, 2));
        assert_eq!(Evaluation::new(3, 5).expect("larger batches are padded").step(0).valid, 3);
    }

    #[test]
    fn batches_that_cannot_be_filled_are_errors() {
        assert!(matches!(Sampler::new(0, 0, 1, Augmentation::Padded), Err(DataError::NoImages)));
        let error = Sampler::new(0, 100, 128, Augmentation::Padded).expect_err("too large").to_string();
        assert_eq!(error, "a batch of 128 cannot be filled from 100 images: choose a batch from 1 to 100");
        assert!(Sampler::new(0, 100, 0, Augmentation::Padded).is_err() && Evaluation::new(5, 0).is_err());
        assert!(matches!(Evaluation::new(0, 1), Err(DataError::NoImages)));
    }
}
