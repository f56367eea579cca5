//! Event files in TensorBoard itself. Where that is not installed this test is left out, visibly.

use std::path::Path;
use std::process::Command;

use crate::program::{SMALL, argument, command, folder, succeed, text};
use crate::pytorch::{python, skipped};

#[test]
fn tensorboard_reads_the_metrics_also_of_a_run_that_was_interrupted() {
    let Some(python) = python("tensorboard") else {
        return skipped(
            "tensorboard_reads_the_metrics_also_of_a_run_that_was_interrupted",
            "no Python with tensorboard here (pip install tensorboard)",
        );
    };
    let (_folder, path) = folder();
    let (whole, resumed) = (path("whole"), path("resumed"));
    succeed(&format!("{SMALL} --out {}", argument(&whole)));
    // The first of two epochs is six steps long.
    let output = command(&format!("{SMALL} --stop-after 8 --out {}", argument(&resumed))).output().expect("started");
    assert_eq!(output.status.code(), Some(1), "interrupted");
    succeed(&format!("--resume {}", argument(&resumed)));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/tensorboard_check.py");
    let output = Command::new(python)
        .arg(&script)
        .args([&whole, &resumed])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("started");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("scalars as in the metrics, 2 histograms") && said.contains("of 2 runs"), "{said}");
}
