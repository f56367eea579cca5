//! Fusion: rules over the complete list of a graph's nodes, between recording and the memory plan. Operations record
//! the plain computation and its plain gradient; here every reader of a tensor is known, so kernels can take over what
//! those before or behind them do, and tensors that nothing needs any more are never written.
//!
//! Each rule is one function that looks at one node and says whether it has changed anything. `[..]` are kernels, names
//! beside arrows tensors. A fused step computes what the plain one does ([`CompileOptions::fuse`]); where sums are
//! taken in other chunks, to rounding.
//!
//! [`CompileOptions::fuse`]: crate::CompileOptions::fuse

use std::collections::BTreeMap;

use super::rewrite::Rewrite;
use super::schedule::share_dispatches;
use super::{Graph, Var};
use crate::error::Result;
use crate::graph::sharing::GatherMoments;
use crate::kernel::Kernel;
use crate::kernels::batch_norm::{
    Activation, BatchNormApply, BatchNormFinalize, BatchNormGradPartials, BatchNormPartials, Chunks, Residual, Upstream,
};
use crate::kernels::conv2d::{Conv2dForward, Conv2dGradInput, Conv2dGradWeight};
use crate::kernels::global_average_pool::GlobalAveragePoolGrad;
use crate::kernels::sum_partials::SumPartials;

/// Counts of each rule's changes to a graph, by its name.
pub type Fired = BTreeMap<&'static str, usize>;

/// Looks at a node, and changes it and those around it if it can.
type Rule = fn(&mut Rewrite, usize) -> Result<bool>;

/// The rules, in the order in which each goes over all nodes.
const RULES: [(&str, Rule); 6] = [
    ("normalise on read", normalise_on_read),
    ("statistics on write", statistics_on_write),
    ("residual normalised where it is added", normalise_residual),
    ("mask and sums on write", mask_on_write),
    ("pooled gradient where it is read", spread_on_read),
    ("sums of a shortcut beside those of its sum", sums_side_by_side),
];

/// The name of the last step, which goes over the order of all nodes.
const SHARED_SUMS: &str = "sums in one dispatch";

/// The names of all rules.
pub fn names() -> impl Iterator<Item = &'static str> {
    RULES.into_iter().map(|(name, _)| name).chain([SHARED_SUMS])
}

impl Graph {
    /// The fused graph, and how often each rule has fired. It computes the same; tensors keep their names.
    ///
    /// # Errors
    /// When a kernel that a rule has put in does not take its operands.
    pub(crate) fn fused(&self) -> Result<(Graph, Fired)> {
        let mut rewrite = Rewrite::new(self);
        let mut fired = Fired::new();
        for (name, rule) in RULES {
            for node in 0..rewrite.len() {
                if rule(&mut rewrite, node)? {
                    *fired.entry(name).or_default() += 1;
                }
            }
        }
        let mut graph = rewrite.finish();
        let joined = share_dispatches(&mut graph)?;
        if joined > 0 {
            fired.insert(SHARED_SUMS, joined);
        }
        Ok((graph, fired))
    }
}

/// ```text
/// x, stats, gamma, beta -> [apply, ReLU] -y-> [conv2d]      =>      x, stats, gamma, beta -> [conv2d, normalised]
/// ```
///
/// The same for the gradient of the weights, which reads `y` again. If nothing else reads `y`, nothing writes it.
fn normalise_on_read(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    let forward = rewrite.kernel::<Conv2dForward>(node).filter(|conv| !conv.normalised);
    let weight = rewrite.kernel::<Conv2dGradWeight>(node).filter(|conv| !conv.normalised);
    let Some(([y, other], outputs)) = operands::<2, 1>(rewrite, node) else { return Ok(false) };
    if forward.is_none() && weight.is_none() {
        return Ok(false);
    }
    let Some((apply, [x, stats, gamma, beta])) = normalisation(rewrite, y, true) else { return Ok(false) };
    if !rewrite.are_same(&[x, stats, gamma, beta], apply, node) {
        return Ok(false);
    }
    let inputs = [x, other, stats, gamma, beta];
    if let Some(conv) = forward {
        rewrite.replace(node, Conv2dForward { normalised: true, ..conv }, &inputs, &outputs)?;
    } else if let Some(conv) = weight {
        rewrite.replace(node, Conv2dGradWeight { normalised: true, ..conv }, &inputs, &outputs)?;
    }
    Ok(true)
}

/// ```text
/// [conv2d] -y-> [batch_norm_stats] -partials-> [finalize]      =>      [conv2d, statistics] -y, partials-> [finalize]
/// ```
///
/// The chunks are then those of the convolution's workgroups.
fn statistics_on_write(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    let Some(BatchNormPartials { members, channels, chunks }) = rewrite.kernel(node) else { return Ok(false) };
    let Some(([y], [partials])) = operands(rewrite, node) else { return Ok(false) };
    let Some((writer, conv)) = rewrite.written_by::<Conv2dForward>(y) else { return Ok(false) };
    let new = conv.partials();
    let fits = (new.members, new.chunks.rows, new.channels) == (members, chunks.rows, channels);
    if conv.statistics || !fits || !can_rechunk(rewrite, partials) {
        return Ok(false);
    }
    let inputs = rewrite.inputs(writer);
    rewrite.remove(node);
    rewrite.set_spec(partials, new.spec());
    rewrite.replace(writer, Conv2dForward { statistics: true, ..conv }, &inputs, &[y, partials])?;
    rechunk(rewrite, partials, new.chunks)?;
    Ok(true)
}

