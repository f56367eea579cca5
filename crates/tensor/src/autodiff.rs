//! The reverse sweep: walks the tape backwards, and every operation records its own gradient.

use std::collections::HashMap;
use std::fmt::Debug;

use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::kernels::elementwise::Add;

/// An operation with a hand-written gradient. It holds the tensors it was recorded with.
///
/// The contract: `backward` is called once, after the gradients of all its outputs are complete, if at least one of
/// them has any. It calls [`Gradients::add`] for each input of which a gradient is [wanted](Graph::needs_gradient).
pub trait Differentiable: Debug + Send + Sync {
    /// Records the gradient of the operation's inputs, given those of its outputs.
    ///
    /// # Errors
    /// When a kernel is recorded on operands that it does not admit.
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()>;
}

/// The gradients known so far during a sweep.
#[derive(Debug, Default)]
pub struct Gradients {
    by_var: HashMap<Var, Var>,
    /// Of a batch-norm's output: a gradient, and the gradients of shift and scale if it is the whole one.
    sums: HashMap<Var, (Var, [Var; 2])>,
}

impl Gradients {
    /// The gradient of `var`: complete for an operation's own outputs, and for all tensors after the sweep, except for
    /// outputs of batch-norms whose gradient no kernel wrote, because the one behind it does without.
    pub fn of(&self, var: Var) -> Option<Var> {
        self.by_var.get(&var).copied()
    }

    /// Takes out what is known of the gradient of `var`, for an operation that adds to it in its own kernel and then
    /// calls [`Gradients::add`] with the sum.
    pub fn take(&mut self, var: Var) -> Option<Var> {
        self.by_var.remove(&var)
    }

    /// Remembers sums over `gradient` for the batch-norm that computed `var`.
    pub(crate) fn remember_sums(&mut self, var: Var, gradient: Var, sums: [Var; 2]) {
        self.sums.insert(var, (gradient, sums));
    }

    /// What was remembered for the batch-norm that computed `var`; good if that gradient is still the whole one.
    pub(crate) fn taken_sums(&mut self, var: Var) -> Option<(Var, [Var; 2])> {
        self.sums.remove(&var)
    }

    /// Whether `gradient` is what is known of one tensor's gradient only.
    pub(crate) fn is_sole(&self, gradient: Var) -> bool {
        self.by_var.values().filter(|&&known| known == gradient).count() == 1
    }

    /// Adds `gradient` to the gradient of `var`.
    ///
    /// # Errors
    /// When the two differ in shape.
    pub fn add(&mut self, graph: &mut Graph, var: Var, gradient: Var) -> Result<()> {
        if graph.spec(var).elements() != graph.spec(gradient).elements() {
            return Err(Error::Shape {
                op: "gradient",
                problem: format!("{} as the gradient of {}", graph.spec(gradient), graph.spec(var)),
            });
        }
        let total = match self.take(var) {
            None => gradient,
            Some(known) => {
                let words = graph.spec(var).elements();
                graph.launch_one(Add { words }, &[known, gradient])?
            }
        };
        self.by_var.insert(var, total);
        Ok(())
    }
}

impl Graph {
    /// Records the gradients of everything that needs one, given the gradients of some tensors: pairs of a tensor and
    /// the gradient of the loss with respect to it.
    ///
    /// # Errors
    /// When a gradient has not its tensor's shape.
    pub fn backward(&mut self, seeds: &[(Var, Var)]) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        for &(var, gradient) in seeds {
            gradients.add(self, var, gradient)?;
        }
        for i in (0..self.tape.len()).rev() {
            if self.tape[i].outputs.iter().any(|&var| gradients.of(var).is_some()) {
                let op = std::sync::Arc::clone(&self.tape[i].op);
                op.backward(self, &mut gradients)?;
            }
        }
        self.record_sums()?;
        Ok(gradients)
    }
}
