//! Gradients in mid-graph: every differentiable operation, behind a scale and in front of a scale and a sum, under a
//! random gradient from above, against central differences on the CPU device; and GPUs against the CPU device.
//!
//! The loss is `<u, z>` summed over the outputs `z` with fixed random `u`, so for a direction `v` of one tensor `x`
//! the gradient `g` must satisfy `<g, v> = (loss(x + h v) - loss(x - h v)) / 2h`, but for rounding and `O(h^2)`.

mod common;

use tensor::autodiff::{Differentiable, Gradients};
use tensor::kernels::elementwise::{Add, Scale};
use tensor::ops::{BatchNorm, Conv2d, Pool2d};
use tensor::{CompileOptions, Device, Graph, Kind, Params, Program, Result, Rng, Spec, Var};

/// Step of the central differences: a power of two, so that tensors move by what the quotient divides by.
const STEP: f32 = 1.0 / 256.0;
/// Allowed error of a directional derivative, relative to its usual size `|g| |v| / sqrt(n)` or itself if larger.
const TOLERANCE: f64 = 1e-3;
const DIRECTIONS: u64 = 3;

/// `y = factor x`.
#[derive(Debug)]
struct Scaled {
    x: Var,
    y: Var,
    factor: f32,
}

impl Differentiable for Scaled {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let kernel = Scale { words: graph.spec(dy).words(), factor: self.factor };
        let dx = graph.launch_one(kernel, &[dy])?;
        gradients.add(graph, self.x, dx)
    }
}

/// `y = a + b`.
#[derive(Debug)]
struct Sum {
    a: Var,
    b: Var,
    y: Var,
}

impl Differentiable for Sum {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        gradients.add(graph, self.a, dy)?;
        gradients.add(graph, self.b, dy)
    }
}

/// A tensor that the host sets.
struct Tensor {
    name: String,
    var: Var,
    values: Vec<f32>,
    trained: bool,
}

/// A graph with the values of its tensors.
struct Recorder {
    graph: Graph,
    params: Params,
    tensors: Vec<Tensor>,
    case: &'static str,
}

impl Recorder {
    fn declare(&mut self, kind: Kind, shape: &[usize], values: Vec<f32>) -> Result<Var> {
        let name = format!("{}: tensor {}", self.case, self.tensors.len());
        let param = self.params.declare(&name, Spec::f32(shape), kind)?.clone();
        let var = self.graph.param(&self.params, &param)?;
        let trained = matches!(kind, Kind::Trained { .. });
        self.tensors.push(Tensor { name, var, values, trained });
        Ok(var)
    }

    /// Random numbers that no other tensor has.
    fn rng(&self) -> Rng {
        Rng::new(&[0x67ad, self.tensors.len() as u64])
    }

    /// A parameter with normal values.
    fn parameter(&mut self, shape: &[usize], mean: f64, std: f64) -> Result<Var> {
        let values = normal(&mut self.rng(), shape.iter().product(), mean, std);
        self.declare(Kind::Trained { decay: true }, shape, values)
    }

    /// An activation that is computed from a parameter.
    fn activation(&mut self, shape: &[usize], std: f64) -> Result<Var> {
        let parameter = self.parameter(shape, 0.1, std)?;
        self.scaled(parameter, 1.25)
    }

    /// An activation near plus or minus 1: normalised and shifted a little, it stays off the kink of a ReLU.
    fn two_sided(&mut self, shape: &[usize]) -> Result<Var> {
        let mut rng = self.rng();
        let values = normal(&mut rng, shape.iter().product(), 0.0, 0.1);
        let values = values.into_iter().map(|value| value + if rng.below(2) == 1 { 1.0 } else { -1.0 }).collect();
        let parameter = self.declare(Kind::Trained { decay: true }, shape, values)?;
        self.scaled(parameter, 0.8)
    }

