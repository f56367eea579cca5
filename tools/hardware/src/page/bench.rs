//! Images/s of this program, and the gain from tuning.

use super::missing;
use crate::folder::{Part, Results};
use crate::formats::{Bench, BenchRow, BenchTraining, Peaks};
use crate::headline::{Key, training};
use crate::table::{Table, cell, large, milliseconds, or_dash, paragraph, percent, ratio};

/// The section.
pub fn section(results: &Results) -> String {
    let mut text = "## Images/s\n\n".to_owned();
    text += &missing(&results.bench, "The bench did not run.");
    if let Part::Is(bench) = &results.bench {
        text += &about(bench);
        text += &rows(bench);
    }
    text + &tuning(results)
}

fn about(bench: &Bench) -> String {
    let mut words =
        "Synthetic images. A step's share of its roofline is the least time by the adapter's measured peaks \
        over the time that it took; host is what the processor does for a step."
            .to_owned();
    if let Some(Peaks { flops_per_second, bytes_per_second }) = bench.peaks {
        let [flops, bytes] = [flops_per_second, bytes_per_second].map(|peak| large(peak / 1e9));
        words += &format!(" Peaks as measured: {flops} GFLOP/s of f32, {bytes} GB/s in copies.");
    }
    words += match &bench.tuned {
        None | Some(serde_json::Value::Null) => " The static rules' variants of the kernels.",
        Some(_) => " Kernels as tuned.",
    };
    if !bench.complete {
        words += " **The bench was cut short**: later rows are missing.";
    }
    paragraph(&words)
}

/// A network with its branches, in the form of the tables.
pub fn net(net: &str, branches: u64) -> String {
    let branches = if branches == 1 { "alone".to_owned() } else { format!("{branches} branches") };
    format!("{}, {branches}", cell(net))
}

fn range(training: &BenchTraining) -> String {
    match (training.fastest_seconds, training.slowest_seconds) {
        (Some(fastest), Some(slowest)) => format!("{} to {}", milliseconds(fastest), milliseconds(slowest)),
        _ => "–".to_owned(),
    }
}

fn rows(bench: &Bench) -> String {
    let mut table = Table::new(&[
        "network",
        "",
        ">batch",
        ">training",
        ">ms a step",
        ">range",
        ">device",
        ">host",
        ">of peak FLOP/s",
        ">of peak GB/s",
        ">roofline",
        ">evaluation",
        ">MiB",
    ]);
    let mut skipped = Table::new(&["network", "", ">batch", "left out"]);
    for row in &bench.rows {
        let head = [net(&row.net, row.branches), row.precision.clone(), row.batch.to_string()];
        match &row.training {
            Some(training) => table.row(&[head.as_slice(), &figures(row, training, bench.peaks)].concat()),
            None => {
                let reason = row.skipped.as_deref().map_or_else(|| "no reason is given".to_owned(), cell);
                skipped.row(&[head.as_slice(), &[reason]].concat());
            }
        }
    }
    let mut text = if table.is_empty() { paragraph("No network was measured.") } else { table.text() };
    if !skipped.is_empty() {
        text += &skipped.text();
    }
    text
}

fn figures(row: &BenchRow, training: &BenchTraining, peaks: Option<Peaks>) -> [String; 10] {
    let share = |amount: Option<f64>, peak: Option<f64>| Some(amount? / training.median_seconds / peak?);
    let flops = share(training.flops, peaks.map(|peaks| peaks.flops_per_second));
    let bytes = share(training.bytes, peaks.map(|peaks| peaks.bytes_per_second));
    let roofline = training.least_seconds.map(|least| least / training.median_seconds);
    let evaluation = row.evaluation.as_ref().map(|evaluation| evaluation.images_per_second);
    [
        large(training.images_per_second),
        milliseconds(training.median_seconds),
        range(training),
        or_dash(training.device_seconds, milliseconds),
        or_dash(training.host_seconds, milliseconds),
        or_dash(flops, percent),
        or_dash(bytes, percent),
        or_dash(roofline, percent),
        or_dash(evaluation, large),
        or_dash(row.memory_bytes, |bytes| large((bytes / f64::from(1 << 20)).round())),
    ]
}

/// The rows measured before and after tuning.
fn tuning(results: &Results) -> String {
    let Some(untuned) = results.untuned.get() else {
        return missing(&results.untuned, "What there was before tuning was not measured.");
    };
    let mut table = Table::new(&["network", "", ">batch", ">before tuning", ">after", ">times"]);
    for row in &untuned.rows {
        let Some(before) = &row.training else { continue };
        let after = training(&results.bench, Key::of(row)).or_else(|| training(&results.before, Key::of(row)));
        let after = after.map(|after| after.images_per_second);
        table.row(&[
            net(&row.net, row.branches),
            row.precision.clone(),
            row.batch.to_string(),
            large(before.images_per_second),
            or_dash(after, large),
            or_dash(after.map(|after| after / before.images_per_second), ratio),
        ]);
    }
    if table.is_empty() {
        return paragraph("Before tuning no network was measured.");
    }
    "Training before and after tuning, images/s:\n\n".to_owned() + &table.text()
}
