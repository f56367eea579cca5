//! A run that is killed at random moments, and resumed each time, ends as one that is not.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tensor::Rng;

use crate::program::{SMALL, argument, command, comparable, folder, last, succeed, text};

/// Number of kills: `tools/kill_test.sh` asks for more.
const VARIABLE: &str = "ONFLY_KILLS";
const KILLS: u32 = 5;
/// Epochs of six steps for each kill.
const EPOCHS_PER_KILL: u32 = 4;

fn names(run: &Path) -> Vec<String> {
    let entries = fs::read_dir(run).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Number of epochs that a run has recorded.
fn recorded(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits for `seconds`, but not beyond the moment at which `run` has recorded `epochs`: on a machine that others use,
/// too, the same time holds more of them at one moment than at another.
fn wait(seconds: f64, run: &Path, epochs: usize) {
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < seconds && recorded(run) < epochs {
        std::thread::sleep(Duration::from_secs_f64(0.002f64.min(seconds)));
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_one_that_is_not() {
    let kills = std::env::var(VARIABLE).map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let (_folder, path) = folder();
    let (whole, run) = (path("whole"), path("run"));
    let options = format!("{SMALL} --epochs {}", 4 + EPOCHS_PER_KILL * kills);

    let timed = |arguments: &str| {
        let began = Instant::now();
        command(arguments).output().expect("started");
        began.elapsed().as_secs_f64()
    };
    let start = timed(&format!("{options} --stop-after 1 --out {}", argument(&path("start"))));
    let began = Instant::now();
    succeed(&format!("{options} --out {}", argument(&whole)));
    let training = (began.elapsed().as_secs_f64() - start).max(0.0);
    // Half of the lives end before they have trained for this long.
    let share = 0.8 * training / f64::from(kills);

    let begin = format!("{options} --save-every 1 --out {}", argument(&run));
    let resume = format!("--resume {}", argument(&run));
    let mut rng = Rng::named("kills", &[u64::from(std::process::id())]);
    let (mut while_starting, mut while_writing, mut saves) = (0, 0, 0);
    for kill in 0..kills {
        let arguments = if run.join("config.toml").exists() { &resume } else { &begin };
        let before = fs::read(run.join("last.safetensors")).ok();
        let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let epochs = recorded(&whole) * (kill + 1) as usize / (kills + 1) as usize;
        wait(rng.uniform() * (start + 2.0 * share), &run, epochs);
        child.kill().expect("a child can be killed");
        let output = child.wait_with_output().expect("ended");
        let said = text(&output.stderr);
        assert!(!output.status.success(), "the run ended before kill {kill}: it must be longer");
        assert!(!said.contains("error:") && !said.contains("damaged") && !said.contains("panicked"), "{said}");
        let after = fs::read(run.join("last.safetensors")).ok();
        if after == before {
            while_starting += 1;
        } else {
            saves += 1;
        }
        while_writing += usize::from(names(&run).iter().any(|name| name.starts_with(".tmp-")));
    }
    eprintln!(
        "{kills} kills: {while_starting} before the process had saved anything, {saves} later; {while_writing} while \
         it wrote a file"
    );
    let output = command(&resume).output().expect("started");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(last(&run) == last(&whole), "the last state");
    assert!(fs::read(run.join("best.safetensors")).ok() == fs::read(whole.join("best.safetensors")).ok(), "the best");
    assert_eq!(comparable(&run), comparable(&whole));
    assert!(!names(&run).iter().any(|name| name.starts_with(".tmp-")), "{:?}", names(&run));
}