    /// An activation `[M, N, H, W, C]` whose pixels differ by 0.08 at least in every channel, which is more than the
    /// differences move them: the largest of a window stays the largest.
    fn spaced(&mut self, shape: [usize; 5]) -> Result<Var> {
        let [members, batch, height, width, channels] = shape;
        let (mut rng, pixels) = (self.rng(), height * width);
        let mut values = vec![0.0; shape.iter().product()];
        for (image, channel) in (0..members * batch).flat_map(|image| (0..channels).map(move |c| (image, c))) {
            for (pixel, rank) in rng.permutation(pixels).into_iter().enumerate() {
                values[(image * pixels + pixel) * channels + channel] = 0.1 * (rank as f32 - pixels as f32 / 2.0);
            }
        }
        let parameter = self.declare(Kind::Trained { decay: true }, &shape, values)?;
        self.scaled(parameter, 0.8)
    }

    fn scaled(&mut self, x: Var, factor: f32) -> Result<Var> {
        let kernel = Scale { words: self.graph.spec(x).words(), factor };
        let y = self.graph.launch_one(kernel, &[x])?;
        let y = self.graph.set_shape(y, self.graph.shape(x).to_vec())?;
        self.graph.differentiable(Scaled { x, y, factor }, &[x], &[y]);
        Ok(y)
    }

    fn sum(&mut self, a: Var, b: Var) -> Result<Var> {
        let kernel = Add { words: self.graph.spec(a).words() };
        let y = self.graph.launch_one(kernel, &[a, b])?;
        let y = self.graph.set_shape(y, self.graph.shape(a).to_vec())?;
        self.graph.differentiable(Sum { a, b, y }, &[a, b], &[y]);
        Ok(y)
    }

    fn conv2d(&mut self, x: Var, weight: [usize; 5], spec: Conv2d) -> Result<Var> {
        let w = self.parameter(&weight, 0.05, 0.5)?;
        self.graph.conv2d(x, w, spec)
    }

    fn batch_norm(&mut self, x: Var, residual: Option<Var>, relu: bool) -> Result<Var> {
        self.batch_norm_to(1.0, x, residual, relu)
    }

    /// With deviations of about `scale`.
    fn batch_norm_to(&mut self, scale: f64, x: Var, residual: Option<Var>, relu: bool) -> Result<Var> {
        let spec = self.graph.spec(x);
        let shape = [spec.members(), spec.last()];
        let gamma = self.parameter(&shape, scale, 0.1 * scale)?;
        let beta = self.parameter(&shape, 0.05, 0.05)?;
        let running =
            |recorder: &mut Self, value| recorder.declare(Kind::Running, &shape, vec![value; shape[0] * shape[1]]);
        let (running_mean, running_var) = (running(self, 0.0)?, running(self, 1.0)?);
        let (eps, momentum, training) = (1e-5, 0.1, true);
        let spec = BatchNorm { gamma, beta, running_mean, running_var, residual, relu, eps, momentum, training };
        self.graph.batch_norm(x, spec)
    }
}

fn normal(rng: &mut Rng, words: usize, mean: f64, std: f64) -> Vec<f32> {
    (0..words).map(|_| (mean + std * rng.normal()) as f32).collect()
}

/// Records operations and returns their outputs.
type Record = Box<dyn Fn(&mut Recorder) -> Result<Vec<Var>>>;

fn cases() -> Vec<(&'static str, Record)> {
    let mut cases = convolutions();
    cases.extend(normalizations());
    cases.extend(others());
    cases.extend(poolings());
    cases.extend(joins());
    cases.extend(shared_tensors());
    cases.extend(fused());
    cases
}

fn case(name: &'static str, record: impl Fn(&mut Recorder) -> Result<Vec<Var>> + 'static) -> (&'static str, Record) {
    (name, Box::new(record))
}

