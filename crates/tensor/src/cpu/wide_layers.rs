//! Wide layers on the CPU: those of more weights than stay in the second-level cache while the inner loops of `strips`
//! go over them. They are products of matrices of the crate `gemm`, which cuts its operands to fit the caches, and
//! copies them. Here are the rule for such layers and the gradient of their weights: one tap of the kernel and some
//! channels are a task, since such layers have few pixels, and so few parts to sum side by side.

use rayon::prelude::*;

use super::normalise::Normalisation;
use super::product::{Matrix, multiply};
use super::strips::{Strip, gather};
use super::windows::with_scratch;
use crate::kernel::Slice;
use crate::kernels::conv2d::ConvGeometry;

/// Words of a group's weights beyond which a layer is wide: half of a second-level cache of 1 MiB.
const WIDE_WORDS: usize = 128 * 1024;

/// Channels of a task at most, and at least where there are as many: fewer make more tasks, each of which has `dy`
/// copied anew.
const CHANNELS: [usize; 2] = [32, 256];

/// Pixels of a product.
const PIXELS: usize = 512;

/// Tells whether a layer is wide.
pub(super) fn is_wide(g: &ConvGeometry) -> bool {
    g.forward_window().depth() * g.group_filters() > WIDE_WORDS
}

/// Channels of a task: a divisor of a group's, so that all tasks are alike.
fn channels_per_task(channels: usize) -> usize {
    let [least, most] = CHANNELS;
    let divisor = (1..=channels).find(|&tasks| channels.is_multiple_of(tasks) && channels / tasks <= most);
    match divisor {
        Some(tasks) if channels / tasks >= least => channels / tasks,
        _ => channels,
    }
}

/// The partial sums `[parts, M, R, S, C/G, K]` of the weights' gradient, each over `rows_per_part` rows (n, p) of the
/// output; `inputs` are those of [`crate::kernels::conv2d::Conv2dGradWeight`].
pub(super) fn grad_weight(g: &ConvGeometry, rows_per_part: usize, inputs: &[Slice<'_>], partials: &mut [f32]) {
    let (x, dy) = (inputs[0].f32(), inputs[1].f32());
    let [height, width] = g.output_extent();
    let (rows, filters, image) = (g.batch * height, g.group_filters(), g.height * g.width * g.channels);
    let channels = channels_per_task(g.group_channels());
    let ranges = g.group_channels() / channels;
    let block_rows = (PIXELS / width).max(1);
    let in_place = g.is_pointwise() && inputs.len() == 2;

    partials.par_chunks_mut(channels * g.filters).enumerate().for_each(|(task, dw)| {
        let (task, range) = (task / ranges, task % ranges);
        let (task, s) = (task / g.kernel[1], task % g.kernel[1]);
        let (task, r) = (task / g.kernel[0], task % g.kernel[0]);
        let (part, member) = (task / g.members, task % g.members);
        let input = if g.input_members == 1 { 0 } else { member };
        let x = &x[input * g.batch * image..][..g.batch * image];
        let window = g.forward_window().of_tap([r, s], channels);
        let first_channel = |group: usize| group * g.group_channels() + range * channels;
        let normalisation = |group: usize| {
            let first = first_channel(group);
            Normalisation::of(&inputs[2..], input, g.channels, first..first + channels)
        };
        let normalisations: Vec<_> = (0..g.groups).map(normalisation).collect();
        let part_rows = part * rows_per_part..((part + 1) * rows_per_part).min(rows);
        let near = Strip::new(window, block_rows.min(height), width).words();
        with_scratch(near + block_rows * width * channels, |scratch| {
            let (near, scratch) = scratch.split_at_mut(near);
            for first_row in part_rows.clone().step_by(block_rows) {
                let pixels = block_rows.min(part_rows.end - first_row) * width;
                for (group, normalisation) in normalisations.iter().enumerate() {
                    let columns = if in_place {
                        let x = &x[first_row * width * g.channels + first_channel(group)..];
                        Matrix::strided(x, channels, pixels, 1, g.channels)
                    } else {
                        let columns = &mut scratch[..pixels * channels];
                        let from = (x, first_channel(group) / channels, first_row);
                        gather(window, [height, width], from, normalisation.as_ref(), near, columns);
                        Matrix::new(columns, channels, pixels, true)
                    };
                    let dy = &dy[(member * rows + first_row) * width * g.filters + group * filters..];
                    let dy = Matrix::strided(dy, pixels, filters, g.filters, 1);
                    let accumulate = first_row > part_rows.start;
                    multiply(columns, dy, &mut dw[group * filters..], g.filters, accumulate);
                }
            }
        });
    });
}
