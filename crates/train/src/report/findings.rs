//! Predictions of a run's weights on its test images: measured anew for the report, where the data are there.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data::{DataError, Dataset, LoadOptions, Pictures, catalog};
use nets::Model;
use one::{LossWeights, Network};
use tensor::Device;

use crate::machine::processors;
use crate::options::config::Config;
use crate::report::runs::Run;
use crate::run::checkpoint;
use crate::step::evaluated::Evaluated;
use crate::step::evaluation::evaluate;
use crate::step::feeding::Normalisation;
use crate::step::programs::{EvaluationProgram, StepSpec};
use crate::step::source::{self, Purpose};

/// Pairs of classes that are shown, and images of each.
const PAIRS: usize = 6;
const EXAMPLES: usize = 6;
/// Height and width that an image is shrunk to where it is larger.
const THUMBNAIL: usize = 64;

/// Images of a class that are taken for another.
#[derive(Debug, Clone, PartialEq)]
pub struct Confused {
    pub class: usize,
    pub taken_for: usize,
    pub count: usize,
    /// Some of them, as `data:` addresses.
    pub examples: Vec<String>,
}

/// Findings on the test images.
#[derive(Debug)]
pub struct Findings {
    pub classes: Vec<String>,
    pub found: Evaluated,
    /// Images by true and by predicted class, of branch 0.
    pub confusion: Vec<Vec<usize>>,
    /// Confused pairs of classes of branch 0, the most frequent first.
    pub confused: Vec<Confused>,
    /// Mean shares of the branches in the ensemble, by true class; empty without a gate.
    pub gate: Vec<Vec<f64>>,
}

/// Loads datasets, each only once while runs that use it follow each other.
#[derive(Debug)]
pub struct Loader<'a> {
    device: Device,
    data_dir: Option<&'a Path>,
    loaded: Option<(String, Arc<Dataset<Arc<Pictures>>>)>,
}

impl<'a> Loader<'a> {
    /// Takes data from `data_dir`, or else from where a run had them.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn new(device: &str, data_dir: Option<&'a Path>) -> Result<Self> {
        Ok(Self { device: tensor::device::open(device)?, data_dir, loaded: None })
    }

    /// The test images of a run. They are never fetched.
    fn load(&mut self, config: &Config) -> Result<Arc<Dataset<Arc<Pictures>>>> {
        let options = LoadOptions {
            data_dir: self.data_dir.map(Path::to_owned).or_else(|| config.data_dir.clone()),
            limit_train: Some(0),
            limit_test: config.limit_test,
            classes: config.classes,
            strict: config.strict,
            image_size: config.image_size,
            ..LoadOptions::default()
        };
        let key = format!("{} {:?} {options:?}", config.data, config.augment);
        if let Some((_, dataset)) = self.loaded.as_ref().filter(|(other, _)| *other == key) {
            return Ok(Arc::clone(dataset));
        }
        if catalog::find(&config.data, &options).is_none() {
            let first = data::load(&config.data, &LoadOptions { limit_test: Some(1), ..options.clone() });
            if let Err(DataError::Missing { file, .. }) = first {
                bail!("the data are not here ({} is missing)", file.display());
            }
        }
        let usual = config.network.architecture()?.image_size();
        let (asked, augment, stream) = (config.image_size, config.augment, config.stream);
        let purpose = Purpose { device: &self.device, asked, usual, augment, stream };
        let share = |pictures| anyhow::Ok(Arc::new(pictures));
        let dataset = Arc::new(source::load(&config.data, &options, purpose)?.try_map(share, share)?);
        self.loaded = Some((key, Arc::clone(&dataset)));
        Ok(dataset)
    }

    /// Measures a run's weights; `None` when the end was asked for meanwhile.
    ///
    /// # Errors
    /// When there are none, or the data are not there or do not fit.
    pub fn measure(&mut self, run: &Run) -> Result<Option<Findings>> {
        let Some(weights) = &run.weights else { bail!("it has saved no weights yet") };
        let (header, checkpoint) = checkpoint::read_own(weights)?;
        let dataset = self.load(&run.config)?;
        if header.classes != dataset.classes.len() {
            bail!("its weights tell {} classes apart, and the data have {}", header.classes, dataset.classes.len());
        }
        let (architecture, method) = (header.network.architecture()?, header.method_config()?);
        let spec = StepSpec::evaluation(
            &*architecture,
            &method,
            Normalisation { mean: header.mean, std: header.std },
            run.config.eval_batch,
            run.config.workers.unwrap_or_else(processors),
        );
        let mut model = Model::new();
        let mut program = EvaluationProgram::new(&self.device, &mut model, spec, Arc::clone(&dataset.test))?;
        model.load(&self.device, &checkpoint.state).with_context(|| format!("cannot use {}", weights.display()))?;
        program.gather_outputs();
        let Some(found) = evaluate(&mut program, LossWeights::default(), |_| ())? else { return Ok(None) };
        let labels = program.outputs().map(|outputs| outputs.labels().to_vec()).unwrap_or_default();
        let labels: Vec<usize> = labels.into_iter().map(|label| label as usize).collect();
        Ok(Some(Findings::new(&dataset, found, &labels)))
    }
}

