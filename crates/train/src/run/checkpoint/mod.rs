//! Checkpoints: safetensors files under PyTorch's names, whose metadata say what network they are of and where the run
//! stood. They are sealed by checksums of the metadata and of all tensors.
//!
//! Nothing in a checkpoint depends on time, place or speed: the same run gives the same bytes. The metadata are one
//! string, since the map that safetensors keeps them in has no order.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nets::{Layer, Mode, Model, NamedTensor, own_name};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tensor::{Graph, Spec};

use crate::formats::fold;
use crate::options::args::{Augmentation, Method};
use crate::options::config::{Config, Network};
use crate::run::files::{self, Kept, write_atomically};
use crate::run::tensor_file::{self, Encoded};

/// The format that this program writes, and the only one that it reads.
const FORMAT: u32 = 2;
/// The key of the metadata.
const KEY: &str = "onfly";
/// Prefix of the optimiser's velocities.
const MOMENTUM: &str = "momentum.";
/// The sums of the losses and errors of an epoch under way.
const TOTALS: &str = "metrics.totals";
/// The state of the loss scale.
const LOSS_SCALE: &str = "optimizer.loss_scale";
/// The most that a header may claim: classes, pixels on a side, steps.
const MOST_CLASSES: usize = 1_000_000;
const MOST_PIXELS: usize = 1 << 16;
const MOST_STEPS: usize = 1 << 31;
/// The steps that a batch-norm has seen, which PyTorch counts and nothing here needs.
const STEPS_SEEN: &str = "num_batches_tracked";
/// A statistic that every batch-norm has.
const RUNNING_MEAN: &str = ".running_mean";

/// Position of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Epochs that are complete, their evaluation included.
    pub epoch: usize,
    /// Steps of the epoch under way.
    pub epoch_step: usize,
    /// Steps in all.
    pub step: usize,
}

/// The best epoch so far: that of the lowest error on the held-out split, or, where there is none, on the test split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Top-1 error of branch 0 on the test split, per cent.
    pub error: f64,
    /// The same on the held-out split.
    #[serde(default)]
    pub validation_error: Option<f64>,
    /// The epoch after which it was measured, from 1.
    pub epoch: usize,
}

/// Header of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    format: u32,
    #[serde(flatten)]
    pub network: Network,
    pub method: Method,
    /// True if a gate forms the ensemble.
    pub gate: bool,
    pub classes: usize,
    pub data: String,
    pub mean: [f64; 3],
    pub std: [f64; 3],
    pub seed: u64,
    #[serde(flatten)]
    pub position: Position,
    pub best: Option<Best>,
    /// Top-1 error of branch 0 on the test split after the last complete epoch, per cent.
    #[serde(default)]
    pub last_error: Option<f64>,
    /// Height and width of the images.
    #[serde(default)]
    pub image_size: Option<usize>,
    /// Augmentation of the training images.
    #[serde(default)]
    pub augment: Option<Augmentation>,
    /// Names of the classes, in the order of the logits. Files of earlier versions lack them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// True if batch-norms are folded into the layers before them ([`crate::formats::fold`]); never of a checkpoint in
    /// memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub folded: bool,
    /// FNV-1a of all tensors' bytes in the order of their names.
    checksum: String,
    /// FNV-1a of this header with an empty seal, and of all tensors' names, types and shapes. Files of earlier versions
    /// have none.
    #[serde(default)]
    seal: String,
}

impl Header {
    /// The header of a run that has not begun. `config` must be settled.
    pub fn new(config: &Config) -> Self {
        Self {
            format: FORMAT,
            network: config.network.clone(),
            method: config.method,
            gate: config.gate,
            classes: config.classes.unwrap_or_default(),
            data: config.data.clone(),
            mean: config.mean.unwrap_or_default(),
            std: config.std.unwrap_or([1.0; 3]),
            seed: config.seed,
            position: Position::default(),
            best: None,
            last_error: None,
            image_size: config.image_size,
            augment: config.augment,
            class_names: Vec::new(),
            folded: false,
            checksum: String::new(),
            seal: String::new(),
        }
    }

