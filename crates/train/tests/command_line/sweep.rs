//! Sweeps: every run of the file, what fails named and the rest kept, gone on with where it stopped, and the report.

use std::fs;
use std::path::Path;

use crate::program::{SMALL, argument, command, error_line, fail, folder, last, metrics, succeed, text};

/// The file of a sweep on tiny data, without the options that it is about.
fn common() -> String {
    let mut lines = String::from("[common]\n");
    let words: Vec<&str> = SMALL.split_whitespace().collect();
    for pair in words.chunks(2).filter(|pair| pair[0] != "--branches") {
        let (option, value) = (pair[0].trim_start_matches("--").replace('-', "_"), pair[1]);
        let quoted = if value.parse::<f64>().is_ok() { value.to_owned() } else { format!("{value:?}") };
        lines.push_str(&format!("{option} = {quoted}\n"));
    }
    lines
}

fn write(path: &Path, text: &str) -> String {
    fs::write(path, text).expect("written");
    argument(path)
}

#[test]
fn a_grid_of_methods_and_seeds_is_run_reported_and_not_run_again() {
    let (_folder, path) = folder();
    let out = path("runs");
    let file = format!(
        "title = \"Two methods\"\nout = {:?}\n{}\n[grid]\nmethod = [\"one\", \"vanilla\"]\nseed = [0, \
         1]\n[[run]]\nname = \"a\"\n\
         paper = {{ error = \"12.34\", tr_cost = \"0.40\" }}\n",
        argument(&out),
        common()
    );
    let file = write(&path("methods.toml"), &file);
    let listed = succeed(&format!("sweep --dry-run {file}"));
    assert!(listed.contains("a-one-seed0: to run") && listed.contains("--method=vanilla"), "{listed}");
    assert!(!out.exists(), "nothing is made");

    let said = succeed(&format!("sweep --no-eval --jobs 2 {file}"));
    assert!(said.contains("a-vanilla-seed1: complete after") && said.contains("4 of 4 runs are complete"), "{said}");
    let errors = [0, 1].map(|seed| {
        let records = metrics(&out.join(format!("a-vanilla-seed{seed}")));
        records.iter().rfind(|r| r["split"] == "test").and_then(|r| r["top1_error"][0].as_f64()).expect("measured")
    });
    let (mean, deviation) = ((errors[0] + errors[1]) / 2.0, (errors[0] - errors[1]).abs() / 2f64.sqrt());
    let ours = format!("{mean:.2} ± {deviation:.2}");
    assert!(said.contains("12.34") && said.contains(&ours), "{ours}: {said}");
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    assert!(
        page.contains("<h1>Two methods</h1>") && page.contains("Beside the paper") && page.contains(&ours),
        "{ours}"
    );
    assert_eq!(page.matches("<details>").count(), 4);

    let before = last(&out.join("a-one-seed0"));
    let said = succeed(&format!("sweep --no-eval {file}"));
    assert!(!said.contains("complete after") && said.contains("4 of 4 runs are complete"), "{said}");
    assert_eq!(before, last(&out.join("a-one-seed0")));
    // The same seed by hand is the same run.
    succeed(&format!("{SMALL} --branches 3 --out {}", argument(&path("alone"))));
    assert_eq!(before, last(&path("alone")));
}

#[test]
fn a_run_that_fails_is_named_and_the_others_are_kept() {
    let (_folder, path) = folder();
    let out = path("runs");
    let file = |weights: &str| {
        format!(
            "out = {:?}\n{}\nepochs = 1\n[[run]]\nname = \"bad\"\ninit = {weights:?}\n[[run]]\nname = \
             \"teacher\"\nbranches = 1\n\
             [[run]]\nname = \"student\"\nmethod = \"kd\"\nteacher = \"{{out}}/teacher/last.safetensors\"\n",
            argument(&out),
            common().replace("epochs = 2\n", "")
        )
    };
    let name = write(&path("s.toml"), &file("nowhere.safetensors"));
    let output = command(&format!("sweep --no-eval --jobs 3 {name}")).output().expect("started");
    let said = text(&output.stdout);
    assert!(said.contains("bad: failed after") && said.contains("2 of 3 runs are complete"), "{said}");
    assert!(
        said.contains("student: complete") && said.contains("cannot read the checkpoint nowhere.safetensors"),
        "{said}"
    );
    let error = error_line(&output, 1);
    assert!(error.contains("1 of 3 runs failed (bad); the others are kept"), "{error}");
    assert!(fs::read_to_string(out.join("bad/log.txt")).expect("kept").contains("nowhere.safetensors"));
    // Once its cause is gone, it is all that is run.
    let weights = argument(&out.join("teacher/last.safetensors"));
    fs::remove_dir_all(out.join("bad")).expect("removed");
    let said = succeed(&format!("sweep --no-eval {}", write(&path("s.toml"), &file(&weights))));
    assert!(said.contains("bad: complete") && !said.contains("student: complete"), "{said}");
}

#[test]
fn a_sweep_goes_on_where_it_stopped_and_sees_that_a_run_is_another() {
    let (_folder, path) = folder();
    let (out, run) = (path("runs"), path("runs/seed0"));
    let file = |lr: &str| {
        format!(
            "out = {:?}\n{}\n[grid]\nseed = [0]\n",
            argument(&out),
            common().replace("lr = 0.02", &format!("lr = {lr}"))
        )
    };
    let name = write(&path("s.toml"), &file("0.02"));
    let output = command(&format!("{SMALL} --branches 3 --stop-after 4 --out {}", argument(&run))).output();
    assert_eq!(output.expect("started").status.code(), Some(1), "interrupted");
    assert!(succeed(&format!("sweep --dry-run {name}")).contains("seed0: to go on with"));
    let said = succeed(&format!("sweep --no-eval {name}"));
    assert!(said.contains("seed0: complete"), "{said}");
    succeed(&format!("{SMALL} --branches 3 --out {}", argument(&path("whole"))));
    assert_eq!(last(&run), last(&path("whole")), "bit for bit");

    let other = write(&path("s.toml"), &file("0.05"));
    let output = command(&format!("sweep --no-eval {other}")).output().expect("started");
    assert!(
        text(&output.stderr).contains("holds another run: lr is 0.02 there, and 0.05 here"),
        "{}",
        text(&output.stderr)
    );
    error_line(&output, 1);
    fail(&format!("sweep {}", argument(&path("none.toml"))), 1, &["cannot read", "none.toml"]);
    fail(
        &format!("sweep {}", write(&path("b.toml"), "[grid]\nnet = [\"resnet23\"]")),
        2,
        &["b.toml", "did you mean resnet20?"],
    );
}

/// The sweeps that make the paper's tables and figures can be read, and say what each of their runs stands beside.
#[test]
fn the_papers_sweeps_are_whole() {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    for (name, runs) in [
        ("table1", 24),
        ("table2", 4),
        ("table3", 6),
        ("table4", 8),
        ("table5", 4),
        ("table6", 5),
        ("fig2", 2),
        ("fig3", 3),
    ] {
        let file = argument(&recipes.join(format!("{name}.toml")));
        let listed = succeed(&format!("sweep --dry-run {file}"));
        assert_eq!(listed.lines().filter(|line| line.ends_with(": to run")).count(), runs, "{name}: {listed}");
    }
}
