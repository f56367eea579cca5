//! What a run does: every option, resolved. It is `config.toml` in the run's directory.

use std::path::PathBuf;

use anyhow::Result;
use data::{Dataset, Pictures};
use nets::Architecture;
use one::{LossWeights, Teacher};
use serde::{Deserialize, Serialize};

use crate::failure::usage;
use crate::machine::choices::Tuning;
use crate::machine::processors;
use crate::options::args::{
    Augmentation, Decay, Method, NetworkArgs, Precision, SaveEvery, Shortcut, Streaming, TrainArgs,
};
use crate::options::recipe;
use crate::options::schedule::{Schedule, distillation_weight, warmed};

/// Options that may be given anew when a run is resumed: they do not change what it computes.
pub const FREE: [&str; 7] = ["device", "data_dir", "save_every", "stream", "workers", "ranks", "gradient_parts"];

/// Options that the data settle where they are not given, and the tuning, which the device does.
const SETTLED: [&str; 6] = ["classes", "image_size", "augment", "mean", "std", "tuning"];

/// A network and the branches around it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// The architecture's name.
    pub net: String,
    /// Shortcuts where shapes change.
    pub shortcut: Shortcut,
    /// Number of branches, or of whole networks; one is the plain network.
    pub branches: usize,
    /// Name of the stage at which branches begin; `input` where nothing is shared.
    pub fan_out: String,
}

/// Everything that determines a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    pub network: Network,
    pub method: Method,
    pub distill: bool,
    pub gate: bool,
    /// The trained network that is distilled, and what network it is of if its file does not say.
    pub teacher: Option<PathBuf>,
    pub teacher_net: Option<String>,
    /// Of the learning rate, in cyclic schedules.
    pub cycles: usize,
    pub distillation_weight: f64,
    pub cross_entropy_weight: f64,
    pub temperature: f64,
    /// Epochs of the distillation term's ramp.
    pub kl_ramp: Option<usize>,
    /// Weights that a new run begins with.
    pub init: Option<PathBuf>,

    pub data: String,
    pub data_dir: Option<PathBuf>,
    pub limit_train: Option<usize>,
    pub limit_test: Option<usize>,
    /// Training images that are held out.
    pub validation: Option<usize>,
    /// True if an image that cannot be decoded stops the run.
    #[serde(default)]
    pub strict: bool,
    #[serde(default)]
    pub stream: Streaming,
    /// Threads that prepare batches.
    pub workers: Option<usize>,
    /// Known once the dataset is loaded, as are those below.
    pub classes: Option<usize>,
    pub image_size: Option<usize>,
    pub augment: Option<Augmentation>,
    pub mean: Option<[f64; 3]>,
    pub std: Option<[f64; 3]>,

    #[serde(default)]
    pub precision: Precision,
    pub epochs: usize,
    pub batch: usize,
    pub lr: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub decay: Decay,
    pub schedule: Schedule,
    /// True if `lr` is the rate for a batch of [`USUAL_BATCH`].
    #[serde(default)]
    pub scale_lr: bool,
    /// Epochs of the warm-up.
    #[serde(default)]
    pub warmup: Option<usize>,

    /// How many processes train together; the batch is that of all.
    #[serde(default = "one_rank")]
    pub ranks: usize,
    /// True if batch-norms normalise over the batches of all ranks.
    #[serde(default)]
    pub sync_bn: bool,
    /// Parts in which the gradients are summed over the ranks.
    #[serde(default = "one_rank")]
    pub gradient_parts: usize,

    pub device: String,
    pub seed: u64,
    pub eval_batch: usize,
    pub save_every: Option<SaveEvery>,
    /// The variants of kernels that were chosen by measuring them; nothing where the static rule chose all. A table, so
    /// last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
}

/// The batch that learning rates are meant for where they are scaled: that of the paper.
const USUAL_BATCH: usize = 128;
/// Epochs of the warm-up where the rate is scaled (Goyal et al., "Accurate, large minibatch SGD", 2017).
const SCALED_WARMUP: usize = 5;

fn one_rank() -> usize {
    1
}

fn assign<T: Clone>(target: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        target.clone_from(value);
    }
}

