//! The configuration of a run: every option, resolved. It is `config.toml` in the run's directory.

use std::path::PathBuf;

use anyhow::Result;
use data::{Dataset, Pictures};
use nets::Architecture;
use one::{LossWeights, Teacher};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};

use crate::failure::usage;
use crate::machine::choices::Tuning;
use crate::machine::processors;
use crate::options::args::{
    Augmentation, Decay, Method, NetworkArgs, Precision, SaveEvery, Shortcut, Streaming, TrainArgs,
};
use crate::options::recipe;
use crate::options::schedule::{Schedule, distillation_weight, warmed};

/// Settings that may be given anew when a run is resumed, since they do not change what it computes; and whether the
/// ranks of a run may have different ones.
const FREE: [(&str, bool); 7] = [
    ("device", true),
    ("data_dir", true),
    ("save_every", false),
    ("stream", true),
    ("workers", true),
    ("gradient_parts", false),
    (RANKS, true),
];
/// The free setting that is no option: mpirun tells it.
const RANKS: &str = "ranks";

/// Tells whether a setting may be given anew when a run is resumed.
pub fn is_free(key: &str) -> bool {
    FREE.iter().any(|(free, _)| *free == key)
}

/// Tells whether the ranks of a run may have different values of a setting.
pub fn may_differ_between_ranks(key: &str) -> bool {
    FREE.iter().any(|&(free, differs)| free == key && differs)
}

/// The options that may be given anew when a run is resumed, in words.
pub fn free_options() -> String {
    let options = FREE.iter().filter(|(key, _)| *key != RANKS).map(|(key, _)| format!("--{}", key.replace('_', "-")));
    let options: Vec<String> = options.collect();
    options.split_last().map_or_else(String::new, |(last, others)| format!("{} and {last}", others.join(", ")))
}

/// Options that the data settle where they are not given, and the tuning, which the device does.
const SETTLED: [&str; 6] = ["classes", "image_size", "augment", "mean", "std", "tuning"];

/// Declares settings, each with its default.
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* pub $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// The names of the settings.
            #[cfg(test)]
            const NAMES: &[&str] = &[$(stringify!($field)),*];
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

settings! {
    /// A network and the branches around it.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Network {
        /// The architecture's name.
        pub net: String = "resnet32".to_owned(),
        /// Shortcuts where shapes change.
        pub shortcut: Shortcut = Shortcut::B,
        /// Number of branches, or of whole networks; one is the plain network. The method has the default.
        pub branches: usize = Method::One.default_branches(),
        /// Name of the stage at which branches begin; `input` where nothing is shared. The architecture has the
        /// default.
        pub fan_out: String = String::new(),
    }
}