    /// Names numbers that cannot be, if there are any: a checksum only tells that the file is as somebody wrote it.
    fn problem(&self) -> Option<String> {
        let Self { network, classes, mean, std, position, image_size, .. } = self;
        let Position { epoch, epoch_step, step } = *position;
        let finite = mean.iter().chain(std).all(|value| (*value as f32).is_finite());
        let size = image_size.unwrap_or(1);
        if !(1..=one::MAX_BRANCHES).contains(&network.branches) {
            Some(format!("it claims {} branches", network.branches))
        } else if !(1..=MOST_CLASSES).contains(classes) {
            Some(format!("it claims {classes} classes"))
        } else if !finite || std.iter().any(|&std| std as f32 <= 0.0) {
            Some("it claims a mean or deviation that pixels cannot have".to_owned())
        } else if !(1..=MOST_PIXELS).contains(&size) {
            Some(format!("it claims images of {size} x {size}"))
        } else if [epoch, epoch_step, step].iter().any(|&count| count > MOST_STEPS) {
            Some("it claims more steps than there can be".to_owned())
        } else {
            None
        }
    }

    /// Height and width of the images that the network takes.
    ///
    /// # Errors
    /// When there is no such network.
    pub fn size(&self) -> Result<usize> {
        Ok(self.image_size.unwrap_or(self.network.architecture()?.image_size()))
    }

    /// The setup of the method around the network.
    ///
    /// # Errors
    /// When there is no such network or stage.
    pub fn method_config(&self) -> Result<one::Config> {
        self.network.method_config(self.method, self.gate, self.classes)
    }

    /// The network's layers.
    ///
    /// # Errors
    /// When there is no such network, or its images are too small for it.
    pub fn layers(&self) -> Result<Vec<Layer>> {
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let size = self.size()?;
        let image = graph.input("image", Spec::f32([1, 1, size, size, 4]));
        let (architecture, method) = (self.network.architecture()?, self.method_config()?);
        Ok(one::record(&mut graph, &mut model, &*architecture, Mode::Inference, image, &method)?.layers)
    }

    /// The header of branch `branch` as a separate network.
    pub fn of_branch(self, branch: usize) -> Self {
        let best = self.best.filter(|_| branch == 0);
        let last_error = self.last_error.filter(|_| branch == 0);
        Self { network: self.network.alone(), method: Method::Vanilla, gate: false, best, last_error, ..self }
    }
}

/// A checkpoint in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// `None` for a network's state that another program wrote.
    pub header: Option<Header>,
    /// Parameters and running statistics.
    pub state: Vec<NamedTensor>,
    /// The optimiser's velocities, under the names of their parameters.
    pub velocities: Vec<NamedTensor>,
    /// Sums of the epoch under way.
    pub totals: Vec<f32>,
    /// State of the loss scale, in mixed precision.
    pub loss_scale: Option<[f32; 4]>,
}

/// A file that is not as it was written.
#[derive(Debug)]
pub struct Damaged {
    file: PathBuf,
    what: String,
}

impl Damaged {
    fn new(file: &Path, what: &str) -> Self {
        // Names stand in sentences, which are of one line.
        let what = what.split(char::is_control).collect::<Vec<_>>().join(" ");
        Self { file: file.to_owned(), what }
    }

    /// The damage in a sentence, without advice.
    pub fn finding(&self) -> String {
        format!("the checkpoint {} is damaged: {}", self.file.display(), self.what)
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; take another one, or train anew", self.finding())
    }
}

impl std::error::Error for Damaged {}

/// FNV-1a, 64 bits.
fn checksum<'a>(tensors: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in tensors.flatten() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Encodes parameters for the file `path`, `prefix` in front of their names.
fn encode(path: &Path, prefix: &str, tensors: &[NamedTensor]) -> Result<Vec<Encoded>> {
    let encode = |tensor: &NamedTensor| {
        let name = format!("{prefix}{}", tensor.name);
        match tensor.data.iter().find(|value| !value.is_finite()) {
            Some(value) => {
                bail!("{name} holds {value}, so {} was not written: a lower --lr may help", path.display())
            }
            None => Ok(Encoded::floats(name, tensor.shape.clone(), &tensor.data)),
        }
    };
    tensors.iter().map(encode).collect()
}

