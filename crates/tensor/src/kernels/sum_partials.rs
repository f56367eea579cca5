//! Sums of the parts of split reductions, in the order of the parts: gradients of weights, of batch-norms' parameters
//! and of biases. Each is small, so one dispatch takes several.
//!
//! `y[o, i] = sum over p of x[o, p, i]`.

use rayon::prelude::*;

use crate::kernel::{Binding, Cost, Kernel, Launch, Slice, SliceMut, Target};
use crate::shader;
use crate::shape::Spec;

/// One sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// O: sums that are taken apart from each other, outside of the parts.
    pub outer: usize,
    /// P: number of parts.
    pub partials: usize,
    /// Shape of a part.
    pub shape: Vec<usize>,
    /// True if a part is `[M, 2, C]`, and the first and the second of the pairs go to an output each, `[M, C]`. They
    /// are summed in double precision on the CPU.
    pub pairs: bool,
}

impl Sum {
    /// The parts `[P, ..shape]` of a tensor of this shape.
    pub fn of(partials: usize, shape: Vec<usize>) -> Self {
        Self { outer: 1, partials, shape, pairs: false }
    }

    /// The parts `[P, M, 2, C]` of two tensors `[M, C]`.
    pub fn of_pairs(partials: usize, members: usize, channels: usize) -> Self {
        Self { outer: 1, partials, shape: vec![members, 2, channels], pairs: true }
    }

    /// The rows `[O, P, columns]` of matrices.
    pub fn of_rows(outer: usize, rows: usize, columns: usize) -> Self {
        Self { outer, partials: rows, shape: vec![columns], pairs: false }
    }

    /// Elements of a part.
    fn words(&self) -> usize {
        self.shape.iter().product()
    }

    fn input(&self) -> Spec {
        let mut shape = if self.outer == 1 { vec![self.partials] } else { vec![self.outer, self.partials] };
        shape.extend(&self.shape);
        Spec::f32(shape)
    }

    fn outputs(&self) -> Vec<Spec> {
        if let (true, &[members, _, channels]) = (self.pairs, self.shape.as_slice()) {
            return vec![Spec::f32([members, channels]); 2];
        }
        let mut shape = if self.outer == 1 { vec![] } else { vec![self.outer] };
        shape.extend(&self.shape);
        vec![Spec::f32(shape)]
    }

    /// Operands: the bindings that the sum takes up.
    fn operands(&self) -> usize {
        if self.pairs { 3 } else { 2 }
    }

