//! Whole training steps on a device against the CPU device: three of ResNet-8 with three branches, batches made by the
//! augmentation kernel, as `train` runs them.

use data::{Augment, Augmentation, LoadOptions, PADDING, Pick, Sampler, image_words, pack_image};
use nets::Model;
use nets::resnet::{Block, CifarResNet, Shortcut};
use one::{Config, LossWeights, Metrics};
use tensor::optim::SgdConfig;
use tensor::{Bank, CompileOptions, DType, Device, Graph, Kind, Param, Program, Spec, Var};

/// Steps of a check.
const STEPS: usize = 3;
const BATCH: usize = 8;
const BRANCHES: usize = 3;
const SEED: u64 = 7;
const RATE: f32 = 0.05;
const MOMENTUM: f32 = 0.9;
const DECAY: f32 = 1e-4;
/// Tensors whose values are smaller than this share of the largest of their kind are held to that share: they are
/// differences of such values, such as the gradient of a bias before a normalisation.
const FLOOR: f64 = 1e-3;

/// Why steps cannot be run, in words.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Findings of a check of whole steps.
#[derive(Debug, Clone)]
pub struct Check {
    /// The check in words.
    pub what: String,
    /// The largest error as a share of what is allowed; nothing where bits were compared, or nothing was.
    pub worst: Option<f64>,
    /// The fault, if there is one.
    pub problem: Option<String>,
}

/// State after a step.
#[derive(Debug, Clone, PartialEq)]
struct Left {
    loss: f64,
    gradients: Vec<u32>,
    state: State,
}

/// State that the next step starts from.
#[derive(Debug, Clone, PartialEq)]
struct State {
    values: Vec<u32>,
    velocities: Vec<u32>,
    running: Vec<u32>,
    scale: Option<[f32; 4]>,
}

/// The steps on the CPU device.
#[derive(Debug)]
pub struct Reference {
    precision: DType,
    initial: State,
    steps: Vec<Left>,
}

/// A compiled training step that makes its batches on the device.
struct Run {
    device: Device,
    model: Model,
    config: Config,
    step: one::Training,
    program: Program,
    picks: Var,
    batches: Vec<Vec<Pick>>,
}

impl Run {
    fn new(device: &Device, precision: DType) -> Result<Self> {
        let images = STEPS * BATCH;
        let options = LoadOptions { limit_train: Some(images), limit_test: Some(1), ..LoadOptions::default() };
        let data = data::load("shapes", &options)?;
        let (mut graph, mut model) = (Graph::new(), Model::new());
        let words = image_words(data.train.size);
        let mut packed = vec![0; images * words];
        let pixels = data.train.pixels.chunks(data.train.pixels_per_image());
        pixels.zip(packed.chunks_mut(words)).for_each(|(image, packed)| pack_image(image, packed));
        let shard = Bank::with_data("images", device, &packed)?;
        let shard = graph.state(&shard, 0, Spec::u32([images, words]), false)?;
        let labels = Bank::with_data("labels", device, &data.train.labels)?;
        let labels = graph.state(&labels, 0, Spec::u32([images]), false)?;
        let picks = graph.input("picks", Spec::u32([BATCH, 2]));
        let (size, mean, std) = (data.train.size, data.mean, data.std);
        let augment = Augment { shard_images: vec![images], size, batch: BATCH, padding: PADDING, mean, std };
        let batch = graph.launch_as(precision, augment, &[shard, labels, picks])?;
        let net = CifarResNet { block: Block::Basic, blocks: 1, width: 16, shortcut: Shortcut::B };
        let config = Config::paper(&net, BRANCHES, data.classes.len());
        let optimizer = SgdConfig { nesterov: true };
        let step = one::training(&mut graph, &mut model, &net, (batch[0], batch[1]), &config, optimizer)?;
        let program = graph.compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() })?;
        let epoch = Sampler::new(SEED, images, BATCH, Augmentation::Padded)?.epoch(0);
        let batches = epoch.iter().map(<[Pick]>::to_vec).collect();
        Ok(Self { device: device.clone(), model, config, step, program, picks, batches })
    }

    /// Begins anew.
    fn initialize(&self) -> Result<()> {
        self.model.initialize(&self.device, SEED)?;
        if let Some(scale) = &self.step.optimizer.loss_scale {
            scale.reset(&self.device)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let params = self.model.params();
        let read = |bank: &Bank| bank.read(&self.device);
        Ok(State {
            values: read(params.values())?,
            velocities: read(params.velocities())?,
            running: read(params.running())?,
            scale: self.step.loss_scale(&self.device)?,
        })
    }

    /// Goes on from a state, whichever device it comes from.
    fn restore(&self, state: &State) -> Result<()> {
        let params = self.model.params();
        for (bank, words) in [
            (params.values(), &state.values),
            (params.velocities(), &state.velocities),
            (params.running(), &state.running),
        ] {
            bank.write(&self.device, 0, words)?;
        }
        if let (Some(scale), Some(state)) = (&self.step.optimizer.loss_scale, state.scale) {
            scale.write(&self.device, state)?;
        }
        Ok(())
    }

    fn step(&mut self, index: usize) -> Result<Left> {
        self.program.feed_u32(self.picks, self.batches[index].as_flattened())?;
        self.step.feed(&mut self.program, [RATE, MOMENTUM, DECAY], LossWeights::default(), BATCH)?;
        self.program.run()?;
        let mut metrics = Metrics::new(&self.config);
        metrics.add(&self.step.take_totals(&self.device)?, BATCH);
        let gradients = self.model.params().gradients().read(&self.device)?;
        Ok(Left { loss: metrics.loss(LossWeights::default()), gradients, state: self.state()? })
    }

    /// All steps, one after the other.
    fn steps(&mut self) -> Result<Vec<Left>> {
        self.initialize()?;
        (0..STEPS).map(|index| self.step(index)).collect()
    }
}

