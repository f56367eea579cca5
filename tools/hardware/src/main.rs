//! Pages of measurements on hardware: `tools/hardware/run.sh` leaves a folder of JSON, complete or not, and this
//! program makes one readable page of it, and the index of all such pages. See `docs/hardware/README.md`.

mod epochs;
mod folder;
mod formats;
mod headline;
mod index;
mod keep;
mod page;
mod runs;
mod table;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::folder::Results;
use crate::headline::Headline;

/// Pages of measurements on hardware.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write FOLDER/page.md, and FOLDER/training.json where there are runs
    Page {
        /// The folder given to `run.sh --out`
        folder: PathBuf,
    },
    /// Print the headline figures
    Summary {
        /// The folder given to `run.sh --out`
        folder: PathBuf,
    },
    /// Print the number of epochs of CIFAR-10 for which two networks can be trained, one after the other
    Epochs {
        /// Seconds for both trainings
        #[arg(long)]
        seconds: f64,
        /// A file of `train bench`
        bench: PathBuf,
        /// Networks with their branches
        #[arg(default_values = ["resnet32:1", "resnet32:3"])]
        nets: Vec<String>,
    },
    /// Copy the small files of result folders of one adapter to a folder below DOCS, and make its page and the index
    Keep {
        /// The folders given to `run.sh --out`; of a file that several have, the last one's is taken
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// The folder of the pages of all adapters
        #[arg(long, default_value = "docs/hardware")]
        docs: PathBuf,
        /// The folder's name, instead of one made of adapter and driver
        #[arg(long)]
        name: Option<String>,
    },
    /// Rebuild every page below DOCS, and the table in DOCS/README.md
    Index {
        /// The folder of the pages of all adapters
        #[arg(default_value = "docs/hardware")]
        docs: PathBuf,
    },
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Writes lines to stdout; a closed pipe is no error.
fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

/// Makes the page of a folder.
fn make_page(folder: &Path) -> Result<()> {
    anyhow::ensure!(
        folder.is_dir(),
        "there is no folder {}: name the one that run.sh --out was given",
        folder.display()
    );
    runs::summarise(folder)?;
    write(&folder.join("page.md"), &page::page(&Results::read(folder)))
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Page { folder } => make_page(folder),
        Command::Summary { folder } => print(&Headline::new(&Results::read(folder)).sentences().join("\n")),
        Command::Epochs { seconds, bench, nets } => print(&epochs::fitting(bench, nets, *seconds)?.to_string()),
        Command::Keep { folders, docs, name } => {
            let kept = keep::keep(folders, docs, name.as_deref())?;
            index::update(docs)?;
            print(&kept.display().to_string())
        }
        Command::Index { docs } => index::update(docs),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("error: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}