/// ```text
/// z, stats, gamma, beta -> [apply] -r-,           stats, gamma, beta -> [.., affine] -affine-,
/// x, .. ------------------> [apply, + r]    =>    x, .., z -----------> [apply, + normalised z]
/// ```
///
/// Of a block whose shortcut is normalised. `affine` holds what normalising `z` takes: a kernel may bind eight tensors.
fn normalise_residual(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    let Some(apply) = rewrite.kernel::<BatchNormApply>(node) else { return Ok(false) };
    let Some(([x, stats, gamma, beta, residual], [y])) = operands(rewrite, node) else { return Ok(false) };
    if apply.residual != Residual::Same || !rewrite.is_read_only_by(residual, node) {
        return Ok(false);
    }
    let Some((writer, [z, moments, scale, shift])) = normalisation(rewrite, residual, false) else { return Ok(false) };
    let Some((finalize, kernel)) = rewrite.written_by::<BatchNormFinalize>(moments) else { return Ok(false) };
    if kernel.affine || !rewrite.are_same(&[scale, shift], finalize, writer) {
        return Ok(false);
    }
    let kernel = BatchNormFinalize { affine: true, ..kernel };
    let affine = rewrite.temporary(kernel.outputs().swap_remove(3));
    let (mut inputs, mut outputs) = (rewrite.inputs(finalize), rewrite.outputs(finalize));
    inputs.extend([scale, shift]);
    outputs.push(affine);
    rewrite.replace(finalize, kernel, &inputs, &outputs)?;
    let kernel = BatchNormApply { residual: Residual::Normalised, ..apply };
    rewrite.replace(node, kernel, &[x, stats, gamma, beta, z, affine], &[y])?;
    Ok(true)
}

/// ```text
/// [conv2d_grad_input] -dy-> [batch_norm_grad] -g, partials->      =>      [conv2d_grad_input, norm] -g, partials->
/// ```
///
/// `g` is `dy` where the ReLU was open, else 0, so nothing else may need `dy`; without a ReLU they are the same.
fn mask_on_write(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    let Some(norm) = rewrite.kernel::<BatchNormGradPartials>(node) else { return Ok(false) };
    let (inputs, outputs) = (rewrite.inputs(node), rewrite.outputs(node));
    let &[x, dy, stats, gamma, beta, ..] = inputs.as_slice() else { return Ok(false) };
    let Some((writer, conv)) = rewrite.written_by::<Conv2dGradInput>(dy) else { return Ok(false) };
    let masks = norm.activation != Activation::Linear;
    if norm.upstream != Upstream::Whole || conv.norm.is_some() || (masks && !rewrite.is_read_only_by(dy, node)) {
        return Ok(false);
    }
    let mut activation = norm.activation;
    let mut operands = match activation {
        Activation::Linear => vec![x, stats],
        Activation::Relu => vec![x, stats, gamma, beta],
        Activation::ReluOfSum => vec![x, stats, inputs[5]],
    };
    if conv.addend && activation == Activation::Relu {
        // These would be more than a kernel may bind. Since a gradient arrives along another path, something else than
        // convolutions reads the output, so that it is written: its sign says as much.
        let Some(y) = output(rewrite, [x, stats, gamma, beta]) else { return Ok(false) };
        activation = Activation::ReluOfSum;
        operands = vec![x, stats, y];
    }
    let new = conv.partials(activation);
    let fits = (new.members, new.chunks.rows, new.channels) == (norm.members, norm.chunks.rows, norm.channels);
    let partials = outputs[0];
    if !fits || !can_rechunk(rewrite, partials) || !rewrite.are_same(&operands, writer, node) {
        return Ok(false);
    }
    let g = outputs.get(1).copied().unwrap_or(dy);
    let mut inputs = rewrite.inputs(writer);
    inputs.extend(operands);
    rewrite.remove(node);
    rewrite.set_spec(partials, new.spec());
    rewrite.replace(writer, Conv2dGradInput { norm: Some(activation), ..conv }, &inputs, &[g, partials])?;
    rechunk(rewrite, partials, new.chunks)?;
    Ok(true)
}