impl Reference {
    /// Takes the steps on the CPU device, with activations of this precision.
    ///
    /// # Errors
    /// When they cannot be recorded.
    pub fn new(precision: DType) -> Result<Self> {
        let mut run = Run::new(&Device::cpu(), precision)?;
        run.initialize()?;
        let initial = run.state()?;
        let steps = (0..STEPS).map(|index| run.step(index)).collect::<Result<_>>()?;
        Ok(Self { precision, initial, steps })
    }

    /// State before a step.
    fn before(&self, step: usize) -> &State {
        step.checked_sub(1).map_or(&self.initial, |last| &self.steps[last].state)
    }
}

/// Errors that are allowed, as shares of the largest magnitude of a tensor, and of the loss.
///
/// For an activation within rounding of zero, one device's ReLU is open and the other's is not, and a gradient gains
/// or loses a whole term: about one in a hundred of a sum over the 8 to 64 pixels of a batch's images in the last
/// stage, whose terms have any sign. The error of a wrong kernel is as large as its results. In 16 bits many ReLUs
/// turn, and single elements of gradients tell nothing (on llvmpipe they differ by up to a tenth of the largest): the
/// loss alone is compared there, and the kernels by themselves.
fn allowed(precision: DType) -> (Option<f64>, f64) {
    match precision {
        DType::F16 => (None, 0.008),
        _ => (Some(0.02), 1e-4),
    }
}

/// Runs the steps on a device that `name` tells from others: each from where the CPU device stood, against what that
/// made of it, and then all of them twice over, which must give the same bits. Without a reference (of the CPU device)
/// only the latter.
pub fn check(device: &Device, precision: DType, name: &str, reference: Option<&Reference>) -> Vec<Check> {
    let what = |what: &str| format!("{STEPS} steps of resnet8 with {BRANCHES} branches in {name}: {what}");
    let failed = |problem: String| Check { what: what("run"), worst: None, problem: Some(problem) };
    let mut run = match Run::new(device, precision) {
        Ok(run) => run,
        Err(error) => return vec![failed(error.to_string())],
    };
    let mut checks = Vec::new();
    if let Some(reference) = reference {
        let what = what(match allowed(precision).0 {
            Some(_) => "loss and every gradient are the CPU device's",
            None => "the loss is the CPU device's",
        });
        checks.push(match against(&mut run, reference) {
            Ok((worst, problem)) => Check { what, worst: Some(worst), problem },
            Err(error) => Check { what, worst: None, problem: Some(error.to_string()) },
        });
    }
    let what = what("the same bits again");
    let problem = repeated(&mut run).unwrap_or_else(|error| Some(error.to_string()));
    checks.push(Check { what, worst: None, problem });
    checks
}

/// The largest error as a share of what is allowed, and the first that is larger, in words.
fn against(run: &mut Run, reference: &Reference) -> Result<(f64, Option<String>)> {
    let (mut worst, mut problem) = (0.0f64, None);
    for (index, want) in reference.steps.iter().enumerate() {
        let before = reference.before(index);
        run.restore(before)?;
        let got = run.step(index)?;
        let entries = run.model.params().entries();
        for error in errors(&got, want, before, entries, reference.precision) {
            worst = worst.max(error.share);
            if error.share > 1.0 {
                problem.get_or_insert_with(|| format!("step {}: {}", index + 1, error.tell()));
            }
        }
    }
    Ok((worst, problem))
}

/// The largest error of a tensor.
struct TensorError {
    what: String,
    index: usize,
    expected: f64,
    got: f64,
    /// Of what is allowed.
    share: f64,
}

