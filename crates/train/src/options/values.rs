//! The values that options take, as they stand on the command line and in `config.toml`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tensor::DType;

/// Shortcut of a residual block where shapes change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// Every second pixel and zero channels: no parameters
    A,
    /// 1x1 convolution and batch-norm
    B,
}

impl From<Shortcut> for nets::resnet::Shortcut {
    fn from(shortcut: Shortcut) -> Self {
        match shortcut {
            Shortcut::A => Self::A,
            Shortcut::B => Self::B,
        }
    }
}

/// Training method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// On-the-fly native ensemble: branches, a gate, and distillation of their ensemble
    One,
    /// The network alone
    Vanilla,
    /// Deep mutual learning: several whole networks that learn from each other
    Dml,
    /// Knowledge distillation from a trained network, the --teacher
    Kd,
    /// Several independent networks, trained at once
    Ensemble,
    /// One network through several cycles of the learning rate, and the ensemble of its states at their ends
    Snapshot,
}

impl Method {
    /// Branches, or whole networks, unless a number is given.
    pub fn default_branches(self) -> usize {
        match self {
            Self::One | Self::Ensemble => 3,
            Self::Dml => 2,
            Self::Vanilla | Self::Kd | Self::Snapshot => 1,
        }
    }

    /// Tells whether it trains several whole networks.
    pub fn copies_networks(self) -> bool {
        matches!(self, Self::Dml | Self::Ensemble)
    }

    /// The name that the command line knows it by.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Parameters that weight decay applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// All of them
    All,
    /// The weights of convolutions and linear layers: not batch-norms, not biases
    Weights,
}

impl From<Decay> for nets::Decay {
    fn from(decay: Decay) -> Self {
        match decay {
            Decay::All => Self::All,
            Decay::Weights => Self::Weights,
        }
    }
}

/// Augmentation of training images, anew in each epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Augmentation {
    /// Not at all
    None,
    /// Four black pixels on every side, a random crop of the image's size, and a mirror image every other time
    Standard,
    /// For folders of images: a random part of the file's image, resized, and a mirror image every other time; test
    /// images are seen from a little nearer
    Imagenet,
}

impl From<data::Augmentation> for Augmentation {
    fn from(augmentation: data::Augmentation) -> Self {
        match augmentation {
            data::Augmentation::None => Self::None,
            data::Augmentation::Padded => Self::Standard,
            data::Augmentation::Resized => Self::Imagenet,
        }
    }
}

impl From<Augmentation> for data::Augmentation {
    fn from(augmentation: Augmentation) -> Self {
        match augmentation {
            Augmentation::None => Self::None,
            Augmentation::Standard => Self::Padded,
            Augmentation::Imagenet => Self::Resized,
        }
    }
}

/// Precision of activations in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in 32 bits.
    #[default]
    F32,
    /// Activations and their gradients in 16 bits, arithmetic, weights, statistics and losses in 32.
    F16,
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
        }
    }
}

/// Choice between streaming images to the device and keeping all of them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Streaming {
    /// Where they do not fit, and where --augment imagenet decodes them anew in each epoch
    #[default]
    Auto,
    /// Always
    On,
    /// Never: what does not fit is refused
    Off,
}

/// Display of a run's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Ui {
    /// A bar on a terminal, elsewhere a line every ten seconds
    #[default]
    Plain,
    /// A screen with curves, losses, gate and speed, and keys to save and to stop; plain where there is no terminal
    Live,
    /// The table of epochs alone
    None,
}

/// Period of the checkpoints within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SaveEvery {
    /// A number of steps.
    Steps(usize),
    /// A number of minutes.
    Minutes(u32),
}

impl SaveEvery {
    /// Tells whether a checkpoint is due at `step`, `since` the last one.
    pub fn is_due(self, step: usize, since: Duration) -> bool {
        match self {
            Self::Steps(steps) => step.is_multiple_of(steps),
            Self::Minutes(minutes) => since >= Duration::from_secs(60 * u64::from(minutes)),
        }
    }
}

impl FromStr for SaveEvery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_suffix('m') {
            Some(minutes) => minutes.parse().ok().filter(|&minutes| minutes > 0).map(Self::Minutes),
            None => text.parse().ok().filter(|&steps| steps > 0).map(Self::Steps),
        };
        parsed.ok_or_else(|| "give a number of steps, as 500, or of minutes, as 10m".to_owned())
    }
}

impl fmt::Display for SaveEvery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps}"),
            Self::Minutes(minutes) => write!(f, "{minutes}m"),
        }
    }
}

impl TryFrom<String> for SaveEvery {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<SaveEvery> for String {
    fn from(every: SaveEvery) -> Self {
        every.to_string()
    }
}

/// Branches that `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branches {
    /// One, as a network of its own.
    One(usize),
    /// All of them, and the gate.
    All,
}

impl FromStr for Branches {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::One).map_err(|_| "give the number of a branch, as 0, or all".to_owned()),
        }
    }
}

/// State of a run that is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SavedState {
    /// After the last save
    Last,
    /// With the lowest error of branch 0, on the held-out split where there is one, else on the test split
    Best,
}

/// Format of the file that `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Named tensors under PyTorch's names
    Safetensors,
    /// A model that runs by itself, in onnxruntime and elsewhere
    Onnx,
}
