//! Errors of the engine, in words a user can act on.

use std::fmt;

use crate::shape::Spec;

/// Result of the engine's fallible calls.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine. Each names the kernel, operation or device concerned, and what it got.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation was recorded on shapes that it does not admit.
    #[error("{op}: {problem}")]
    Shape {
        /// The operation, by its public name.
        op: &'static str,
        /// The fault, with the shapes that clash.
        problem: String,
    },
    /// A kernel was given a tensor that differs from what it declares.
    #[error("kernel {kernel}: {role} {index} should be {expected}, got {got}")]
    Operand {
        /// The kernel's name.
        kernel: &'static str,
        /// "input" or "output".
        role: &'static str,
        /// Position in the kernel's list.
        index: usize,
        /// The kernel's declaration.
        expected: Spec,
        /// The operand that was passed.
        got: Spec,
    },
    /// A graph that cannot become a program.
    #[error("cannot compile the program: {0}")]
    Compile(String),
    /// A parameter was declared twice in different ways, after memory was laid out, or is unknown.
    #[error("parameter {name}: {problem}")]
    Parameter {
        /// The parameter's name.
        name: String,
        /// The fault.
        problem: String,
    },
    /// A kernel wrote a value that is not finite, which is an error where that is checked.
    #[error("not finite: {0}")]
    NotFinite(Box<NotFinite>),
    /// A device failed or refused.
    #[error("{device}: {problem}")]
    Device {
        /// The device's name.
        device: String,
        /// The event, and at which kernel if known.
        problem: String,
    },
    /// Other processes, or what connects to them, failed.
    #[error("cannot {what}: {problem}")]
    Exchange {
        /// The attempted action.
        what: &'static str,
        /// The event.
        problem: String,
    },
    /// The `--device` name fits nothing on this machine.
    #[error("no device fits \"{wanted}\"; this machine has: {available}")]
    NoSuchDevice {
        /// The request.
        wanted: String,
        /// The names that can be asked for, separated by commas.
        available: String,
    },
    /// Data fed to or read from a program does not have the size of its tensor.
    #[error("tensor {tensor}: {problem}")]
    Transfer {
        /// The tensor's name.
        tensor: String,
        /// The fault.
        problem: String,
    },
}

/// Shorthand for a shape error.
pub fn shape_error<T>(op: &'static str, problem: impl Into<String>) -> Result<T> {
    Err(Error::Shape { op, problem: problem.into() })
}

/// The first value that is not finite, of those that a step's kernels write in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct NotFinite {
    /// The dispatch, from 0, and how many there are.
    pub dispatch: usize,
    /// Their number.
    pub dispatches: usize,
    /// Its kernel's name and shapes.
    pub kernel: String,
    /// Which of its outputs, and that output's shape.
    pub output: usize,
    /// That output's shape.
    pub spec: Spec,
    /// The element, counted row-major.
    pub element: usize,
    /// Its value.
    pub value: f32,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dispatch, dispatches, kernel, output, spec, element, value } = self;
        let place: Vec<String> = position(&spec.shape, *element).iter().map(ToString::to_string).collect();
        write!(
            f,
            "{kernel} (dispatch {} of {dispatches}), whose output {output} holds {value} at [{}]",
            dispatch + 1,
            place.join(",")
        )
    }
}

/// The indices along each axis of an element that is counted row-major.
fn position(shape: &[usize], element: usize) -> Vec<usize> {
    let mut rest = element;
    let mut indices: Vec<usize> = Vec::with_capacity(shape.len());
    for &extent in shape.iter().rev() {
        indices.push(rest % extent);
        rest /= extent;
    }
    indices.reverse();
    indices
}
