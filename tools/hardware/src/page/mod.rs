//! The page of one adapter.

mod bench;
mod profile;
mod pytorch;
mod selftest;
mod steps;
mod training;

use serde_json::Value;

use crate::folder::{Part, Results};
use crate::headline::Headline;
use crate::table::{Table, cell, paragraph};

/// The page as Markdown. A section whose file is missing is replaced by a sentence.
pub fn page(results: &Results) -> String {
    let mut text = format!("# {}\n\n", cell(&name(results)));
    text += &paragraph(
        "Made by `tools/hardware` from the files beside it, which `tools/hardware/run.sh` wrote. Images/s are medians; \
         f32 is this program's full precision, without TF32.",
    );
    text += &head(results);
    text += "## In short\n\n";
    let sentences = Headline::new(results).sentences();
    if sentences.is_empty() {
        text += &paragraph("None of the figures that are asked for first were measured: see what ran, at the end.");
    } else {
        for sentence in sentences {
            text += &format!("* {sentence}\n");
        }
        text.push('\n');
    }
    if let Some(notes) = &results.notes {
        text += &format!("## Notes\n\n{}\n\n", notes.trim());
    }
    for problem in results.damage() {
        text += &paragraph(&format!("Left out: {}.", cell(problem)));
    }
    text += &selftest::section(results);
    text += &bench::section(results);
    text += &pytorch::section(results);
    text += &profile::section(results);
    text += &training::section(results);
    text += &steps::section(results);
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// Name of the adapter.
pub fn name(results: &Results) -> String {
    match results.head() {
        Some(head) => head.device.name,
        None => results.calls.first().map_or("An unknown adapter", |call| &call.device).to_owned(),
    }
}

/// A date from the files: words, or seconds since 1970, which are left as they are.
pub fn date(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Adapter, driver, date, program, machine.
fn head(results: &Results) -> String {
    let mut table = Table::new(&["", ""]);
    let mut row = |what: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.row(&[what.to_owned(), cell(&value)]);
        }
    };
    let head = results.head();
    let device = head.as_ref().map(|head| &head.device);
    row("adapter", device.map(|device| device.name.clone()));
    row("through", device.and_then(|device| device.backend.clone()));
    row("driver", device.and_then(|device| device.driver.clone()));
    let call = results.calls.first();
    let measured = head.as_ref().and_then(|head| head.date.as_ref()).map(date);
    row("date (UTC)", call.map(|call| call.date.clone()).or(measured));
    row("program", head.as_ref().map(|head| words([&head.program.version, &head.program.commit])));
    row("packed", call.map(|call| call.program.clone()));
    row("system", call.map(|call| call.system.clone()));
    row("Vulkan loader", call.map(|call| call.loader.clone()));
    if let Some(theirs) = results.pytorch.get() {
        row("PyTorch", Some(format!("{} on {}", theirs.torch, theirs.device)));
    }
    if table.is_empty() { String::new() } else { table.text() }
}

fn words(parts: [&Option<String>; 2]) -> String {
    parts.into_iter().flatten().cloned().collect::<Vec<_>>().join(", commit ")
}

/// The sentence that replaces a section whose file is missing; nothing if the file is present, and nothing if it is
/// damaged, which is reported further up.
fn missing<T>(part: &Part<T>, sentence: &str) -> String {
    if matches!(part, Part::Missing) { paragraph(sentence) } else { String::new() }
}