impl TensorError {
    fn tell(&self) -> String {
        let Self { what, index, expected, got, share } = self;
        format!("{what}, element {index}: expected {expected}, got {got}, {share:.1} times the error that is allowed")
    }
}

/// The largest error of the loss, of each gradient, and of each change of the state, in this order.
fn errors(got: &Left, want: &Left, before: &State, entries: &[Param], precision: DType) -> Vec<TensorError> {
    let (tensors, losses) = allowed(precision);
    let share = |error: f64, allowed: f64| if error.is_nan() { f64::INFINITY } else { error / allowed };
    let loss = TensorError {
        what: "the loss".to_owned(),
        index: 0,
        expected: want.loss,
        got: got.loss,
        share: share((got.loss - want.loss).abs(), losses * want.loss),
    };
    let zeros = |words: &[u32]| vec![0; words.len()];
    let (gradients, velocities) = (zeros(&want.gradients), zeros(&want.state.velocities));
    let kinds = [
        ("the gradient of", false, &got.gradients, &want.gradients, &gradients),
        ("the velocity of", false, &got.state.velocities, &want.state.velocities, &velocities),
        ("the update of", false, &got.state.values, &want.state.values, &before.values),
        ("the update of", true, &got.state.running, &want.state.running, &before.running),
    ];
    let mut found = vec![loss];
    let Some(tensors) = tensors else { return found };
    for (kind, running, got, want, before) in kinds {
        let change = |after: &[u32]| -> Vec<f64> {
            let float = |word: &u32| f64::from(f32::from_bits(*word));
            after.iter().zip(before).map(|(after, before)| float(after) - float(before)).collect()
        };
        let (got, want) = (change(got), change(want));
        let largest = |values: &[f64]| values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let floor = FLOOR * largest(&want);
        for param in entries.iter().filter(|param| (param.kind == Kind::Running) == running) {
            let range = param.offset..param.offset + param.spec.words();
            let (got, want) = (&got[range.clone()], &want[range]);
            let allowed = tensors * largest(want).max(floor);
            let errors = got.iter().zip(want).map(|(got, want)| share((got - want).abs(), allowed));
            let worst = errors.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            let Some((index, share)) = worst else { continue };
            let what = format!("{kind} {}", param.name);
            found.push(TensorError { what, index, expected: want[index], got: got[index], share });
        }
    }
    found
}

/// The difference between two runs of all steps, if there is one.
fn repeated(run: &mut Run) -> Result<Option<String>> {
    let (first, second) = (run.steps()?, run.steps()?);
    let differs = first.iter().zip(&second).position(|(first, second)| first != second);
    Ok(differs.map(|step| {
        let (first, second) = (&first[step], &second[step]);
        let words = first.gradients.iter().zip(&second.gradients).filter(|(a, b)| a != b).count();
        format!(
            "step {}: {words} of {} words of the gradients differ, the loss is {} and then {}",
            step + 1,
            first.gradients.len(),
            first.loss,
            second.loss
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reference that differs from what the device does, as a device would that is wrong.
    #[test]
    fn a_step_that_is_wrong_is_named_with_its_tensor_element_and_both_values() {
        let right = Reference::new(DType::F32).expect("the CPU device takes every step");
        let mut run = Run::new(&Device::cpu(), DType::F32).expect("the CPU device takes every step");
        assert_eq!(against(&mut run, &right).expect("runs"), (0.0, None));

        let param = run.model.params().get("layer2.0.conv1.weight").expect("it is in every residual network").clone();
        let mut wrong = Reference { steps: right.steps.clone(), initial: right.initial.clone(), ..right };
        let gradients = &mut wrong.steps[1].gradients;
        let largest = gradients[param.offset..][..param.spec.words()].iter().map(|&word| f32::from_bits(word).abs());
        let largest = largest.fold(0.0, f32::max);
        let word = &mut gradients[param.offset + 17];
        let before = f32::from_bits(*word);
        *word = (before + 0.05 * largest).to_bits();
        let (worst, problem) = against(&mut run, &wrong).expect("runs");
        assert!((2.0..3.0).contains(&worst), "5 % where 2 % are allowed: {worst}");
        let problem = problem.expect("it differs");
        assert!(
            problem.starts_with("step 2: the gradient of layer2.0.conv1.weight, element 17: expected "),
            "{problem}"
        );
        assert!(problem.contains(&format!("got {}", f64::from(before))), "{problem}");

        wrong.steps = right.steps.clone();
        wrong.steps[2].loss *= 1.01;
        let (_, problem) = against(&mut run, &wrong).expect("runs");
        assert!(problem.is_some_and(|problem| problem.starts_with("step 3: the loss, ")));
    }
}
