//! Recording: a graph is a list of kernels over symbolic tensors, checked as it is recorded.
//!
//! Differentiable operations (in `ops/`) record their kernels here and leave an entry on the tape; the sweep in
//! [`crate::autodiff`] records more of the same graph. Both record the plain computation; [`fuse`] rewrites it when the
//! graph is compiled.

pub mod autodiff;
pub mod footprint;
pub mod fuse;
pub mod host;
pub mod plan;
pub mod program;
mod rewrite;
mod schedule;
pub mod sharing;
pub mod work;

use std::sync::Arc;

use crate::device::ALIGNMENT;
use crate::error::{Error, Result};
use crate::graph::autodiff::Differentiable;
use crate::graph::sharing::Sharing;
use crate::graph::work::Work;
use crate::kernel::{Form, Kernel};
use crate::shape::{DType, Spec};
use crate::state::bank::Bank;

/// A symbolic tensor of one graph: a cheap copyable id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub(crate) usize);

/// The memory that a tensor lives in.
#[derive(Debug, Clone)]
pub(crate) enum Home {
    /// In a slot that the memory plan gives it.
    Temporary,
    /// In a buffer of its own, filled by `Program::feed`.
    Fed(String),
    /// In a bank, from this word on.
    State(Bank, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub spec: Spec,
    pub home: Home,
    pub needs_gradient: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub work: Work,
    pub inputs: Vec<Var>,
    pub outputs: Vec<Var>,
}

#[derive(Debug)]
pub(crate) struct TapeEntry {
    pub op: Arc<dyn Differentiable>,
    pub outputs: Vec<Var>,
}

/// A computation being recorded.
#[derive(Debug, Default)]
pub struct Graph {
    pub(crate) variables: Vec<Variable>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) tape: Vec<TapeEntry>,
    pub(crate) kept: Vec<Var>,
    pub(crate) sharing: Option<Sharing>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn variable(&mut self, spec: Spec, home: Home, needs_gradient: bool) -> Var {
        self.variables.push(Variable { spec, home, needs_gradient });
        Var(self.variables.len() - 1)
    }

    /// A tensor that the host feeds before a run.
    pub fn input(&mut self, name: impl Into<String>, spec: Spec) -> Var {
        self.variable(spec, Home::Fed(name.into()), false)
    }

    /// A tensor in a bank. `needs_gradient` is true of trainable parameters.
    ///
    /// # Errors
    /// When the tensor does not lie inside the bank, or its offset is not aligned.
    pub fn state(&mut self, bank: &Bank, offset: usize, spec: Spec, needs_gradient: bool) -> Result<Var> {
        if !offset.is_multiple_of(ALIGNMENT) || offset + spec.words() > bank.words() {
            return Err(Error::Parameter {
                name: bank.name().to_owned(),
                problem: format!("{spec} at word {offset} does not fit a bank of {} words", bank.words()),
            });
        }
        Ok(self.variable(spec, Home::State(bank.clone(), offset), needs_gradient))
    }

    /// Shape and element type of a tensor.
    pub fn spec(&self, var: Var) -> &Spec {
        &self.variables[var.0].spec
    }

    /// Shape of a tensor.
    pub fn shape(&self, var: Var) -> &[usize] {
        &self.variables[var.0].spec.shape
    }

    /// Tells whether a gradient is wanted of this tensor: it is a parameter, or computed from one.
    pub fn needs_gradient(&self, var: Var) -> bool {
        self.variables[var.0].needs_gradient
    }

    /// Records a kernel whose outputs are new tensors.
    ///
    /// # Errors
    /// When the inputs are not what the kernel declares.
    pub fn launch(&mut self, kernel: impl Kernel + 'static, inputs: &[Var]) -> Result<Vec<Var>> {
        let outputs = vec![None; kernel.outputs().len()];
        self.launch_into(kernel, inputs, &outputs)
    }

    /// As [`Graph::launch`], for kernels with one output.
    ///
    /// # Errors
    /// As [`Graph::launch`].
    pub fn launch_one(&mut self, kernel: impl Kernel + 'static, inputs: &[Var]) -> Result<Var> {
        self.launch(kernel, inputs).map(|outputs| outputs[0])
    }

    /// Records a kernel, some of whose outputs are given (state); the others are new tensors. Returns all of them.
    /// If one activation is stored in 16 bits, so are all of the kernel.
    ///
    /// # Errors
    /// When the operands are not what the kernel declares, or an updated output is not state.
    pub fn launch_into(
        &mut self,
        kernel: impl Kernel + 'static,
        inputs: &[Var],
        outputs: &[Option<Var>],
    ) -> Result<Vec<Var>> {
        let form = self.form(kernel, inputs)?;
        self.record(Work::Kernel(form), inputs, outputs)
    }

    /// Records a kernel whose activations are of type `dtype`, for kernels without any among their inputs.
    ///
    /// # Errors
    /// As [`Graph::launch`], or when the kernel has no form in 16 bits.
    pub fn launch_as(&mut self, dtype: DType, kernel: impl Kernel + 'static, inputs: &[Var]) -> Result<Vec<Var>> {
        let outputs = vec![None; kernel.outputs().len()];
        let form = Form::from(kernel);
        let form = if dtype == DType::F16 { form.in_halves()? } else { form };
        self.record(Work::Kernel(form), inputs, &outputs)
    }

