//! The CPU's first pass of the gradient of a batch-norm: the ReLU's mask and the sums, in one reading of a chunk.

use pulp::Simd;

use super::column_sums::{Terms, add_up, repeat_over_sums, vector};
use crate::kernels::batch_norm::Activation;

/// The per-channel values of a member's batch-norm, repeated to tiles: with rows, all that the gradient takes.
#[derive(Debug)]
pub(super) struct Norm {
    mean: Vec<f32>,
    inv_std: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Rows of `x` and, where the activation asks for it, of `y`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub x: &'a [f32],
    pub y: Option<&'a [f32]>,
}

impl Norm {
    /// Of a member, given `[stats, gamma, beta]`, or stats alone if the ReLU is not [`Activation::Relu`].
    pub fn of(inputs: &[&[f32]], member: usize, channels: usize) -> Self {
        let (mean, inv_std) = inputs[0][member * 2 * channels..][..2 * channels].split_at(channels);
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        if let &[_, gamma, beta] = inputs {
            let parameters = member * channels..(member + 1) * channels;
            scale = gamma[parameters.clone()].iter().zip(inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
            scale = repeat_over_sums(&scale);
            shift = repeat_over_sums(&beta[parameters]);
        }
        Self { mean: repeat_over_sums(mean), inv_std: inv_std.to_vec(), scale, shift }
    }

    /// Sets `g` to 0 where the ReLU is closed, and takes the `partial [2, C]` of a chunk: the sums of `g` and of `g *
    /// xhat`.
    pub fn mask_and_sum(&self, activation: Activation, rows: Rows<'_>, g: &mut [f32], partial: &mut [f32]) {
        let Rows { x, y } = rows;
        match (activation, y) {
            (Activation::Relu, _) => self.add_up(x, Masked { gate: Open { norm: self, x }, g }, partial),
            (Activation::ReluOfSum, Some(y)) => self.add_up(x, Masked { gate: Positive { y }, g }, partial),
            (Activation::Linear | Activation::ReluOfSum, _) => self.sums(x, g, partial),
        }
    }

    /// The `partial [2, C]` of a chunk whose ReLU, if there is one, has masked `g`.
    pub fn sums(&self, x: &[f32], g: &[f32], partial: &mut [f32]) {
        self.add_up(x, Whole { g }, partial);
    }

    fn add_up(&self, x: &[f32], gradient: impl Gradient, partial: &mut [f32]) {
        let (sum, product) = partial.split_at_mut(self.inv_std.len());
        add_up(x.len(), Products { mean: &self.mean, x, gradient }, [sum, &mut *product]);
        // The constant 1 / deviation is multiplied at the end.
        for (product, inv_std) in product.iter_mut().zip(&self.inv_std) {
            *product *= inv_std;
        }
    }
}

/// The source of `g`.
trait Gradient {
    fn vector<S: Simd>(&mut self, simd: S, at: usize, column: usize) -> S::f32s;
    /// All values, in loops that need no whole vectors.
    fn values(&mut self) -> &[f32];
}

/// A gradient that needs no mask.
struct Whole<'a> {
    g: &'a [f32],
}

impl Gradient for Whole<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, _: S, at: usize, _: usize) -> S::f32s {
        vector::<S>(self.g, at)
    }

    #[inline(always)]
    fn values(&mut self) -> &[f32] {
        self.g
    }
}

/// A value that is positive where the ReLU is open.
trait Gate {
    fn vector<S: Simd>(&self, simd: S, at: usize, column: usize) -> S::f32s;
    /// Masks all of `g`.
    fn mask(&self, g: &mut [f32]);
}

/// A gate by the normalised input.
struct Open<'a> {
    norm: &'a Norm,
    x: &'a [f32],
}

impl Gate for Open<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&self, simd: S, at: usize, column: usize) -> S::f32s {
        let Norm { mean, scale, shift, .. } = self.norm;
        let deviation = simd.sub_f32s(vector::<S>(self.x, at), vector::<S>(mean, column));
        simd.add_f32s(simd.mul_f32s(deviation, vector::<S>(scale, column)), vector::<S>(shift, column))
    }

    #[inline(always)]
    fn mask(&self, g: &mut [f32]) {
        let Norm { mean, scale, shift, .. } = self.norm;
        for (x, g) in self.x.chunks(mean.len()).zip(g.chunks_mut(mean.len())) {
            let parameters = mean.iter().zip(scale).zip(shift);
            for ((g, x), ((mean, scale), shift)) in g.iter_mut().zip(x).zip(parameters) {
                *g = if (x - mean) * scale + shift > 0.0 { *g } else { 0.0 };
            }
        }
    }
}

/// A gate by the output.
struct Positive<'a> {
    y: &'a [f32],
}

impl Gate for Positive<'_> {
    #[inline(always)]
    fn vector<S: Simd>(&self, _: S, at: usize, _: usize) -> S::f32s {
        vector::<S>(self.y, at)
    }

    #[inline(always)]
    fn mask(&self, g: &mut [f32]) {
        for (g, y) in g.iter_mut().zip(self.y) {
            *g = if *y > 0.0 { *g } else { 0.0 };
        }
    }
}

/// A gradient that is masked and written back.
struct Masked<'a, G> {
    gate: G,
    g: &'a mut [f32],
}

impl<G: Gate> Gradient for Masked<'_, G> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, at: usize, column: usize) -> S::f32s {
        let zero = simd.splat_f32s(0.0);
        let open = simd.less_than_f32s(zero, self.gate.vector(simd, at, column));
        let (g, _) = S::as_mut_simd_f32s(&mut self.g[at..][..S::F32_LANES]);
        g[0] = simd.select_f32s(open, g[0], zero);
        g[0]
    }

    #[inline(always)]
    fn values(&mut self) -> &[f32] {
        self.gate.mask(self.g);
        self.g
    }
}

/// `g`, and `g * (x - mean)`.
struct Products<'a, G> {
    mean: &'a [f32],
    x: &'a [f32],
    gradient: G,
}

impl<G: Gradient> Terms<2> for Products<'_, G> {
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, at: usize, column: usize) -> [S::f32s; 2] {
        let g = self.gradient.vector(simd, at, column);
        let deviation = simd.sub_f32s(vector::<S>(self.x, at), vector::<S>(self.mean, column));
        [g, simd.mul_f32s(g, deviation)]
    }

    #[inline(always)]
    fn add_to(&mut self, [sums, products]: [&mut [f32]; 2]) {
        let mean = self.mean;
        for (x, g) in self.x.chunks(mean.len()).zip(self.gradient.values().chunks(mean.len())) {
            let columns = mean.iter().zip(sums.iter_mut()).zip(products.iter_mut());
            for ((x, g), ((mean, sum), product)) in x.iter().zip(g).zip(columns) {
                *sum += g;
                *product += g * (x - mean);
            }
        }
    }
}
