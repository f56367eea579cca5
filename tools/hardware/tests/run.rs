//! Tests of `run.sh` with a stub program: the order of its steps, their time, and the files left when it is killed.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Stub of `train`: STUB_FAIL names the step that fails, STUB_HANG one that hangs once; with STUB_LOADER, hardware is
/// found only with the packed libraries.
const TRAIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >>"$here/called"
json() { while [ $# -gt 1 ]; do [ "$1" != --json ] || echo "$2"; shift; done; }
out() { while [ $# -gt 1 ]; do [ "$1" != --out ] || echo "$2"; shift; done; }
if [ "$1" = "${STUB_FAIL:-}" ]; then
    echo "error: no luck	with it" >&2
    exit 1
fi
if [ "$1" = "${STUB_HANG:-}" ] && [ ! -e "$here/hangs" ]; then
    echo $$ >"$here/hangs"
    exec sleep 60
fi
head='"device":{"name":"Stub GPU","backend":"Vulkan","driver":"1"},"program":{},"date":"today"'
rate='"precision":"f32","batch":128,"training":{"images_per_second":20000,"median_seconds":0.0064}'
case "$1" in
    devices)
        if [ -z "${STUB_LOADER:-}" ] || [ "${LD_LIBRARY_PATH:-}" = "$here/lib" ]; then
            echo '* Stub GPU (discrete GPU)'
            echo '    backend Vulkan, driver 1'
        fi
        echo '  cpu (1 thread)'
        ;;
    selftest) echo "{$head,\"passed\":true,\"cases\":3,\"kernels\":[]}" >"$(json "$@")" ;;
    bench)
        rows="{\"net\":\"resnet32\",\"branches\":1,$rate},{\"net\":\"resnet32\",\"branches\":3,$rate}"
        echo "{$head,\"complete\":true,\"rows\":[$rows]}" >"$(json "$@")"
        ;;
    profile)
        peaks='"peaks":{"flops_per_second":1,"bytes_per_second":1}'
        step='"training":{"seconds":1,"kernels":[]}'
        net='"device":"Stub GPU","net":"resnet32","branches":3,"precision":"f32","batch":128'
        echo "{$net,$peaks,$step}"
        ;;
    --net)
        run=$(out "$@")
        mkdir -p "$run"
        printf 'net = "resnet32"\nbranches = 3\nepochs = 1\n' >"$run/config.toml"
        for split in train test; do
            echo "{\"split\":\"$split\",\"top1_error\":[50.0],\"images_per_second\":20000}"
        done >"$run/metrics.jsonl"
        for file in last best last.previous best.previous; do echo >"$run/$file.safetensors"; done
        ;;
esac
"#;

/// Stub of a `python3` without PyTorch.
const PYTHON: &str = "#!/bin/sh\necho 'there is no PyTorch here' >&2\nexit 3\n";

/// A packed folder with stubs.
struct Packed {
    folder: TempDir,
}

