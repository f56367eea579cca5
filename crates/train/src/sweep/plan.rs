//! The file of a sweep: which runs there are to be.
//!
//! ```toml
//! title = "ONE and the plain network"     # of the report
//! out = "runs/one-or-alone"               # where the runs lie [default: runs/ and the file's name]
//!
//! [common]                                # options of `train`, for every run
//! net = "resnet20"
//!
//! [grid]                                  # every combination of these is a run
//! method = ["one", "vanilla"]
//! seed = [0, 1, 2]
//!
//! [[run]]                                 # or each run by itself; with a grid, each of these in every combination
//! name = "one"
//! branches = 3
//! perturb = true                          # measure the width of its optimum, too
//! paper = { branches = "26.61 ± 0.06" }   # what the paper says: stands beside what is found
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::options::config::Config;
use crate::options::recipe;
use crate::sweep::figures::Quantity;

/// Stands for the sweep's directory in options that name files.
const OUT: &str = "{out}";
/// Options of `train` that are the sweep's own business.
const NOT_THEIRS: [&str; 5] = ["out", "resume", "profile", "stop_after", "checks"];

/// A sweep.
#[derive(Debug)]
pub struct Plan {
    pub title: String,
    pub out: PathBuf,
    pub runs: Vec<Planned>,
}

