//! Times of a training step's kernels, against the adapter's measured peaks.

use std::fmt::Write;

use super::bench::net;
use crate::folder::Results;
use crate::formats::{Profile, ProfileKernel};
use crate::table::{Table, cell, milliseconds, paragraph, percent};

/// Most lines of a table; the rest is one line.
const SHOWN: usize = 14;

/// The section.
pub fn section(results: &Results) -> String {
    let mut text = "## Share of peak by kernel\n\n".to_owned();
    let profiles: Vec<_> = results.profiles.iter().filter_map(|(name, part)| Some((name, part.get()?))).collect();
    if profiles.is_empty() {
        return text + &paragraph("No profile was made.");
    }
    text += &paragraph(
        "Kernels of a training step one by one, the longest first. Bytes are those that must move; roofline is the \
         least time by the measured peaks over the time that it took.",
    );
    for (name, profile) in profiles {
        text += &of(name, profile);
    }
    text
}

fn of(name: &str, profile: &Profile) -> String {
    let by = if name.ends_with("-shapes.json") { "by kernel and shape" } else { "by kernel" };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "### {}, {}, batch {}, {by}\n",
        net(&profile.net, profile.branches),
        profile.precision,
        profile.batch
    );
    let kernels = &profile.training.kernels;
    let sum = |value: fn(&ProfileKernel) -> f64| kernels.iter().map(value).sum::<f64>();
    let (seconds, least) = (sum(|kernel| kernel.seconds), sum(|kernel| kernel.least_seconds));
    text += &paragraph(&format!(
        "A step takes {} ms, its kernels one by one {} ms, and {} ms at least: {} of the roofline.",
        milliseconds(profile.training.seconds),
        milliseconds(seconds),
        milliseconds(least),
        percent(least / profile.training.seconds)
    ));
    text + &kernels_table(profile, seconds)
}

fn kernels_table(profile: &Profile, all: f64) -> String {
    let mut table =
        Table::new(&["kernel", ">count", ">ms", ">of the time", ">of peak FLOP/s", ">of peak GB/s", ">roofline"]);
    let mut row = |name: String, count: u64, [seconds, flops, bytes, least]: [f64; 4]| {
        table.row(&[
            name,
            count.to_string(),
            milliseconds(seconds),
            percent(seconds / all),
            percent(flops / seconds / profile.peaks.flops_per_second),
            percent(bytes / seconds / profile.peaks.bytes_per_second),
            percent(least / seconds),
        ]);
    };
    let figures = |kernel: &ProfileKernel| [kernel.seconds, kernel.flops, kernel.bytes, kernel.least_seconds];
    let kernels = &profile.training.kernels;
    for kernel in kernels.iter().take(SHOWN) {
        row(cell(&kernel.kernel), kernel.count, figures(kernel));
    }
    let rest = kernels.get(SHOWN..).unwrap_or_default();
    if !rest.is_empty() {
        let mut sums = [0.0; 4];
        for kernel in rest {
            sums.iter_mut().zip(figures(kernel)).for_each(|(sum, value)| *sum += value);
        }
        row(format!("{} more", rest.len()), rest.iter().map(|kernel| kernel.count).sum(), sums);
    }
    table.text()
}
