//! Shapes and element types.

use std::fmt;

/// Element type of a tensor. Memory is counted in 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float, two to a word: activations and their gradients in mixed precision, the last axis a multiple
    /// of four. Kernels compute in 32 bits, and round what they store.
    F16,
    /// 32-bit unsigned integer: labels, indices, counts, packed pixels.
    U32,
}

/// Shape and element type of one tensor, row-major, the last axis contiguous.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Extents, outermost first. Activations are `[M, N, H, W, C]`.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl Spec {
    /// A float tensor.
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::F32 }
    }

    /// An unsigned tensor.
    pub fn u32(shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype: DType::U32 }
    }

    /// A tensor of any type.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Self { shape: shape.into(), dtype }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of 32-bit words: that of the elements, unless two share a word.
    pub fn words(&self) -> usize {
        match self.dtype {
            DType::F32 | DType::U32 => self.elements(),
            DType::F16 => self.elements().div_ceil(2),
        }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        4 * self.words()
    }

    /// Extent of the last axis; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Extent of the first axis, the member axis of activations and parameters; 1 for a scalar.
    pub fn members(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let dtype = match self.dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::U32 => "u32",
        };
        write!(f, "{dtype}[{}]", dims.join(","))
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
