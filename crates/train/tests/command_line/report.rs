//! Reports: whole pages that need nothing else, whose numbers are those of the metrics.

use std::fs;
use std::path::Path;

use crate::program::{SMALL, argument, fail, folder, metrics, succeed};

/// A page, which must be whole, have balanced tags and refer to nothing outside.
fn page(path: &Path) -> String {
    let html = fs::read_to_string(path).expect("written");
    assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"), "a whole page");
    for tag in ["div", "table", "tr", "th", "td", "figure", "svg", "details", "pre", "p", "h2", "h3", "text"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    let outside = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for part in ["http:", "https:", "url(", "@import", "<script", "NaN"] {
        assert!(!outside.contains(part), "{part}");
    }
    html
}

/// The error of branch 0 after the last epoch.
fn last_error(run: &Path) -> f64 {
    let records = metrics(run);
    let record = records.iter().rfind(|record| record["split"] == "test").expect("a test split");
    record["top1_error"][0].as_f64().expect("a number")
}

#[test]
fn a_report_of_one_run_has_everything_about_it() {
    let (_folder, path) = folder();
    let run = path("a<b run");
    // A temporary folder's name has no space, this one has.
    let output = crate::program::command(SMALL).arg("--out").arg(&run).output().expect("started");
    assert!(output.status.success());
    let report = |more: &[&str]| {
        let output = crate::program::command("report --device cpu").args(more).arg(&run).output().expect("started");
        assert!(output.status.success(), "{}", crate::program::text(&output.stderr));
        page(&run.join("report.html"))
    };
    let html = report(&[]);
    assert!(html.contains("<h1>a&lt;b run</h1>"), "names are no markup");
    assert!(html.contains(&format!("<td>{:.2}</td>", last_error(&run))), "the metrics' error");
    for part in [
        "Reliability, branch 0",
        "Reliability, gated ensemble",
        "Confusion, branch 0",
        "Gate, by true class",
        "Most confused",
        "data:image/png;base64,",
        "lr = 0.02",
        "train --net resnet8 --branches 2",
        "cpu (",
        "78,042",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<details open>").count(), 1);
    // The weights are measured anew, and are those that the metrics tell of.
    let best = metrics(&run)
        .iter()
        .filter(|r| r["split"] == "test")
        .filter_map(|r| r["top1_error"][0].as_f64())
        .fold(100.0, f64::min);
    assert!(html.contains(&format!("<th>branch 0</th><td>{best:.2}</td>")), "{best}");

    let without = report(&["--no-eval"]);
    assert!(without.contains("are left out: --no-eval.") && !without.contains("Confusion, branch 0"));
    fs::remove_file(run.join("sessions.jsonl")).expect("there");
    for name in ["best.safetensors", "last.safetensors"] {
        fs::remove_file(run.join(name)).expect("there");
    }
    let bare = report(&[]);
    assert!(bare.contains("it has saved no weights yet") && bare.contains("did not note what it ran on"));
}

#[test]
fn runs_that_differ_in_their_seed_are_one_line_with_a_spread() {
    let (_folder, path) = folder();
    let mut runs = Vec::new();
    for (method, branches) in [("one", 2), ("vanilla", 1)] {
        for seed in [0, 1, 2] {
            let run = path(&format!("{method}-{seed}"));
            succeed(&format!(
                "{SMALL} --method {method} --branches {branches} --seed {seed} --epochs 1 --out {}",
                argument(&run)
            ));
            runs.push(run);
        }
    }
    let (to, directories) = (path("all.html"), runs.iter().map(|run| argument(run)).collect::<Vec<_>>().join(" "));
    succeed(&format!("report --no-eval --to {} {directories}", argument(&to)));
    let html = page(&to);
    assert!(html.contains("<h1>6 runs of 2 kinds</h1>") && html.matches("<details>").count() == 6);
    for (label, runs) in [("method one, branches 2", &runs[..3]), ("method vanilla, branches 1", &runs[3..])] {
        let errors: Vec<f64> = runs.iter().map(|run| last_error(run)).collect();
        let mean = errors.iter().sum::<f64>() / 3.0;
        let deviation = (errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        let row = format!("<th>{label}</th><td>0, 1, 2</td><td>1/1</td><td>{mean:.2} ± {deviation:.2}</td>");
        assert!(html.contains(&row), "{row} in {html}");
    }
    assert!(html.contains("Test error of the ensemble"));
}

#[test]
fn what_cannot_be_reported() {
    let (_folder, path) = folder();
    let nowhere = argument(&path("nowhere"));
    fail(&format!("report {nowhere}"), 1, &["nowhere is no run's directory"]);
    fail("report", 2, &["required"]);
    let run = path("run");
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let to = argument(&path("no").join("page.html"));
    fail(&format!("report --no-eval --to {to} {}", argument(&run)), 1, &["directory of --to", "does not exist"]);
    fs::write(run.join("config.toml"), "net = 3").expect("written");
    fail(&format!("report --no-eval {}", argument(&run)), 1, &["config.toml is not what a run writes"]);
}
