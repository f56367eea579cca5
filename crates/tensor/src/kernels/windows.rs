//! Windows that slide over an image: the extents that convolutions and poolings share.

use crate::kernel::Launch;

/// Windows of `kernel` pixels, every `stride`-th one over an image of `extent` pixels and its padding; rows first, then
/// columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows {
    /// H and W: rows and columns of the image.
    pub extent: [usize; 2],
    /// R and S: rows and columns of a window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal distance between windows.
    pub stride: [usize; 2],
    /// Zeros added above and below, and left and right.
    pub padding: [usize; 2],
}

impl Windows {
    /// P and Q, the number of windows: `(extent + 2 padding - kernel) / stride + 1` of each axis.
    pub fn count(&self) -> [usize; 2] {
        let Self { extent, kernel, stride, padding } = self;
        [0, 1].map(|axis| (extent[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis] + 1)
    }

    /// Adds the extents to a launch, under the letters that shaders have for them.
    pub fn describe_to(&self, launch: Launch) -> Launch {
        let [rows, columns] = self.count();
        launch
            .size("H", self.extent[0])
            .size("W", self.extent[1])
            .size("P", rows)
            .size("Q", columns)
            .size("R", self.kernel[0])
            .size("S", self.kernel[1])
            .size("STRIDE_H", self.stride[0])
            .size("STRIDE_W", self.stride[1])
            .size("PAD_H", self.padding[0])
            .size("PAD_W", self.padding[1])
    }
}