    fn compute(&self, x: &[f32], outputs: &mut [SliceMut<'_>]) {
        const BLOCK: usize = 1024;
        let words = self.words();
        if let [first, second] = outputs {
            let (first, second) = (first.f32(), second.f32());
            let mut sums = vec![0.0; words];
            for part in x.chunks_exact(words) {
                sums.iter_mut().zip(part).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            let channels = self.shape[2];
            let outputs = first.chunks_exact_mut(channels).zip(second.chunks_exact_mut(channels));
            for (sums, (first, second)) in sums.chunks_exact(2 * channels).zip(outputs) {
                for (y, sum) in first.iter_mut().chain(second).zip(sums) {
                    *y = *sum as f32;
                }
            }
            return;
        }
        for (x, y) in x.chunks_exact(self.partials * words).zip(outputs[0].f32().chunks_exact_mut(words)) {
            y.par_chunks_mut(BLOCK).enumerate().for_each(|(block, y)| {
                y.fill(0.0);
                for part in x.chunks_exact(words) {
                    for (y, x) in y.iter_mut().zip(&part[block * BLOCK..]) {
                        *y += x;
                    }
                }
            });
        }
    }
}

/// Sums over parts: an input and one or two outputs for each, in their order.
#[derive(Debug, Clone)]
pub struct SumPartials {
    sums: Vec<Sum>,
}

const WORKGROUP: usize = 256;
/// Sums of one dispatch, at most: as many as the shader has inputs.
const MAX_SUMS: usize = 3;
/// WebGPU's limit of storage bindings.
const MAX_OPERANDS: usize = 8;

impl SumPartials {
    /// One sum.
    pub fn new(sum: Sum) -> Self {
        Self { sums: vec![sum] }
    }

    /// The same with as many parts in each sum.
    #[must_use]
    pub fn with_parts(mut self, partials: usize) -> Self {
        self.sums.iter_mut().for_each(|sum| sum.partials = partials);
        self
    }

    /// Takes another kernel's sums, unless there is no room for them.
    pub fn join(&mut self, other: &Self) -> bool {
        let sums = || self.sums.iter().chain(&other.sums);
        let fits = sums().count() <= MAX_SUMS && sums().map(Sum::operands).sum::<usize>() <= MAX_OPERANDS;
        if fits {
            self.sums.extend_from_slice(&other.sums);
        }
        fits
    }
}

impl Kernel for SumPartials {
    fn name(&self) -> &'static str {
        "sum_partials"
    }

    fn inputs(&self) -> Vec<Spec> {
        self.sums.iter().map(Sum::input).collect()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.sums.iter().flat_map(Sum::outputs).collect()
    }

    fn cost(&self) -> Cost {
        Cost::new(self, self.sums.iter().map(|sum| sum.outer * sum.partials * sum.words()).sum())
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        let mut outputs = outputs;
        for (sum, x) in self.sums.iter().zip(inputs) {
            let (own, rest) = outputs.split_at_mut(if sum.pairs { 2 } else { 1 });
            sum.compute(x.f32(), own);
            outputs = rest;
        }
    }

    fn launch(&self, _: &Target) -> Launch {
        const NAMES: [[&str; 6]; MAX_SUMS] = [
            ["PARTIALS0", "INNER0", "ELEMENTS0", "SLICES0", "COLUMNS0", "OUTPUT0"],
            ["PARTIALS1", "INNER1", "ELEMENTS1", "SLICES1", "COLUMNS1", "OUTPUT1"],
            ["PARTIALS2", "INNER2", "ELEMENTS2", "SLICES2", "COLUMNS2", "OUTPUT2"],
        ];
        const ENDS: [&str; MAX_SUMS] = ["END0", "END1", "END2"];
        const ENTRIES: [&str; MAX_OPERANDS - 3] = ["outputs_1", "outputs_2", "outputs_3", "outputs_4", "outputs_5"];
        let in_quads = |sum: &Sum| sum.words().is_multiple_of(4) && (!sum.pairs || sum.shape[2].is_multiple_of(4));
        let (element, width) = if self.sums.iter().all(in_quads) { ("vec4<f32>", 4) } else { ("f32", 1) };
        let (mut end, mut output) = (0, 0);
        let mut sizes = Vec::new();
        for index in 0..MAX_SUMS {
            // Sums that are not there have no workgroups.
            let sum = self.sums.get(index).unwrap_or(&self.sums[0]);
            let elements = sum.outer * sum.words() / width;
            // At least four parts for a slice to sum.
            let slices =
                (1..=5).map(|log| 1 << log).take_while(|slices| 4 * slices <= sum.partials).last().unwrap_or(1);
            let columns = if sum.pairs { sum.shape[2] / width } else { 0 };
            let values = [sum.partials, sum.words() / width, elements, slices, columns, output];
            sizes.extend(NAMES[index].into_iter().zip(values));
            if index < self.sums.len() {
                end += elements.div_ceil(WORKGROUP / slices);
                output += if sum.pairs { 2 } else { 1 };
            }
            sizes.push((ENDS[index], end));
        }
        let input = |index: usize| Binding::Input(if index < self.sums.len() { index } else { 0 });
        let bindings: Vec<Binding> = (0..MAX_SUMS).map(input).chain((0..output).map(Binding::Output)).collect();
        let launch = Launch::new(shader!("sum_partials"), 0, 0, end);
        let launch = launch.entry(ENTRIES[output - 1]).bindings(bindings).alias("Elem", element);
        sizes.into_iter().fold(launch, |launch, (name, value)| launch.size(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, normal, run};

    #[test]
    fn parts_rows_and_pairs_are_added_up() {
        let mut kernel = SumPartials::new(Sum::of(3, vec![2, 5]));
        assert!(kernel.join(&SumPartials::new(Sum::of_pairs(700, 2, 3))));
        assert!(!kernel.join(&SumPartials::new(Sum::of_pairs(1, 1, 1)).joined_with_itself()), "there is no room");
        assert!(kernel.join(&SumPartials::new(Sum::of_rows(2, 4, 3))));
        assert!(!kernel.join(&SumPartials::new(Sum::of(1, vec![1]))), "there is no fourth");
        let (x, pairs, rows) = (normal(30, 0.5, 1.0, 1), normal(700 * 12, 0.5, 1.0, 2), normal(24, 0.5, 1.0, 3));
        let outputs = run(&kernel, &[&x, &pairs, &rows], &[]);
        let sum = |x: &[f32], first: usize, step: usize, count: usize| -> f64 {
            (0..count).map(|p| f64::from(x[first + p * step])).sum()
        };
        for (i, &y) in outputs[0].iter().enumerate() {
            assert_close(y, sum(&x, i, 10, 3), 1e-6);
        }
        for (which, output) in outputs[1..3].iter().enumerate() {
            for (i, &y) in output.iter().enumerate() {
                assert_close(y, sum(&pairs, (i / 3 * 2 + which) * 3 + i % 3, 12, 700), 1e-6);
            }
        }
        for (i, &y) in outputs[3].iter().enumerate() {
            assert_close(y, sum(&rows, i / 3 * 12 + i % 3, 3, 4), 1e-6);
        }
    }

    impl SumPartials {
        fn joined_with_itself(mut self) -> Self {
            assert!(self.join(&self.clone()));
            self
        }
    }
}
