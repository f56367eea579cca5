//! The same networks in PyTorch on the same accelerator.

use super::bench::net;
use super::missing;
use crate::folder::Results;
use crate::formats::PytorchRow;
use crate::headline::{From, Key, ours, pytorch};
use crate::table::{Table, cell, large, paragraph, ratio};

/// The section.
pub fn section(results: &Results) -> String {
    let text = "## Against PyTorch\n\n".to_owned();
    if pytorch(results).next().is_none() {
        let reason = results.steps.iter().rfind(|step| step.name == "pytorch").map(|step| cell(&step.note));
        let reason = reason.filter(|reason| !reason.is_empty()).map(|reason| format!(": {reason}")).unwrap_or_default();
        let sentence = format!("PyTorch was not measured{reason}.");
        return text + &missing(&results.pytorch, &sentence);
    }
    let mut words = "Images/s in training on the same machine, PyTorch in `channels_last` with its fused optimiser. \
        Ratios above 1: this program is faster. TF32 has 10 bits of mantissa, and stands against this program's f32. \
        Where two figures of ours stand in a row, PyTorch ran between them."
        .to_owned();
    let theirs = results.pytorches().into_iter().find_map(|part| part.get());
    let (theirs, here) = (theirs.map(|theirs| &theirs.device), results.head().map(|head| head.device.name));
    if let (Some(theirs), Some(here)) = (theirs, here)
        && !is_same(theirs, &here)
    {
        words += &format!(" **PyTorch ran on {}**: no ratio is given.", cell(theirs));
        return text + &paragraph(&words) + &table(results, false);
    }
    text + &paragraph(&words) + &table(results, true)
}

/// Tells whether two names are those of one card: one is part of the other.
fn is_same(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(str::to_lowercase);
    one.contains(&other) || other.contains(&one)
}

fn table(results: &Results, ratios: bool) -> String {
    let mut table = Table::new(&["network", ">batch", "PyTorch", ">its images/s", "", ">ours", ">ratio"]);
    let mut failed = Table::new(&["network", ">batch", "PyTorch", "failed"]);
    for row in pytorch(results) {
        let head = [net(&row.net, row.branches), row.batch.to_string(), cell(&row.mode)];
        match row.images_per_second {
            Some(rate) => table.row(&[head.as_slice(), &against(results, row, rate, ratios)].concat()),
            None => failed.row(&[head.as_slice(), &[row.failed.as_deref().map(cell).unwrap_or_default()]].concat()),
        }
    }
    let mut text = if table.is_empty() { String::new() } else { table.text() };
    if !failed.is_empty() {
        text += &failed.text();
    }
    text
}

/// PyTorch's rate, our precision, our rate, their ratio.
fn against(results: &Results, row: &PytorchRow, rate: f64, ratios: bool) -> [String; 4] {
    let key = Key::of_pytorch(row);
    let Some((ours, from)) = ours(results, key).filter(|_| ratios) else {
        return [large(rate), key.precision.to_owned(), "–".to_owned(), "–".to_owned()];
    };
    let shown = match from {
        From::Around(before, after) => format!("{} and {}", large(before), large(after)),
        From::Before | From::Bench => large(ours),
    };
    [large(rate), key.precision.to_owned(), shown, ratio(ours / rate)]
}
