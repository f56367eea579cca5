//! Whole runs: the same bits again, the same bits after an interruption, and files without gaps.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use crate::program::{SMALL, argument, command, comparable, error_line, folder, last, metrics, succeed, text};
use safetensors::SafeTensors;

fn train(run: &Path, options: &str) -> String {
    succeed(&format!("{SMALL} {options} --out {}", argument(run)))
}

/// Runs until `--stop-after`, and checks what it says.
fn stop(arguments: &str, step: usize) {
    let line = error_line(&command(arguments).output().expect("started"), 1);
    assert!(line.contains(&format!("interrupted after step {step} ")) && line.contains("train --resume"), "{line}");
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_an_interruption_changes_nothing() {
    let (_folder, path) = folder();
    let (whole, again, other) = (path("whole"), path("again"), path("other"));
    let table = train(&whole, "");
    assert!(table.contains("1/2") && table.contains("2/2") && table.contains("ONE-E"), "{table}");
    train(&again, "--save-every 4");
    train(&other, "--seed 1");
    assert!(last(&whole) == last(&again), "the same run twice");
    assert!(last(&whole) != last(&other), "another seed");

    // Six steps an epoch: within the first, after its last step but before its evaluation, and within the second.
    for (name, steps) in [("within", [4, 5]), ("between", [6, 1])] {
        let run = path(name);
        let [first, second] = steps;
        stop(&format!("{SMALL} --stop-after {first} --out {}", argument(&run)), first);
        let resume = format!("--resume {}", argument(&run));
        stop(&format!("{resume} --stop-after {second}"), first + second);
        // Metrics as a kill between metrics and checkpoint leaves them.
        fs::write(run.join("metrics.jsonl"), {
            let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
            format!("{text}{{\"epoch\":2,\"split\":\"train\"}}\n{{\"epoch\":2,\"spl")
        })
        .expect("written");
        succeed(&format!("{resume} --device cpu --save-every 1"));
        assert!(last(&run) == last(&whole), "{name}");
        assert_eq!(
            fs::read(run.join("best.safetensors")).ok(),
            fs::read(whole.join("best.safetensors")).ok(),
            "{name}"
        );
        assert_eq!(comparable(&run), comparable(&whole), "{name}");
        assert!(succeed(&resume).contains("best test error"), "a complete run has nothing left to do");
        assert!(last(&run) == last(&whole), "{name}");
    }

    let objects = metrics(&whole);
    let places: Vec<_> =
        objects.iter().map(|o| (o["epoch"].as_u64(), o["step"].as_u64(), o["split"].as_str())).collect();
    let place = |epoch, split| (Some(epoch), Some(6 * epoch), Some(split));
    assert_eq!(places, [place(1, "train"), place(1, "test"), place(2, "train"), place(2, "test")]);
    for object in &objects {
        assert_eq!(object["top1_error"].as_array().map(Vec::len), Some(2));
        assert_eq!(object["top5_error"].as_array().map(Vec::len), Some(2));
        for field in ["loss", "ensemble_top1_error", "learning_rate", "images_per_second"] {
            assert!(object[field].is_f64(), "{field} in {object}");
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_finish_the_step_save_and_tell_how_to_resume() {
    let (_folder, path) = folder();
    let whole = path("whole");
    let longer = "--limit-train 640 --epochs 1";
    train(&whole, longer);
    for signal in ["-INT", "-TERM"] {
        end_by(signal, longer, &whole, &path(signal));
    }
}

#[cfg(unix)]
fn end_by(signal: &str, longer: &str, whole: &Path, run: &Path) {
    let mut child = command(&format!("{SMALL} {longer} --out {}", argument(run)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let heading = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("images/s")));
    assert!(heading.is_some(), "the table's heading comes before the first step");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let killed = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(killed.expect("kill is there").success());
    let line = error_line(&child.wait_with_output().expect("ended"), 1);
    assert!(line.contains("interrupted after step ") && line.contains("train --resume"), "{line}");
    assert!(metrics_is_empty(run), "{line}");
    succeed(&format!("--resume {}", argument(run)));
    assert!(last(run) == last(whole), "{line}");
    assert_eq!(comparable(run), comparable(whole));
}

#[cfg(unix)]
fn metrics_is_empty(run: &Path) -> bool {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().is_empty()
}

#[test]
fn eval_finds_the_errors_that_training_found() {
    let (_folder, path) = folder();
    let run = path("run");
    train(&run, "--epochs 1 --mean 0.4,0.5,0.6 --limit-train 320");
    let test = metrics(&run).pop().expect("an epoch");
    let percent = |value: &serde_json::Value| format!("{:.2} %", value.as_f64().expect("a number"));
    let expected = [
        ("branch 0", &test["top1_error"][0], &test["top5_error"][0]),
        ("branch 1", &test["top1_error"][1], &test["top5_error"][1]),
        ("ensemble", &test["ensemble_top1_error"], &test["ensemble_top5_error"]),
    ];
    let found = |table: &str, (name, top1, top5): (&str, &serde_json::Value, &serde_json::Value)| {
        let row = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        assert!(row.contains(&percent(top1)) && row.contains(&percent(top5)), "{table}\nagainst {test}");
    };
    let eval = |file: &Path, options: &str| {
        succeed(&format!("eval --device cpu --limit-test 50 {options} --weights {}", argument(file)))
    };
    for file in ["last.safetensors", "best.safetensors"] {
        let table = eval(&run.join(file), "--batch 7");
        expected.iter().for_each(|&row| found(&table, row));
    }

    // The target network alone, as another program would write it.
    let bytes = last(&run);
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    let strange = ["momentum.", "branches.", "gate.", "metrics."];
    let own = tensors.tensors().into_iter().filter(|(name, _)| !strange.iter().any(|prefix| name.starts_with(prefix)));
    let plain = path("plain.safetensors");
    fs::write(&plain, safetensors::serialize(own, None).expect("serialised")).expect("written");
    let table = eval(&plain, "--net resnet8 --data shapes --mean 0.4,0.5,0.6");
    found(&table, expected[0]);
    assert!(!table.contains("branch 1"), "{table}");
}

#[test]
fn a_single_network_and_the_ablations_train() {
    let (_folder, path) = folder();
    let variants = [
        "--branches 1 --schedule cosine --nesterov false",
        "--branches 3 --no-gate --fan-out input --recipe strong",
        "--no-distill --shortcut a --recipe authors --fan-out 2",
    ];
    for (i, options) in variants.into_iter().enumerate() {
        let run = path(&i.to_string());
        succeed(&format!("{SMALL} {options} --epochs 1 --out {}", argument(&run)));
        assert_eq!(metrics(&run).len(), 2);
        let text = succeed(&format!(
            "eval --device cpu --limit-test 20 --weights {}",
            argument(&run.join("best.safetensors"))
        ));
        assert_eq!(text.contains("ensemble"), i > 0, "{text}");
    }
}

#[test]
fn runs_without_out_are_numbered_and_profiles_leave_nothing() {
    let (_folder, path) = folder();
    let inside = |options: &str| {
        let output = command(&format!("{SMALL} --epochs 1 {options}")).current_dir(path("")).output().expect("started");
        (output.status.code(), text(&output.stdout))
    };
    let (status, table) = inside("--profile");
    assert_eq!(status, Some(0), "{table}");
    assert!(table.contains("GFLOP/s") && table.contains("conv2d") && table.contains("share"), "{table}");
    assert!(!path("runs").exists());
    inside("");
    inside("--limit-train 64");
    let config = |name: &str| fs::read_to_string(path("runs").join(name).join("config.toml")).expect("written");
    assert!(config("resnet8-2-shapes-seed0").contains("limit_train = 96"));
    assert!(config("resnet8-2-shapes-seed0-2").contains("limit_train = 64"));
}
