//! A kernel is one trait, which says everything about a computation in one place.
//!
//! A kernel declares its operands, counts its cost, computes itself on the CPU ([`Kernel::reference`], the
//! specification that tests hold the GPU to) and says how it is launched on a GPU ([`Kernel::launch`]).
//! The engine has no privileged kernels: other crates implement the same trait.

pub(crate) mod choices;
mod form;
mod launch;
mod target;

use std::any::Any;
use std::fmt::{Debug, Write as _};

use half::f16;

use crate::shape::Spec;

pub use form::Form;
pub(crate) use launch::REDUCE_LANES;
pub use launch::{Binding, GRID_ROW, Launch, Prelude};
pub use target::Target;

/// A computation with a CPU reference and a WGSL implementation.
pub trait Kernel: Any + Debug + Send + Sync {
    /// The name in profiles and cases: that of the files in `shaders/` and `kernels/`, with `_` for `/`
    /// (`conv2d_forward`).
    fn name(&self) -> &'static str;

    /// Operands that are only read.
    fn inputs(&self) -> Vec<Spec>;

    /// Operands that are written. Every element is written, whatever was there before, except in those that
    /// [`Kernel::updates`] names.
    fn outputs(&self) -> Vec<Spec>;

    /// Tells whether output `index` is read and modified (parameters, running statistics, accumulators) instead of
    /// overwritten. Such an output must be bound to state, never to a temporary.
    fn updates(&self, index: usize) -> bool {
        let _ = index;
        false
    }

    /// The operands that are activations or their gradients, which memory may hold in 16 bits: those that the shader
    /// declares as `Stored`. None for kernels that have no such form.
    fn activations(&self) -> Activations {
        Activations::default()
    }

    /// Arithmetic and the traffic it cannot avoid. The default traffic is each operand once, updates twice.
    fn cost(&self) -> Cost;

    /// Computes the outputs by the formula in plain loops: the specification. Slices have exactly the declared lengths.
    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]);

    /// The same, as the CPU device computes it: by the reference, unless that is too slow.
    fn compute(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.reference(inputs, outputs);
    }

    /// The WGSL that computes the same, in the variant for an adapter like `target`.
    fn launch(&self, target: &Target) -> Launch;

    /// The variants that may be the fastest on an adapter like `target`, that of [`Kernel::launch`] first.
    fn candidates(&self, target: &Target) -> Vec<Launch> {
        vec![self.launch(target)]
    }

    /// Name and shapes in one line, for profiles and errors.
    fn describe(&self) -> String {
        describe(self.name(), &self.inputs(), &self.outputs())
    }
}

/// A computation's name and the shapes of its operands in one line.
pub(crate) fn describe(name: &str, inputs: &[Spec], outputs: &[Spec]) -> String {
    let mut text = name.to_owned();
    for spec in inputs {
        let _ = write!(text, " {spec}");
    }
    text.push_str(" ->");
    for spec in outputs {
        let _ = write!(text, " {spec}");
    }
    text
}

/// Indices of a kernel's operands that memory may hold in 16 bits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Activations {
    /// Among the inputs.
    pub inputs: Vec<usize>,
    /// Among the outputs.
    pub outputs: Vec<usize>,
}

impl Activations {
    /// These inputs and outputs.
    pub fn new(inputs: impl IntoIterator<Item = usize>, outputs: impl IntoIterator<Item = usize>) -> Self {
        Self { inputs: inputs.into_iter().collect(), outputs: outputs.into_iter().collect() }
    }
}

/// Arithmetic and memory traffic of one execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: u64,
    /// Bytes that must move: each input read once, each output written once, each updated output both.
    pub bytes: u64,
}

impl Cost {
    /// `flops` operations over the traffic of `kernel`'s operands.
    pub fn new(kernel: &(impl Kernel + ?Sized), flops: usize) -> Self {
        Self::of_operands(flops as u64, &kernel.inputs(), &kernel.outputs(), |index| kernel.updates(index))
    }

    /// `flops` operations over the traffic of operands, of which some outputs are updated.
    pub(crate) fn of_operands(flops: u64, inputs: &[Spec], outputs: &[Spec], updates: impl Fn(usize) -> bool) -> Self {
        let read: usize = inputs.iter().map(Spec::bytes).sum();
        let twice = |index: usize| if updates(index) { 2 } else { 1 };
        let written: usize = outputs.iter().enumerate().map(|(i, spec)| spec.bytes() * twice(i)).sum();
        Self { flops, bytes: (read + written) as u64 }
    }
}

/// A read operand of a reference.
#[derive(Debug, Clone, Copy)]
pub enum Slice<'a> {
    /// Float elements.
    F32(&'a [f32]),
    /// Floats of 16 bits. References are given [`Slice::F32`]: see [`Form::compute`].
    F16(&'a [f16]),
    /// Unsigned elements.
    U32(&'a [u32]),
}

impl<'a> Slice<'a> {
    /// The elements as floats. The graph has checked the element type when the kernel was recorded.
    pub fn f32(self) -> &'a [f32] {
        match self {
            Slice::F32(slice) => slice,
            Slice::U32(slice) => bytemuck::cast_slice(slice),
            Slice::F16(_) => unreachable!("references are given floats of 32 bits"),
        }
    }

    /// The elements as unsigned integers.
    pub fn u32(self) -> &'a [u32] {
        match self {
            Slice::U32(slice) => slice,
            Slice::F32(slice) => bytemuck::cast_slice(slice),
            Slice::F16(slice) => bytemuck::cast_slice(slice),
        }
    }
}

/// A written operand of a reference.
#[derive(Debug)]
pub enum SliceMut<'a> {
    /// Float elements.
    F32(&'a mut [f32]),
    /// Floats of 16 bits. References are given [`SliceMut::F32`]: see [`Form::compute`].
    F16(&'a mut [f16]),
    /// Unsigned elements.
    U32(&'a mut [u32]),
}

impl SliceMut<'_> {
    /// The elements as floats.
    pub fn f32(&mut self) -> &mut [f32] {
        match self {
            SliceMut::F32(slice) => slice,
            SliceMut::U32(slice) => bytemuck::cast_slice_mut(slice),
            SliceMut::F16(_) => unreachable!("references are given floats of 32 bits"),
        }
    }

    /// The elements as unsigned integers.
    pub fn u32(&mut self) -> &mut [u32] {
        match self {
            SliceMut::U32(slice) => slice,
            SliceMut::F32(slice) => bytemuck::cast_slice_mut(slice),
            SliceMut::F16(slice) => bytemuck::cast_slice_mut(slice),
        }
    }
}
