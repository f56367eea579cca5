//! A page of one or several runs.

use std::path::PathBuf;

use anyhow::Result;

use crate::interrupt;
use crate::options::args::ReportArgs;
use crate::output::line;
use crate::report::{Loader, Measuring, report};
use crate::run::directory::RunDir;
use crate::run::files::{check_target, write_atomically};

/// The page's name.
const NAME: &str = "report.html";

/// Writes the page.
///
/// # Errors
/// When a directory holds no run, or the page cannot be written.
pub fn run(args: &ReportArgs) -> Result<()> {
    let default = || match args.runs.as_slice() {
        [run] => run.join(NAME),
        _ => PathBuf::from(NAME),
    };
    let to = args.to.clone().unwrap_or_else(default);
    let measuring = match args.no_eval {
        true => Measuring::Without("Confusion, calibration and the gate by class are left out: --no-eval.".to_owned()),
        false => Measuring::With(Box::new(Loader::new(&args.device, args.data_dir.as_deref())?)),
    };
    interrupt::catch()?;
    for dir in &args.runs {
        RunDir::find(dir)?;
    }
    check_target("--to", &to)?;
    let page = report(None, &args.runs, "", measuring)?;
    write_atomically(&to, page.as_bytes())?;
    line(format!("{}: {} KiB", to.display(), page.len().div_ceil(1024)))
}
