//! The properties of an adapter that the choice of a kernel's variant may depend on.

/// The adapter that a launch is for, as far as kernels care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// True if the adapter is emulated on a CPU: staging in workgroup memory gains nothing there, and loads whose
    /// addresses differ between lanes are expensive.
    pub software: bool,
    /// True if shaders may use 16-bit floats; where not, two of them are packed into a word.
    pub shader_f16: bool,
    /// Threads that every subgroup of the adapter has at least; 0 where shaders cannot use subgroups. Actual sizes
    /// vary, from kernel to kernel too.
    pub subgroup: u32,
}

impl Target {
    /// A GPU, without subgroups: how large they are only the adapter knows.
    pub const HARDWARE: Self = Self { software: false, shader_f16: true, subgroup: 0 };
    /// An adapter that is emulated on a CPU.
    pub const SOFTWARE: Self = Self { software: true, shader_f16: false, subgroup: 0 };
}
