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
}

impl Gradients {
    /// The gradient of `var`: complete for an operation's own outputs, and for all tensors after the sweep.
    pub fn of(&self, var: Var) -> Option<Var> {
        self.by_var.get(&var).copied()
    }

    /// Takes out what is known of the gradient of `var`, for an operation that adds to it in its own kernel and then
    /// calls [`Gradients::add`] with the sum.
    pub fn take(&mut self, var: Var) -> Option<Var> {
        self.by_var.remove(&var)
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
        Ok(gradients)
    }
}