/// One of its runs.
#[derive(Debug)]
pub struct Planned {
    pub name: String,
    /// Options of `train` as they stand on the command line.
    pub arguments: Vec<String>,
    pub config: Config,
    /// True if it needs what runs before it have made.
    pub waits: bool,
    pub perturb: bool,
    pub paper: BTreeMap<Quantity, String>,
    /// Settings that runs which differ in their seed only have in common.
    pub kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: Option<String>,
    out: Option<PathBuf>,
    #[serde(default)]
    common: toml::Table,
    #[serde(default)]
    grid: toml::Table,
    #[serde(default)]
    run: Vec<RunEntry>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RunEntry {
    name: Option<String>,
    #[serde(default)]
    perturb: bool,
    #[serde(default)]
    paper: BTreeMap<Quantity, String>,
    #[serde(flatten)]
    options: toml::Table,
}

/// A choice of a value for each option of the grid.
type Choice = Vec<(String, toml::Value)>;

/// Reads the file `path` of a sweep.
///
/// # Errors
/// In one sentence: when it is no such file, or a run of it cannot be.
pub fn parse(path: &Path, text: &str) -> Result<Plan, String> {
    let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    let stem = path.file_stem().map_or_else(|| "sweep".to_owned(), |stem| stem.to_string_lossy().into_owned());
    let out = file.out.unwrap_or_else(|| Path::new("runs").join(&stem));
    let entries = if file.run.is_empty() { vec![RunEntry::default()] } else { file.run };
    let choices = combinations(&file.grid)?;
    let mut runs: Vec<Planned> = Vec::new();
    for entry in &entries {
        for choice in &choices {
            let run = plan(&file.common, entry, choice, &out)?;
            if let Some(other) = runs.iter().find(|other| other.name == run.name) {
                return Err(format!("two runs are called {}: give each [[run]] a name of its own", other.name));
            }
            runs.push(run);
        }
    }
    Ok(Plan { title: file.title.unwrap_or(stem), out, runs })
}

/// Every combination of the grid's values; of an empty grid the one that chooses nothing.
fn combinations(grid: &toml::Table) -> Result<Vec<Choice>, String> {
    let mut all: Vec<Choice> = vec![Vec::new()];
    for (option, values) in grid {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(format!("{option} in [grid] takes a list of values, as [0, 1, 2]"));
        };
        let longer = |choice: &Choice| -> Vec<Choice> {
            let with = |value: &toml::Value| [choice.as_slice(), &[(option.clone(), value.clone())]].concat();
            values.iter().map(with).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    Ok(all)
}

/// A value as a part of a name.
fn part(option: &str, value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.rsplit(['/', '\\']).next().unwrap_or(text).to_owned(),
        value => format!("{}{value}", option.replace('_', "-")),
    }
}

fn plan(common: &toml::Table, entry: &RunEntry, choice: &Choice, out: &Path) -> Result<Planned, String> {
    let parts = |choice: &[(String, toml::Value)]| -> Vec<String> {
        let chosen = choice.iter().map(|(option, value)| part(option, value));
        entry.name.clone().into_iter().chain(chosen).collect()
    };
    let name = match parts(choice).join("-") {
        name if name.is_empty() => "run".to_owned(),
        name => name,
    };
    if name.starts_with('.') || name.contains(['/', '\\', ':']) {
        return Err(format!("a run is called {name:?}, and it must be the name of a directory: give it another name"));
    }
    let wrong = |problem: String| format!("the run {name}: {problem}");
    let mut options = common.clone();
    options.extend(entry.options.clone());
    options.extend(choice.iter().cloned());
    let mut waits = false;
    for value in options.iter_mut().map(|(_, value)| value) {
        if let Some(text) = value.as_str().filter(|text| text.contains(OUT)) {
            *value = toml::Value::String(text.replace(OUT, &out.to_string_lossy()));
            waits = true;
        }
    }
    let arguments = recipe::arguments(&options, |option| !NOT_THEIRS.contains(&option)).map_err(wrong)?;
    let read = recipe::read(&arguments).map_err(wrong)?;
    let config = Config::new(&read).map_err(|error| wrong(format!("{error:#}")))?;
    let others: Vec<(String, toml::Value)> = choice.iter().filter(|(option, _)| option != "seed").cloned().collect();
    Ok(Planned {
        kind: parts(&others).join("-"),
        name,
        arguments,
        config,
        waits,
        perturb: entry.perturb,
        paper: entry.paper.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        Ok(parse(Path::new("my.toml"), text)?.runs.into_iter().map(|run| run.name).collect())
    }

    #[test]
    fn a_grid_is_every_combination_of_every_run() {
        let grid = "[grid]\nmethod = ['one', 'vanilla']\nseed = [0, 1]";
        assert_eq!(names(grid).expect("runs"), ["one-seed0", "one-seed1", "vanilla-seed0", "vanilla-seed1"]);
        let both = format!("{grid}\n[[run]]\nname = 'a'\n[[run]]\nname = 'b'\nlr = 0.2");
        assert_eq!(names(&both).expect("runs").len(), 8);
        let plan = parse(Path::new("my.toml"), &both).expect("runs");
        assert_eq!((plan.title.as_str(), plan.out.as_path()), ("my", Path::new("runs").join("my").as_path()));
        assert_eq!(plan.runs[6].arguments, ["--lr=0.2", "--method=vanilla", "--seed=0"]);
        assert_eq!((plan.runs[6].kind.as_str(), plan.runs[7].kind.as_str()), ("b-vanilla", "b-vanilla"));
        assert!((plan.runs[6].config.lr - 0.2).abs() < 1e-12 && plan.runs[6].config.network.branches == 1);
        assert_eq!(names("").expect("one run"), ["run"]);
    }

    #[test]
    fn files_of_the_sweep_are_waited_for() {
        let text = "out = 'x'\n[[run]]\nname = 't'\nmethod = 'vanilla'\n\
                    [[run]]\nname = 's'\nmethod = 'kd'\nteacher = '{out}/t/last.safetensors'";
        let plan = parse(Path::new("my.toml"), text).expect("runs");
        assert_eq!(plan.runs.iter().map(|run| run.waits).collect::<Vec<_>>(), [false, true]);
        assert!(plan.runs[1].arguments.contains(&"--teacher=x/t/last.safetensors".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_run() {
        for (text, part) in [
            ("[grid]\nseed = 3", "seed in [grid] takes a list"),
            ("[grid]\nseed = []", "seed in [grid] takes a list"),
            ("[grid]\nnet = ['resnet23']", "the run resnet23: unknown network \"resnet23\""),
            ("[[run]]\nname = 'a'\nlearning_rate = 1", "the run a: learning_rate is no option"),
            ("[[run]]\nname = 'a'\nout = 'x'", "the run a: out is no option"),
            ("[[run]]\nname = 'a'\n[[run]]\nname = 'a'", "two runs are called a"),
            ("[[run]]\nname = '../a'", "the name of a directory"),
            ("[[run]]\nname = 'a'\nmethod = 'kd'", "the run a: --method kd distils from a trained network"),
            ("grids = 3", "unknown field"),
            ("[[run]]\nname = 'a'\npaper = { eror = '5' }", "unknown variant"),
        ] {
            let problem = names(text).expect_err(text);
            assert!(problem.contains(part) && !problem.contains('\n'), "{text}: {problem}");
        }
    }
}