/// ```text
/// d -> [global_average_pool_grad, + e] -dy-> [batch_norm_grad]      =>      d, e -> [batch_norm_grad, pooled]
/// ```
///
/// With a ReLU: a kernel that writes `g` need not read the large `dy`. `e` is the gradient along another path, if any.
fn spread_on_read(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    let Some(norm) = rewrite.kernel::<BatchNormGradPartials>(node) else { return Ok(false) };
    let (mut inputs, outputs) = (rewrite.inputs(node), rewrite.outputs(node));
    let Some((writer, pool)) = rewrite.written_by::<GlobalAveragePoolGrad>(inputs[1]) else { return Ok(false) };
    if norm.upstream != Upstream::Whole || norm.activation == Activation::Linear {
        return Ok(false);
    }
    let (area, read) = (pool.area, rewrite.inputs(writer));
    if !rewrite.are_same(&read, writer, node) {
        return Ok(false);
    }
    let upstream = if let &[pooled, whole] = read.as_slice() {
        inputs[1] = whole;
        inputs.push(pooled);
        Upstream::Both { area }
    } else {
        inputs[1] = read[0];
        Upstream::Pooled { area }
    };
    rewrite.replace(node, BatchNormGradPartials { upstream, ..norm }, &inputs, &outputs)?;
    Ok(true)
}

/// ```text
/// g, partials -> [sum_partials] -> ..          g -> [batch_norm_grad] -others-,
/// g -> [batch_norm_grad] -others-> [sum_partials]      =>      partials, others -> [sum_partials]
/// ```
///
/// A residual of a normalised tensor has the same gradient `g`. If it is a normalised tensor, too, its sums can be
/// taken at once, and [in the same dispatch](share_dispatches).
fn sums_side_by_side(rewrite: &mut Rewrite, node: usize) -> Result<bool> {
    if rewrite.kernel::<BatchNormGradPartials>(node).is_none() {
        return Ok(false);
    }
    let (inputs, outputs) = (rewrite.inputs(node), rewrite.outputs(node));
    let own = sum_of(rewrite, outputs[0]);
    let writer = rewrite.writer(inputs[1]);
    let others = writer.and_then(|writer| rewrite.outputs(writer).into_iter().find_map(|var| sum_of(rewrite, var)));
    match (own, others) {
        (Some(own), Some(before)) if before < node && rewrite.are_same(&inputs, before, node) => {
            rewrite.move_before(&[node, own], before);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The operands of a node that has `I` inputs and `O` outputs.
fn operands<const I: usize, const O: usize>(rewrite: &Rewrite, node: usize) -> Option<([Var; I], [Var; O])> {
    Some((rewrite.inputs(node).try_into().ok()?, rewrite.outputs(node).try_into().ok()?))
}

/// The normalisation that writes `y`, without a residual and with or without a ReLU, if one does: the node, and its
/// `x`, `stats`, `gamma` and `beta`.
fn normalisation(rewrite: &Rewrite, y: Var, relu: bool) -> Option<(usize, [Var; 4])> {
    let (node, apply) = rewrite.written_by::<BatchNormApply>(y)?;
    let plain = apply.relu == relu && apply.residual == Residual::None;
    plain.then(|| rewrite.inputs(node).try_into().ok()).flatten().map(|operands| (node, operands))
}

/// The output of the normalisation with a ReLU that reads these.
fn output(rewrite: &Rewrite, operands: [Var; 4]) -> Option<Var> {
    rewrite.readers(operands[1]).iter().find_map(|&reader| {
        let &[y] = rewrite.node(reader)?.outputs.as_slice() else { return None };
        normalisation(rewrite, y, true).filter(|(_, read)| *read == operands).map(|_| y)
    })
}

/// The node that sums the parts `partials`, if it alone needs them.
fn sum_of(rewrite: &Rewrite, partials: Var) -> Option<usize> {
    let &[reader] = rewrite.readers(partials) else { return None };
    (rewrite.kernel::<SumPartials>(reader).is_some() && !rewrite.is_observed(partials)).then_some(reader)
}

/// Tells whether everything that reads the sums of chunks of rows can take those of other chunks.
fn can_rechunk(rewrite: &Rewrite, partials: Var) -> bool {
    let mut readers = rewrite.readers(partials).iter();
    !rewrite.is_observed(partials)
        && readers.all(|&reader| {
            rewrite.kernel::<BatchNormFinalize>(reader).is_some()
                || rewrite.kernel::<SumPartials>(reader).is_some()
                || rewrite.host::<GatherMoments>(reader).is_some()
        })
}

/// Gives everything that reads the sums of chunks of rows other chunks.
fn rechunk(rewrite: &mut Rewrite, partials: Var, chunks: Chunks) -> Result<()> {
    for reader in rewrite.readers(partials).to_vec() {
        let (inputs, outputs) = (rewrite.inputs(reader), rewrite.outputs(reader));
        if let Some(kernel) = rewrite.kernel::<BatchNormFinalize>(reader) {
            rewrite.replace(reader, BatchNormFinalize { chunks, ..kernel }, &inputs, &outputs)?;
        } else if let Some(kernel) = rewrite.kernel::<SumPartials>(reader) {
            rewrite.replace(reader, kernel.with_parts(chunks.count()), &inputs, &outputs)?;
        } else if let Some(work) = rewrite.host::<GatherMoments>(reader) {
            rewrite.replace_host(reader, GatherMoments { chunks, ..work });
        }
    }
    Ok(())
}