/// The seal of a header, as its text with an empty seal, and of the tensors' names, types and shapes.
fn seal<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>) -> String {
    let table: String = tensors.map(|(name, dtype, shape)| format!("{name} {dtype:?} {shape:?}\n")).collect();
    checksum([text.as_bytes(), table.as_bytes()].into_iter())
}

/// A seal as a header's text has it.
fn sealed(seal: &str) -> String {
    format!("\"seal\":\"{seal}\"")
}

/// The bytes of a file: tensors behind a header that says what they are.
fn serialize(header: &Header, mut tensors: Vec<Encoded>) -> Result<Vec<u8>> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let checksum = checksum(tensors.iter().map(|tensor| tensor.bytes.as_slice()));
    let mut text = serde_json::to_string(&Header { checksum, seal: String::new(), ..header.clone() })?;
    let table = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.dtype, tensor.shape.as_slice()));
    text = text.replace(&sealed(""), &sealed(&seal(&text, table)));
    tensor_file::serialize(&tensors, HashMap::from([(KEY.to_owned(), text)]))
}

/// The tensors of a checkpoint for the file `path`.
fn tensors(path: &Path, checkpoint: &Checkpoint) -> Result<Vec<Encoded>> {
    let mut tensors = encode(path, "", &checkpoint.state)?;
    tensors.extend(encode(path, MOMENTUM, &checkpoint.velocities)?);
    if !checkpoint.totals.is_empty() {
        tensors.push(Encoded::floats(TOTALS, vec![checkpoint.totals.len()], &checkpoint.totals));
    }
    if let Some(state) = &checkpoint.loss_scale {
        tensors.push(Encoded::floats(LOSS_SCALE, vec![state.len()], state));
    }
    Ok(tensors)
}

/// Writes a checkpoint to a temporary file, and renames it to `path` when it is on the disk.
///
/// # Errors
/// When a value is not finite (the file that is there stays), or the file cannot be written.
pub fn write(path: &Path, header: &Header, checkpoint: &Checkpoint) -> Result<()> {
    write_atomically(path, &serialize(header, tensors(path, checkpoint)?)?)
}

/// Writes like [`write()`], and keeps the checkpoint that was there.
///
/// # Errors
/// As [`write()`].
pub fn replace(file: &Kept, header: &Header, checkpoint: &Checkpoint) -> Result<()> {
    files::replace(file, &serialize(header, tensors(&file.current, checkpoint)?)?)
}

/// Writes a network's state with exactly the names that PyTorch's modules have: beside parameters and running
/// statistics each batch-norm's number of steps.
///
/// # Errors
/// As [`write()`].
pub fn export(path: &Path, header: &Header, state: &[NamedTensor]) -> Result<()> {
    let mut tensors = encode(path, "", state)?;
    let steps = i64::try_from(header.position.step)?;
    let norms = state.iter().filter_map(|tensor| tensor.name.strip_suffix(RUNNING_MEAN));
    tensors.extend(norms.map(|norm| Encoded::integers(format!("{norm}.{STEPS_SEEN}"), Vec::new(), &[steps])));
    write_atomically(path, &serialize(header, tensors)?)
}

/// Reads a checkpoint that a run wrote.
///
/// # Errors
/// As [`read()`], and when it does not say where the run stood.
pub fn read_own(path: &Path) -> Result<(Header, Checkpoint)> {
    let mut checkpoint = read(path)?;
    let lost = || Damaged { file: path.to_owned(), what: "it does not say where the run stood".to_owned() };
    let header = checkpoint.header.take().ok_or_else(lost)?;
    Ok((header, checkpoint))
}

