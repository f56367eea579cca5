//! `eval --perturb`: the table, the files, and what stands at distance 0.

use std::fs;
use std::path::Path;

use crate::program::{SMALL, argument, command, error_line, fail, folder, succeed};

/// Options that make it short: five measurements.
const SHORT: &str = "--device cpu --batch 16 --limit-train 40 --limit-test 50 --points 3 --directions 2";

/// The numbers of a CSV, below its heading.
fn numbers(file: &Path) -> (String, Vec<Vec<f64>>) {
    let text = fs::read_to_string(file).expect("written");
    let mut lines = text.lines().map(str::to_owned);
    let heading = lines.next().expect("a heading");
    let row = |line: String| line.split(',').map(|cell| cell.parse().expect("a number")).collect();
    (heading, lines.map(row).collect())
}

#[test]
fn a_table_a_plot_and_at_distance_0_what_eval_finds() {
    let (_folder, path) = folder();
    let run = path("run");
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let weights = format!("--weights {}", argument(&run.join("best.safetensors")));
    let plain = succeed(&format!("eval --device cpu --batch 16 --limit-test 50 {weights}"));
    let table = succeed(&format!("eval --perturb {SHORT} {weights}"));

    let (heading, rows) = numbers(&run.join("perturb.csv"));
    assert!(
        heading.starts_with("distance,train_cross_entropy_mean,train_cross_entropy_std,train_error_mean"),
        "{heading}"
    );
    assert!(rows.iter().all(|row| row.len() == heading.split(',').count()), "{rows:?}");
    let distances: Vec<f64> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(distances, [0.0, 2.5, 5.0]);
    let [loss, loss_std, error, error_std] = rows[0][5..] else { panic!("{heading}") };
    let branch = plain.lines().find(|line| line.starts_with("branch 0")).expect("a row");
    assert!(branch.contains(&format!("{error:.2} %")) && branch.contains(&format!("{loss:.4}")), "{branch}\n{table}");
    assert!(loss_std.abs() + error_std.abs() < 1e-12 && rows[1][2] > 0.0, "{rows:?}");
    assert!(table.contains("40 training and 50 test images") && table.contains("perturb.svg"), "{table}");
    for row in &rows {
        let cells = [format!("{:>8.3}  ", row[0]), format!("{:.4} ± {:.4}", row[5], row[6])];
        let found =
            |line: &str| cells.iter().all(|cell| line.contains(cell)) && line.contains(&format!("{:.2} ±", row[7]));
        assert!(table.lines().any(found), "{cells:?} in {table}");
    }
    let plot = fs::read_to_string(run.join("perturb.svg")).expect("written");
    assert!(plot.starts_with("<svg") && plot.contains("Cross-entropy") && plot.contains("test, "), "{plot}");

    // The same directions again, from within the directory; and others.
    let inside = |options: &str| {
        let arguments = format!("eval --perturb {SHORT} --weights best.safetensors {options}");
        assert!(command(&arguments).current_dir(&run).output().expect("started").status.success(), "{options}");
    };
    inside("--to again.svg");
    inside("--perturb-seed 1 --to other.svg");
    let [first, again, other] = ["perturb.csv", "again.csv", "other.csv"].map(|name| numbers(&run.join(name)).1);
    assert_eq!(first, again);
    assert!(first[0] == other[0] && first[1..] != other[1..], "{first:?} {other:?}");
}

#[test]
fn options_that_cannot_be() {
    let (_folder, path) = folder();
    let eval = "eval --device cpu --weights none.safetensors";
    fail(&format!("{eval} --directions 3"), 2, &["required"]);
    fail(&format!("{eval} --perturb --points 1"), 2, &["--points"]);
    fail(&format!("{eval} --perturb --distance 0"), 2, &["--distance"]);
    fail(&format!("{eval} --perturb --to table.csv"), 2, &["table.csv", ".svg"]);
    let nowhere = path("nowhere").join("plot.svg");
    fail(&format!("{eval} --perturb --to {}", argument(&nowhere)), 1, &["cannot write to the directory", "nowhere"]);
    let weights = path("none.safetensors");
    fail(&format!("eval --device cpu --perturb --weights {}", argument(&weights)), 1, &["cannot read the checkpoint"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_without_files() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let (_folder, path) = folder();
    let run = path("run");
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let weights = argument(&run.join("last.safetensors"));
    let mut child = command(&format!("eval --perturb {SHORT} --points 1000 --weights {weights}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("0.000"))), "the first row comes at once");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill is there").success());
    let line = error_line(&child.wait_with_output().expect("ended"), 1);
    assert!(line.contains("interrupted before distance"), "{line}");
    assert!(!run.join("perturb.csv").exists() && !run.join("perturb.svg").exists());
}