/// Strides, paddings, kernels, groups and fan-out.
fn convolutions() -> Vec<(&'static str, Record)> {
    let conv = |name, x: [usize; 5], w: [usize; 5], stride, padding, groups| {
        let spec = Conv2d { stride, padding, groups };
        case(name, move |recorder| {
            let x = recorder.activation(&x, 1.0)?;
            Ok(vec![recorder.conv2d(x, w, spec)?])
        })
    };
    vec![
        conv("conv2d", [1, 2, 5, 4, 4], [1, 3, 3, 4, 8], [1, 1], [1, 1], 1),
        conv("conv2d with stride", [2, 1, 6, 6, 4], [2, 3, 3, 4, 4], [2, 2], [1, 1], 1),
        conv("conv2d that differs by axis", [1, 2, 7, 5, 3], [1, 4, 2, 3, 5], [3, 2], [0, 1], 1),
        conv("conv2d in groups", [2, 2, 4, 3, 6], [2, 2, 3, 2, 9], [1, 2], [1, 0], 3),
        conv("conv2d fanned out", [1, 2, 4, 4, 4], [3, 3, 3, 4, 4], [2, 2], [1, 1], 1),
        conv("conv2d of single pixels", [2, 3, 2, 2, 8], [2, 1, 1, 8, 4], [1, 1], [0, 0], 1),
    ]
}

/// Residuals that can be added to a normalisation.
#[derive(Clone, Copy)]
enum Addition {
    Nothing,
    Same,
    Shared,
}

fn normalizations() -> Vec<(&'static str, Record)> {
    let norm = |name, shape: &'static [usize], addition, relu| {
        case(name, move |recorder: &mut Recorder| {
            let x = recorder.two_sided(shape)?;
            let mut residual_shape = shape.to_vec();
            let residual = match addition {
                Addition::Nothing => None,
                Addition::Same => Some(recorder.activation(&residual_shape, 0.05)?),
                Addition::Shared => {
                    residual_shape[0] = 1;
                    Some(recorder.activation(&residual_shape, 0.05)?)
                }
            };
            Ok(vec![recorder.batch_norm(x, residual, relu)?])
        })
    };
    const IMAGES: &[usize] = &[2, 3, 3, 4, 8];
    vec![
        norm("batch_norm", IMAGES, Addition::Nothing, false),
        norm("batch_norm, relu", IMAGES, Addition::Nothing, true),
        norm("batch_norm, residual", IMAGES, Addition::Same, false),
        norm("batch_norm, residual, relu", IMAGES, Addition::Same, true),
        norm("batch_norm, shared residual", IMAGES, Addition::Shared, false),
        norm("batch_norm, shared residual, relu", IMAGES, Addition::Shared, true),
        norm("batch_norm of a gate", &[1, 17, 3], Addition::Nothing, true),
    ]
}

fn others() -> Vec<(&'static str, Record)> {
    let linear = |name, x: [usize; 3], members, outputs| {
        case(name, move |recorder: &mut Recorder| {
            let x = recorder.activation(&x, 1.0)?;
            let inputs = recorder.graph.spec(x).last();
            let w = recorder.parameter(&[members, inputs, outputs], 0.05, 0.5)?;
            let b = recorder.parameter(&[members, outputs], 0.5, 0.5)?;
            Ok(vec![recorder.graph.linear(x, w, b)?])
        })
    };
    let shortcut = |name, x: [usize; 5], filters, stride| {
        case(name, move |recorder: &mut Recorder| {
            let x = recorder.activation(&x, 1.0)?;
            Ok(vec![recorder.graph.shortcut_a(x, filters, stride)?])
        })
    };
    vec![
        linear("linear", [2, 5, 7], 2, 3),
        linear("linear fanned out", [1, 4, 8], 3, 10),
        shortcut("shortcut_a", [2, 2, 4, 4, 8], 16, 2),
        shortcut("shortcut_a of odd sizes", [1, 2, 5, 3, 3], 6, 2),
        case("global_average_pool", |recorder| {
            let x = recorder.activation(&[2, 3, 3, 2, 5], 1.0)?;
            Ok(vec![recorder.graph.global_average_pool(x)?])
        }),
    ]
}

