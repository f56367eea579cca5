//! Training by several ranks.

use std::process::Command;

use crate::records::{comparable, last, metrics, text};
use crate::running::{SMALL, alone, differences, eval, fail, floats, mpirun, output, place, ranks, succeed};

/// Trains until it is stopped after some steps.
fn steps(command: &mut Command) {
    let sentence = fail(command, 1);
    assert!(sentence.contains("error: interrupted after step"), "{sentence}");
}

#[test]
fn with_shared_statistics_ranks_train_what_one_process_does() {
    let place = place();
    let dir = place.path();
    steps(&mut alone(dir, "--out begin --stop-after 1 --lr 1e-9"));
    steps(&mut alone(dir, "--out one --stop-after 20"));
    for count in [2, 4] {
        let run = format!("n{count}");
        steps(&mut ranks(dir, count, &format!("--out {run} --stop-after 20 --sync-bn")));
        let (difference, moved) = differences(&dir.join("one"), &dir.join(&run), &dir.join("begin"));
        println!("{count} ranks: weights differ by {difference:e} after they have moved by {moved}");
        assert!(difference < 1e-5 && moved > 0.05, "{count} ranks: {difference:e} of {moved}");
    }
}

#[test]
fn the_same_ranks_give_the_same_bits_however_the_sums_travel() {
    let place = place();
    let dir = place.path();
    for (run, options) in [("a", ""), ("b", ""), ("c", "--gradient-parts 3"), ("d", "--save-every 7")] {
        succeed(&mut ranks(dir, 2, &format!("--out {run} --epochs 2 {options}")));
    }
    for run in ["b", "c", "d"] {
        assert_eq!(comparable(&dir.join("a")), comparable(&dir.join(run)), "{run}");
        assert!(floats(&dir.join("a")) == floats(&dir.join(run)), "{run} has other bits");
    }
}

#[test]
fn a_run_goes_on_with_other_numbers_of_ranks() {
    let place = place();
    let dir = place.path();
    succeed(&mut ranks(dir, 2, "--out whole --epochs 2"));
    for run in ["same", "more", "fewer"] {
        steps(&mut ranks(dir, 2, &format!("--out {run} --epochs 2 --stop-after 13")));
    }
    let resume = |count: usize, run: &str| mpirun(dir, &format!("-n {count} TRAIN --resume {run}"));
    succeed(&mut resume(2, "same"));
    assert_eq!(last(&dir.join("same")), last(&dir.join("whole")), "as if it had not been interrupted");
    for (count, run, what) in
        [(4, "more", "2 ranks and goes on with 4 ranks"), (1, "fewer", "2 ranks and goes on with 1 rank")]
    {
        let output = output(&mut resume(count, run));
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains(what) && stderr.contains("instead of 4"), "{stderr}");
        let epochs: Vec<_> = metrics(&dir.join(run)).iter().map(|record| record["epoch"].clone()).collect();
        assert_eq!(epochs, [1, 1, 2, 2], "every epoch once in each split");
        let loss =
            |run: &str| metrics(&dir.join(run)).last().expect("the last test")["loss"].as_f64().expect("a number");
        assert!((loss(run) - loss("whole")).abs() < 0.25 * loss("whole"), "{run}: {} and {}", loss(run), loss("whole"));
    }
}

#[test]
fn an_evaluation_in_parts_is_that_of_the_whole() {
    let place = place();
    let dir = place.path();
    // 23 images for 4 ranks: the parts differ.
    succeed(&mut ranks(dir, 4, "--out run --epochs 1"));
    let found = metrics(&dir.join("run"));
    let test = found.iter().find(|record| record["split"] == "test").expect("measured");
    let table = succeed(eval(dir).args(["--weights", "run/last.safetensors"]));
    for branch in 0..3 {
        let line = table.lines().find(|line| line.starts_with(&format!("branch {branch}"))).expect("measured");
        let number = |what: &str| test[what][branch].as_f64().expect("a number");
        for text in [format!("{:.2} %", number("top1_error")), format!("{:.4}", number("cross_entropy"))] {
            assert!(line.contains(&text), "{line} should say {text}");
        }
    }
}

#[test]
fn a_software_adapter_and_the_cpu_device_train_together() {
    let place = place();
    let dir = place.path();
    let adapters = tensor::device::adapters();
    let Some(adapter) = adapters.iter().find(|adapter| adapter.name.contains("llvmpipe")) else {
        assert!(
            std::env::var("ONFLY_TEST_DEVICES").is_ok_and(|list| list == "cpu"),
            "tools/setup.sh installs lavapipe"
        );
        return;
    };
    assert!(adapter.software);
    succeed(&mut alone(dir, "--out one --epochs 3"));
    // The last --device is the one that counts.
    succeed(&mut ranks(dir, 2, "--device llvmpipe,cpu --out mixed --epochs 3 --sync-bn"));
    let losses = |run: &str| -> Vec<f64> {
        let all = metrics(&dir.join(run));
        all.iter()
            .filter(|record| record["split"] == "train")
            .map(|record| record["loss"].as_f64().expect("a number"))
            .collect()
    };
    let (one, mixed) = (losses("one"), losses("mixed"));
    println!("{one:?} {mixed:?}");
    assert_eq!((one.len(), mixed.len()), (3, 3));
    for (one, mixed) in one.iter().zip(&mixed) {
        assert!((one - mixed).abs() < 0.01 * one, "{one} {mixed}");
    }
}

#[test]
fn a_batch_per_rank_and_the_linear_rule_say_what_they_do() {
    let place = place();
    let dir = place.path();
    let shown = succeed(&mut mpirun(
        dir,
        &format!(
            "-n 2 TRAIN {} --batch-per-rank 8 --scale-lr --warmup 1 --epochs 2 --schedule cosine --device cpu --out \
             run",
            SMALL.replace("--batch 8", "")
        ),
    ));
    assert!(shown.contains("batch 16, 10 steps per epoch"), "{shown}");
    assert!(
        shown.contains("ranks        2: 2 x cpu") && shown.contains("batch 8 each, batch-norm within each rank"),
        "{shown}"
    );
    assert!(shown.contains("exchange     a step gave"), "{shown}");
}
