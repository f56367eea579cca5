//! The optimiser: one kernel over the flat banks updates every parameter.

use crate::autodiff::Gradients;
use crate::bank::Bank;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::kernels::elementwise::{Copy, Fill};
use crate::kernels::sgd::{DECAY_BLOCK, Sgd};
use crate::params::{Kind, Params};
use crate::shape::Spec;

/// Most words that one dispatch updates: 64 MiB of each bank. WebGPU only promises bindings of 128 MiB, which the
/// parameters of ResNeXt-29 8x64d exceed. A multiple of what keeps the ranges aligned in every bank, that of weight
/// decay blocks, too.
const RANGE: usize = 1 << 24;

/// Stochastic gradient descent with momentum and weight decay, as PyTorch defines it:
/// `g += decay w; v = momentum v + g; w -= rate (g + momentum v)` with Nesterov, `w -= rate v` without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Nesterov's variant.
    pub nesterov: bool,
}

/// The inputs of a recorded update.
#[derive(Debug, Clone)]
pub struct SgdInputs {
    /// `[3]`: learning rate, momentum, weight decay.
    pub hyper: Var,
    decay: Bank,
}

impl SgdInputs {
    /// Writes the table of tensors that weight decay applies to. Called once, after compilation.
    ///
    /// # Errors
    /// When the device fails.
    pub fn initialize(&self, device: &Device, params: &Params) -> Result<()> {
        self.decay.write(device, 0, bytemuck::cast_slice(&params.decay_blocks()))
    }
}

impl Graph {
    /// Lays the gradient of each of `params` into the flat bank of gradients: the kernels that compute them write
    /// there. `vars` are the parameters as they stand in this graph, in the order of [`Params::entries`]; one that the
    /// loss does not depend on gets zero.
    ///
    /// # Errors
    /// When a gradient is no tensor of its own shape.
    pub fn place_gradients(&mut self, params: &Params, vars: &[(usize, Var)], gradients: &Gradients) -> Result<()> {
        for &(index, var) in vars {
            let param = &params.entries()[index];
            if !matches!(param.kind, Kind::Trained { .. }) {
                continue;
            }
            let words = param.spec.words();
            match gradients.of(var) {
                Some(gradient) if self.is_temporary(gradient) => {
                    self.place(gradient, params.gradients(), param.offset)?;
                }
                other => {
                    let target = self.state(params.gradients(), param.offset, param.spec.clone(), false)?;
                    match other {
                        Some(gradient) => self.launch_into(Copy { words }, &[gradient], &[Some(target)])?,
                        None => self.launch_into(Fill { words, value: 0.0 }, &[], &[Some(target)])?,
                    };
                }
            }
        }
        Ok(())
    }

    /// Records the update of all of `params` from the flat bank of gradients: one dispatch for each 2^24 words of it.
    ///
    /// # Errors
    /// When there is nothing to train.
    pub fn sgd(&mut self, params: &Params, config: SgdConfig) -> Result<SgdInputs> {
        let words = params.values().words();
        if words == 0 {
            return Err(Error::Compile("there is no parameter to train".to_owned()));
        }
        let decay = Bank::new("weight decay blocks");
        let blocks = params.decay_blocks().len();
        decay.reserve(blocks)?;
        let hyper = self.input("optimizer settings", Spec::f32([3]));
        for first in (0..words).step_by(RANGE) {
            let words = RANGE.min(words - first);
            let range = |graph: &mut Self, bank: &Bank| graph.state(bank, first, Spec::f32([words]), false);
            let gradient = range(self, params.gradients())?;
            let table = self.state(&decay, first / DECAY_BLOCK, Spec::f32([words / DECAY_BLOCK]), false)?;
            let values = range(self, params.values())?;
            let velocities = range(self, params.velocities())?;
            let kernel = Sgd { words, nesterov: config.nesterov };
            self.launch_into(kernel, &[gradient, table, hyper], &[Some(values), Some(velocities)])?;
        }
        Ok(SgdInputs { hyper, decay })
    }
}
