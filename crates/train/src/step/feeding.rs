//! Feeding of steps: picks of the images that lie on the device, or batches that the host prepares.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use data::{Augment, Batch, Epoch, Images, Loader, Missing, PADDING, Pick, Pictures};
use tensor::{Bank, DType, Device, Graph, Program, Spec, Var};

use crate::output;

/// Normalisation of pixels in 0 to 1: mean and standard deviation of the channels.
#[derive(Debug, Clone, Copy)]
pub struct Normalisation {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

/// A split as programs read it. Copies share what is on the device.
#[derive(Debug, Clone)]
pub struct Split {
    place: Place,
    images: usize,
    size: usize,
}

#[derive(Debug, Clone)]
enum Place {
    /// All images and labels lie on the device.
    Device { shards: Vec<Bank>, shard_images: Vec<usize>, labels: Bank },
    /// A batch is fed with every step.
    Host,
}

/// Variables that a step is fed with.
#[derive(Debug, Clone, Copy)]
pub struct Fed {
    picks: Var,
    /// Images and labels that come from the host.
    batch: Option<(Var, Var)>,
}

/// A batch as a program sees it: what it is fed with, images `[1, N, H, W, 4]`, and labels `[N]`.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub fed: Fed,
    pub image: Var,
    pub labels: Var,
}

impl Split {
    /// Banks for the images, which take memory only when they are written.
    ///
    /// # Errors
    /// When the device cannot hold them.
    pub fn declare(device: &Device, name: &str, pictures: &Pictures) -> Result<Self> {
        let (images, size) = (pictures.len(), pictures.size());
        if pictures.is_streamed() {
            return Ok(Self { place: Place::Host, images, size });
        }
        let words = data::image_words(size);
        let max_words = usize::try_from(device.max_binding_bytes() / 4).unwrap_or(usize::MAX);
        let shard_images = data::shards(images, words, max_words)?;
        let bank = |name: String, words: usize| -> Result<Bank> {
            let bank = Bank::new(name);
            bank.reserve(words)?;
            Ok(bank)
        };
        let shards = shard_images.iter().enumerate();
        let shards = shards.map(|(i, count)| bank(format!("{name} images, shard {i}"), count * words));
        let shards = shards.collect::<Result<Vec<_>>>()?;
        let labels = bank(format!("{name} labels"), images)?;
        Ok(Self { place: Place::Device { shards, shard_images, labels }, images, size })
    }

    /// Copies the images to the device, if that is their place.
    ///
    /// # Errors
    /// When the device cannot hold them.
    pub fn upload(device: &Device, name: &str, pictures: &Pictures) -> Result<Self> {
        let split = Self::declare(device, name, pictures)?;
        if let (Pictures::Resident(images), Place::Device { shards, shard_images, labels }) = (pictures, &split.place) {
            write(device, images, shards, shard_images)?;
            labels.write(device, 0, &images.labels)?;
        }
        Ok(split)
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Records a batch of `batch` images of type `precision`.
    ///
    /// # Errors
    /// When the graph does not take it.
    pub fn record(
        &self,
        graph: &mut Graph,
        batch: usize,
        normalisation: Normalisation,
        precision: DType,
    ) -> Result<Sample> {
        let picks = graph.input("picks", Spec::u32([batch, 2]));
        let words = data::image_words(self.size);
        let mut inputs = Vec::with_capacity(5);
        let (fed, shard_images) = match &self.place {
            Place::Device { shards, shard_images, labels } => {
                for (shard, &count) in shards.iter().zip(shard_images) {
                    inputs.push(graph.state(shard, 0, Spec::u32([count, words]), false)?);
                }
                inputs.push(graph.state(labels, 0, Spec::u32([self.images]), false)?);
                (Fed { picks, batch: None }, shard_images.clone())
            }
            Place::Host => {
                let pixels = graph.input("images", Spec::u32([batch, words]));
                let labels = graph.input("labels", Spec::u32([batch]));
                inputs.extend([pixels, labels]);
                (Fed { picks, batch: Some((pixels, labels)) }, vec![batch])
            }
        };
        inputs.push(picks);
        let kernel = Augment {
            shard_images,
            size: self.size,
            batch,
            padding: PADDING,
            mean: normalisation.mean.map(|x| x as f32),
            std: normalisation.std.map(|x| x as f32),
        };
        let outputs = graph.launch_as(precision, kernel, &inputs)?;
        Ok(Sample { fed, image: outputs[0], labels: outputs[1] })
    }
}

/// Images that are packed at a time on their way to the device.
const PACKED: usize = 1024;

fn write(device: &Device, images: &Images, shards: &[Bank], shard_images: &[usize]) -> Result<()> {
    let (pixels, words) = (images.pixels_per_image(), data::image_words(images.size));
    let mut packed = vec![0; PACKED.min(images.len()) * words];
    let mut rest = images.pixels.as_slice();
    for (bank, count) in shards.iter().zip(shard_images) {
        let (shard, tail) = rest.split_at(count * pixels);
        for (block, some) in shard.chunks(PACKED * pixels).enumerate() {
            let packed = &mut packed[..some.len() / pixels * words];
            let images = some.chunks_exact(pixels).zip(packed.chunks_exact_mut(words));
            images.for_each(|(image, packed)| data::pack_image(image, packed));
            bank.write(device, block * PACKED * words, packed)?;
        }
        rest = tail;
    }
    Ok(())
}

impl Fed {
    /// Feeds the picks of images that lie on the device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn feed_picks(self, program: &mut Program, picks: &[Pick]) -> Result<()> {
        Ok(program.feed_u32(self.picks, picks.as_flattened())?)
    }

