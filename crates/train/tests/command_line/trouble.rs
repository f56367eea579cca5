//! Trouble that a run meets: damaged files, other processes, full disks, too little memory. Each ends with one
//! sentence, and costs nothing that was saved.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{SMALL, argument, command, comparable, error_line, fail, folder, last, succeed, text};

fn previous(run: &Path) -> PathBuf {
    run.join("last.previous.safetensors")
}

/// Resumes to the end, and returns what was said on stderr.
fn resume(run: &Path) -> String {
    let output = command(&format!("--resume {}", argument(run))).output().expect("started");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_checkpoint_that_is_of_no_use_is_named_and_the_one_before_taken() {
    let (_folder, path) = folder();
    let whole = path("whole");
    succeed(&format!("{SMALL} --out {}", argument(&whole)));
    let best = |run: &Path| fs::read(run.join("best.safetensors")).expect("saved");
    type Harm = fn(&Path);
    let cut: Harm = |file| fs::write(file, &fs::read(file).expect("saved")[..1000]).expect("written");
    let flip: Harm = |file| {
        let mut bytes = fs::read(file).expect("saved");
        *bytes.last_mut().expect("not empty") ^= 1;
        fs::write(file, bytes).expect("written");
    };
    let empty: Harm = |file| fs::write(file, "").expect("written");
    // Within the first epoch, within the second, and at its end, when the best weights are ahead of the one before.
    for (name, harm, steps) in [("cut", cut, 5), ("flip", flip, 9), ("empty", empty, 99)] {
        let run = path(name);
        let stopped =
            command(&format!("{SMALL} --save-every 2 --stop-after {steps} --out {}", argument(&run))).output();
        assert_eq!(stopped.expect("started").status.success(), steps == 99);
        let file = run.join("last.safetensors");
        harm(&file);
        let said = resume(&run);
        let line = said.lines().find(|line| line.contains("is damaged")).unwrap_or_else(|| panic!("{name}: {said}"));
        assert!(line.contains("last.safetensors") && line.contains("from the one before, after step"), "{line}");
        assert!(run.join("last.unusable.safetensors").exists(), "it is kept for whoever wants to look at it");
        assert!(last(&run) == last(&whole) && best(&run) == best(&whole), "{name}");
        assert_eq!(comparable(&run), comparable(&whole), "{name}");
    }

    // Ended between the renaming of the two: there is nothing to say.
    let run = path("cut");
    fs::rename(run.join("last.safetensors"), previous(&run)).expect("renamed");
    assert!(!resume(&run).contains("damaged") && last(&run) == last(&whole));

    let run = path("flip");
    flip(&run.join("last.safetensors"));
    fs::write(previous(&run), "").expect("written");
    fail(
        &format!("--resume {}", argument(&run)),
        1,
        &["last.safetensors is damaged: its checksum", "last.previous.safetensors is damaged", "train anew"],
    );
}

#[test]
fn the_best_weights_are_those_that_the_state_tells_of() {
    let (_folder, path) = folder();
    let (whole, run) = (path("whole"), path("run"));
    succeed(&format!("{SMALL} --out {}", argument(&whole)));
    succeed(&format!("{SMALL} --out {}", argument(&run)));
    let best = run.join("best.safetensors");
    let expected = fs::read(&best).expect("saved");
    // Ended between saving the state and its weights as the best; or the weights were damaged.
    let config = fs::read_to_string(run.join("metrics.jsonl")).expect("written");
    let errors: Vec<f64> = config
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object"))
        .filter(|record| record["split"] == "test")
        .map(|record| record["top1_error"][0].as_f64().expect("a number"))
        .collect();
    fs::write(&best, "damaged").expect("written");
    let said = resume(&run);
    if errors[1] < errors[0] {
        assert!(
            fs::read(&best).expect("saved") == expected,
            "it is that of the last epoch, and was had from its state"
        );
    } else {
        assert!(said.contains("best.safetensors is not that of epoch 1"), "{said}");
    }
}

#[test]
fn a_directory_that_another_process_trains_in_is_refused() {
    let (_folder, path) = folder();
    let run = path("run");
    let start = format!("{SMALL} --epochs 1000 --out {}", argument(&run));
    let mut child = command(&start).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let began = Instant::now();
    while !run.join("last.safetensors").exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "the first epoch takes a second");
        std::thread::sleep(Duration::from_millis(20));
    }
    fail(&format!("--resume {}", argument(&run)), 1, &["another process trains in", "wait until it has ended"]);
    fail(&start, 1, &["another process trains in"]);
    // Reading is allowed.
    succeed(&format!("export --run {} --to {}", argument(&run), argument(&path("exported"))));
    child.kill().expect("running");
    child.wait().expect("ended");
    // The lock went with the process.
    let output = command(&format!("--resume {} --stop-after 1", argument(&run))).output().expect("started");
    assert!(error_line(&output, 1).contains("interrupted after step"));
}

