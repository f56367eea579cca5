//! Tests of the program, run with any Mesa on the machine.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn kernel_stats(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kernel-stats")).args(arguments).output().expect("the program runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Tells whether this system has AMD's driver; prints a line if not.
fn driver() -> bool {
    let found = ["target/mesa25", "/"].iter().any(|root| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(root);
        let manifests = root.join("usr/share/vulkan/icd.d").read_dir();
        manifests
            .is_ok_and(|files| files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("radeon_icd")))
    });
    if !found {
        eprintln!("skipped: Mesa's driver for AMD is not on this machine");
    }
    found
}

#[test]
fn kernels_compile_without_a_gpu() {
    if !driver() {
        return;
    }
    let output = kernel_stats(&["--gpu", "navi21", "--net", "resnet20", "--batch", "8", "--json", "batch_norm"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let gpus: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let driver = gpus[0]["driver"].as_str().unwrap_or_default();
    assert!(driver.starts_with("radv Mesa"), "{gpus}");
    // Earlier compilers weight blocks differently, and the table marks their percentages as estimated.
    let newer = !driver.starts_with("radv Mesa 22");
    if !newer {
        eprintln!("weights are not compared with those of {driver}");
    }
    let kernels = gpus[0]["kernels"].as_array().expect("an array");
    assert!(!kernels.is_empty());
    for kernel in kernels {
        assert!(kernel["kernel"].as_str().is_some_and(|name| name.contains("batch_norm")), "{kernel}");
        assert_eq!((kernel["spills"].as_u64(), kernel["scratch"].as_u64()), (Some(0), Some(0)), "{kernel}");
        let at_least = |name: &str, least: u64| kernel[name].as_u64().is_some_and(|value| value >= least);
        assert!(at_least("vgprs", 4) && at_least("instructions", 20) && at_least("vmem", 2), "{kernel}");
        // The listing's weights reproduce the compiler's latency only if they are the compiler's.
        assert!(kernel["weights"].as_f64().is_some_and(|ratio| !newer || (ratio - 1.0).abs() < 0.02), "{kernel}");
    }
}

#[test]
fn machine_code_is_printed() {
    if !driver() {
        return;
    }
    for option in ["--isa", "--listing"] {
        let output = kernel_stats(&["--gpu", "navi21", "--cases", option, "gemm/"]);
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with("# gemm/") && text.contains("s_endpgm") && text.contains("v_fma"), "{option}: {text}");
    }
}

#[test]
fn what_cannot_be_is_one_sentence() {
    if !driver() {
        return;
    }
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--gpu", "navi99", "gemm"], 1, "no GPU called navi99"),
        (&["no_such_kernel"], 2, "no kernel has a name with \"no_such_kernel\""),
        (&["--net", "resnet33"], 2, "resnet33"),
        (&["--mesa", "no/such/folder", "gemm"], 1, "mesa.sh"),
    ];
    for (arguments, status, expected) in cases {
        let output = kernel_stats(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
        assert!(
            text.starts_with("error: ") && text.contains(expected) && text.lines().count() == 1,
            "{arguments:?}: {text}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?} prints to stdout");
    }
    assert_eq!(kernel_stats(&["--batch", "0"]).status.code(), Some(2));
}