impl Findings {
    fn new(dataset: &Dataset<Arc<Pictures>>, found: Evaluated, labels: &[usize]) -> Self {
        let classes = dataset.classes.clone();
        let predicted = found.predictions.classes(Network::Member(0));
        let confusion = confusion(classes.len(), labels, &predicted);
        let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
        for (class, row) in confusion.iter().enumerate() {
            pairs.extend(
                row.iter().enumerate().filter(|&(other, _)| other != class).map(|(other, &n)| (n, class, other)),
            );
        }
        pairs.sort_by_key(|&(count, class, other)| (std::cmp::Reverse(count), class, other));
        let confused =
            pairs.into_iter().take(PAIRS).filter(|&(count, ..)| count > 0).map(|(count, class, taken_for)| {
                let of_pair = |&image: &usize| labels[image] == class && predicted[image] == taken_for;
                // Numbers no longer tell images apart where some were left out.
                let known = labels.len() == dataset.test.len();
                let images = (0..if known { labels.len() } else { 0 }).filter(of_pair).take(EXAMPLES);
                let examples = images.filter_map(|image| thumbnail(&dataset.test.pixels(image)?)).collect();
                Confused { class, taken_for, count, examples }
            });
        let confused = confused.collect();
        let gate = mean_by_class(classes.len(), labels, found.predictions.shares());
        Self { classes, found, confusion, confused, gate }
    }
}

fn confusion(classes: usize, labels: &[usize], predicted: &[usize]) -> Vec<Vec<usize>> {
    let mut matrix = vec![vec![0; classes]; classes];
    for (&label, &class) in labels.iter().zip(predicted) {
        matrix[label][class] += 1;
    }
    matrix
}

/// The mean of rows, by class; empty if the rows are.
fn mean_by_class<'a>(classes: usize, labels: &[usize], rows: impl Iterator<Item = &'a [f32]>) -> Vec<Vec<f64>> {
    let mut sums: Vec<(usize, Vec<f64>)> = vec![(0, Vec::new()); classes];
    for (&label, row) in labels.iter().zip(rows).filter(|(_, row)| !row.is_empty()) {
        let (count, sum) = &mut sums[label];
        *count += 1;
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    if sums.iter().all(|(count, _)| *count == 0) {
        return Vec::new();
    }
    sums.into_iter().map(|(count, sum)| sum.into_iter().map(|sum| sum / count as f64).collect()).collect()
}

/// A small image of square pixels as a `data:` address.
fn thumbnail(pixels: &[u32]) -> Option<String> {
    let size = pixels.len().isqrt();
    let step = size.div_ceil(THUMBNAIL).max(1);
    let side = size / step;
    let mut bytes = Vec::with_capacity(side * side * 3);
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        let mut sums = [0; 3];
        for (dy, dx) in (0..step).flat_map(|dy| (0..step).map(move |dx| (dy, dx))) {
            let pixel = pixels[(y * step + dy) * size + x * step + dx].to_le_bytes();
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += usize::from(value));
        }
        bytes.extend(sums.map(|sum| (sum / (step * step)) as u8));
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side as u32, side as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().ok()?.write_image_data(&bytes).ok()?;
    Some(format!("data:image/png;base64,{}", STANDARD.encode(&file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_true_classes_and_columns_predicted_ones() {
        assert_eq!(confusion(3, &[0, 0, 1, 2], &[0, 1, 1, 0]), [[1, 1, 0], [0, 1, 0], [1, 0, 0]]);
    }

    #[test]
    fn shares_are_averaged_class_by_class() {
        let rows = [[1.0f32, 0.0], [0.5, 0.5], [0.25, 0.75]];
        let means = mean_by_class(3, &[0, 0, 2], rows.iter().map(<[f32; 2]>::as_slice));
        assert_eq!(means, [vec![0.75, 0.25], vec![], vec![0.25, 0.75]]);
        let none: [&[f32]; 2] = [&[], &[]];
        assert!(mean_by_class(3, &[0, 2], none.into_iter()).is_empty());
    }

    #[test]
    fn thumbnails_are_images_of_the_size_that_is_left() {
        for (size, side) in [(1, 1), (32, 32), (64, 64), (65, 32), (224, 56)] {
            let address = thumbnail(&vec![0x00aa_5501; size * size]).expect("encoded");
            let file =
                STANDARD.decode(address.strip_prefix("data:image/png;base64,").expect("a PNG")).expect("base 64");
            let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a header");
            let mut bytes = vec![0; reader.output_buffer_size().expect("small")];
            let frame = reader.next_frame(&mut bytes).expect("pixels");
            assert_eq!((frame.width, frame.height, &bytes[..3]), (side, side, &[0x01, 0x55, 0xaa][..]), "{size}");
        }
    }
}
