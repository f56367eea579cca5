//! Exports in PyTorch: loaded strictly, and the same logits. Where there is no PyTorch this test is left out, visibly.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::program::{argument, folder, succeed, text};

/// Bytes of one CIFAR record, and records of one file.
const RECORD: usize = 3073;
const RECORDS: usize = 10_000;

/// A Python that has these modules: the first on the path, or the system's, which others often hide.
pub fn python(modules: &str) -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let output = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        output.is_ok_and(|output| output.status.success())
    })
}

/// Says that a test is left out. Not `eprintln!`, whose lines the test runner keeps to itself.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// A file in CIFAR-10's format of which the first `images` are noise and the others black.
pub fn noise(path: &Path, images: usize, mut state: u32) {
    let mut bytes = vec![0; images * RECORD];
    for (i, byte) in bytes.iter_mut().enumerate() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
        if i % RECORD == 0 {
            *byte %= 10;
        }
    }
    let mut file = fs::File::create(path).expect("made");
    file.write_all(&bytes).expect("written");
    file.set_len((RECORD * RECORDS) as u64).expect("sized");
}

#[test]
fn exports_load_strictly_and_give_the_same_logits() {
    let Some(python) = python("numpy, torch") else {
        return skipped(
            "exports_load_strictly_and_give_the_same_logits",
            "no Python with torch and numpy here (on Debian and Ubuntu: apt-get install python3-torch python3-numpy)",
        );
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/pytorch_load.py");
    let (_folder, path) = folder();
    noise(&path("data_batch_1.bin"), 48, 1);
    noise(&path("test_batch.bin"), 20, 2);
    let data = argument(&path(""));
    let networks = [
        "--net resnet8 --branches 3 --lr 0.1",
        "--net resnet8 --branches 1 --shortcut a --lr 0.1",
        "--net resnet11 --branches 2 --no-gate --lr 0.05",
        "--net resnext11-2x4d --branches 2 --lr 0.02",
        "--net densenet-bc-10-4 --branches 2 --lr 0.1",
    ];
    for (i, network) in networks.into_iter().enumerate() {
        let (run, logits, weights) = (path(&i.to_string()), path("logits.safetensors"), path("weights.safetensors"));
        succeed(&format!(
            "{network} --data-dir {data} --limit-train 48 --limit-test 20 --batch 16 --epochs 3 --mean 0.4,0.5,0.6 \
             --device cpu --out {}",
            argument(&run)
        ));
        succeed(&format!(
            "eval --device cpu --data-dir {data} --limit-test 20 --batch 8 --weights {} --logits {}",
            argument(&run.join("last.safetensors")),
            argument(&logits)
        ));
        let compare = |branch: &str, member: usize| {
            succeed(&format!("export --run {} --branch {branch} --to {}", argument(&run), argument(&weights)));
            let options = format!(
                "--weights {} --logits {} --data {data} --member {member}",
                argument(&weights),
                argument(&logits)
            );
            let output = Command::new(python)
                .arg(&script)
                .args(options.split_whitespace())
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .expect("started");
            let said = format!("{network}, branch {branch}: {}{}", text(&output.stdout), text(&output.stderr));
            assert!(said.contains("loaded strictly"), "{said}");
            eprintln!("{said}");
            (output.status.success(), said)
        };
        let branches: usize = network.split_whitespace().nth(3).and_then(|k| k.parse().ok()).expect("a number");
        for branch in 0..branches {
            let (equal, said) = compare(&branch.to_string(), branch);
            assert!(equal, "{said}");
        }
        if branches > 1 {
            let (equal, said) = compare("all", 0);
            assert!(equal && said.contains("ensemble"), "{said}");
            assert!(!compare("1", 0).0, "another branch has other logits");
        }
    }
}
