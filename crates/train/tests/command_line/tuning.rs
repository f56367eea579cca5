//! Tuning: what it measures is kept, told, and ignored where it does not fit.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::program::{SMALL, argument, command, fail, folder, last, succeed, text};

/// Small enough for a software adapter, on which the variants for hardware run.
const TINY: &str =
    "--net resnet8 --branches 1 --data shapes --limit-train 4 --limit-test 2 --batch 2 --epochs 1 --lr 0.02";

/// The program on an adapter, with a cache directory of its own.
fn on_an_adapter(adapter: &str, cache: &Path, arguments: &str) -> Command {
    let mut command = command(arguments);
    command.args(["--device", adapter]).env("ONFLY_CACHE_DIR", cache).env("ONFLY_VARIANTS", "hardware");
    command
}

fn succeeded(output: &Output) -> (String, String) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    (stdout, stderr)
}

#[test]
fn where_there_are_no_variants_there_is_nothing_to_tune() {
    let stdout = succeed("tune --device cpu --net resnet8 --data shapes");
    assert!(stdout.contains("nothing to tune") && stdout.contains("the CPU device"), "{stdout}");
    fail("tune --device cpu --resume runs", 2, &["--resume", "train tune"]);
}

#[test]
fn what_was_tuned_is_used_and_told() {
    if std::env::var("ONFLY_TEST_DEVICES").is_ok_and(|devices| devices == "cpu") {
        eprintln!("ONFLY_TEST_DEVICES asks for the CPU device alone: nothing can be tuned there");
        return;
    }
    let adapters = tensor::device::adapters();
    let adapter = &adapters.first().expect("an adapter, as tools/setup.sh installs one").name;
    let (_folder, path) = folder();
    let cache = path("cache");
    let run = |name: &str, options: &str| {
        let out = argument(&path(name));
        let output = on_an_adapter(adapter, &cache, &format!("{TINY} {options} --out {out}")).output();
        succeeded(&output.expect("started"))
    };
    let (stdout, stderr) = run("before", "");
    assert!(!stdout.contains("tuned") && !stderr.contains("tuned"), "{stdout}{stderr}");

    let output = on_an_adapter(adapter, &cache, &format!("tune {TINY}")).output().expect("started");
    let (stdout, stderr) = succeeded(&output);
    assert!(stdout.contains("conv2d_forward") && stdout.contains("have a faster variant"), "{stdout}{stderr}");
    assert!(!path("runs").exists() && !stderr.contains("left out"), "{stderr}");
    let files: Vec<_> = fs::read_dir(&cache).expect("made").map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");

    let (stdout, stderr) = run("tuned", "");
    let told = stdout.lines().find(|line| line.starts_with("kernels ")).expect("it is told");
    assert!(told.contains("tuned for this adapter on 2") && told.contains(&argument(&files[0])), "{told}{stderr}");
    run("again", "");
    assert!(last(&path("tuned")) == last(&path("again")), "the same choices give the same bits");
    let (stdout, stderr) = run("untuned", "--untuned");
    assert!(!stdout.contains("tuned for") && stderr.is_empty(), "{stdout}{stderr}");
    assert!(last(&path("before")) == last(&path("untuned")), "choices that are not wanted change nothing");

    fs::write(&files[0], "format = 1\nadapter = ").expect("writable");
    let (stdout, stderr) = run("damaged", "");
    assert!(!stdout.contains("tuned for"), "{stdout}");
    assert!(stderr.contains("kernels are not tuned") && stderr.contains("is damaged"), "{stderr}");
    assert!(last(&path("before")) == last(&path("damaged")), "a damaged file is ignored");
}

#[test]
fn a_run_that_goes_on_with_other_variants_says_so() {
    let (_folder, path) = folder();
    let run = path("run");
    let output = command(&format!("{SMALL} --stop-after 2 --out {}", argument(&run))).output().expect("started");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let config = fs::read_to_string(run.join("config.toml")).expect("written");
    assert!(!config.contains("tuning"), "{config}");
    fs::write(run.join("config.toml"), format!("tuning = \"0123456789abcdef\"\n{config}")).expect("writable");
    let output = command(&format!("--stop-after 1 --resume {}", argument(&run))).output().expect("started");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("were tuned (0123456789abcdef)") && stderr.contains("untuned now"), "{stderr}");
    let output = command(&format!("--stop-after 1 --resume {}", argument(&run))).output().expect("started");
    assert!(!text(&output.stderr).contains("tuned"), "{}", text(&output.stderr));
}

#[test]
fn a_profile_is_measured_against_the_peaks_of_the_device() {
    let profiled = "--net resnet8 --branches 2 --data shapes --limit-train 16 --limit-test 8 --batch 8 --device cpu";
    let json: serde_json::Value =
        serde_json::from_str(&succeed(&format!("profile {profiled} --by-shape --json"))).expect("one JSON object");
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    let (training, peaks) = (&json["training"], &json["peaks"]);
    let kernels = training["kernels"].as_array().expect("kernels");
    let stem = "conv2d_forward f32[1,8,32,32,4] f32[1,3,3,4,16] -> f32[1,8,32,32,16]";
    assert!(kernels.iter().any(|kernel| kernel["kernel"].as_str().is_some_and(|name| name.starts_with(stem))));
    for key in ["flops", "bytes", "least_seconds"] {
        let sum: f64 = kernels.iter().map(|kernel| number(&kernel[key])).sum();
        assert!((sum / number(&training[key]) - 1.0).abs() < 1e-9, "{key}: {sum} {training}");
    }
    for kernel in kernels {
        let limits = [("flops", "flops_per_second"), ("bytes", "bytes_per_second")];
        let limits = limits.map(|(work, peak)| number(&kernel[work]) / number(&peaks[peak]));
        // The larger of the two for each dispatch; all dispatches of a row have the same cost.
        assert!((number(&kernel["least_seconds"]) / limits[0].max(limits[1]) - 1.0).abs() < 1e-6, "{kernel}");
    }
    let rate = number(&training["flops"]) / number(&training["seconds"]);
    assert!(rate < 1.2 * number(&peaks["flops_per_second"]), "faster than the peak: {json}");
    assert!(peaks["workgroup_bytes_per_second"].is_null() && json["driver"].is_null(), "the CPU has neither");

    let table = succeed(&format!("profile {profiled}"));
    for part in ["peaks ", "GFLOP/s", "of peak", "roofline of the step", "matrix products", "a training step"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    fail(&format!("profile {profiled} --out run"), 2, &["--out", "train profile"]);
}
