//! Steps that ran, failed or were skipped.

use crate::folder::{Call, Results, Step};
use crate::table::{Table, cell, duration, or_dash, paragraph};

/// The section.
pub fn section(results: &Results) -> String {
    let mut text = "## What ran\n\n".to_owned();
    if results.calls.is_empty() && results.steps.is_empty() {
        return text + &paragraph("`run.sh` left no record of its steps.");
    }
    for call in &results.calls {
        text += &of(call, results);
    }
    let unknown: Vec<&Step> =
        results.steps.iter().filter(|step| results.calls.iter().all(|call| call.date != step.call)).collect();
    if !unknown.is_empty() {
        text += &paragraph("Of calls without a record:");
        text += &table(&unknown);
    }
    text
}

fn of(call: &Call, results: &Results) -> String {
    let steps: Vec<&Step> = results.steps.iter().filter(|step| step.call == call.date).collect();
    let what = if call.kind == "train" { "Training" } else { "Measuring" };
    let mut text = paragraph(&format!(
        "{what} on {} (UTC), `--device {}`, within {}:",
        cell(&call.date),
        cell(&call.device),
        or_dash(call.seconds, duration)
    ));
    if !steps.is_empty() {
        text += &table(&steps);
    }
    let open: Vec<&str> =
        call.plan.iter().map(String::as_str).filter(|name| steps.iter().all(|step| step.name != **name)).collect();
    if open.is_empty() {
        return text;
    }
    let running = results.running.as_deref().filter(|running| open.contains(running));
    let running = running.map(|name| format!(" `{name}` was under way when this page was made.")).unwrap_or_default();
    let names: Vec<String> = open.iter().map(|name| format!("`{}`", cell(name))).collect();
    text + &paragraph(&format!("**Not come to an end: {}.**{running}", names.join(", ")))
}

fn table(steps: &[&Step]) -> String {
    let mut table = Table::new(&["step", "", ">time", ">limit", ""]);
    for step in steps {
        let outcome = match step.outcome.as_str() {
            "ok" => "done".to_owned(),
            "failed" => format!("**failed** (status {})", cell(&step.status)),
            "cut" => "**cut at its limit**".to_owned(),
            other => cell(other),
        };
        // The last line of a step's output matters if the step failed.
        let note = if step.outcome == "ok" { String::new() } else { cell(&step.note) };
        let (time, limit) = (or_dash(step.seconds, duration), or_dash(step.limit, duration));
        table.row(&[cell(&step.name), outcome, time, limit, note]);
    }
    table.text()
}
