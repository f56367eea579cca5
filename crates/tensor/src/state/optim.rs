//! The optimiser: one kernel over the flat banks updates every parameter.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::graph::autodiff::Gradients;
use crate::graph::{Graph, Var};
use crate::kernels::elementwise::{Copy, Fill};
use crate::kernels::loss_scale::{self, CHUNK, CheckGradients, ScaleGradient, UpdateLossScale};
use crate::kernels::sgd::{DECAY_BLOCK, Sgd};
use crate::shape::Spec;
use crate::state::bank::Bank;
use crate::state::params::{Kind, Params};

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

/// The scale of the loss, in mixed precision: state on the device that follows the gradients.
#[derive(Debug, Clone)]
pub struct LossScale {
    bank: Bank,
}

impl LossScale {
    /// Sets the state back to that which training begins with.
    ///
    /// # Errors
    /// When the device fails.
    pub fn reset(&self, device: &Device) -> Result<()> {
        self.write(device, loss_scale::INITIAL)
    }

    /// Waits for the device, and reads the state: scale, good steps since it changed, factor of the gradients, steps
    /// left out so far.
    ///
    /// # Errors
    /// When anything failed on the device.
    pub fn read(&self, device: &Device) -> Result<[f32; loss_scale::STATE]> {
        let words = self.bank.read(device)?;
        Ok(std::array::from_fn(|i| f32::from_bits(words[i])))
    }

    /// Sets the state to what [`LossScale::read`] gave.
    ///
    /// # Errors
    /// When the device fails.
    pub fn write(&self, device: &Device, state: [f32; loss_scale::STATE]) -> Result<()> {
        self.bank.write(device, 0, &state.map(f32::to_bits))
    }
}

/// The inputs of a recorded update.
#[derive(Debug, Clone)]
pub struct SgdInputs {
    /// `[3]`: learning rate, momentum, weight decay.
    pub hyper: Var,
    /// The scale of the loss, in mixed precision.
    pub loss_scale: Option<LossScale>,
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

    /// The gradients of a loss, scaled for mixed precision; what follows from them goes to [`Graph::sgd`] with the
    /// scale.
    ///
    /// # Errors
    /// When the gradients are not floats.
    pub fn scale_loss(&mut self, gradients: &[Var]) -> Result<(Vec<Var>, LossScale)> {
        let bank = Bank::filled("loss scale", loss_scale::INITIAL.map(f32::to_bits).to_vec());
        let state = self.state(&bank, 0, Spec::f32([loss_scale::STATE]), false)?;
        let mut scaled = Vec::new();
        for &gradient in gradients {
            let shape = self.shape(gradient).to_vec();
            let kernel = ScaleGradient { words: self.spec(gradient).elements() };
            let gradient = self.launch_one(kernel, &[gradient, state])?;
            scaled.push(self.set_shape(gradient, shape)?);
        }
        Ok((scaled, LossScale { bank }))
    }

    /// Records that the loss scale follows the flat bank of gradients, and returns its state.
    fn update_loss_scale(&mut self, params: &Params, scale: &LossScale) -> Result<Var> {
        let words = params.values().words();
        let flags = Bank::new("gradient checks");
        let chunks: usize = (0..words).step_by(RANGE).map(|first| RANGE.min(words - first).div_ceil(CHUNK)).sum();
        flags.reserve(chunks)?;
        for first in (0..words).step_by(RANGE) {
            let words = RANGE.min(words - first);
            let gradient = self.state(params.gradients(), first, Spec::f32([words]), false)?;
            let flags = self.state(&flags, first / CHUNK, Spec::f32([words.div_ceil(CHUNK)]), false)?;
            self.launch_into(CheckGradients { words }, &[gradient], &[Some(flags)])?;
        }
        let flags = self.state(&flags, 0, Spec::f32([chunks]), false)?;
        let state = self.state(&scale.bank, 0, Spec::f32([loss_scale::STATE]), false)?;
        self.launch_into(UpdateLossScale { flags: chunks }, &[flags], &[Some(state)])?;
        Ok(state)
    }

    /// Records the update of all of `params` from the flat bank of gradients: one dispatch for each 2^24 words of it.
    /// Gradients of a scaled loss are scaled back, and the step is left out if one of them is not finite.
    ///
    /// # Errors
    /// When there is nothing to train.
    pub fn sgd(&mut self, params: &Params, config: SgdConfig, loss_scale: Option<LossScale>) -> Result<SgdInputs> {
        let words = params.values().words();
        if words == 0 {
            return Err(Error::Compile("there is no parameter to train".to_owned()));
        }
        let decay = Bank::filled("weight decay blocks", bytemuck::cast_vec(params.decay_blocks()));
        let hyper = self.input("optimizer settings", Spec::f32([3]));
        let state = loss_scale.as_ref().map(|scale| self.update_loss_scale(params, scale)).transpose()?;
        for first in (0..words).step_by(RANGE) {
            let words = RANGE.min(words - first);
            let range = |graph: &mut Self, bank: &Bank| graph.state(bank, first, Spec::f32([words]), false);
            let gradient = range(self, params.gradients())?;
            let table = self.state(&decay, first / DECAY_BLOCK, Spec::f32([words / DECAY_BLOCK]), false)?;
            let values = range(self, params.values())?;
            let velocities = range(self, params.velocities())?;
            let kernel = Sgd { words, nesterov: config.nesterov, loss_scaled: state.is_some() };
            let inputs: Vec<Var> = [gradient, table, hyper].into_iter().chain(state).collect();
            self.launch_into(kernel, &inputs, &[Some(values), Some(velocities)])?;
        }
        Ok(SgdInputs { hyper, loss_scale })
    }
}