    /// Feeds a batch from the host.
    ///
    /// # Errors
    /// When the device fails.
    fn feed_batch(self, program: &mut Program, batch: &Batch) -> Result<()> {
        self.feed_picks(program, &batch.picks)?;
        if let Some((pixels, labels)) = self.batch {
            program.feed_u32(pixels, &batch.pixels)?;
            program.feed_u32(labels, &batch.labels)?;
        }
        Ok(())
    }
}

/// Measurements of the host's part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Supply {
    /// Time that the device had nothing to do since the next batch was not there.
    pub waited: Duration,
    /// Images that were drawn, and the time that all workers together took for them.
    pub drawn: usize,
    pub busy: Duration,
    /// Number of threads that work at once; without workers, the step itself.
    pub workers: usize,
}

impl Supply {
    /// Images per second that the workers draw while they do nothing else.
    pub fn images_per_second(&self) -> f64 {
        (self.drawn * self.workers) as f64 / self.busy.as_secs_f64().max(1e-9)
    }

    /// The measurements since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            waited: self.waited - earlier.waited,
            drawn: self.drawn - earlier.drawn,
            busy: self.busy - earlier.busy,
            workers: self.workers,
        }
    }

    /// The share of `time` that the device waited.
    pub fn share(&self, time: Duration) -> f64 {
        self.waited.as_secs_f64() / time.as_secs_f64().max(1e-9)
    }
}

/// Images of a split that are named one by one when they are found to be broken.
const NAMED: usize = 20;

/// Feeds the steps of a program whose images come from the host.
#[derive(Debug)]
pub struct Stream {
    loader: Loader,
    missing: Missing,
    waited: Duration,
    named: usize,
}

impl Stream {
    /// The stream of a split, if it is one that is streamed.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn new(pictures: &Arc<Pictures>, missing: Missing, workers: usize) -> Result<Option<Self>> {
        if !pictures.is_streamed() {
            return Ok(None);
        }
        let loader = Loader::new(Arc::clone(pictures), missing, workers)?;
        Ok(Some(Self { loader, missing, waited: Duration::ZERO, named: 0 }))
    }

    /// Lets the workers begin with a step, unless they have already.
    pub fn prepare(&mut self, epoch: &Epoch, step: usize) {
        self.loader.seek(epoch, step);
    }

    /// Feeds the batch of a step, and returns the labels of the images that it has.
    ///
    /// # Errors
    /// When an image cannot be had, or the device fails.
    pub fn feed(&mut self, program: &mut Program, fed: Fed, epoch: &Epoch, step: usize) -> Result<&[u32]> {
        let device = program.device().clone();
        let mut idle = None;
        let mut look = || {
            if idle.is_none() && device.is_idle() {
                idle = Some(Instant::now());
            }
        };
        look();
        self.loader.seek(epoch, step);
        let batch = self.loader.next(&mut look)?;
        look();
        for broken in &batch.broken {
            self.named += 1;
            if self.named <= NAMED {
                output::note_of_rank(format!("skipped: {broken}"));
            }
        }
        fed.feed_batch(program, batch)?;
        self.waited += idle.map_or(Duration::ZERO, |since: Instant| since.elapsed());
        Ok(&batch.labels[..batch.valid])
    }

    /// The measurements so far.
    pub fn supply(&self) -> Supply {
        let (drawn, busy) = self.loader.drawn();
        Supply { waited: self.waited, drawn, busy, workers: self.loader.workers().max(1) }
    }

    /// Images per second that are prepared while nothing else is done, over some time.
    ///
    /// # Errors
    /// When an image cannot be had.
    pub fn measure(&mut self, epoch: &Epoch, time: Duration) -> Result<f64> {
        let began = Instant::now();
        let (before, _) = self.loader.drawn();
        let mut step = 0;
        while began.elapsed() < time {
            self.loader.seek(epoch, step);
            self.loader.next(|| ())?;
            step = (step + 1) % epoch.steps();
        }
        let (after, _) = self.loader.drawn();
        Ok((after - before) as f64 / began.elapsed().as_secs_f64())
    }

    /// Describes the images of a split that could not be decoded, if there were such; `split` is its name.
    pub fn broken(&self, split: &str) -> Option<String> {
        let pictures = self.loader.pictures();
        let (broken, all) = (pictures.broken(), pictures.len());
        let instead = match self.missing {
            Missing::Replace => "others of their classes took their places",
            Missing::LeaveOut => "they were left out",
        };
        (broken > 0).then(|| {
            format!("{broken} of {all} {split} images cannot be decoded, and {instead} (--strict stops at the first)")
        })
    }
}