/// Windows that overlap, leave gaps, and reach over the border.
fn poolings() -> Vec<(&'static str, Record)> {
    let pool = |name, x: [usize; 5], spec, maximum: bool| {
        case(name, move |recorder| {
            let x = recorder.spaced(x)?;
            let y = if maximum { recorder.graph.max_pool(x, spec)? } else { recorder.graph.average_pool(x, spec)? };
            Ok(vec![y])
        })
    };
    let overlapping = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let halves = Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
    let uneven = Pool2d { kernel: [2, 5], stride: [3, 1], padding: [0, 2] };
    vec![
        pool("max_pool", [2, 2, 6, 6, 4], overlapping, true),
        pool("max_pool of odd sizes", [1, 2, 7, 5, 3], overlapping, true),
        pool("max_pool that differs by axis", [1, 3, 5, 4, 2], uneven, true),
        pool("average_pool", [2, 2, 4, 6, 8], halves, false),
        pool("average_pool that leaves pixels over", [1, 2, 5, 3, 3], halves, false),
        pool("average_pool, padded and overlapping", [2, 1, 6, 7, 4], overlapping, false),
        pool("average_pool that differs by axis", [1, 3, 5, 4, 2], uneven, false),
    ]
}

/// Operations that join channels and copy members.
fn joins() -> Vec<(&'static str, Record)> {
    let concat = |name, a: [usize; 5], channels| {
        case(name, move |recorder: &mut Recorder| {
            let b = [a[0], a[1], a[2], a[3], channels];
            let (a, b) = (recorder.activation(&a, 1.0)?, recorder.activation(&b, 1.0)?);
            Ok(vec![recorder.graph.concat(a, b)?])
        })
    };
    vec![
        concat("concat", [2, 2, 3, 3, 8], 4),
        concat("concat of odd channels", [1, 3, 2, 4, 3], 5),
        case("concat with what is not trained", |recorder| {
            let a = recorder.activation(&[1, 2, 3, 2, 4], 1.0)?;
            let values = normal(&mut recorder.rng(), 2 * 3 * 2 * 2, 0.0, 1.0);
            let fixed = recorder.declare(Kind::Running, &[1, 2, 3, 2, 2], values)?;
            Ok(vec![recorder.graph.concat(fixed, a)?])
        }),
        case("expand_members", |recorder| {
            let x = recorder.activation(&[1, 2, 3, 3, 4], 1.0)?;
            Ok(vec![recorder.graph.expand_members(x, 3)?])
        }),
    ]
}

/// One tensor in several places: its gradients accumulate, in the operations' own kernels where they take an addend.
fn shared_tensors() -> Vec<(&'static str, Record)> {
    vec![
        // The sweep meets the last use first, so every operation but that one finds a gradient to add to.
        case("an activation read by every operation", |recorder| {
            let x = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            Ok(vec![
                recorder.graph.global_average_pool(x)?,
                recorder.graph.shortcut_a(x, 8, 2)?,
                recorder.conv2d(x, [1, 3, 3, 4, 4], Conv2d { padding: [1, 1], ..Conv2d::default() })?,
                recorder.conv2d(x, [3, 1, 1, 4, 4], Conv2d { stride: [2, 2], ..Conv2d::default() })?,
                recorder.batch_norm(x, None, false)?,
                recorder.scaled(x, 0.5)?,
            ])
        }),
        case("an activation read by every pooling and by its own concatenation", |recorder| {
            let x = recorder.spaced([1, 2, 4, 4, 4])?;
            let spec = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
            Ok(vec![
                recorder.graph.global_average_pool(x)?,
                recorder.graph.max_pool(x, spec)?,
                recorder.graph.average_pool(x, spec)?,
                recorder.graph.concat(x, x)?,
                recorder.graph.expand_members(x, 2)?,
                recorder.scaled(x, 0.5)?,
            ])
        }),
        case("densely connected layers", |recorder| {
            let x = recorder.activation(&[2, 2, 4, 4, 4], 1.0)?;
            let spec = Conv2d { padding: [1, 1], ..Conv2d::default() };
            let y = recorder.conv2d(x, [2, 3, 3, 4, 3], spec)?;
            let wider = recorder.graph.concat(x, y)?;
            let z = recorder.conv2d(wider, [2, 3, 3, 7, 3], spec)?;
            let widest = recorder.graph.concat(wider, z)?;
            let halves = Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
            Ok(vec![recorder.graph.average_pool(widest, halves)?])
        }),
        case("a residual block", |recorder| {
            let x = recorder.two_sided(&[2, 2, 4, 4, 4])?;
            let y = recorder.conv2d(x, [2, 1, 1, 4, 4], Conv2d::default())?;
            Ok(vec![recorder.batch_norm(y, Some(x), false)?])
        }),
        case("one residual of two members' block", |recorder| {
            let x = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            let y = recorder.conv2d(x, [2, 3, 3, 4, 4], Conv2d { padding: [1, 1], ..Conv2d::default() })?;
            Ok(vec![recorder.batch_norm(y, Some(x), false)?])
        }),
        case("one convolution's weights in two places", |recorder| {
            let a = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            let b = recorder.activation(&[1, 1, 3, 5, 4], 1.0)?;
            let w = recorder.parameter(&[1, 3, 3, 4, 4], 0.05, 0.5)?;
            let spec = Conv2d { padding: [1, 1], ..Conv2d::default() };
            Ok(vec![recorder.graph.conv2d(a, w, spec)?, recorder.graph.conv2d(b, w, spec)?])
        }),
        case("one linear layer in two places", |recorder| {
            let x = recorder.activation(&[1, 3, 4], 1.0)?;
            let w = recorder.parameter(&[1, 4, 4], 0.05, 0.3)?;
            let b = recorder.parameter(&[1, 4], 0.1, 0.5)?;
            let y = recorder.graph.linear(x, w, b)?;
            Ok(vec![recorder.graph.linear(y, w, b)?])
        }),
    ]
}

