//! The part of the page that is about all runs: a table, and their curves together.

use anyhow::Result;

use crate::report::charts;
use crate::report::html::{figure, figures, remark, table};
use crate::report::runs::{Group, Row, Run, Spread};
use crate::show::plot::{Line, Point};
use crate::show::words::{flops, grouped};

/// The table of results, and, of several runs, their curves.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn section(groups: &[Group<'_>]) -> Result<String> {
    let mut html = String::from("<h2>Results</h2>\n");
    html.push_str(&results(groups));
    html.push_str(&remark(
        "Top-1 errors on the test split, per cent. Over seeds: mean ± standard deviation of the runs that differ in \
         their seed only. Over branches: the mean of the branches and their standard deviation within a run, averaged \
         over the seeds.",
    ));
    html.push_str("<h3>Cost</h3>\n");
    html.push_str(&cost(groups));
    if groups.iter().map(|group| group.runs.len()).sum::<usize>() > 1 {
        html.push_str("<h2>Curves</h2>\n");
        html.push_str(&curves(groups)?);
    }
    Ok(html)
}

/// A figure of the last record of a group's runs, over the seeds.
fn last(group: &Group<'_>, figure: impl Fn(&Row) -> Option<f64>) -> String {
    text(group.over_seeds(|run| run.last().and_then(&figure)))
}

fn text(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| spread.text(2))
}

fn results(groups: &[Group<'_>]) -> String {
    let row = |group: &Group<'_>| {
        let branches = |row: &Row| Spread::of(row.top1_error.iter().copied()).filter(|spread| spread.count > 1);
        let (mean, spread) = (
            group.over_seeds(|run| run.last().and_then(branches).map(|spread| spread.mean)),
            group.over_seeds(|run| run.last().and_then(branches).map(|spread| spread.deviation)),
        );
        let over_branches = mean
            .zip(spread)
            .map_or_else(|| "–".to_owned(), |(mean, spread)| format!("{:.2} ± {:.2}", mean.mean, spread.mean));
        let epochs: Vec<String> =
            group.runs.iter().map(|run| format!("{}/{}", run.epochs(), run.config.epochs)).collect();
        let same = epochs.iter().all(|other| *other == epochs[0]);
        vec![
            group.label.clone(),
            group.seeds(),
            if same { epochs[0].clone() } else { epochs.join(", ") },
            last(group, |row| row.top1_error.first().copied()),
            text(group.over_seeds(|run| run.best().and_then(|row| row.top1_error.first().copied()))),
            over_branches,
            text(group.over_seeds(Run::ensemble_error)),
        ]
    };
    let heads = ["", "seed", "epochs", "branch 0, last", "branch 0, best", "over branches", "ensemble, last"];
    table(&heads, &groups.iter().map(row).collect::<Vec<_>>())
}

fn cost(groups: &[Group<'_>]) -> String {
    let row = |group: &Group<'_>| {
        let cost = &group.runs[0].cost;
        let speed =
            |run: &Run| Spread::of(run.split("train").map(|row| row.images_per_second)).map(|spread| spread.mean);
        let speed = group.over_seeds(speed).map_or_else(|| "–".to_owned(), |spread| format!("{:.0}", spread.mean));
        vec![
            group.label.clone(),
            grouped(cost.deployed_parameters),
            grouped(cost.training_parameters + cost.gate_parameters),
            flops(cost.deployed),
            flops(cost.training),
            speed,
        ]
    };
    let heads =
        ["", "parameters, deployed", "in training", "FLOPs, deployed (TeCost)", "in training (TrCost)", "images/s"];
    table(&heads, &groups.iter().map(row).collect::<Vec<_>>())
}

/// A line per group: the mean over seeds, epoch by epoch, and its spread.
fn line(group: &Group<'_>, split: &str, figure: impl Fn(&Row) -> Option<f64>) -> Line {
    let epochs = group.runs.iter().map(|run| run.epochs()).max().unwrap_or(0);
    let point = |epoch: usize| {
        let value = |run: &Run| run.split(split).find(|row| row.epoch == epoch).and_then(&figure);
        let spread = group.over_seeds(value)?;
        Some(Point { x: epoch as f64, mean: spread.mean, spread: spread.deviation })
    };
    Line { label: group.label.clone(), points: (1..=epochs).filter_map(point).collect() }
}

fn curves(groups: &[Group<'_>]) -> Result<String> {
    let labels: Vec<&str> = groups.iter().map(|group| group.label.as_str()).collect();
    let chart = |title: &str, axis: &str, split: &str, value: fn(&Row) -> Option<f64>| -> Result<String> {
        let lines: Vec<Line> = groups.iter().map(|group| line(group, split, value)).collect();
        Ok(figure(title, &labels, &charts::lines(&lines, axis, false)?))
    };
    Ok(figures(&[
        chart("Test error of branch 0", "per cent", "test", |row| row.top1_error.first().copied())?,
        chart("Test error of the ensemble", "per cent", "test", |row| row.ensemble_top1_error)?,
        chart("Training error of branch 0", "per cent", "train", |row| row.top1_error.first().copied())?,
        chart("Cross-entropy of branch 0 on the test split", "nats", "test", |row| row.cross_entropy.first().copied())?,
    ]))
}
