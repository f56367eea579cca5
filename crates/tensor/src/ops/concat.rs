//! Concatenation of channels, as densely connected networks do it. Its gradient is two ranges of channels.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::concat::{Concat, SliceChannels};

#[derive(Debug)]
struct Backward {
    forward: Concat,
    parts: [Var; 2],
    y: Var,
}

impl Graph {
    /// Concatenates the channels of `a` `[M, N, H, W, A]` and `b` `[M, N, H, W, B]`, giving `[M, N, H, W, A + B]`.
    ///
    /// # Errors
    /// When the other axes differ.
    pub fn concat(&mut self, a: Var, b: Var) -> Result<Var> {
        let (Some((&left, rest)), Some((&right, other))) = (self.shape(a).split_last(), self.shape(b).split_last())
        else {
            return shape_error("concat", "a scalar has no channels".to_owned());
        };
        if rest != other || left * right == 0 {
            return shape_error("concat", format!("{:?} and {:?} do not fit each other", self.shape(a), self.shape(b)));
        }
        let mut shape = rest.to_vec();
        shape.push(left + right);
        let forward = Concat { rows: rest.iter().product(), channels: [left, right] };
        let y = self.launch_one(forward, &[a, b])?;
        self.set_shape(y, shape)?;
        self.differentiable(Backward { forward, parts: [a, b], y }, &[a, b], &[y]);
        Ok(y)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let Concat { rows, channels: [left, right] } = self.forward;
        for (part, first, count) in [(self.parts[0], 0, left), (self.parts[1], left, right)] {
            if graph.needs_gradient(part) {
                let kernel = SliceChannels { rows, channels: left + right, first, count };
                let gradient = graph.launch_one(kernel, &[dy])?;
                gradients.add(graph, part, gradient)?;
            }
        }
        Ok(())
    }
}