/// Batch-norms whose sums are taken by the convolutions around them, and what keeps convolutions from doing so.
fn fused() -> Vec<(&'static str, Record)> {
    const THREE: Conv2d = Conv2d { stride: [1, 1], padding: [1, 1], groups: 1 };
    const HALF: Conv2d = Conv2d { stride: [2, 2], padding: [0, 0], groups: 1 };
    // Behind two-sided values and one weight per channel, normalised values stay off the kink of a ReLU.
    let sided = |recorder: &mut Recorder, shape: [usize; 5]| -> Result<Var> {
        let x = recorder.two_sided(&shape)?;
        let channels = shape[4];
        let diagonal = (0..shape[0] * channels * channels).map(|i| {
            if i / channels % channels == i % channels { 1.0 + 0.1 * (i % 3) as f32 } else { 0.004 * (i % 5) as f32 }
        });
        let weight = [shape[0], 1, 1, channels, channels];
        let w = recorder.declare(Kind::Trained { decay: true }, &weight, diagonal.collect())?;
        recorder.graph.conv2d(x, w, Conv2d::default())
    };
    let between = |name, members, readers: usize, spec, weight: [usize; 5], relu| {
        case(name, move |recorder: &mut Recorder| {
            let x = sided(recorder, [members, 2, 6, 5, 4])?;
            let y = recorder.batch_norm(x, None, relu)?;
            (0..readers).map(|_| recorder.conv2d(y, weight, spec)).collect()
        })
    };
    vec![
        between("a normalisation between convolutions", 2, 1, THREE, [2, 3, 3, 4, 4], false),
        between("a ReLU between convolutions", 2, 1, THREE, [2, 3, 3, 4, 8], true),
        between("a ReLU before a strided convolution", 1, 1, HALF, [1, 1, 1, 4, 8], true),
        between("a ReLU before a convolution that fans out", 1, 1, HALF, [3, 3, 3, 4, 4], true),
        between("a ReLU before two convolutions", 1, 2, THREE, [1, 3, 3, 4, 4], true),
        case("residual blocks, of which the first projects", move |recorder| {
            let x = recorder.activation(&[1, 2, 6, 6, 4], 1.0)?;
            let projected = recorder.conv2d(x, [2, 1, 1, 4, 8], HALF)?;
            let projected = recorder.batch_norm_to(0.05, projected, None, false)?;
            let y = sided(recorder, [2, 2, 3, 3, 8])?;
            let y = recorder.batch_norm(y, Some(projected), true)?;
            let z = sided(recorder, [2, 2, 3, 3, 8])?;
            let z = recorder.batch_norm(z, Some(y), false)?;
            Ok(vec![recorder.conv2d(y, [2, 3, 3, 8, 4], THREE)?, recorder.conv2d(z, [2, 3, 3, 8, 4], THREE)?])
        }),
        case("a sum of two normalisations", |recorder| {
            let x = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            let a = recorder.conv2d(x, [1, 3, 3, 4, 8], THREE)?;
            let b = recorder.conv2d(x, [1, 1, 1, 4, 8], Conv2d::default())?;
            let a = recorder.batch_norm(a, None, false)?;
            let both = recorder.batch_norm(b, Some(a), false)?;
            Ok(vec![recorder.conv2d(both, [1, 3, 3, 8, 4], THREE)?])
        }),
        case("one gradient for two normalisations", |recorder| {
            let x = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            let a = recorder.conv2d(x, [1, 3, 3, 4, 4], THREE)?;
            let (b, c) = (recorder.batch_norm(a, None, false)?, recorder.batch_norm(a, None, false)?);
            let sum = recorder.sum(b, c)?;
            Ok(vec![recorder.conv2d(sum, [1, 3, 3, 4, 4], THREE)?])
        }),
        case("a normalised shortcut that something else reads, too", |recorder| {
            let x = recorder.activation(&[1, 2, 4, 4, 4], 1.0)?;
            let a = recorder.conv2d(x, [1, 3, 3, 4, 4], THREE)?;
            let a = recorder.batch_norm(a, None, false)?;
            let b = recorder.conv2d(x, [1, 1, 1, 4, 4], Conv2d::default())?;
            let b = recorder.batch_norm(b, Some(a), false)?;
            Ok(vec![recorder.conv2d(a, [1, 3, 3, 4, 4], THREE)?, recorder.scaled(a, 0.5)?, b])
        }),
    ]
}

