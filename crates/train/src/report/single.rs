//! The part of the page that is about one run.

use std::fs;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use one::Network;

use crate::machine::calendar::date_time;
use crate::report::charts;
use crate::report::findings::{Confused, Findings};
use crate::report::html::{escape, figure, figures, remark, table};
use crate::report::runs::{Row, Run};
use crate::run::directory::PERTURBED;
use crate::run::sessions::SessionRecord;
use crate::show::plot::{Line, Point};

/// Classes whose gate has a bar of its own.
const BARS: usize = 30;
/// Classes of which a confusion matrix is drawn.
const CELLS: usize = 200;

/// Everything about a run, folded up unless `open`.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn section(run: &Run, findings: Result<&Findings, &str>, open: bool) -> Result<String> {
    let mut html = String::new();
    html.push_str("<h3>Curves</h3>\n");
    html.push_str(&if run.last().is_some() { curves(run)? } else { remark("No epoch of it is complete yet.") });
    match findings {
        Ok(findings) => html.push_str(&measured(run, findings)?),
        Err(why) => html.push_str(&remark(why)),
    }
    if let Ok(plot) = fs::read(run.path.join(PERTURBED)) {
        let address = format!("data:image/svg+xml;base64,{}", STANDARD.encode(plot));
        let image = format!("<img class=\"plot\" alt=\"Width of the optimum\" src=\"{address}\">");
        html.push_str(&format!("<h3>Width of the optimum</h3>\n{image}\n"));
    }
    html.push_str("<h3>Configuration</h3>\n");
    html.push_str(&format!("<pre class=\"settings\">{}</pre>\n", escape(toml::to_string(&run.settings)?.trim_end())));
    html.push_str("<h3>Environment</h3>\n");
    html.push_str(&environment(run));
    let state = if open { " open" } else { "" };
    Ok(format!(
        "<details{state}><summary>{}<span>{}</span></summary>\n{html}</details>\n",
        escape(&run.name()),
        escape(&run.describe())
    ))
}

/// A line over the epochs of a split.
fn line(run: &Run, label: String, split: &str, value: impl Fn(&Row) -> Option<f64>) -> Line {
    let point = |row: &Row| Some(Point { x: row.epoch as f64, mean: value(row)?, spread: 0.0 });
    Line { label, points: run.split(split).filter_map(point).collect() }
}

fn chart(title: &str, axis: &str, lines: &[Line], from_zero: bool) -> Result<String> {
    let lines: Vec<Line> = lines.iter().filter(|line| !line.points.is_empty()).cloned().collect();
    let labels: Vec<&str> = lines.iter().map(|line| line.label.as_str()).collect();
    Ok(figure(title, &labels, &charts::lines(&lines, axis, from_zero)?))
}

fn curves(run: &Run) -> Result<String> {
    let branches = run.last().map_or(1, |row| row.top1_error.len());
    let name = |i: usize| format!("branch {i}");
    let each = |split: &str, value: fn(&Row, usize) -> Option<f64>| -> Vec<Line> {
        (0..branches).map(|i| line(run, name(i), split, |row| value(row, i))).collect()
    };
    let mut errors = each("test", |row, i| row.top1_error.get(i).copied());
    if branches > 1 {
        errors.push(line(run, "ensemble".to_owned(), "test", |row| row.ensemble_top1_error));
    }
    let error = |label: &str, split: &str| line(run, label.to_owned(), split, |row| row.top1_error.first().copied());
    let fit = [error("training", "train"), error("test", "test"), error("held out", "validation")];
    let mut losses = each("train", |row, i| row.cross_entropy.get(i).copied());
    losses.iter_mut().for_each(|line| line.label = format!("cross-entropy {}", line.label));
    if run.rows.iter().any(|row| row.distillation > 0.0) {
        losses.push(line(run, "distillation".to_owned(), "train", |row| Some(row.distillation)));
    }
    let whole = [line(run, "loss".to_owned(), "train", |row| Some(row.loss))];
    let rate = [line(run, "learning rate".to_owned(), "train", |row| Some(row.learning_rate))];
    let speed = [line(run, "images/s".to_owned(), "train", |row| Some(row.images_per_second))];
    let mut charts = vec![
        chart("Test error", "per cent", &errors, false)?,
        chart("Error of branch 0", "per cent", &fit, false)?,
        chart("Training loss", "weighted sum", &whole, false)?,
        chart("Terms of the training loss", "nats", &losses, true)?,
        chart(
            "Calibration error on the test split",
            "per cent",
            &each("test", |row, i| row.calibration_error.get(i).copied()),
            true,
        )?,
    ];
    if run.rows.iter().any(|row| !row.gate.is_empty()) {
        let gate = each("test", |row, i| row.gate.get(i).copied());
        charts.push(chart("Shares of the branches in the ensemble", "mean share", &gate, true)?);
    }
    charts.push(chart("Learning rate", "at the epoch's first step", &rate, true)?);
    charts.push(chart("Speed of training", "images/s", &speed, true)?);
    Ok(figures(&charts))
}