impl Packed {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::copy(here.join("run.sh"), folder.path().join("run.sh")).expect("run.sh");
        fs::copy(env!("CARGO_BIN_EXE_hardware"), folder.path().join("hardware")).expect("the program");
        fs::create_dir_all(folder.path().join("lib")).expect("a folder");
        fs::create_dir_all(folder.path().join("bin")).expect("a folder");
        for (name, text) in [("train", TRAIN), ("bin/python3", PYTHON)] {
            fs::write(folder.path().join(name), text).expect("a file");
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o755)).expect("a program");
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new("sh");
        command.arg("run.sh").arg(".").args(arguments).current_dir(self.folder.path()).env_clear();
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        command.env("PATH", path).envs(variables.iter().copied()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(arguments, variables).output().expect("a shell")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Name, outcome and note of each step.
    fn steps(&self) -> Vec<[String; 3]> {
        let steps = self.read("out/steps.tsv");
        let row = |line: &str| {
            let cells: Vec<&str> = line.split('\t').collect();
            assert_eq!(cells.len(), 7, "{line}");
            [cells[1], cells[4], cells[6]].map(str::to_owned)
        };
        steps.lines().map(row).collect()
    }

    fn outcome(&self, name: &str) -> String {
        let steps = self.steps();
        let step = steps.iter().find(|[step, ..]| step == name);
        step.map_or_else(|| panic!("{name} is not among {steps:?}"), |[_, outcome, note]| format!("{outcome}: {note}"))
    }

    /// Starts `run.sh`, and waits until its bench hangs.
    fn hanging(&self) -> Child {
        let child =
            self.command(&["--minutes", "2", "--out", "out"], &[("STUB_HANG", "bench")]).spawn().expect("a shell");
        let begun = Instant::now();
        while self.read("hangs").trim().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", self.steps());
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

fn kill(signal: &str, process: &str) {
    assert!(Command::new("kill").args([signal, process]).status().expect("kill").success());
}

const PLAN: &str = "devices selftest-quick bench-untuned tune tune-f16 bench profile-resnet32-3 \
    profile-resnet32-3-shapes profile-resnet110-3 profile-resnet110-3-shapes bench-before pytorch bench-after \
    pytorch-compile pytorch-more selftest";

#[test]
fn steps_run_in_order_and_one_that_fails_is_recorded() {
    let packed = Packed::new();
    let output = packed.run(&["--minutes", "3", "--out", "out"], &[("STUB_FAIL", "tune")]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let names: Vec<String> = packed.steps().into_iter().map(|[name, ..]| name).collect();
    assert_eq!(names.join(" "), PLAN);
    for name in names.iter().filter(|name| !name.starts_with("tune") && !name.starts_with("pytorch")) {
        assert_eq!(packed.outcome(name), "ok: ");
    }
    assert_eq!(packed.outcome("tune"), "failed: error: no luck with it");
    assert_eq!(packed.outcome("pytorch"), "skipped: there is no PyTorch here");
    let page = packed.read("out/page.md");
    for line in ["# Stub GPU", "all 3 cases right (whole)", "| tune | **failed** (status 1) |", "by kernel and shape"] {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("Not come to an end"), "{page}");
    let called = packed.read("called");
    let calls: Vec<&str> = called.lines().collect();
    assert_eq!(calls[0], "devices");
    assert!(calls[2].starts_with("bench --untuned --nets resnet32:3 --json") && calls[2].ends_with("--device gpu"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("20,000 images/s"));
    // Existing results are not overwritten.
    let again = packed.run(&["--minutes", "1", "--out", "out"], &[]);
    assert_eq!(again.status.code(), Some(2));
}

#[test]
fn a_step_that_takes_too_long_is_cut_and_what_has_no_time_is_skipped() {
    let packed = Packed::new();
    let output = packed.run(&["--minutes", "36s", "--out", "out"], &[("STUB_HANG", "bench")]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(packed.outcome("bench-untuned"), "cut: ");
    assert!(packed.outcome("tune").starts_with("skipped: too little time was left: "));
    let page = packed.read("out/page.md");
    assert!(page.contains("| bench-untuned | **cut at its limit** |"), "{page}");
}

#[test]
fn what_is_killed_leaves_a_page_of_what_it_did() {
    let packed = Packed::new();
    let mut child = packed.hanging();
    child.kill().expect("a running shell");
    child.wait().expect("an end");
    kill("-KILL", packed.read("hangs").trim());
    let page = packed.read("out/page.md").replace('\n', " ");
    assert!(page.contains("all 3 cases right (quick)"), "{page}");
    assert!(page.contains("**Not come to an end: `bench-untuned`, `tune`,"), "{page}");
    assert!(page.contains("`bench-untuned` was under way when this page was made."), "{page}");
}

#[test]
fn what_is_asked_to_end_ends_its_step_and_says_so() {
    let packed = Packed::new();
    let child = packed.hanging();
    kill("-TERM", &child.id().to_string());
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(packed.outcome("bench-untuned"), "stopped: run.sh was asked to end");
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("page.md\n"));
    let hangs = packed.read("hangs");
    assert!(!Path::new("/proc").join(hangs.trim()).exists(), "process {} still runs", hangs.trim());
}

#[test]
fn the_packed_loader_is_taken_where_it_finds_more() {
    let packed = Packed::new();
    packed.run(&["--minutes", "20s", "--out", "out"], &[("STUB_LOADER", "1")]);
    assert!(packed.read("out/page.md").contains("| Vulkan loader | the packed one: without it no hardware is found |"));
    assert!(packed.read("out/devices.txt").contains("Stub GPU"));
    let packed = Packed::new();
    fs::remove_dir(packed.path("lib")).expect("a folder");
    let output = packed.run(&["--minutes", "20s", "--out", "out"], &[("STUB_LOADER", "1")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(packed.outcome("hardware").starts_with("failed: no hardware adapter is found"));
}

fn shell(folder: &Path, script: &str) {
    assert!(Command::new("sh").args(["-euc", script]).current_dir(folder).status().expect("a shell").success());
}

#[test]
fn networks_are_trained_for_as_many_epochs_as_fit() {
    let packed = Packed::new();
    shell(
        packed.folder.path(),
        "mkdir -p cifar10 data && echo images >cifar10/x && tar -czf whole cifar10 && \
         sha256sum whole | cut -d ' ' -f 1 >data/cifar10.sha256 && \
         split -n 3 --numeric-suffixes=1 -a 1 whole data/cifar10.tar.gz.",
    );
    let output = packed.run(&["--minutes", "2", "--out", "out", "--train", "data"], &[]);
    assert!(output.status.success(), "{}{}", packed.read("out/steps.tsv"), String::from_utf8_lossy(&output.stderr));
    let names: Vec<String> = packed.steps().into_iter().map(|[name, ..]| name).collect();
    assert_eq!(names.join(" "), "devices data tune bench-training train-alone train-one");
    // An epoch takes 2.5 s and its evaluation 0.25 s, of both networks: 15 and 14 fit into 85 % of 98 or some 95 s.
    let called = packed.read("called");
    let training = called.lines().find(|line| line.contains("--branches 3 --method one --epochs")).expect("a training");
    let epochs: u64 = training.split_whitespace().nth(7).and_then(|word| word.parse().ok()).expect("a number");
    assert!((13..=15).contains(&epochs), "{training}");
    assert!(called.contains("fetch cifar10 --verify"), "{called}");
    let mut files: Vec<_> =
        packed.path("out/runs/train-one").read_dir().expect("a run").flatten().map(|file| file.file_name()).collect();
    files.sort();
    assert_eq!(files, ["best.safetensors", "config.toml", "metrics.jsonl"]);
    assert!(packed.read("out/page.md").contains("50.00 %"), "{}", packed.read("out/page.md"));
}

#[test]
fn data_that_came_apart_are_not_trained_on() {
    let packed = Packed::new();
    shell(packed.folder.path(), "mkdir data && for i in 1 2 3; do echo x >data/cifar10.tar.gz.$i; done");
    shell(packed.folder.path(), "echo 0000 >data/cifar10.sha256");
    let output = packed.run(&["--minutes", "2", "--out", "out", "--train", "data"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(packed.outcome("data").contains("another SHA-256"), "{}", packed.outcome("data"));
    assert_eq!(packed.steps().len(), 2);
}

#[test]
fn wrong_usage_is_a_sentence() {
    let packed = Packed::new();
    let cases: [(&[&str], &str); 5] = [
        (&["--minutes", "3"], "--out names the folder"),
        (&["--minutes", "0", "--out", "out"], "--minutes takes a whole number"),
        (&["--minutes"], "--minutes lacks its value"),
        (&["--minutes", "3", "--out", "out", "--fast"], "there is no option --fast"),
        (&["--minutes", "3", "--out", "out", "--train", "none"], "--train takes a folder"),
    ];
    for (arguments, sentence) in cases {
        let output = packed.run(arguments, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with(sentence) && stderr.trim_end().lines().count() == 1, "{stderr}");
    }
}
