//! The report: one page that opens from disk and needs nothing else, of one run or of several side by side.

mod charts;
mod findings;
mod html;
mod overall;
mod runs;
mod single;

use std::path::Path;

use anyhow::{Context, Result, bail};

pub use findings::Loader;
use html::{escape, page, remark, table};
use runs::groups;
pub use runs::{Row, Run, Spread};

/// Measurement of the runs' weights.
#[derive(Debug)]
pub enum Measuring<'a> {
    /// Everything, where the data are there.
    With(Box<Loader<'a>>),
    /// Nothing, for this reason.
    Without(String),
}

/// The section of rows of what, the paper's figure, and what was found; empty of none.
pub fn comparison(rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let all = table(&["", "", "paper", "here"], rows);
    let what = "Of runs that are complete, after the last epoch; several seeds: mean ± standard deviation over them. \
                Over branches: mean ± standard deviation within a run.";
    format!("<h2>Beside the paper</h2>\n{all}{}", remark(what))
}

/// Writes the page of these runs, and of what else there is to say of them.
///
/// # Errors
/// When one of them is no run, a chart cannot be drawn, or the end was asked for.
pub fn report(
    title: Option<&str>,
    directories: &[impl AsRef<Path>],
    more: &str,
    mut measuring: Measuring<'_>,
) -> Result<String> {
    let runs = directories.iter().map(|dir| Run::read(dir.as_ref())).collect::<Result<Vec<Run>>>()?;
    let groups = groups(&runs);
    let named = || match (runs.as_slice(), groups.as_slice()) {
        ([run], _) => run.name(),
        (_, [group]) => format!("{}, {} seeds", group.label, group.runs.len()),
        _ => format!("{} runs of {} kinds", runs.len(), groups.len()),
    };
    let title = title.map_or_else(named, str::to_owned);
    let mut body = format!("<h1>{}</h1>\n{more}", escape(&title));
    if !groups.is_empty() {
        body.push_str(&overall::section(&groups)?);
    }
    for run in &runs {
        let findings = match &mut measuring {
            Measuring::Without(why) => Err(why.clone()),
            Measuring::With(loader) => match loader.measure(run) {
                Ok(Some(findings)) => Ok(findings),
                Ok(None) => bail!("interrupted before the report was written"),
                Err(error) => Err(format!("Confusion, calibration and the gate by class are left out: {error:#}.")),
            },
        };
        let section = single::section(run, findings.as_ref().map_err(String::as_str), runs.len() == 1);
        body.push_str(&section.with_context(|| format!("cannot draw {}", run.path.display()))?);
    }
    Ok(page(&title, &body))
}