/// Reads a checkpoint, or a network's state that another program wrote: names become those of this project
/// ([`own_name`]), and floats of other lengths 32-bit ones.
///
/// # Errors
/// When the file is absent, damaged, of another format, or of anything but finite floats, and when two names in it mean
/// the same.
pub fn read(path: &Path) -> Result<Checkpoint> {
    let file = path.display();
    let context = || format!("cannot read the checkpoint {file}");
    // A pipe or a device would never end.
    if !std::fs::metadata(path).with_context(context)?.is_file() {
        bail!("cannot read the checkpoint {file}: it is no file");
    }
    let bytes = std::fs::read(path).with_context(context)?;
    let damaged = |what: String| anyhow::Error::new(Damaged::new(path, &what));
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
    let header = text.map(|text| read_header(path, text)).transpose()?;
    let mut names: Vec<&str> = tensors.names();
    names.sort_unstable();
    if let Some(name) = names.iter().find(|name| name.contains(char::is_control)) {
        return Err(damaged(format!("it has a tensor of the name {name:?}")));
    }
    let mut views = Vec::with_capacity(names.len());
    for name in names {
        views.push((name, tensors.tensor(name).map_err(|error| damaged(error.to_string()))?));
    }
    if let Some((header, text)) = header.as_ref().zip(text) {
        if !is_whole(header, text, &views) {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        if let Some(problem) = header.problem() {
            return Err(damaged(problem));
        }
    }
    let mut checkpoint = sorted(path, &views)?;
    if let Some(mut header) = header {
        if header.folded {
            let unfolded = fold::unfold(&header.layers()?, std::mem::take(&mut checkpoint.state));
            checkpoint.state = unfolded.map_err(damaged)?;
            header.folded = false;
        }
        checkpoint.header = Some(header);
    }
    Ok(checkpoint)
}

/// The header in the metadata of the file `path`.
fn read_header(path: &Path, text: &str) -> Result<Header> {
    let damaged = |error: serde_json::Error| Damaged::new(path, &error.to_string());
    // The format is looked at first: another one may have other fields.
    let value: serde_json::Value = serde_json::from_str(text).map_err(damaged)?;
    if value.get("format") != Some(&FORMAT.into()) {
        let file = path.display();
        bail!("the checkpoint {file} is of another version of this program: use the version that wrote it");
    }
    Ok(serde_json::from_value(value).map_err(damaged)?)
}

/// Tells whether a header, which is `text` in its file, and the tensors are as they were sealed.
fn is_whole(header: &Header, text: &str, views: &[(&str, TensorView<'_>)]) -> bool {
    let table = views.iter().map(|(name, view)| (*name, view.dtype(), view.shape()));
    let unsealed = text.replace(&sealed(&header.seal), &sealed(""));
    let right_seal = header.seal.is_empty() || header.seal == seal(&unsealed, table);
    right_seal && header.checksum == checksum(views.iter().map(|(_, view)| view.data()))
}

/// The tensors of the file `path`, each where it belongs.
fn sorted(path: &Path, views: &[(&str, TensorView<'_>)]) -> Result<Checkpoint> {
    let file = path.display();
    let mut checkpoint =
        Checkpoint { header: None, state: Vec::new(), velocities: Vec::new(), totals: Vec::new(), loss_scale: None };
    let mut origins: HashMap<String, &str> = HashMap::with_capacity(views.len());
    for (name, view) in views.iter().filter(|(name, _)| !name.ends_with(STEPS_SEEN)) {
        let Some(data) = tensor_file::decode(view) else {
            bail!("{name} in {file} is of type {:?}: convert the weights to floats of 16, 32 or 64 bits", view.dtype());
        };
        if let Some(value) = data.iter().find(|value| !value.is_finite()) {
            bail!("{name} in {file} holds {value} as a 32-bit float: take other weights");
        }
        let shape = view.shape().to_vec();
        if let Some(parameter) = name.strip_prefix(MOMENTUM) {
            checkpoint.velocities.push(NamedTensor { name: parameter.to_owned(), shape, data });
        } else if *name == TOTALS {
            checkpoint.totals = data;
        } else if *name == LOSS_SCALE {
            let state = data.try_into();
            let damaged = |_| Damaged::new(path, &format!("{LOSS_SCALE} has not four values"));
            checkpoint.loss_scale = Some(state.map_err(damaged)?);
        } else {
            let own = own_name(name);
            if let Some(other) = origins.insert(own.clone(), name) {
                bail!("{file} holds both {other} and {name}, and either means {own}: leave one of the two out");
            }
            checkpoint.state.push(NamedTensor { name: own, shape, data });
        }
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::args::Shortcut;

    pub(super) fn sample() -> (Header, Checkpoint) {
        let network =
            Network { net: "resnet8".to_owned(), shortcut: Shortcut::B, branches: 2, fan_out: "layer3".to_owned() };
        let header = Header {
            format: FORMAT,
            network,
            method: Method::One,
            gate: true,
            classes: 10,
            data: "shapes".to_owned(),
            mean: [0.5; 3],
            std: [0.25; 3],
            seed: 7,
            position: Position { epoch: 3, epoch_step: 2, step: 50 },
            best: Some(Best { error: 12.5, validation_error: Some(10.0), epoch: 2 }),
            last_error: Some(13.0),
            image_size: Some(32),
            augment: Some(Augmentation::None),
            class_names: vec!["circle".to_owned(), "a \"seal\":\"\"".to_owned()],
            folded: false,
            checksum: String::new(),
            seal: String::new(),
        };
        let tensor = |name: &str, data: &[f32]| NamedTensor {
            name: name.to_owned(),
            shape: vec![data.len()],
            data: data.to_vec(),
        };
        let state = vec![tensor("z", &[1.0, -2.5]), tensor("a", &[0.0])];
        (
            header,
            Checkpoint {
                header: None,
                state,
                velocities: vec![tensor("z", &[0.5, 0.25])],
                totals: vec![1.0; 4],
                loss_scale: Some([2.0, 3.0, 0.5, 1.0]),
            },
        )
    }

    #[test]
    fn a_checkpoint_reads_as_it_was_written_and_its_bytes_are_always_the_same() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (header, checkpoint) = sample();
        let path = |name: &str| folder.path().join(name);
        write(&path("a"), &header, &checkpoint).expect("written");
        for _ in 0..5 {
            write(&path("b"), &header, &checkpoint).expect("written");
            assert_eq!(std::fs::read(path("a")).expect("read"), std::fs::read(path("b")).expect("read"));
        }
        let found = read(&path("a")).expect("whole");
        let read_header = found.header.expect("a header");
        assert_eq!((read_header.position, read_header.best), (header.position, header.best));
        assert_eq!(read_header.network, header.network);
        let names: Vec<&str> = found.state.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "z"]);
        assert_eq!(found.velocities, checkpoint.velocities);
        assert_eq!((found.totals, found.loss_scale), (checkpoint.totals, checkpoint.loss_scale));
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("checkpoint");
        let (header, mut checkpoint) = sample();
        write(&path, &header, &checkpoint).expect("written");
        let whole = std::fs::read(&path).expect("read");
        let last = whole.len() - 1;
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 1;
            std::fs::write(&path, bytes).expect("damaged");
            match read_own(&path) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("is damaged") || error.contains("another version"), "byte {i}: {error}");
                }
                // The word "seal" is damaged, and what it seals is not.
                Ok((found, read)) => {
                    assert_eq!((found.position, found.best), (header.position, header.best), "byte {i}");
                    assert_eq!((read.velocities, read.totals.len()), (checkpoint.velocities.clone(), 4), "byte {i}");
                    assert!(found.seal.is_empty(), "byte {i}");
                }
            }
        }
        for length in [0, 7, 100, last] {
            std::fs::write(&path, &whole[..length]).expect("cut off");
            assert!(read(&path).expect_err("cut off").to_string().contains("is damaged"), "{length} bytes");
        }
        std::fs::write(&path, &whole).expect("restored");
        checkpoint.state[0].data[1] = f32::NAN;
        write(&path, &header, &checkpoint).expect_err("not finite");
        assert_eq!(std::fs::read(&path).expect("read"), whole, "the last good one stays");
    }
}
