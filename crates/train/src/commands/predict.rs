//! Predictions of a trained network.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use data::{Square, View, fashion_mnist};
use nets::Model;
use one::{Heads, Network};
use serde::Serialize;
use tensor::{Device, Graph, Program, Spec, Var};

use crate::interrupt;
use crate::options::args::{Augmentation, PredictArgs};
use crate::output::{line, note};
use crate::run::checkpoint::Header;
use crate::show::words::{describe_device, grouped};
use crate::step::logits::softmax;
use crate::step::pretrained::Pretrained;

/// Channels of an image as the network takes it: three, and one of zeros.
const CHANNELS: usize = 4;

/// Prints what is on each image.
///
/// # Errors
/// When the network or the device is of no use; and in the end, when an image was.
pub fn run(args: &PredictArgs) -> Result<()> {
    let network = Pretrained::read(&args.model, args.branch)?;
    let files = images(&args.images)?;
    let device = tensor::device::open(&args.device)?;
    let mut predictor = Predictor::new(&network, &device, args.batch.min(files.len()))?;
    // The border is that of test images, which were brought to this size.
    let border = if network.header.data == fashion_mnist::NAME { fashion_mnist::BORDER } else { 0 };
    let view = if network.header.augment == Some(Augmentation::Imagenet) { View::Centre } else { View::Whole };
    let square = Square { size: predictor.size, border, view };
    interrupt::catch()?;
    let started = Instant::now();
    let (mut unusable, mut done) = (0, 0);
    for batch in files.chunks(predictor.batch) {
        if interrupt::requested() {
            bail!("interrupted after {} of {} images", grouped(done), grouped(files.len()));
        }
        let images = data::read_images(batch, square);
        let usable: Vec<&[u32]> = images.iter().flatten().map(Vec::as_slice).collect();
        let mut probabilities = predictor.probabilities(&usable)?.into_iter();
        for (file, image) in batch.iter().zip(&images) {
            match image {
                Ok(_) => say(args, &network, file, &probabilities.next().unwrap_or_default())?,
                Err(problem) => {
                    note(format!("{} {problem}", file.display()));
                    unusable += 1;
                }
            }
        }
        done += batch.len();
    }
    if files.len() > 1 {
        note(speed(&network, &device, files.len(), started.elapsed()));
    }
    match unusable {
        0 => Ok(()),
        1 if files.len() == 1 => bail!("the image cannot be used: take a JPEG or PNG file that is whole"),
        _ => bail!("{} of {} images cannot be used: see the lines above", grouped(unusable), grouped(files.len())),
    }
}

/// The files that are meant.
fn images(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let found = data::find_images(path)?;
        if found.is_empty() {
            bail!("the folder {} holds no image that ends in .jpg, .jpeg or .png", path.display());
        }
        files.extend(found);
    }
    Ok(files)
}

fn speed(network: &Pretrained, device: &Device, images: usize, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(1e-9);
    format!(
        "{}: {} images in {seconds:.1} s, {:.0} images/s with reading and decoding, {}",
        network.describe(),
        grouped(images),
        images as f64 / seconds,
        describe_device(device)
    )
}

/// A class, and how probable it is.
#[derive(Debug, Serialize)]
struct Guess {
    class: String,
    index: usize,
    probability: f32,
}

/// A line of `--json`.
#[derive(Debug, Serialize)]
struct Prediction<'a> {
    file: &'a str,
    predictions: &'a [Guess],
}

fn say(args: &PredictArgs, network: &Pretrained, file: &Path, probabilities: &[f32]) -> Result<()> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let guess = |index: usize| Guess { class: network.class(index), index, probability: probabilities[index] };
    let guesses: Vec<Guess> = order.into_iter().take(args.top).map(guess).collect();
    let file = file.to_string_lossy();
    if args.json {
        return line(serde_json::to_string(&Prediction { file: &file, predictions: &guesses })?);
    }
    let words: Vec<String> =
        guesses.iter().map(|guess| format!("{} {:.2} %", guess.class, 100.0 * guess.probability)).collect();
    line(format!("{file}: {}", words.join(", ")))
}

/// A network on a device.
struct Predictor {
    program: Program,
    image: Var,
    heads: Heads,
    ensemble: Network,
    classes: usize,
    batch: usize,
    size: usize,
    mean: [f64; 3],
    std: [f64; 3],
}

impl Predictor {
    fn new(network: &Pretrained, device: &Device, batch: usize) -> Result<Self> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let size = network.header.size()?;
        let image = graph.input("image", Spec::f32([1, batch, size, size, CHANNELS]));
        let heads = network.record(&mut graph, &mut model, image)?;
        graph.keep(heads.logits);
        heads.gate.into_iter().for_each(|gate| graph.keep(gate));
        let program = graph.compile(device)?;
        model.load(device, &network.state)?;
        let ensemble = network.header.method_config()?.ensemble();
        let &Header { classes, mean, std, .. } = &network.header;
        Ok(Self { program, image, heads, ensemble, classes, batch, size, mean, std })
    }

    /// The probabilities of the classes for each image, at most a batch.
    fn probabilities(&mut self, images: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let words = self.batch * self.size * self.size * CHANNELS;
        let mut pixels = Vec::with_capacity(words);
        for pixel in images.iter().copied().flatten() {
            let [r, g, b, _] = pixel.to_le_bytes();
            let normalised = |i: usize, byte: u8| ((f64::from(byte) / 255.0 - self.mean[i]) / self.std[i]) as f32;
            pixels.extend([normalised(0, r), normalised(1, g), normalised(2, b), 0.0]);
        }
        pixels.resize(words, 0.0);
        self.program.feed_f32(self.image, &pixels)?;
        self.program.run()?;
        let logits = self.program.read_f32(self.heads.logits)?;
        let gate = self.heads.gate.map(|gate| self.program.read_f32(gate)).transpose()?;
        Ok((0..images.len()).map(|image| self.fused(&logits, gate.as_deref(), image)).collect())
    }

    /// The probabilities of one image of the batch, from logits `[M, N, K]` and the gate's activations `[N, M]`.
    fn fused(&self, logits: &[f32], gate: Option<&[f32]>, image: usize) -> Vec<f32> {
        let classes = self.classes;
        let members = logits.chunks_exact(self.batch * classes);
        let rows: Vec<Vec<f32>> = members.map(|member| member[image * classes..][..classes].to_vec()).collect();
        let equal = vec![1.0 / rows.len() as f32; rows.len()];
        let mean = |rows: &[Vec<f32>], shares: &[f32]| -> Vec<f32> {
            (0..classes).map(|k| rows.iter().zip(shares).map(|(row, share)| share * row[k]).sum()).collect()
        };
        let fused = match (self.ensemble, gate) {
            (Network::MeanProbabilities, _) => {
                let probabilities: Vec<Vec<f32>> = rows.iter().map(|row| softmax(row).collect()).collect();
                return mean(&probabilities, &equal);
            }
            (Network::Gated, Some(gate)) => {
                let shares: Vec<f32> = softmax(&gate[image * rows.len()..][..rows.len()]).collect();
                mean(&rows, &shares)
            }
            _ => mean(&rows, &equal),
        };
        softmax(&fused).collect()
    }
}