settings! {
    /// Everything that determines a run. The defaults are those of the method ONE.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    pub struct Config {
        #[serde(flatten)]
        pub network: Network = Network::default(),
        pub method: Method = Method::One,
        pub distill: bool = true,
        pub gate: bool = true,
        /// The trained network that is distilled, and its architecture if its file does not say.
        pub teacher: Option<PathBuf> = None,
        pub teacher_net: Option<String> = None,
        /// Cycles of the learning rate, in cyclic schedules.
        pub cycles: usize = 5,
        pub distillation_weight: f64 = 1.0,
        pub cross_entropy_weight: f64 = 1.0,
        pub temperature: f64 = 3.0,
        /// Epochs of the distillation term's ramp; 0 epochs are none.
        #[serde(default, deserialize_with = "none_if_zero")]
        pub kl_ramp: Option<usize> = None,
        /// Weights that a new run begins with.
        pub init: Option<PathBuf> = None,

        pub data: String = "cifar10".to_owned(),
        pub data_dir: Option<PathBuf> = None,
        pub limit_train: Option<usize> = None,
        pub limit_test: Option<usize> = None,
        /// Training images that are held out.
        pub validation: Option<usize> = None,
        /// True if an image that cannot be decoded stops the run.
        #[serde(default)]
        pub strict: bool = false,
        #[serde(default)]
        pub stream: Streaming = Streaming::default(),
        /// Threads that prepare batches.
        pub workers: Option<usize> = None,
        /// Known once the dataset is loaded, as are those below.
        pub classes: Option<usize> = None,
        pub image_size: Option<usize> = None,
        pub augment: Option<Augmentation> = None,
        pub mean: Option<[f64; 3]> = None,
        pub std: Option<[f64; 3]> = None,

        #[serde(default)]
        pub precision: Precision = Precision::default(),
        pub epochs: usize = 300,
        pub batch: usize = 128,
        pub lr: f64 = 0.1,
        pub momentum: f64 = 0.9,
        pub nesterov: bool = true,
        pub weight_decay: f64 = 1e-4,
        pub decay: Decay = Decay::All,
        pub schedule: Schedule = Schedule::Steps,
        /// True if `lr` is the rate for a batch of [`USUAL_BATCH`].
        #[serde(default)]
        pub scale_lr: bool = false,
        /// Epochs of the warm-up.
        #[serde(default)]
        pub warmup: Option<usize> = None,

        /// Number of processes that train together; the batch is that of all.
        #[serde(default = "one")]
        pub ranks: usize = one(),
        /// True if batch-norms normalise over the batches of all ranks.
        #[serde(default)]
        pub sync_bn: bool = false,
        /// Parts in which the gradients are summed over the ranks.
        #[serde(default = "one")]
        pub gradient_parts: usize = one(),

        pub device: String = "auto".to_owned(),
        pub seed: u64 = 0,
        /// Images in an evaluation step, of all ranks; a new run takes as many as in a training step.
        pub eval_batch: usize = 0,
        pub save_every: Option<SaveEvery> = None,
        /// The variants of kernels that were chosen by measuring them; nothing where the static rule chose all. A
        /// table, so last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub tuning: Option<Tuning> = None,
    }
}

/// The batch that learning rates are meant for where they are scaled: that of the paper.
pub const USUAL_BATCH: usize = 128;
/// Epochs of the warm-up where the rate is scaled (Goyal et al., "Accurate, large minibatch SGD", 2017).
pub const SCALED_WARMUP: usize = 5;
/// Seconds that a rank may keep the others waiting.
pub const RANK_TIMEOUT: usize = 300;
/// The recipe that a run follows.
pub const RECIPE: &str = "paper";

fn one() -> usize {
    1
}

fn none_if_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Ok(Option::deserialize(deserializer)?.filter(|&count| count > 0))
}

/// Settings with those in their places that `given` holds.
fn overlaid<T: Serialize + DeserializeOwned>(settings: &T, given: &impl Serialize) -> Result<T> {
    let mut table = toml::Table::try_from(settings)?;
    table.extend(toml::Table::try_from(given)?);
    Ok(table.try_into()?)
}

/// The decimal that a single-precision number is written as.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

impl Network {
    /// The network that the options describe.
    ///
    /// # Errors
    /// When there is no such network or stage.
    pub fn new(args: &NetworkArgs, method: Method) -> Result<Self> {
        let network = Self { branches: method.default_branches(), ..Self::default() };
        let mut network: Self = overlaid(&network, args)?;
        let architecture = network.architecture()?;
        if args.fan_out.is_none() {
            let stage = if method.copies_networks() { 0 } else { architecture.default_fan_out() };
            network.fan_out = stage_name(&*architecture, stage);
        }
        network.resolve_fan_out(args)?;
        Ok(network)
    }

    /// Brings a stage that was given by its number to its name.
    fn resolve_fan_out(&mut self, args: &NetworkArgs) -> Result<()> {
        let architecture = self.architecture()?;
        if let Some(stage) = &args.fan_out {
            self.fan_out = stage_name(&*architecture, stage_index(&*architecture, stage)?);
        }
        Ok(())
    }

    /// The architecture of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        Ok(nets::architecture(&self.net, self.shortcut.into())?)
    }

    /// The target network without branches.
    pub fn alone(&self) -> Self {
        Self { branches: 1, fan_out: "input".to_owned(), ..self.clone() }
    }

    /// The setup of `method` around the network, for `classes` classes, with the settings of its paper. `gate` is for
    /// ensembles that teach their branches.
    ///
    /// # Errors
    /// When there is no such network or stage.
    pub fn method_config(&self, method: Method, gate: bool, classes: usize) -> Result<one::Config> {
        let architecture = self.architecture()?;
        let fan_out = stage_index(&*architecture, &self.fan_out)?;
        Ok(match method {
            Method::One => {
                let paper = one::Config::paper(&*architecture, self.branches, classes);
                let teacher = if gate || self.branches == 1 { paper.teacher } else { Teacher::Mean };
                one::Config { fan_out, teacher, ..paper }
            }
            Method::Dml => one::Config::mutual(self.branches, classes),
            Method::Kd => one::Config::student(classes),
            Method::Vanilla | Method::Ensemble | Method::Snapshot => one::Config::independent(self.branches, classes),
        })
    }
}