fn assign_some<T: Clone>(target: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        target.clone_from(given);
    }
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
        let mut network = Self {
            net: args.net.clone().unwrap_or_else(|| "resnet32".to_owned()),
            shortcut: args.shortcut.unwrap_or(Shortcut::B),
            branches: args.branches.unwrap_or(method.default_branches()),
            fan_out: String::new(),
        };
        let architecture = network.architecture()?;
        let stage = if method.copies_networks() { 0 } else { architecture.default_fan_out() };
        network.fan_out = stage_name(&*architecture, stage);
        if let Some(stage) = &args.fan_out {
            network.fan_out = stage_name(&*architecture, stage_index(&*architecture, stage)?);
        }
        Ok(network)
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

    /// What `method` builds around the network, for `classes` classes, with the settings of its paper. `gate` is for
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

    fn apply(&mut self, args: &NetworkArgs) -> Result<()> {
        assign(&mut self.net, &args.net);
        assign(&mut self.shortcut, &args.shortcut);
        assign(&mut self.branches, &args.branches);
        let architecture = self.architecture()?;
        if let Some(stage) = &args.fan_out {
            self.fan_out = stage_name(&*architecture, stage_index(&*architecture, stage)?);
        }
        Ok(())
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
        let recipe = recipe::load(args.recipe.as_deref().unwrap_or("paper"))?;
        let alone = args.network.branches == Some(1);
        let method = args.method.or(recipe.method).unwrap_or(if alone { Method::Vanilla } else { Method::One });
        let network = Network::new(&args.network, method)?;
        let teaches = method == Method::One;
        let batch = args.batch.or(recipe.batch).unwrap_or(128);
        let mut config = Self {
            network,
            method,
            distill: teaches || matches!(method, Method::Dml | Method::Kd),
            gate: teaches,
            teacher: None,
            teacher_net: None,
            cycles: 5,
            distillation_weight: 1.0,
            cross_entropy_weight: 1.0,
            temperature: if method == Method::Dml { 1.0 } else { 3.0 },
            kl_ramp: None,
            init: None,
            data: "cifar10".to_owned(),
            data_dir: None,
            limit_train: None,
            limit_test: None,
            validation: None,
            strict: false,
            stream: Streaming::Auto,
            workers: None,
            classes: None,
            image_size: None,
            augment: None,
            mean: None,
            std: None,
            precision: Precision::F32,
            epochs: 300,
            batch,
            lr: 0.1,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            decay: Decay::All,
            schedule: Schedule::Steps,
            scale_lr: false,
            warmup: None,
            ranks: 1,
            sync_bn: false,
            gradient_parts: 1,
            device: "auto".to_owned(),
            seed: 0,
            eval_batch: batch,
            save_every: None,
            tuning: None,
        };
        config.apply(&recipe)?;
        if method == Method::Snapshot {
            config.schedule = Schedule::Cyclic;
        }
        config.apply(args)?;
        config.check()?;
        Ok(config)
    }

    /// Has the run trained by so many ranks, which share its batch, or bring `batch_per_rank` images each.
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

    /// The learning rate at `step` of `epoch` (both from 0), of an epoch with so many steps.
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
            config.apply(&recipe::load(recipe)?)?;
        }
        config.apply(args)?;
        config.share_among(ranks, args.batch_per_rank)?;
        let (saved, given) = (toml::Table::try_from(self)?, toml::Table::try_from(&config)?);
        let changed = given.iter().find(|(key, value)| !FREE.contains(&key.as_str()) && saved.get(*key) != Some(value));
        if let Some((key, value)) = changed {
            let was = saved.get(key).map_or_else(|| "not set".to_owned(), ToString::to_string);
            return Err(usage(format!(
                "this run has {key} = {was}, and resuming it with {value} would make it another run: leave the \
                 option out, \
                 or start anew (only --device, --data-dir, --save-every, --stream, --workers and --gradient-parts \
                 may differ)"
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
        let differs =
            |key: &&String| !FREE.contains(&key.as_str()) && !left_open(key) && saved.get(*key) != given.get(*key);
        let Some(key) = saved.keys().chain(given.keys()).find(differs) else { return Ok(()) };
        let value = |table: &toml::Table| table.get(key).map_or_else(|| "not set".to_owned(), ToString::to_string);
        Err(usage(format!("{key} is {} there, and {} here", value(&saved), value(&given))))
    }

    fn apply(&mut self, args: &TrainArgs) -> Result<()> {
        self.network.apply(&args.network)?;
        assign(&mut self.method, &args.method);
        self.distill &= !args.no_distill;
        self.gate &= !args.no_gate;
        assign_some(&mut self.teacher, &args.teacher);
        assign_some(&mut self.teacher_net, &args.teacher_net);
        assign(&mut self.cycles, &args.cycles);
        assign(&mut self.distillation_weight, &args.distillation_weight);
        assign(&mut self.cross_entropy_weight, &args.cross_entropy_weight);
        assign(&mut self.temperature, &args.temperature);
        if let Some(epochs) = args.kl_ramp {
            self.kl_ramp = Some(epochs).filter(|&epochs| epochs > 0);
        }
        assign_some(&mut self.init, &args.init);
        let dataset = &args.dataset;
        assign(&mut self.data, &dataset.data);
        assign_some(&mut self.data_dir, &dataset.data_dir);
        assign_some(&mut self.limit_train, &args.limit_train);
        assign_some(&mut self.limit_test, &dataset.limit_test);
        assign_some(&mut self.validation, &args.validation);
        self.strict |= dataset.strict;
        assign(&mut self.stream, &dataset.stream);
        assign_some(&mut self.workers, &dataset.workers);
        assign_some(&mut self.classes, &dataset.classes);
        assign_some(&mut self.image_size, &dataset.image_size);
        assign_some(&mut self.augment, &args.augment);
        assign_some(&mut self.mean, &dataset.mean);
        assign_some(&mut self.std, &dataset.std);
        assign(&mut self.precision, &args.precision);
        assign(&mut self.epochs, &args.epochs);
        assign(&mut self.batch, &args.batch);
        assign(&mut self.lr, &args.lr);
        assign(&mut self.momentum, &args.momentum);
        assign(&mut self.nesterov, &args.nesterov);
        assign(&mut self.weight_decay, &args.weight_decay);
        assign(&mut self.decay, &args.decay);
        assign(&mut self.schedule, &args.schedule);
        self.scale_lr |= args.scale_lr;
        assign_some(&mut self.warmup, &args.warmup);
        self.sync_bn |= args.sync_bn;
        assign(&mut self.gradient_parts, &args.gradient_parts);
        assign(&mut self.device, &args.device);
        assign(&mut self.seed, &args.seed);
        assign(&mut self.eval_batch, &args.eval_batch);
        assign_some(&mut self.save_every, &args.save_every);
        if self.method != Method::One && (args.no_distill || args.no_gate) {
            return Err(usage(format!(
                "--no-distill and --no-gate are ablations of --method one, not of {}: leave them out, or give it \
                 several branches",
                self.method.name()
            )));
        }
        Ok(())
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

    /// What the method builds around the network, for `classes` classes.
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
    use clap::Parser;

    use super::Config;
    use crate::options::args::Cli;

    fn config(line: &str) -> anyhow::Result<Config> {
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
