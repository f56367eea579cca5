//! Results that are kept in the project.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::folder::{Results, is_results, kept};
use crate::{page, runs};

/// Greatest total size in bytes of one adapter's files.
const MOST: usize = 2 << 20;

/// Copies the small files of these folders of one adapter below `docs`, and returns the new folder. Of a file that
/// several folders have, the last one is taken; their records of steps are concatenated.
///
/// # Errors
/// When a folder has no results, they are of several adapters or too large, or a file cannot be written.
pub fn keep(folders: &[PathBuf], docs: &Path, name: Option<&str>) -> Result<PathBuf> {
    let mut names = Vec::new();
    for folder in folders {
        ensure!(is_results(folder), "{} is no folder that run.sh wrote: it holds no results", folder.display());
        runs::summarise(folder)?;
        names.push(folder_name(&Results::read(folder)));
    }
    ensure!(name.is_none_or(is_plain), "a folder's name has letters, digits, hyphens and dots, and begins with no dot");
    let first = name.map_or_else(|| names[0].clone(), str::to_owned);
    ensure!(
        name.is_some() || names.iter().all(|other| *other == first),
        "these are several adapters: {}",
        names.join(", ")
    );
    let files = gathered(folders)?;
    let size = files.values().map(Vec::len).sum::<usize>();
    ensure!(size <= MOST, "the files have {} KiB, and {} KiB are what is kept at most", size >> 10, MOST >> 10);
    let to = docs.join(first);
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for old in kept(&to) {
        fs::remove_file(to.join(&old)).with_context(|| format!("cannot replace {}", to.join(&old).display()))?;
    }
    for (name, bytes) in files {
        let path = to.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(to)
}

/// The files to keep: tables concatenated over all folders, and the last version of every other file.
fn gathered(folders: &[PathBuf]) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
    for folder in folders {
        for name in kept(folder) {
            let path = folder.join(&name);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let file = files.entry(name.clone()).or_default();
            if name.extension().is_none_or(|extension| extension != "tsv") {
                file.clear();
            }
            file.extend(bytes);
        }
    }
    Ok(files)
}

/// Tells whether a name can be that of a folder below `docs`.
fn is_plain(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(letter)
}

/// A folder name made of adapter and driver: lower-case letters, digits and hyphens; text in brackets is left out.
fn folder_name(results: &Results) -> String {
    let driver = results.head().and_then(|head| head.device.driver).unwrap_or_default();
    let mut name = String::new();
    let mut depth = 0;
    for letter in format!("{} {driver}", page::name(results)).chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth > 0 => {}
            '.' | 'a'..='z' | '0'..='9' => name.push(letter),
            'A'..='Z' => name.push(letter.to_ascii_lowercase()),
            _ => name.push('-'),
        }
    }
    // Software adapters have the same name as their drivers.
    let mut words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    words.dedup();
    words.join("-")
}