    /// A kernel with its activations in 16 bits if it reads one that is stored so.
    fn form(&self, kernel: impl Kernel + 'static, inputs: &[Var]) -> Result<Form> {
        let form = Form::from(kernel);
        let halves = |&index: &usize| inputs.get(index).is_some_and(|&var| self.spec(var).dtype == DType::F16);
        if form.activations().inputs.iter().any(halves) { form.in_halves() } else { Ok(form) }
    }

    /// Records a node; outputs as in [`Graph::launch_into`].
    pub(crate) fn record(&mut self, work: Work, inputs: &[Var], outputs: &[Option<Var>]) -> Result<Vec<Var>> {
        self.check_operands(&work, "input", &work.inputs(), inputs)?;
        let written = work.outputs();
        check_count(&work, "output", written.len(), outputs.len())?;
        let mut vars = Vec::with_capacity(outputs.len());
        for (i, (expected, given)) in written.into_iter().zip(outputs).enumerate() {
            vars.push(match given {
                Some(var) => {
                    check_operand(&work, "output", i, &expected, self.spec(*var))?;
                    *var
                }
                None if work.updates(i) => {
                    let name = work.name();
                    return Err(Error::Compile(format!("kernel {name}: output {i} is updated and must be state")));
                }
                None => self.variable(expected, Home::Temporary, false),
            });
        }
        self.nodes.push(Node { work, inputs: inputs.to_vec(), outputs: vars.clone() });
        Ok(vars)
    }

    /// Checks that the operands of a kind are as many as the work declares, and of these types and sizes.
    fn check_operands(&self, work: &Work, role: &'static str, declared: &[Spec], vars: &[Var]) -> Result<()> {
        check_count(work, role, declared.len(), vars.len())?;
        let mut pairs = declared.iter().zip(vars).enumerate();
        pairs.try_for_each(|(i, (spec, var))| check_operand(work, role, i, spec, self.spec(*var)))
    }

    /// Gives a tensor another shape with as many elements; nothing is moved. The shape is what later operations see.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn set_shape(&mut self, var: Var, shape: impl Into<Vec<usize>>) -> Result<Var> {
        let shape = shape.into();
        let spec = &mut self.variables[var.0].spec;
        if shape.iter().product::<usize>() != spec.elements() {
            return Err(Error::Shape { op: "set_shape", problem: format!("{spec} has not the elements of {shape:?}") });
        }
        spec.shape = shape;
        Ok(var)
    }

    /// Leaves a differentiable operation on the tape. Its outputs need a gradient if one of `inputs` does.
    pub fn differentiable(&mut self, op: impl Differentiable + 'static, inputs: &[Var], outputs: &[Var]) {
        if inputs.iter().any(|&var| self.needs_gradient(var)) {
            for var in outputs {
                self.variables[var.0].needs_gradient = true;
            }
            self.tape.push(TapeEntry { op: Arc::new(op), outputs: outputs.to_vec() });
        }
    }

    /// Keeps a tensor until the end of the run, so that it can be read.
    pub fn keep(&mut self, var: Var) {
        if !self.kept.contains(&var) {
            self.kept.push(var);
        }
    }

    /// Makes a temporary tensor live in a bank: what the kernel that computes it writes is the state itself.
    ///
    /// # Errors
    /// When the tensor is no temporary, or does not fit there.
    pub fn place(&mut self, var: Var, bank: &Bank, offset: usize) -> Result<()> {
        let variable = &self.variables[var.0];
        if !matches!(variable.home, Home::Temporary) {
            return Err(Error::Compile(format!("{} has a place already", variable.spec)));
        }
        if !offset.is_multiple_of(ALIGNMENT) || offset + variable.spec.words() > bank.words() {
            return Err(Error::Compile(format!("{} at word {offset} does not fit bank {bank:?}", variable.spec)));
        }
        self.variables[var.0].home = Home::State(bank.clone(), offset);
        Ok(())
    }

    /// Tells whether a tensor is a temporary of the memory plan.
    pub fn is_temporary(&self, var: Var) -> bool {
        matches!(self.variables[var.0].home, Home::Temporary)
    }

    /// The kernels recorded so far, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &Form> {
        self.nodes.iter().filter_map(|node| node.work.kernel())
    }
}

fn check_count(work: &Work, role: &'static str, declared: usize, got: usize) -> Result<()> {
    if declared == got {
        return Ok(());
    }
    Err(Error::Compile(format!("kernel {} has {declared} {role}s, got {got}", work.name())))
}

fn check_operand(work: &Work, role: &'static str, index: usize, expected: &Spec, got: &Spec) -> Result<()> {
    if expected.dtype == got.dtype && expected.elements() == got.elements() {
        return Ok(());
    }
    Err(Error::Operand { kernel: work.name(), role, index, expected: expected.clone(), got: got.clone() })
}