fn stage_name(architecture: &dyn Architecture, index: usize) -> String {
    if index == 0 { "input".to_owned() } else { architecture.stages()[index].clone() }
}

fn stage_index(architecture: &dyn Architecture, stage: &str) -> Result<usize> {
    let stages = architecture.stages();
    let number = stage.parse().ok().filter(|&index: &usize| index < stages.len());
    let found = if stage == "input" { Some(0) } else { stages.iter().position(|name| name == stage).or(number) };
    found.ok_or_else(|| {
        let last = stages.len() - 1;
        let names = stages[1..].join(", ");
        usage(format!(
            "{} has no stage \"{stage}\": --fan-out takes input, {names}, or a number from 0 to {last}",
            architecture.name()
        ))
    })
}

impl Config {
    /// The run that the options describe.
    ///
    /// # Errors
    /// When they contradict each other, or name what there is not.
    pub fn new(args: &TrainArgs) -> Result<Self> {
        let recipe = recipe::load(args.recipe.as_deref().unwrap_or(RECIPE))?;
        let alone = args.network.branches == Some(1);
        let method = args.method.or(recipe.method).unwrap_or(if alone { Method::Vanilla } else { Method::One });
        let network = Network::new(&args.network, method)?;
        let mut config = Self { network, ..Self::of_method(method) }.with(&recipe)?;
        if method == Method::Snapshot {
            config.schedule = Schedule::Cyclic;
        }
        config = config.with(args)?;
        config.eval_batch = args.eval_batch.unwrap_or(config.batch);
        config.check()?;
        Ok(config)
    }

    /// The defaults of a method.
    pub fn of_method(method: Method) -> Self {
        let defaults = Self::default();
        Self {
            method,
            distill: matches!(method, Method::One | Method::Dml | Method::Kd),
            gate: method == Method::One,
            temperature: if method == Method::Dml { 1.0 } else { defaults.temperature },
            schedule: if method == Method::Snapshot { Schedule::Cyclic } else { defaults.schedule },
            network: Network { branches: method.default_branches(), ..Network::default() },
            ..defaults
        }
    }

    /// Divides the run among `ranks` ranks, which share its batch, or bring `batch_per_rank` images each.
    ///
    /// # Errors
    /// When the batch cannot be shared equally.
    pub fn share_among(&mut self, ranks: usize, batch_per_rank: Option<usize>) -> Result<()> {
        if let Some(own) = batch_per_rank {
            if self.eval_batch == self.batch {
                self.eval_batch = own * ranks;
            }
            self.batch = own * ranks;
        }
        self.ranks = ranks;
        if self.batch.is_multiple_of(ranks) {
            return Ok(());
        }
        let below = self.batch / ranks * ranks;
        let fitting = if below > 0 { format!("{below} or {}", below + ranks) } else { ranks.to_string() };
        Err(usage(format!(
            "a batch of {} cannot be shared equally by {ranks} ranks: give --batch {fitting}",
            self.batch
        )))
    }

    /// Images in a step of one rank.
    pub fn own_batch(&self) -> usize {
        self.batch / self.ranks
    }

    /// Images in an evaluation step of one rank.
    pub fn own_eval_batch(&self) -> usize {
        self.eval_batch.div_ceil(self.ranks)
    }

    /// The learning rate at `step` of `epoch` (both from 0), where an epoch has `steps` steps.
    pub fn rate(&self, (epoch, step): (usize, usize), steps: usize) -> f64 {
        let &Self { lr, scale_lr, schedule, cycles, epochs, batch, .. } = self;
        let full = if scale_lr { lr * batch as f64 / USUAL_BATCH as f64 } else { lr };
        let rate = schedule.rate(full, cycles, (epoch, step), (epochs, steps));
        let warmup = self.warmup.unwrap_or(if scale_lr { SCALED_WARMUP } else { 0 });
        let from = if scale_lr { lr.min(full) } else { 0.0 };
        warmed(rate, from, epoch * steps + step, warmup * steps)
    }

