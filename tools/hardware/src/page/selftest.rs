//! Results of the comparison of every kernel with its reference.

use serde_json::Value;

use super::missing;
use crate::folder::{Part, Results};
use crate::formats::{Failure, Selftest};
use crate::headline::verdict;
use crate::table::{Table, cell, duration, or_dash, paragraph, percent};

/// Most failures that are shown.
const SHOWN: usize = 20;

/// The section: of the whole selftest if it was completed, else of the quick one.
pub fn section(results: &Results) -> String {
    let text = "## Selftest\n\n".to_owned();
    match (&results.selftest, &results.quick) {
        (Part::Is(whole), quick) => {
            let quick = quick.get().map(|quick| format!(" The quick one before it: {}.", verdict(quick)));
            text + &of(whole, "whole", &quick.unwrap_or_default())
        }
        (whole, Part::Is(quick)) => text + &of(quick, "quick", "") + &missing(whole, "The whole selftest did not run."),
        (_, quick) => {
            text + &missing(quick, "The selftest did not come to its end: whether the kernels are right is not known.")
        }
    }
}

fn of(test: &Selftest, which: &str, more: &str) -> String {
    let seconds = test.seconds.map(|seconds| format!(" in {}", duration(seconds))).unwrap_or_default();
    let runs = test.runs.map(|runs| format!(", {runs} runs of candidates")).unwrap_or_default();
    let mut text = paragraph(&format!(
        "The {which} selftest{runs}{seconds}: {}. Worst errors are shares of what is tolerated.{more}",
        verdict(test)
    ));
    text += &kernels(test);
    if !test.failures.is_empty() {
        text += &failures(&test.failures);
    }
    if !test.steps.is_empty() {
        let mut table = Table::new(&["whole step against the CPU device", ">worst", ""]);
        for step in &test.steps {
            let problem = step.problem.as_deref().map(cell).unwrap_or_default();
            let outcome = if step.passed { "right".to_owned() } else { format!("**wrong** {problem}") };
            table.row(&[cell(&step.what), or_dash(step.worst, percent), outcome]);
        }
        text += &table.text();
    }
    text
}

fn kernels(test: &Selftest) -> String {
    let mut table = Table::new(&["kernel", ">cases", ">candidates", ">runs", ">wrong", ">worst", ">time"]);
    let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |value| value.to_string());
    for kernel in &test.kernels {
        let failed = if kernel.failed > 0 { format!("**{}**", kernel.failed) } else { "0".to_owned() };
        table.row(&[
            cell(&kernel.kernel),
            kernel.cases.to_string(),
            count(kernel.candidates),
            count(kernel.runs),
            failed,
            or_dash(kernel.worst, percent),
            or_dash(kernel.seconds, duration),
        ]);
    }
    table.text()
}

fn failures(failures: &[Failure]) -> String {
    let mut table = Table::new(&["wrong case", ">candidate", ">element", ">expected", ">got", "problem"]);
    let value = |value: &Option<Value>| match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(words)) => cell(words),
        Some(other) => cell(&other.to_string()),
    };
    for failure in failures.iter().take(SHOWN) {
        table.row(&[
            cell(&failure.case),
            value(&failure.candidate),
            value(&failure.index),
            value(&failure.expected),
            value(&failure.got),
            failure.problem.as_deref().map(cell).unwrap_or_default(),
        ]);
    }
    let mut text = table.text();
    if failures.len() > SHOWN {
        text += &paragraph(&format!("And {} more.", failures.len() - SHOWN));
    }
    text
}
