//! The normalisation of a convolution's input where it is read.

use std::ops::Range;

use super::tiles::repeat_over_tile;
use super::vectors::{Loops, wide};
use crate::kernel::Slice;
use crate::kernels::conv2d::ConvGeometry;

/// The normalisation of a convolution's input, `relu((x - mean) scale + shift)` by the channel. The batch-norm and
/// the ReLU in front of a convolution need no tensor of their own.
#[derive(Debug, Clone)]
pub(super) struct Normalisation {
    // Repeated over a few pixels, so that loops over them are long.
    mean: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Normalisation {
    /// That of channels `channels` of a member, from `[stats [M, 2, C], gamma [M, C], beta [M, C]]`; none if there are
    /// no such inputs.
    pub fn of(inputs: &[Slice<'_>], member: usize, all: usize, channels: Range<usize>) -> Option<Self> {
        let &[stats, gamma, beta] = inputs else { return None };
        let (mean, inv_std) = stats.f32()[member * 2 * all..][..2 * all].split_at(all);
        let [gamma, beta] = [gamma, beta].map(|values| &values.f32()[member * all..][..all][channels.clone()]);
        let scale: Vec<f32> = gamma.iter().zip(&inv_std[channels.clone()]).map(|(gamma, s)| gamma * s).collect();
        Some(Self {
            mean: repeat_over_tile(&mean[channels]),
            scale: repeat_over_tile(&scale),
            shift: repeat_over_tile(beta),
        })
    }

    /// That of each group's channels of an input member.
    pub fn of_groups(g: &ConvGeometry, inputs: &[Slice<'_>], member: usize) -> Vec<Option<Self>> {
        let channels = |group: usize| group * g.group_channels()..(group + 1) * g.group_channels();
        (0..g.groups).map(|group| Self::of(inputs, member, g.channels, channels(group))).collect()
    }

    /// Normalises whole pixels of these channels.
    pub fn apply(&self, pixels: &mut [f32]) {
        wide(Normalise { normalisation: self, pixels });
    }
}

struct Normalise<'a> {
    normalisation: &'a Normalisation,
    pixels: &'a mut [f32],
}

impl Loops for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        let Normalisation { mean, scale, shift } = self.normalisation;
        for pixels in self.pixels.chunks_mut(mean.len()) {
            let parameters = mean.iter().zip(scale).zip(shift);
            for (x, ((mean, scale), shift)) in pixels.iter_mut().zip(parameters) {
                let value = (*x - mean) * scale + shift;
                // A comparison keeps NaN, which `max` would not.
                *x = if value < 0.0 { 0.0 } else { value };
            }
        }
    }
}