    /// The options on top of a saved run, which must not change what it computes.
    ///
    /// # Errors
    /// When they would, naming the first that does.
    pub fn resumed(&self, args: &TrainArgs, ranks: usize) -> Result<Self> {
        let mut config = self.clone();
        if let Some(recipe) = &args.recipe {
            config = config.with(&recipe::load(recipe)?)?;
        }
        config = config.with(args)?;
        config.share_among(ranks, args.batch_per_rank)?;
        let (saved, given) = (toml::Table::try_from(self)?, toml::Table::try_from(&config)?);
        let changed = given.iter().find(|(key, value)| !is_free(key) && saved.get(*key) != Some(value));
        if let Some((key, value)) = changed {
            let was = saved.get(key).map_or_else(|| "not set".to_owned(), ToString::to_string);
            let free = free_options();
            return Err(usage(format!(
                "this run has {key} = {was}, and resuming it with {value} would make it another run: leave the option \
                 out, or start anew (only {free} may differ)"
            )));
        }
        Ok(config)
    }

    /// Makes sure that a run of these settings, which is saved, is what `other` describes; what only the data settle
    /// may be left open there.
    ///
    /// # Errors
    /// When a setting differs, naming it.
    pub fn same_run(&self, other: &Self) -> Result<()> {
        let (saved, given) = (toml::Table::try_from(self)?, toml::Table::try_from(other)?);
        let left_open = |key: &str| SETTLED.contains(&key) && !given.contains_key(key);
        let differs = |key: &&String| !is_free(key) && !left_open(key) && saved.get(*key) != given.get(*key);
        let Some(key) = saved.keys().chain(given.keys()).find(differs) else { return Ok(()) };
        let value = |table: &toml::Table| table.get(key).map_or_else(|| "not set".to_owned(), ToString::to_string);
        Err(usage(format!("{key} is {} there, and {} here", value(&saved), value(&given))))
    }

    /// These settings with the given options in their places.
    fn with(&self, args: &TrainArgs) -> Result<Self> {
        let mut config: Self = overlaid(self, args)?;
        config.network.resolve_fan_out(&args.network)?;
        if config.method != Method::One && (args.no_distill || args.no_gate) {
            return Err(usage(format!(
                "--no-distill and --no-gate are ablations of --method one, not of {}: leave them out, or give it \
                 several branches",
                config.method.name()
            )));
        }
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let (branches, method) = (self.network.branches, self.method);
        let name = method.name();
        let problem = match method {
            Method::Vanilla | Method::Kd | Method::Snapshot if branches > 1 => format!(
                "--method {name} trains one network, and --branches {branches} were asked for: leave one of the two out"
            ),
            Method::One if branches == 1 => {
                "--method one needs at least two branches: one branch is --method vanilla".to_owned()
            }
            Method::Dml if branches == 1 => "--method dml needs at least two networks: give --branches 2".to_owned(),
            Method::Dml | Method::Ensemble if self.network.fan_out != "input" => format!(
                "--method {name} trains whole networks, which share nothing: leave --fan-out {} out",
                self.network.fan_out
            ),
            Method::Kd if self.teacher.is_none() => {
                "--method kd distils from a trained network: give its weights by --teacher FILE".to_owned()
            }
            Method::Snapshot if self.schedule != Schedule::Cyclic => {
                "--method snapshot takes its networks from the ends of cycles: leave --schedule out".to_owned()
            }
            _ if method != Method::Kd && self.teacher.is_some() => {
                format!(
                    "--teacher is for --method kd, and {name} has no teacher from outside: leave one of the two out"
                )
            }
            _ => return Ok(()),
        };
        Err(usage(problem))
    }

    /// Fills in what depends on the dataset.
    pub fn settle(&mut self, dataset: &Dataset<Pictures>) {
        self.classes.get_or_insert(dataset.classes.len());
        self.image_size.get_or_insert(dataset.train.size());
        self.augment.get_or_insert(dataset.augment.into());
        self.mean.get_or_insert(dataset.mean.map(decimal));
        self.std.get_or_insert(dataset.std.map(decimal));
    }

