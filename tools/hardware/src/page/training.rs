//! Trainings of real networks on the adapter.

use super::bench::net;
use super::missing;
use crate::folder::Results;
use crate::formats::Trained;
use crate::table::{Table, cell, duration, large, or_dash, paragraph};

/// Epochs of the paper.
const PAPER: f64 = 300.0;
/// Number of epochs whose test error is shown.
const SHOWN: usize = 12;

/// The section.
pub fn section(results: &Results) -> String {
    let text = "## Training\n\n".to_owned();
    let Some(training) = results.training.get().filter(|training| !training.runs.is_empty()) else {
        return text + &missing(&results.training, "No network was trained (`run.sh --train`).");
    };
    let mut table = Table::new(&[
        "network",
        "data",
        ">epochs",
        ">test error",
        ">best",
        ">ensemble",
        ">images/s",
        ">wall time",
        ">an epoch",
        ">300 epochs",
    ]);
    for run in &training.runs {
        let step = results.steps.iter().rfind(|step| step.name == run.name);
        let wall = step.and_then(|step| step.seconds);
        let epoch = run.epoch_seconds.or_else(|| wall.map(|wall| wall / run.trained as f64));
        table.row(&[
            format!("{}, {}", net(&run.net, run.branches), cell(&run.method)),
            format!("{}, batch {}, {}", cell(&run.data), run.batch, cell(&run.precision)),
            if run.trained < run.epochs {
                format!("{} of {}", run.trained, run.epochs)
            } else {
                run.epochs.to_string()
            },
            errors(&run.last),
            format!("{:.2} %", run.best),
            or_dash(run.ensemble, |error| format!("{error:.2} %")),
            large(run.images_per_second),
            or_dash(wall, duration),
            or_dash(epoch, |epoch| format!("{epoch:.2} s")),
            or_dash(epoch, |epoch| duration(PAPER * epoch)),
        ]);
    }
    let about = paragraph(
        "Test errors after the last epoch, of every branch, branch 0 first, which is the network that ships; the \
         schedule is as short as the training. An epoch is by the clock, with evaluation and saving; 300 epochs, the \
         paper's training, are so many times that long.",
    );
    text + &about + &table.text() + &curves(&training.runs)
}

fn errors(last: &[f64]) -> String {
    let errors: Vec<String> = last.iter().map(|error| format!("{error:.2}")).collect();
    errors.join(" / ") + " %"
}

/// Test errors of branch 0 in the course of training.
fn curves(runs: &[Trained]) -> String {
    let longest = runs.iter().map(|run| run.curve.len()).max().unwrap_or_default();
    let every = longest.div_ceil(SHOWN).max(1);
    let mut heads = vec![">epoch".to_owned()];
    heads.extend(runs.iter().map(|run| format!(">{}", net(&run.net, run.branches))));
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for epoch in (1..=longest).filter(|epoch| epoch % every == 0 || *epoch == longest) {
        let mut cells = vec![epoch.to_string()];
        cells
            .extend(runs.iter().map(|run| or_dash(run.curve.get(epoch - 1).copied(), |error| format!("{error:.2} %"))));
        table.row(&cells);
    }
    if table.is_empty() { String::new() } else { "Test error of branch 0 on the way:\n\n".to_owned() + &table.text() }
}
