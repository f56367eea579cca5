//! Your own kernel as a differentiable operation: the leaky rectifier, on every device of this machine.
//!
//! ```text
//! cargo run --example own_kernel
//! ```
//!
//! A kernel declares its operands and its cost, and has two equal implementations: one for the CPU, to which the
//! tests hold a GPU, and one in WGSL. An operation records its gradient as more of the same graph.

use tensor::autodiff::{Differentiable, Gradients};
use tensor::{Cost, Device, Graph, Kernel, Launch, Result, Slice, SliceMut, Spec, Target, Var};

const SLOPE: f32 = 0.1;

/// `x [words]` -> `y = x` where `x > 0`, else `0.1 x`; or, of the gradient, `x`, `dy` -> `dx`.
#[derive(Debug, Clone, Copy)]
struct LeakyRelu {
    words: usize,
    gradient: bool,
}

const SHADER: &str = "
// forward: y = x where x > 0, else SLOPE x; backward: dx = dy where x > 0, else SLOPE dy.
// Shapes: every operand is WORDS elements. Tiles: one per thread. Workgroup: 256. Grid: ceil(WORDS / 256).
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // forward
@group(0) @binding(1) var<storage, read> dy: array<f32>; // backward
@group(0) @binding(2) var<storage, read_write> dx: array<f32>; // backward

@compute @workgroup_size(256)
fn forward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= WORDS {
        return;
    }
    y[i] = x[i] * select(SLOPE, 1.0, x[i] > 0.0);
}

@compute @workgroup_size(256)
fn backward(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let i = workgroup_index(wid) * 256u + lid;
    if i >= WORDS {
        return;
    }
    dx[i] = dy[i] * select(SLOPE, 1.0, x[i] > 0.0);
}
";

impl Kernel for LeakyRelu {
    fn name(&self) -> &'static str {
        "leaky_relu"
    }

    fn inputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words]); if self.gradient { 2 } else { 1 }]
    }

    fn outputs(&self) -> Vec<Spec> {
        vec![Spec::f32([self.words])]
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.words)
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let (a, b) = (inputs[0].f32(), inputs[usize::from(self.gradient)].f32());
        for ((out, a), b) in outputs[0].f32().iter_mut().zip(a).zip(b) {
            *out = b * if *a > 0.0 { 1.0 } else { SLOPE };
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        let (inputs, entry) = if self.gradient { (2, "backward") } else { (1, "forward") };
        Launch::new(SHADER, inputs, 1, self.words.div_ceil(256))
            .entry(entry)
            .size("WORDS", self.words)
            .float("SLOPE", SLOPE)
    }
}

/// Entry on the tape.
#[derive(Debug)]
struct Backward {
    words: usize,
    x: Var,
    y: Var,
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let dx = graph.launch_one(LeakyRelu { words: self.words, gradient: true }, &[self.x, dy])?;
        gradients.add(graph, self.x, dx)
    }
}

/// Records the operation.
fn leaky_relu(graph: &mut Graph, x: Var) -> Result<Var> {
    let words = graph.spec(x).words();
    let y = graph.launch_one(LeakyRelu { words, gradient: false }, &[x])?;
    graph.differentiable(Backward { words, x, y }, &[x], &[y]);
    Ok(y)
}

/// Output and gradient for `x` and an upstream gradient.
fn run(device: &Device, values: &[f32], upstream: &[f32]) -> Result<[Vec<f32>; 2]> {
    let mut graph = Graph::new();
    let bank = tensor::Bank::with_data("x", device, &values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>())?;
    // State that needs a gradient, as a parameter does.
    let x = graph.state(&bank, 0, Spec::f32([values.len()]), true)?;
    let dy = graph.input("dy", Spec::f32([values.len()]));
    let y = leaky_relu(&mut graph, x)?;
    let gradients = graph.backward(&[(y, dy)])?;
    let dx = gradients.of(x).expect("the output depends on x");
    graph.keep(y);
    graph.keep(dx);
    let mut program = graph.compile(device)?;
    program.feed_f32(dy, upstream)?;
    program.run()?;
    Ok([program.read_f32(y)?, program.read_f32(dx)?])
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
    let upstream: Vec<f32> = (0..1000).map(|i| 2.0 + (i as f32 * 0.11).cos()).collect();
    let expected = run(&Device::cpu(), &values, &upstream)?;
    for (y, x) in expected[0].iter().zip(&values) {
        assert!((y - if *x > 0.0 { *x } else { 0.1 * x }).abs() < 1e-7);
    }
    println!("cpu: as the formula says");
    for adapter in tensor::device::adapters() {
        let device = tensor::device::open(&adapter.name)?;
        let found = run(&device, &values, &upstream)?;
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found - expected).abs() < 1e-6, "{}: {found} and {expected}", adapter.name);
        }
        println!("{}: as the CPU device", adapter.name);
    }
    Ok(())
}