/// Cases on a device, with the gradients recorded.
struct Checked {
    program: Program,
    tensors: Vec<Tensor>,
    /// Outputs of the cases, and the gradients of the loss with respect to them, as fed.
    outputs: Vec<(Var, Vec<f32>)>,
    /// The gradient of each trained tensor, in the order of `tensors`.
    gradients: Vec<Var>,
}

impl Checked {
    fn new(cases: &[(&'static str, Record)], device: &Device) -> Result<Self> {
        let mut recorder = Recorder { graph: Graph::new(), params: Params::new(), tensors: Vec::new(), case: "" };
        let (mut outputs, mut seeds) = (Vec::new(), Vec::new());
        for (name, record) in cases {
            recorder.case = name;
            for y in record(&mut recorder)? {
                let scaled = recorder.scaled(y, -0.7)?;
                let shape = recorder.graph.shape(y).to_vec();
                let offset = recorder.parameter(&shape, 0.0, 1.0)?;
                let z = recorder.sum(scaled, offset)?;
                let upstream = recorder.graph.input("upstream", Spec::f32(shape));
                let words = recorder.graph.spec(z).words();
                let values = normal(&mut Rng::new(&[0x5eed, outputs.len() as u64]), words, 0.2, 1.0);
                recorder.graph.keep(z);
                outputs.push((z, values));
                seeds.push((z, upstream));
            }
        }
        let Recorder { mut graph, tensors, .. } = recorder;
        let found = graph.backward(&seeds)?;
        let trained = tensors.iter().filter(|tensor| tensor.trained);
        let gradients: Vec<Var> = trained
            .map(|tensor| found.of(tensor.var).unwrap_or_else(|| panic!("{} has no gradient", tensor.name)))
            .collect();
        gradients.iter().for_each(|&gradient| graph.keep(gradient));
        let mut program = graph.compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() })?;
        for tensor in &tensors {
            program.feed_f32(tensor.var, &tensor.values)?;
        }
        for ((_, upstream), (_, values)) in seeds.iter().zip(&outputs) {
            program.feed_f32(*upstream, values)?;
        }
        Ok(Self { program, tensors, outputs, gradients })
    }

