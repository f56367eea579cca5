//! Values that are not finite end a run, which says where they came from.

use std::fs;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::program::{SMALL, argument, command, comparable, error_line, fail, folder, last, succeed, text};

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_names_the_kernel() {
    let (_folder, path) = folder();
    let out = |name: &str| format!("--out {}", argument(&path(name)));
    let parts = ["not finite at step", "every branch", "came in step", "dispatch", "--lr than 1e30"];
    fail(&format!("{SMALL} {} --lr 1e30", out("run")), 1, &parts);
    assert!(!path("run").join("last.safetensors").exists());
    fail(&format!("{SMALL} {} --lr 1e30 --checks", out("checked")), 1, &parts);
}

/// Weight decay alone doubles every weight in each step, and turns its sign: the squares of activations overflow after
/// some thirty steps.
const DOUBLING: &str = "--lr 0.001 --weight-decay 3000 --momentum 0 --nesterov false";

/// The steps since the last look at the losses, which comes every twenty steps, are run again.
#[test]
fn a_run_that_diverges_late_keeps_its_last_checkpoint() {
    let (_folder, path) = folder();
    let run = path("run");
    let options = format!("{SMALL} --limit-train 640 {DOUBLING} --save-every 15 --out {}", argument(&run));
    let output = command(&options).output().expect("started");
    let line = error_line(&output, 1);
    let step = |before: &str| -> usize {
        let rest = line.split(before).nth(1).unwrap_or_else(|| panic!("{before}: {line}"));
        rest.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let (loss, kernel) = (step("not finite at step "), step("came in step "));
    assert!((21..40).contains(&kernel) && (kernel..40).contains(&loss), "{line}");
    assert!(line.contains("conv2d_forward") && line.contains("earlier checkpoints are kept"), "{line}");
    assert!(text(&output.stderr).contains("run again"));
    let saved = last(&run);
    let output = command(&format!("--resume {}", argument(&run))).output().expect("started");
    assert_eq!(error_line(&output, 1), line, "it diverges again, at the same step");
    assert!(last(&run) == saved || kernel > 30, "the last good state stays");
    assert!(!run.join("metrics.jsonl").exists());
}

/// The weights of one network's classifier are so large that its logits overflow.
#[test]
fn the_branch_that_diverges_is_named() {
    let (_folder, path) = folder();
    let (run, crafted) = (path("run"), path("crafted.safetensors"));
    let ensemble = format!("{SMALL} --method ensemble --epochs 1 --limit-train 16");
    succeed(&format!("{ensemble} --out {}", argument(&run)));
    let bytes = last(&run);
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    let own: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| !name.starts_with("momentum.") && !name.starts_with("metrics."))
        .map(|(name, view)| {
            let huge = |_| 1e38f32.to_le_bytes();
            let data = view.data().to_vec();
            let data = if name == "branches.1.fc.weight" { data.chunks(4).flat_map(huge).collect() } else { data };
            (name, view.dtype(), view.shape().to_vec(), data)
        })
        .collect();
    let views = own.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).expect("a tensor as it was read"))
    });
    fs::write(&crafted, safetensors::serialize(views, None).expect("serialised")).expect("written");
    for checks in ["", "--checks"] {
        let out = path(&format!("again{checks}"));
        fail(
            &format!("{ensemble} {checks} --init {} --out {}", argument(&crafted), argument(&out)),
            1,
            &["the loss of branch 1 is not finite at step 1 (epoch 1)", "came in step 1 from gemm", "at [1,"],
        );
    }
}

#[test]
fn checks_change_nothing_of_a_run() {
    let (_folder, path) = folder();
    let (plain, checked) = (path("plain"), path("checked"));
    let options = "--epochs 1 --limit-train 48 --limit-test 20";
    succeed(&format!("{SMALL} {options} --out {}", argument(&plain)));
    succeed(&format!("{SMALL} {options} --checks --out {}", argument(&checked)));
    assert!(last(&plain) == last(&checked));
    assert_eq!(comparable(&plain), comparable(&checked));
    assert_eq!(
        fs::read_to_string(plain.join("config.toml")).expect("written"),
        fs::read_to_string(checked.join("config.toml")).expect("written"),
        "how a run is looked at is no part of it"
    );
}
