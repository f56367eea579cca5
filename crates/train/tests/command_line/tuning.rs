//! Tuning: what it measures is kept, told, and ignored where it does not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{SMALL, argument, command, fail, folder, last, succeed, text};

/// Small enough for a software adapter, on which the variants for hardware run.
const TINY: &str =
    "--net resnet8 --branches 1 --data shapes --limit-train 4 --limit-test 2 --batch 2 --epochs 1 --lr 0.02";

/// Time that a training may measure before its first step.
const SECONDS: &str = "ONFLY_TUNING_SECONDS";

/// The name of an adapter to run on; none where only the CPU device is to be tested.
pub fn adapter() -> Option<String> {
    if std::env::var("ONFLY_TEST_DEVICES").is_ok_and(|devices| devices == "cpu") {
        eprintln!("ONFLY_TEST_DEVICES asks for the CPU device alone: nothing can be tuned there");
        return None;
    }
    let adapters = tensor::device::adapters();
    Some(adapters.into_iter().next().expect("an adapter, as tools/setup.sh installs one").name)
}

/// The program on an adapter that runs the variants for hardware, with a separate cache directory.
pub fn on_an_adapter(adapter: &str, cache: &Path, arguments: &str) -> Command {
    let mut command = command(arguments);
    command.args(["--device", adapter]).env("ONFLY_CACHE_DIR", cache).env("ONFLY_VARIANTS", "hardware");
    command
}

