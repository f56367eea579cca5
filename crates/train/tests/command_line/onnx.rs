//! Exports in onnxruntime: checked, and the same logits. Where that is not installed the comparison is left out,
//! visibly.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{SMALL, argument, fail, folder, succeed, text};
use crate::pytorch::{noise, python, skipped};

/// The script's fusion of what the members give.
fn fusion(options: &str) -> &'static str {
    if options.contains("--no-gate") {
        "logits"
    } else if options.contains("--method") {
        "probabilities"
    } else {
        "gated"
    }
}

#[test]
fn onnx_models_pass_the_checker_and_give_the_same_logits() {
    let Some(python) = python("numpy, onnx, onnxruntime") else {
        return skipped(
            "onnx_models_pass_the_checker_and_give_the_same_logits",
            "no Python with onnx, onnxruntime and numpy here (pip install onnx onnxruntime numpy)",
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/onnx_check.py");
    let (_folder, path) = folder();
    noise(&path("data_batch_1.bin"), 48, 1);
    noise(&path("test_batch.bin"), 20, 2);
    let data = argument(&path(""));
    let networks = [
        ("resnet8", "--branches 3 --lr 0.1"),
        ("resnet8", "--branches 1 --shortcut a --lr 0.1"),
        ("resnet11", "--branches 2 --no-gate --shortcut a --lr 0.05"),
        ("resnext11-2x4d", "--branches 2 --lr 0.02"),
        ("densenet-bc-10-4", "--branches 2 --lr 0.1"),
        ("resnet8", "--branches 2 --fan-out input --lr 0.1"),
        ("resnet8", "--branches 2 --method dml --lr 0.1"),
        ("resnet18", "--branches 2 --epochs 1 --lr 0.01"),
    ];
    for (i, (network, options)) in networks.into_iter().enumerate() {
        let (run, logits, model) = (path(&i.to_string()), path("logits.safetensors"), path("model.onnx"));
        succeed(&format!(
            "--net {network} --epochs 3 {options} --data-dir {data} --limit-train 48 --limit-test 20 --batch 16 --mean \
             0.4,0.5,0.6 --device cpu --out {}",
            argument(&run)
        ));
        succeed(&format!(
            "eval --device cpu --data-dir {data} --limit-test 20 --batch 8 --weights {} --logits {}",
            argument(&run.join("last.safetensors")),
            argument(&logits)
        ));
        let compare = |written: &str, member: usize| {
            succeed(&format!("export --run {} {written} --to {}", argument(&run), argument(&model)));
            let output = Command::new(python)
                .arg(&script)
                .args(["--model", &argument(&model), "--logits", &argument(&logits), "--data", &data])
                .args(["--member", &member.to_string(), "--fusion", fusion(options)])
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .expect("started");
            let said = format!("{network} {options} {written}: {}{}", text(&output.stdout), text(&output.stderr));
            assert!(said.contains("checked"), "{said}");
            eprintln!("{said}");
            (output.status.success(), said)
        };
        let holds = |written: &str, member: usize| {
            let (equal, said) = compare(written, member);
            assert!(equal, "{said}");
            said
        };
        holds("--branch 0", 0);
        let folded = holds("--branch 0 --fold --normalise", 0);
        // In DenseNet most batch-norms stand in front of their convolutions.
        assert_eq!(folded.contains("BatchNormalization"), network.starts_with("densenet"), "{folded}");
        if !options.contains("--branches 1") {
            holds("--branch all", 0);
            holds("--branch all --fold --normalise", 0);
            assert!(!compare("--branch 1", 0).0, "another branch has other logits");
        }
    }
}

#[test]
fn a_folded_file_is_read_like_any_other() {
    let (_folder, path) = folder();
    let (run, folded, model) = (path("run"), path("folded.safetensors"), path("model.onnx"));
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let measured = |weights: &Path| {
        let table = succeed(&format!("eval --device cpu --limit-test 50 --weights {}", argument(weights)));
        // Logits differ in their last bits, and so may the last digits of cross-entropies.
        table.lines().map(|line| line.chars().take(32 + 15 + 1 + 15).collect::<String>()).collect::<Vec<_>>()
    };
    let export = |options: &str, to: &Path| {
        succeed(&format!("export {options} --to {}", argument(to)));
        fs::read(to).expect("written")
    };
    let plain = path("plain.safetensors");
    export(&format!("--run {} --branch all", argument(&run)), &plain);
    let bytes = export(&format!("--run {} --branch all --fold", argument(&run)), &folded);
    let names = safetensors::SafeTensors::deserialize(&bytes).expect("whole");
    let names: Vec<&str> = names.names().into_iter().collect();
    assert!(names.contains(&"branches.1.layer3.0.conv1.bias") && names.contains(&"gate.fc.bias"), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("running_mean")), "{names:?}");
    assert_eq!(measured(&folded), measured(&plain));
    // From a file, too, and folded again.
    let branch = path("branch.safetensors");
    export(&format!("--model {} --branch 1 --fold", argument(&folded)), &branch);
    assert_eq!(measured(&branch)[2].trim_end(), measured(&plain)[3].replace("branch 1", "branch 0").trim_end());
    let bytes = export(&format!("--model {}", argument(&folded)), &model);
    assert!(bytes.windows(18).any(|part| part == b"BatchNormalization"), "an ONNX model by its name");
    succeed(&format!("{SMALL} --epochs 1 --init {} --out {}", argument(&folded), argument(&path("more"))));
}

#[test]
fn what_cannot_be_written_as_onnx() {
    let (_folder, path) = folder();
    let run = path("run");
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let to = format!("--to {}", argument(&path("x")));
    let run_given = format!("--run {}", argument(&run));
    fail(&format!("export {run_given} {to} --normalise"), 2, &["--normalise is for --format onnx", "metadata"]);
    fail(&format!("export {to}"), 2, &["required"]);
    fail(&format!("export {run_given} {to} --format onxx"), 2, &["--format"]);
    fail(&format!("export {run_given} {to} --format onnx --branch 2"), 2, &["no branch 2", "branches 0 to 1"]);
    let own = argument(&run.join("best.safetensors"));
    fail(&format!("export --model {own} --to {own}"), 2, &["is what is exported"]);
    fs::write(path("broken"), "no model").expect("written");
    fail(&format!("export --model {} {to}", argument(&path("broken"))), 1, &["broken is damaged"]);
    assert!(!path("x").exists(), "nothing is written");
}