/// A limit on the size of files stands for a full disk: writes fail in the midst of a file.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_costs_nothing_that_was_saved() {
    let (_folder, path) = folder();
    let (whole, run) = (path("whole"), path("run"));
    succeed(&format!("{SMALL} --out {}", argument(&whole)));
    let output = command(&format!("{SMALL} --stop-after 3 --out {}", argument(&run))).output().expect("started");
    assert!(error_line(&output, 1).contains("interrupted after step 3"));
    let saved = last(&run);
    let limited = |blocks: u32| {
        // A write beyond the limit is an error instead of the end of the process.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --resume \"$1\" --save-every 1");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_train"), &argument(&run)]);
        command.env("NODEVICE_SELECT", "1").output().expect("started")
    };
    let line = error_line(&limited(100), 1);
    for part in ["cannot save the run", "last.safetensors", "make room", "after step 3 is saved", "--resume"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(last(&run) == saved);
    let names = |run: &Path| -> Vec<String> {
        let entries = fs::read_dir(run).expect("readable");
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(!names(&run).iter().any(|name| name.starts_with(".tmp")), "{:?}", names(&run));
    let line = error_line(&limited(0), 1);
    assert!(line.contains("cannot write") && line.contains("make room"), "{line}");
    resume(&run);
    assert!(last(&run) == last(&whole));
    assert_eq!(comparable(&run), comparable(&whole));
}

#[test]
fn a_file_that_cannot_be_replaced_ends_the_run_and_stays() {
    let (_folder, path) = folder();
    let stopped = path("stopped");
    command(&format!("{SMALL} --stop-after 3 --out {}", argument(&stopped))).output().expect("started");
    let saved = last(&stopped);
    fs::create_dir_all(previous(&stopped).join("in the way")).expect("made");
    fail(
        &format!("--resume {}", argument(&stopped)),
        1,
        &["cannot save the run", "cannot write", "after step 3 is saved"],
    );
    assert!(last(&stopped) == saved);

    #[cfg(target_os = "linux")]
    fail(&format!("{SMALL} --out /proc/self"), 1, &["cannot write /proc/self/lock"]);
}

/// A GPU that is given no time to answer stands for one that hangs.
#[test]
fn a_gpu_that_does_not_answer_ends_the_run_and_costs_nothing_that_was_saved() {
    let (_folder, path) = folder();
    if !text(&command("devices").output().expect("started").stdout).contains("llvmpipe") {
        println!("skipped: the software adapter is not there");
        return;
    }
    let (whole, run) = (path("whole"), path("run"));
    let options = SMALL.replace("--device cpu", "--device llvmpipe").replace("--limit-train 96", "--limit-train 48");
    succeed(&format!("{options} --out {}", argument(&whole)));
    let output = command(&format!("{options} --stop-after 2 --out {}", argument(&run))).output().expect("started");
    assert!(error_line(&output, 1).contains("interrupted after step 2"));
    // A step that is done by the time that it is waited for is none too late.
    let hung = command(&format!("--resume {}", argument(&run))).env("ONFLY_GPU_PATIENCE", "1e-6").output();
    let hung = hung.expect("started");
    if hung.status.success() {
        println!("every step was done at once: none was waited for");
    } else {
        let line = error_line(&hung, 1);
        for part in ["it has not answered for 1µs", "--batch", "the state after step", "is saved", "--resume"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        succeed(&format!("--resume {}", argument(&run)));
    }
    assert!(last(&run) == last(&whole));
}

/// No machine has the terabytes that this takes.
#[test]
fn a_run_that_does_not_fit_into_memory_is_refused_before_it_takes_any() {
    let (_folder, path) = folder();
    let out = argument(&path("run"));
    let began = Instant::now();
    fail(
        &format!("{SMALL} --net resnet164 --branches 8 --fan-out input --batch 20000 --limit-train 20000 --out {out}"),
        1,
        &["a batch of 20000 needs", "GiB of memory", "has", "left", "largest tensors", "f32[", "--batch", "fits"],
    );
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(!path("run").exists());
}