fn network_name(network: Network) -> String {
    match network {
        Network::Member(i) => format!("branch {i}"),
        Network::MeanLogits => "mean of logits".to_owned(),
        Network::MeanProbabilities => "mean of probabilities".to_owned(),
        Network::Gated => "gated ensemble (ONE-E)".to_owned(),
    }
}

fn measured(run: &Run, findings: &Findings) -> Result<String> {
    let predictions = &findings.found.predictions;
    let row = |network: Network| {
        vec![
            network_name(network),
            format!("{:.2}", predictions.top_k_error(network, 1)),
            format!("{:.2}", predictions.top_k_error(network, 5)),
            format!("{:.4}", predictions.cross_entropy(network)),
            format!("{:.2}", predictions.calibration_error(network)),
        ]
    };
    let rows: Vec<Vec<String>> = predictions.networks().into_iter().map(row).collect();
    let weights = run
        .weights
        .as_ref()
        .and_then(|file| file.file_name())
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let mut html = format!(
        "<h3>On the test images</h3>\n<p class=\"lead\">{}, {} images.</p>\n",
        escape(&weights),
        predictions.images()
    );
    html.push_str(&table(&["", "top-1 error, %", "top-5 error, %", "cross-entropy", "calibration error, %"], &rows));

    let mut drawings = Vec::new();
    let ensemble = Some(findings.found.ensemble).filter(|_| predictions.members() > 1);
    for network in [Some(Network::Member(0)), ensemble].into_iter().flatten() {
        let svg = charts::reliability(&predictions.reliability(network))?;
        let title = format!("Reliability, {}", network_name(network));
        drawings.push(figure(&title, &["right, by confidence", "mean confidence of a bin"], &svg));
    }
    html.push_str(&figures(&drawings));

    let classes = findings.classes.len();
    let mut wide = Vec::new();
    if classes <= CELLS {
        let svg = charts::confusion(&findings.confusion, &findings.classes)?;
        wide.push(figure("Confusion, branch 0", &["right", "taken for another"], &svg));
    }
    if let Some(bars) = gate(findings) {
        let members: Vec<String> = (0..predictions.members()).map(|i| format!("branch {i}")).collect();
        let members: Vec<&str> = members.iter().map(String::as_str).collect();
        let title = if classes > BARS { "Gate: the classes where one branch has most" } else { "Gate, by true class" };
        wide.push(figure(title, &members, &charts::stacked(&bars)?));
    }
    html.push_str(&figures(&wide));
    if classes > CELLS {
        html.push_str(&remark(&format!("A matrix of {classes} classes is too large to be drawn.")));
    }
    html.push_str("<h3>Most confused</h3>\n");
    html.push_str(&pairs(&findings.confused, &findings.classes));
    Ok(html)
}

/// The gate's shares in per cent, class by class; of many classes those where the largest share is the largest.
fn gate(findings: &Findings) -> Option<Vec<(String, Vec<f64>)>> {
    let named = findings.classes.iter().cloned().zip(findings.gate.iter().cloned());
    let mut bars: Vec<(String, Vec<f64>)> = named.filter(|(_, shares)| !shares.is_empty()).collect();
    if bars.len() > BARS {
        let largest = |shares: &[f64]| shares.iter().copied().fold(0.0, f64::max);
        bars.sort_by(|a, b| largest(&b.1).total_cmp(&largest(&a.1)));
        bars.truncate(BARS);
    }
    Some(bars).filter(|bars| !bars.is_empty())
}

fn pairs(confused: &[Confused], classes: &[String]) -> String {
    if confused.is_empty() {
        return remark("No image is taken for another class than its own.");
    }
    let card = |pair: &Confused| {
        let images: String = pair.examples.iter().map(|image| format!("<img alt=\"\" src=\"{image}\">")).collect();
        let (class, other) = (escape(&classes[pair.class]), escape(&classes[pair.taken_for]));
        let times = if pair.count == 1 { "once".to_owned() } else { format!("{} times", pair.count) };
        format!("<div class=\"pair\"><b>{class}</b> taken for <b>{other}</b>, {times}<div>{images}</div></div>")
    };
    format!("<div class=\"pairs\">{}</div>\n", confused.iter().map(card).collect::<String>())
}

fn environment(run: &Run) -> String {
    if run.sessions.is_empty() {
        return remark("It was trained by a version of this program that did not note what it ran on.");
    }
    let row = |session: &SessionRecord| {
        vec![
            date_time(session.began),
            session.after_step.to_string(),
            session.device.clone(),
            format!("{}, {} processors", session.system, session.processors),
            session.version.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = run.sessions.iter().map(row).collect();
    let commands: Vec<String> = run.sessions.iter().map(SessionRecord::command_line).collect();
    format!(
        "{}<pre class=\"command\">{}</pre>\n",
        table(&["began", "after step", "device", "system", "version"], &rows),
        escape(&commands.join("\n"))
    )
}
