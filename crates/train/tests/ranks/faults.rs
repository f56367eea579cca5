//! Faults while ranks train end all of them, are reported with the rank's number, and lose no checkpoint.
#![cfg(target_os = "linux")]

use std::path::Path;

use crate::records::text;
use crate::running::{
    fail, floats, lives, mpirun, place, processes, ranks, replace_in_memory, signal, start, succeed, wait_until,
};

/// A run that would go on for hours.
const LONG: &str = "--out run --epochs 100000 --save-every 20";

/// Goes on alone for an epoch, from what was saved.
fn goes_on(dir: &Path) {
    let sentence = fail(&mut mpirun(dir, "-n 2 TRAIN --resume run --stop-after 5"), 1);
    assert!(sentence.contains("interrupted after step"), "{sentence}");
}

#[test]
fn a_rank_that_is_killed_ends_all() {
    let place = place();
    let child = start(ranks(place.path(), 2, LONG), &place.path().join("run"));
    let all = processes(child.id());
    assert_eq!(all.len(), 2);
    signal(all[1], "KILL");
    let output = child.wait_with_output().expect("waited for");
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    // The launcher says it.
    assert!(stderr.contains("rank 1") && stderr.contains("signal 9"), "{stderr}");
    wait_until("the end of all ranks", || !all.iter().any(|&process| lives(process)));
    goes_on(place.path());
}

#[test]
fn a_launcher_that_is_killed_leaves_nothing_behind() {
    let place = place();
    let mut child = start(ranks(place.path(), 2, LONG), &place.path().join("run"));
    let all = processes(child.id());
    assert_eq!(all.len(), 2);
    signal(child.id(), "KILL");
    child.wait().expect("waited for");
    wait_until("the end of all ranks", || !all.iter().any(|&process| lives(process)));
    goes_on(place.path());
}

#[test]
fn a_rank_that_hangs_is_named() {
    let place = place();
    let child = start(ranks(place.path(), 3, &format!("{LONG} --batch 9 --rank-timeout 2")), &place.path().join("run"));
    let all = processes(child.id());
    assert_eq!(all.len(), 3);
    signal(all[1], "STOP");
    let output = child.wait_with_output().expect("waited for");
    let stderr = text(&output.stderr);
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains("rank 1 has not answered for 2"), "{stderr}");
    assert!(errors[0].contains("is saved, and `train --resume run` goes on from it"), "{stderr}");
    wait_until("the end of all ranks", || !all.iter().any(|&process| lives(process)));
    let sentence = fail(&mut mpirun(place.path(), "-n 3 TRAIN --resume run --stop-after 5"), 1);
    assert!(sentence.contains("interrupted after step"), "{sentence}");
}

/// Memory that fails: a weight of one rank, wherever it has it, becomes another one.
#[test]
fn a_rank_whose_parameters_drift_is_named() {
    let place = place();
    let run = place.path().join("run");
    // At such a rate weights stay what they are.
    let child = start(ranks(place.path(), 2, &format!("{LONG} --lr 1e-30")), &run);
    let weight = floats(&run)["conv1.weight"][5];
    assert!(replace_in_memory(processes(child.id())[1], weight, 1.5 * weight) > 0, "rank 1 has the weight {weight}");
    let output = child.wait_with_output().expect("waited for");
    let stderr = text(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    let line = stderr.lines().find(|line| line.contains("error: ")).unwrap_or_default();
    assert!(line.contains("rank 1 has other parameters than the other ranks after step"), "{stderr}");
    goes_on(place.path());
}

#[test]
fn losses_that_are_not_finite_end_all_with_the_rank() {
    let place = place();
    for options in ["--lr 1e30", "--lr 1e30 --checks"] {
        let sentence =
            fail(&mut ranks(place.path(), 2, &format!("--out run{} --epochs 3 {options}", options.len())), 1);
        assert!(sentence.contains("error: rank ") && sentence.contains("not finite"), "{sentence}");
        assert!(sentence.contains("the first such value"), "{sentence}");
    }
}

#[test]
fn an_orderly_end_saves_once_for_all() {
    let place = place();
    let child = start(ranks(place.path(), 2, LONG), &place.path().join("run"));
    let all = processes(child.id());
    // One rank alone hears the signal: all end after the same step.
    signal(all[1], "TERM");
    let output = child.wait_with_output().expect("waited for");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("interrupted after step") && stderr.contains("everything is saved"), "{stderr}");
    goes_on(place.path());
}

#[test]
fn a_directory_that_cannot_be_written_ends_all_with_rank_0s_reason() {
    let place = place();
    let run = place.path().join("run");
    let child = start(ranks(place.path(), 2, LONG), &run);
    let all = processes(child.id());
    let aside = run.join("last.previous.safetensors");
    wait_until("a second checkpoint", || aside.exists());
    // Files are being written: it can be moved at any moment, not removed.
    std::fs::rename(&run, place.path().join("moved")).expect("moved");
    let output = child.wait_with_output().expect("waited for");
    let stderr = text(&output.stderr);
    assert!(!output.status.success());
    let line = stderr.lines().find(|line| line.starts_with("rank 0: error: cannot ")).unwrap_or_default();
    assert!(line.contains("the run was saved in run, which is not there any more"), "{stderr}");
    wait_until("the end of all ranks", || !all.iter().any(|&process| lives(process)));
    succeed(&mut ranks(place.path(), 2, "--out again --epochs 1"));
}