/// The only file of a cache directory.
fn only_file(cache: &Path) -> PathBuf {
    let files: Vec<_> = fs::read_dir(cache).expect("made").map(|entry| entry.expect("readable").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
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
    let Some(adapter) = adapter() else { return };
    let (_folder, path) = folder();
    let cache = path("cache");
    // A network with few kernels that have several variants: on a software adapter each takes seconds.
    let tiny = TINY.replace("resnet8", "densenet-bc-10-3");
    let run = |name: &str, options: &str| {
        let out = argument(&path(name));
        let output = on_an_adapter(&adapter, &cache, &format!("{tiny} {options} --out {out}")).output();
        succeeded(&output.expect("started"))
    };
    let (stdout, stderr) = run("before", "--untuned");
    assert!(!stdout.contains("tuned") && stderr.is_empty(), "{stdout}{stderr}");

    let json = path("tuned.json");
    let options = format!("tune {tiny} --json {}", argument(&json));
    let (stdout, stderr) = succeeded(&on_an_adapter(&adapter, &cache, &options).output().expect("started"));
    assert!(stdout.contains("conv2d_") && stdout.contains("have a faster variant"), "{stdout}{stderr}");
    assert!(!path("runs").exists() && !stderr.contains("left out"), "{stderr}");
    let file = only_file(&cache);
    check_candidates(&json);

    let (stdout, stderr) = run("tuned", "");
    let told = stdout.lines().find(|line| line.starts_with("kernels ")).expect("it is told");
    assert!(told.contains("tuned for this adapter on 2") && told.contains(&argument(&file)), "{told}{stderr}");
    assert!(!stdout.contains("kernels measured") && !stderr.contains("measuring"), "nothing is left: {stdout}{stderr}");
    run("again", "");
    assert!(last(&path("tuned")) == last(&path("again")), "the same choices give the same bits");
    let (stdout, stderr) = run("untuned", "--untuned");
    assert!(!stdout.contains("tuned for") && stderr.is_empty(), "{stdout}{stderr}");
    assert!(last(&path("before")) == last(&path("untuned")), "choices that are not wanted change nothing");
}

/// Checks what `tune` wrote: every candidate of every kernel has its times, or a reason why it has none.
fn check_candidates(file: &Path) {
    let all: Value = serde_json::from_str(&fs::read_to_string(file).expect("written")).expect("one JSON object");
    let kernels = all["kernels"].as_array().expect("kernels");
    assert!(kernels.len() > 2 && all["net"] == "densenet-bc-10-3" && all["kept"].is_boolean(), "{all}");
    for kernel in kernels {
        let candidates = kernel["candidates"].as_array().expect("candidates");
        assert!(candidates.len() > 1 && candidates[0]["median_seconds"].is_number(), "{kernel}");
        for (index, candidate) in candidates.iter().enumerate() {
            assert_eq!(candidate["variant"], index);
            let quartiles = ["lower_seconds", "median_seconds", "upper_seconds"].map(|key| candidate[key].as_f64());
            match quartiles {
                [Some(lower), Some(median), Some(upper)] => assert!(0.0 < lower && lower <= median && median <= upper),
                _ => assert!(candidate["left_out"].is_string(), "{candidate}"),
            }
        }
        let choice = kernel["choice"].as_u64().expect("an index") as usize;
        assert!(choice == 0 || candidates[choice]["median_seconds"].is_number(), "{kernel}");
    }
}

/// Waits until a run was saved.
fn wait_for_a_save(run: &Path) {
    let began = Instant::now();
    while !run.join("last.safetensors").exists() {
        assert!(began.elapsed() < Duration::from_secs(300), "nothing was saved");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_not_known_is_measured_first_and_the_run_keeps_it() {
    let Some(adapter) = adapter() else { return };
    let (_folder, path) = folder();
    let (cache, none) = (path("cache"), path("none"));
    let start = |cache: &Path, arguments: &str| {
        let output = on_an_adapter(&adapter, cache, arguments).env(SECONDS, "600").output().expect("started");
        succeeded(&output)
    };
    // A network whose channels come in threes has few kernels with several variants.
    let options = format!("{TINY} --net densenet-bc-10-3 --epochs 3 --save-every 1");
    let begin = |name: &str| format!("{options} --out {}", argument(&path(name)));
    let (stdout, stderr) = start(&cache, &begin("first"));
    assert!(stdout.contains("kernels measured in") && stderr.contains("new to this adapter"), "{stdout}{stderr}");
    assert!(stdout.contains("tuned for this adapter on 2"), "{stdout}");
    assert!(!stdout.contains("left for the next start"), "{stdout}");
    // Whatever was found here, the other variants are to run in what follows.
    let file = only_file(&cache);
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replace("variant = 0", "variant = 1")).expect("writable");
    let (stdout, stderr) = start(&cache, &begin("whole"));
    assert!(!stdout.contains("kernels measured") && !stderr.contains("measuring"), "all are known: {stdout}{stderr}");
    start(&cache, &begin("again"));
    assert!(last(&path("again")) == last(&path("whole")), "the same choices give the same bits");

    // A run of the same configuration that was ended before it was saved begins anew, with the same kernels.
    let killed = path("killed");
    fs::create_dir(&killed).expect("new");
    fs::copy(path("whole").join("config.toml"), killed.join("config.toml")).expect("written");
    let resume = format!("--resume {}", argument(&killed));
    let mut child = on_an_adapter(&adapter, &none, &resume).stdout(Stdio::null()).spawn().expect("started");
    wait_for_a_save(&killed);
    child.kill().expect("a child can be killed");
    child.wait().expect("ended");
    let (stdout, stderr) = start(&none, &resume);
    assert!(!stdout.contains("measured") && !stderr.contains("last bit") && !none.exists(), "{stdout}{stderr}");
    assert!(last(&killed) == last(&path("whole")), "the same kernels without the file");
    let config = fs::read_to_string(killed.join("config.toml")).expect("written");
    assert!(config.contains("[tuning.variants]") && stdout.contains("tuned as this run has it"), "{config}{stdout}");

    start(&cache, &format!("{} --untuned", begin("untuned")));
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text.replacen("format = 2", "format = 1", 1)).expect("writable");
    let output = on_an_adapter(&adapter, &cache, &begin("old")).env(SECONDS, "0").output().expect("started");
    let (stdout, stderr) = succeeded(&output);
    assert!(stderr.contains("kernels are not tuned") && stderr.contains("another format (\"1\""), "{stderr}");
    assert!(stdout.contains(" 0 kernels measured in") && stdout.contains("left for the next start"), "{stdout}");
    assert!(last(&path("old")) == last(&path("untuned")), "what is not measured runs the static rule's variants");
    assert!(fs::read_to_string(&file).expect("written").contains("format = 2"), "it is replaced");
}

#[test]
fn software_adapters_are_not_measured() {
    let Some(adapter) = tensor::device::adapters().into_iter().find(|adapter| adapter.software) else { return };
    if self::adapter().is_none() {
        return;
    }
    let (_folder, path) = folder();
    let options = format!("{TINY} --stop-after 1 --out {}", argument(&path("run")));
    let output = on_an_adapter(&adapter.name, &path("cache"), &options).env_remove("ONFLY_VARIANTS").output();
    let (stdout, stderr) = {
        let output = output.expect("started");
        (text(&output.stdout), text(&output.stderr))
    };
    assert!(
        !stdout.contains("measured") && !stderr.contains("measuring") && !path("cache").exists(),
        "{stdout}{stderr}"
    );
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
    let json: Value =
        serde_json::from_str(&succeed(&format!("profile {profiled} --by-shape --json"))).expect("one JSON object");
    let number = |value: &Value| value.as_f64().expect("a number");
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
    assert!(number(&training["fused"]["normalise on read"]) > 3.0, "{training}");
    let rate = number(&training["flops"]) / number(&training["seconds"]);
    assert!(rate < 1.2 * number(&peaks["flops_per_second"]), "faster than the peak: {json}");
    assert!(peaks["workgroup_bytes_per_second"].is_null() && json["driver"].is_null(), "the CPU has neither");

    let table = succeed(&format!("profile {profiled}"));
    for part in
        ["peaks ", "GFLOP/s", "of peak", "fused times", "roofline of the step", "matrix products", "a training step"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    fail(&format!("profile {profiled} --out run"), 2, &["--out", "train profile"]);
}