    /// Threads that prepare batches.
    pub fn worker_threads(&self) -> usize {
        self.workers.unwrap_or_else(processors)
    }

    /// The setup of the method around the network, for `classes` classes.
    ///
    /// # Errors
    /// When there is no such network or stage.
    pub fn method_config(&self, classes: usize) -> Result<one::Config> {
        let config = self.network.method_config(self.method, self.gate, classes)?;
        Ok(one::Config { temperature: self.temperature as f32, distill: self.distill, ..config })
    }

    /// The weights of the loss terms in `epoch`, from 0.
    pub fn loss_weights(&self, epoch: usize) -> LossWeights {
        let distillation = self.distillation_weight * distillation_weight(epoch, self.kl_ramp);
        LossWeights { cross_entropy: self.cross_entropy_weight, distillation }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::options::args::Cli;

    fn config(line: &str) -> Result<Config> {
        Config::new(&Cli::try_parse_from(line.split_whitespace()).expect("valid options").train)
    }

    #[test]
    fn a_configuration_survives_its_file() {
        for line in
            ["train", "train --recipe authors --save-every 10m --limit-train 5 --mean 0.1,0.2,0.3 --lr 0.02 --init x"]
        {
            let config = config(line).expect("valid");
            let text = toml::to_string(&config).expect("written");
            assert_eq!(toml::from_str::<Config>(&text).expect("read"), config, "{text}");
        }
    }

    #[test]
    fn recipes_are_overridden_by_options_and_resuming_keeps_what_counts() {
        let saved = config("train --recipe strong --lr 0.05").expect("valid");
        assert!((saved.lr - 0.05).abs() < 1e-12 && (saved.weight_decay - 5e-4).abs() < 1e-12 && saved.nesterov);
        let resume =
            |line: &str| saved.resumed(&Cli::try_parse_from(line.split_whitespace()).expect("valid options").train, 1);
        let same = resume("train --resume x --lr 0.05 --device cpu --save-every 5").expect("nothing that counts");
        assert_eq!(
            (same.device.as_str(), same.save_every.map(|every| every.to_string())),
            ("cpu", Some("5".to_owned()))
        );
        for line in [
            "train --epochs 5",
            "train --no-gate",
            "train --net resnet20",
            "train --limit-train 7",
            "train --fan-out 1",
        ] {
            resume(line).expect_err(line);
        }
    }

    /// The recipe that runs follow repeats the defaults for its readers.
    #[test]
    fn the_usual_recipe_is_the_default() {
        let network = config("train").expect("valid").network;
        let defaults = Config::default();
        assert_eq!(config("train").expect("valid"), Config { network, eval_batch: defaults.batch, ..defaults });
    }

    /// An option that no setting takes up would be ignored.
    #[test]
    fn every_option_is_a_setting_or_is_known_not_to_be_one() {
        let is_setting = |name: &str| [Config::NAMES, Network::NAMES].concat().contains(&name);
        let others = [
            "no_distill",
            "no_gate",
            "recipe",
            "batch_per_rank",
            "rank_timeout",
            "untuned",
            "out",
            "ui",
            "resume",
            "stop_after",
            "checks",
            "profile",
        ];
        let line =
            "train --net resnet20 --no-gate --no-distill --strict --sync-bn --scale-lr --out x --seed 7 --checks";
        let given = Cli::try_parse_from(line.split(' ')).expect("valid options").train;
        for name in toml::Table::try_from(given).expect("a table").keys() {
            assert!(is_setting(name), "{name}");
        }
        for option in Cli::command().get_arguments().filter(|option| option.get_help_heading().is_some()) {
            let name = option.get_id().as_str();
            assert!(is_setting(name) != others.contains(&name), "{name}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in
            ["--method vanilla --branches 2", "--method one --branches 1", "--branches 1 --no-gate", "--fan-out 9"]
        {
            config(&format!("train {line}")).expect_err(line);
        }
        let vanilla = config("train --method vanilla").expect("one branch");
        assert_eq!(vanilla.network.branches, 1);
        assert_eq!(config("train --fan-out 2").expect("a number").network.fan_out, "layer2");
    }
}
