//! The index of all pages, with the headline figures.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::folder::{Results, is_results};
use crate::formats::Trained;
use crate::headline::Headline;
use crate::page;
use crate::table::{Table, cell, large, or_dash, percent, ratio};

/// Markers before and behind the table in the index.
const BEGIN: &str = "<!-- table of adapters: made by `cargo run -p hardware -- index` -->\n";
const END: &str = "<!-- end of the table -->\n";

/// The folders below the index that hold results, sorted by name.
fn folders(docs: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(docs).with_context(|| format!("cannot read {}", docs.display()))?;
    let mut folders: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_results(path)).collect();
    folders.sort();
    Ok(folders)
}

/// Rebuilds the table in an index, and returns the index's text.
fn index(docs: &Path, text: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no line that says where the table begins")?;
    let (_, after) = rest.split_once(END).context("README.md has no line that says where the table ends")?;
    let mut table = Table::new(&[
        "adapter",
        "driver",
        "date",
        "commit",
        "selftest",
        ">f32",
        ">f16",
        ">eager",
        ">graphs",
        ">roofline",
        ">trained",
    ]);
    for folder in folders(docs)? {
        table.row(&row(&folder));
    }
    let table = if table.is_empty() { "None yet.\n\n".to_owned() } else { table.text() };
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn row(folder: &Path) -> [String; 11] {
    let results = Results::read(folder);
    let figures = Headline::new(&results);
    let head = results.head().unwrap_or_default();
    let call = results.calls.first();
    let day = call.map_or("–", |call| call.date.get(..10).unwrap_or(&call.date));
    // If no file names the commit, the packed program does: `commit 0123456789ab rustc …`.
    let packed = call.and_then(|call| call.program.strip_prefix("commit ")?.split([' ', ',']).next());
    let commit = head.program.commit.as_deref().or(packed);
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let trained = results.training.get().and_then(|training| training.runs.iter().find(|run| run.branches > 1));
    [
        format!("[{}]({name}/page.md)", cell(&page::name(&results))),
        head.device.driver.as_deref().map_or_else(|| "–".to_owned(), cell),
        day.to_owned(),
        commit.map_or_else(|| "–".to_owned(), |commit| cell(commit.get(..10).unwrap_or(commit))),
        figures.selftest.clone().unwrap_or_else(|| "–".to_owned()),
        or_dash(figures.rate, large),
        or_dash(figures.half, large),
        or_dash(figures.eager, ratio),
        or_dash(figures.graph, ratio),
        or_dash(figures.roofline, percent),
        trained.map_or_else(|| "–".to_owned(), outcome),
    ]
}

fn outcome(run: &Trained) -> String {
    let error = run.last.first().copied();
    format!("{} after {} epochs", or_dash(error, |error| format!("{error:.2} %")), run.trained)
}

/// Rebuilds the pages of all folders, and the table of the index.
///
/// # Errors
/// When the index is missing or has no place for the table, or a file cannot be written.
pub fn update(docs: &Path) -> Result<()> {
    let path = docs.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // Git for Windows may have converted line ends.
    let text = text.replace("\r\n", "\n");
    ensure!(text.contains(BEGIN), "{} has no line that says where the table begins: {}", path.display(), BEGIN.trim());
    for folder in folders(docs)? {
        crate::make_page(&folder)?;
    }
    crate::write(&path, &index(docs, &text)?)
}
