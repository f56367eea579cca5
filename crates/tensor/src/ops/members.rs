//! Fan-out by copying: for a layer whose kernels want a tensor of every member. Convolutions and linear layers fan out
//! themselves.

use crate::error::{Result, shape_error};
use crate::graph::autodiff::{Differentiable, Gradients};
use crate::graph::{Graph, Var};
use crate::kernels::expand_members::ExpandMembers;
use crate::kernels::sum_members::SumMembers;

#[derive(Debug)]
struct Backward {
    forward: ExpandMembers,
    x: Var,
    y: Var,
}

impl Graph {
    /// Copies `x` `[1, ...]` for each of `members`, giving `[M, ...]`; a tensor that has them already is left as it is.
    ///
    /// # Errors
    /// When `x` has another number of members.
    pub fn expand_members(&mut self, x: Var, members: usize) -> Result<Var> {
        let mut shape = self.shape(x).to_vec();
        if shape.first() == Some(&members) {
            return Ok(x);
        }
        if shape.first() != Some(&1) || members == 0 {
            return shape_error("expand_members", format!("{shape:?} cannot be expanded to {members} members"));
        }
        let forward = ExpandMembers { members, words: self.spec(x).elements() };
        let y = self.launch_one(forward, &[x])?;
        shape[0] = members;
        self.set_shape(y, shape)?;
        self.differentiable(Backward { forward, x, y }, &[x], &[y]);
        Ok(y)
    }
}

impl Differentiable for Backward {
    fn backward(&self, graph: &mut Graph, gradients: &mut Gradients) -> Result<()> {
        let Some(dy) = gradients.of(self.y) else { return Ok(()) };
        let ExpandMembers { members, words } = self.forward;
        let dx = graph.launch_one(SumMembers { members, words }, &[dy])?;
        gradients.add(graph, self.x, dx)
    }
}
