//! `train bench`: a table and a file of what was measured, also where something cannot be, or the end is asked for.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{argument, fail, folder, succeed};

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).expect("written")).expect("one JSON object")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} should be a number"))
}

/// Checks a row that was measured, of steps of `batch` images.
fn check(row: &Value, batch: f64) {
    let (training, evaluation) = (&row["training"], &row["evaluation"]);
    for part in [training, evaluation] {
        let [fastest, median, slowest] =
            ["fastest_seconds", "median_seconds", "slowest_seconds"].map(|key| number(&part[key]));
        assert!(0.0 < fastest && fastest <= median && median <= slowest, "{row}");
        assert!((number(&part["images_per_second"]) * median / batch - 1.0).abs() < 1e-6, "{row}");
    }
    assert!(number(&evaluation["images"]) == batch && number(&training["steps"]) >= 3.0, "{row}");
    for key in ["device_seconds", "host_seconds", "least_seconds", "flops", "bytes"] {
        assert!(number(&training[key]) > 0.0, "{key} of {row}");
    }
    assert!(number(&row["memory_bytes"]) > 1e5 && row["tuning"].is_null(), "{row}");
}

#[test]
fn rows_are_measured_or_skipped_for_a_reason() {
    let (_folder, path) = folder();
    let file = path("bench.json");
    // There are not as many synthetic images as the second batch has.
    let table = succeed(&format!(
        "bench --device cpu --nets resnet8:2 --batches 4,1048576 --precision f16,f32 --seconds 0.2 --json {}",
        argument(&file)
    ));
    let lines: Vec<&str> = table.lines().filter(|line| line.starts_with("resnet8:2 ")).collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].contains(" f16 ") && lines[0].contains('%') && lines[0].ends_with("MiB"), "{table}");
    assert!(lines[3].contains(" f32 1048576 skipped: ") && lines[3].contains("not 1048576"), "{table}");
    let all = read(&file);
    assert_eq!((&all["complete"], &all["tuned"]), (&Value::Bool(true), &Value::Null));
    assert!(all["device"]["name"].as_str().is_some_and(|name| name.starts_with("cpu")), "{all}");
    assert!(number(&all["peaks"]["flops_per_second"]) > 1e6 && all["program"]["version"].is_string(), "{all}");
    let rows = all["rows"].as_array().expect("rows");
    let expected = [("f16", 4), ("f16", 1_048_576), ("f32", 4), ("f32", 1_048_576)];
    assert_eq!(rows.len(), expected.len());
    for (row, (precision, batch)) in rows.iter().zip(expected) {
        assert_eq!((&row["net"], &row["branches"]), (&Value::from("resnet8"), &Value::from(2)));
        assert_eq!((&row["precision"], &row["batch"]), (&Value::from(precision), &Value::from(batch)));
        if batch == 4 {
            check(row, 4.0);
        } else {
            assert!(row["skipped"].is_string() && row["training"].is_null(), "{row}");
        }
    }
}

#[test]
fn an_adapter_is_measured_as_the_cpu_is() {
    let Some(adapter) = crate::tuning::adapter() else { return };
    let (_folder, path) = folder();
    let file = path("bench.json");
    let options = format!("bench --nets resnet8 --batches 2 --precision f32 --seconds 0.1 --json {}", argument(&file));
    let output = crate::tuning::on_an_adapter(&adapter, &path("cache"), &options).output().expect("started");
    assert!(output.status.success(), "{}", crate::program::text(&output.stderr));
    let all = read(&file);
    assert!(all["device"]["driver"].is_string() && all["device"]["software"].is_boolean(), "{all}");
    assert!(number(&all["peaks"]["workgroup_bytes_per_second"]) > 0.0, "{all}");
    check(&all["rows"][0], 2.0);
    assert!(!path("cache").exists(), "it measures whole steps alone");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_measured() {
    fail("bench --device cpu --nets resnet9", 2, &["resnet9"]);
    fail("bench --device nonesuch", 2, &["nonesuch"]);
    fail("bench --device cpu --json none/such.json", 1, &["--json none/such.json"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_whole_file() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    use crate::program::{command, error_line};

    let (_folder, path) = folder();
    let file = path("bench.json");
    let batches = (1..200).map(|batch| batch.to_string()).collect::<Vec<_>>().join(",");
    let mut child = command(&format!(
        "bench --device cpu --nets resnet8 --batches {batches} --seconds 0.5 --json {}",
        argument(&file)
    ))
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let row = |line: std::io::Result<String>| line.is_ok_and(|line| line.starts_with("resnet8:1 "));
    assert!(lines.by_ref().any(row) && lines.by_ref().any(row), "two rows come soon");
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill is there").success());
    let line = error_line(&child.wait_with_output().expect("ended"), 1);
    assert!(line.contains("interrupted after") && line.contains(&argument(&file)), "{line}");
    let all = read(&file);
    let rows = all["rows"].as_array().expect("rows");
    assert!(all["complete"] == false && (1..100).contains(&rows.len()), "{all}");
    for (row, batch) in rows.iter().zip(1_u8..) {
        check(row, batch.into());
    }
}