    /// Runs, and returns the loss.
    fn loss(&mut self) -> Result<f64> {
        self.program.run()?;
        let mut loss = 0.0;
        for (z, upstream) in &self.outputs {
            loss += dot(&self.program.read_f32(*z)?, upstream);
        }
        Ok(loss)
    }

    /// Name, values' and gradient's tensor of each trained tensor.
    fn trained(&self) -> impl Iterator<Item = (&Tensor, Var)> {
        self.tensors.iter().filter(|tensor| tensor.trained).zip(self.gradients.iter().copied())
    }

    fn read_gradients(&mut self) -> Result<Vec<Vec<f32>>> {
        self.program.run()?;
        self.gradients.iter().map(|&gradient| self.program.read_f32(gradient)).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// Every gradient of a case against differences of its loss. Returns the largest error, relative to its tolerance.
fn against_differences(case: &(&'static str, Record)) -> Result<f64> {
    let mut checked = Checked::new(std::slice::from_ref(case), &Device::cpu())?;
    let gradients = checked.read_gradients()?;
    let trained: Vec<(String, Var, Vec<f32>)> =
        checked.trained().map(|(tensor, _)| (tensor.name.clone(), tensor.var, tensor.values.clone())).collect();
    let mut worst = 0.0f64;
    for ((name, var, values), gradient) in trained.iter().zip(&gradients) {
        for key in 0..DIRECTIONS {
            let direction = normal(&mut Rng::new(&[0xd1f, key]), values.len(), 0.0, 1.0);
            let mut at = |step: f32| {
                let moved: Vec<f32> = values.iter().zip(&direction).map(|(x, v)| x + step * v).collect();
                checked.program.feed_f32(*var, &moved)?;
                Ok((moved, checked.loss()?))
            };
            let (high, high_loss) = at(STEP)?;
            let (low, low_loss) = at(-STEP)?;
            // The tensor's actual change: rounded, too.
            let moved: Vec<f32> = high.iter().zip(&low).map(|(high, low)| high - low).collect();
            let (expected, got) = (high_loss - low_loss, dot(gradient, &moved));
            let usual = (dot(gradient, gradient) * dot(&moved, &moved) / values.len() as f64).sqrt();
            let error = (got - expected).abs() / expected.abs().max(usual);
            assert!(error <= TOLERANCE, "{name}: the gradient gives {got:e}, the differences {expected:e}");
            worst = worst.max(error);
        }
        checked.program.feed_f32(*var, values)?;
    }
    Ok(worst)
}

#[test]
fn gradients_are_the_limits_of_differences() {
    for case in cases() {
        let name = case.0;
        let worst = against_differences(&case).unwrap_or_else(|error| panic!("{name}: {error}"));
        eprintln!("{name}: within {worst:.1e}");
    }
}

#[test]
fn gpus_agree_with_the_cpu_device() {
    let expected = Checked::new(&cases(), &Device::cpu()).and_then(|mut cpu| cpu.read_gradients()).expect("the CPU");
    for device in common::gpus(None) {
        let mut checked = Checked::new(&cases(), &device).unwrap_or_else(|error| panic!("{error}"));
        let got = checked.read_gradients().unwrap_or_else(|error| panic!("{error}"));
        for (((tensor, _), got), expected) in checked.trained().zip(&got).zip(&expected) {
            let size = (dot(expected, expected) / expected.len() as f64).sqrt();
            let differences: Vec<f32> = got.iter().zip(expected).map(|(got, expected)| got - expected).collect();
            let error = dot(&differences, &differences).sqrt() / (size * (expected.len() as f64).sqrt()).max(1e-9);
            assert!(error < 1e-5, "{} on {}: gradients differ by {error:.1e}", tensor.name, device.name());
        }
    }
}
