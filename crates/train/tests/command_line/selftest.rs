//! The check of a device: what it prints and writes, and how it ends.

use std::fs;

use serde_json::Value;

use crate::program::{argument, command, error_line, fail, folder, succeed, text};

/// The first adapter of the machine; none where the environment asks for the CPU device alone.
fn adapter() -> Option<String> {
    if std::env::var("ONFLY_TEST_DEVICES").is_ok_and(|devices| devices == "cpu") {
        eprintln!("ONFLY_TEST_DEVICES asks for the CPU device alone, whose kernels are the references");
        return None;
    }
    let adapters = tensor::device::adapters();
    Some(adapters.into_iter().next().expect("an adapter, as tools/setup.sh installs one").name)
}

#[test]
fn kernels_that_are_right_are_counted_by_kernel_in_a_table_and_as_json() {
    let Some(adapter) = adapter() else { return };
    let (_folder, path) = folder();
    let file = path("found.json");
    let output = command("selftest --quick --case gemm/").args(["--device", &adapter, "--json"]).arg(&file).output();
    let output = output.expect("started");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let row: Vec<&str> = stdout.lines().filter(|line| line.ends_with(" gemm")).collect();
    assert_eq!(row.len(), 1, "{stdout}");
    assert!(stdout.contains("all is right on ") && !stdout.contains("wrong        "), "{stdout}");

    let found: Value = serde_json::from_str(&fs::read_to_string(&file).expect("written")).expect("JSON");
    assert_eq!(found["device"]["name"], adapter.as_str());
    assert_eq!(found["case"], "gemm/");
    assert!(found["device"]["driver"].is_string() && found["device"]["software"].is_boolean(), "{found}");
    assert_eq!(found["program"]["version"], env!("CARGO_PKG_VERSION"));
    let date = found["date"].as_str().expect("a day");
    assert!(date.len() == 10 && date.starts_with("20"), "{date}");
    for (key, value) in [("quick", true), ("passed", true), ("complete", true)] {
        assert_eq!(found[key], value, "{key}: {found}");
    }
    assert!(found["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    assert!(found["failures"] == Value::Array(Vec::new()) && found["steps"] == Value::Array(Vec::new()), "{found}");
    let [kernel] = found["kernels"].as_array().expect("kernels").as_slice() else { panic!("{found}") };
    let count = |key: &str| kernel[key].as_u64().expect("a count");
    let cases = cases::all().into_iter().filter(|case| case.quick && case.name.starts_with("gemm/")).count() as u64;
    assert_eq!((count("cases"), count("failed")), (cases, 0));
    assert_eq!(kernel["kernel"], "gemm");
    assert_eq!((&found["cases"], &found["runs"]), (&kernel["cases"], &kernel["runs"]));
    // With naga's checks and without.
    assert!(count("candidates") >= cases && count("runs") == 2 * count("candidates"), "{kernel}");
    let worst = kernel["worst"].as_f64().expect("a share");
    assert!(worst > 0.0 && worst <= 1.0, "{worst}");
    let printed: Vec<&str> = row[0].split_whitespace().collect();
    assert_eq!(printed[..4], [cases, count("candidates"), count("runs"), 0].map(|n| n.to_string()), "{printed:?}");
}

#[test]
fn the_cpu_device_computes_what_the_references_say_and_repeats_itself() {
    let (_folder, path) = folder();
    let file = path("found.json");
    let stdout = succeed(&format!("selftest --device cpu --json {}", argument(&file)));
    assert!(stdout.contains("as the CPU device computes them") && stdout.contains("all is right on cpu"), "{stdout}");
    assert_eq!(stdout.matches("the same bits again").count(), 2, "{stdout}");
    let found: Value = serde_json::from_str(&fs::read_to_string(&file).expect("written")).expect("JSON");
    assert!(
        found["passed"] == true && found["cases"].as_u64() > Some(400) && found["device"]["backend"].is_null(),
        "{found}"
    );
    let steps = found["steps"].as_array().expect("steps");
    assert!(steps.len() == 2 && steps.iter().all(|step| step["passed"] == true && step["problem"].is_null()));
}

#[test]
fn what_cannot_be_checked_is_told_before_anything_is() {
    fail("selftest --case nonsense", 2, &["no case's name contains \"nonsense\"", "conv2d_forward/"]);
    fail("selftest --device abacus", 2, &["no device fits \"abacus\""]);
    fail("selftest --device cpu --json .", 1, &["--json names a file to write"]);
    fail("selftest --device cpu --json nowhere/found.json", 1, &["--json", "nowhere", "does not exist"]);
}

#[cfg(unix)]
#[test]
fn a_check_that_is_interrupted_writes_what_it_has_found() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let Some(adapter) = adapter() else { return };
    let (_folder, path) = folder();
    let file = path("found.json");
    let mut program = command("selftest");
    program.args(["--device", &adapter, "--json"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("started");
    // It catches the signal by the time it says what it is about to do.
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.starts_with("kernels "))));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    // The table follows; nobody may keep the program from printing it.
    let rest = lines.map_while(Result::ok).count();
    let output = child.wait_with_output().expect("it ends");
    let line = error_line(&output, 1);
    assert!(rest > 0 && line.contains("interrupted after") && line.contains(&adapter), "{line}");
    let found: Value = serde_json::from_str(&fs::read_to_string(&file).expect("written")).expect("JSON");
    assert!(found["complete"] == false && found["passed"] == false, "{found}");
    assert!(found["cases"].as_u64().is_some_and(|cases| (cases as usize) < cases::all().len()), "{found}");
    assert_eq!(found["failures"], Value::Array(Vec::new()), "nothing was wrong until then");
}
