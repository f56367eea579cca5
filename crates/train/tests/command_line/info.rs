//! `info` against the numbers that the paper's method has: computed once, independently, for 100 classes.

use crate::program::{argument, command, fail, folder, succeed, text};

fn check(net: &str, branches: usize, deployed: &str, training: &str, parameters: [&str; 2]) {
    let text = succeed(&format!("info --net {net} --branches {branches} --classes 100"));
    for expected in [
        format!("{deployed}e8 deployed"),
        format!("{training}e8 in training"),
        format!("{} (", parameters[0]),
        format!("({} M) in training", parameters[1]),
    ] {
        assert!(text.contains(&expected), "{net} with {branches} branches lacks \"{expected}\":\n{text}");
    }
}

#[test]
fn parameters_and_flops_are_the_papers() {
    let resnet32 =
        [("1.3826", "0.473"), ("1.8336", "0.833"), ("2.2846", "1.193"), ("2.7357", "1.553"), ("3.1867", "1.914")];
    for (branches, (flops, parameters)) in (1..).zip(resnet32) {
        check("resnet32", branches, "1.3826", flops, ["472,756", parameters]);
    }
    check("resnet110", 1, "5.0631", "5.0631", ["1,736,564", "1.737"]);
    check("resnet110", 3, "5.0631", "8.4188", ["1,736,564", "4.381"]);
    check("resnet164", 1, "4.9534", "4.9534", ["1,727,284", "1.727"]);
    check("resnet164", 3, "4.9534", "8.2889", ["1,727,284", "4.364"]);
    let text = succeed("info --net resnet20 --classes 10 --branches 3 --fan-out layer2 --batch 64");
    assert!(
        text.contains("272,474") && text.contains("shared: conv1, layer1; in 3 branches: layer2, layer3"),
        "{text}"
    );
    assert!(text.contains("activations at batch 64"), "{text}");
    assert!(succeed("info --net resnet32 --classes 10").contains("466,906"));
    assert!(succeed("info --net resnet110 --branches 1").contains("1,730,714"));
    assert!(succeed("info --net resnet164 --branches 1").contains("1,704,154"));
}

#[test]
fn the_doctor_says_what_is_there_and_how_to_get_what_is_not() {
    let (_folder, path) = folder();
    let doctor = |options: &str| {
        // A loader of Vulkan drivers that is told of a file which is not there finds none.
        let mut command = command(&format!("doctor --data-dir {} {options}", argument(&path(""))));
        let output =
            command.env("VK_DRIVER_FILES", path("none.json")).env("VK_ICD_FILENAMES", path("none.json")).output();
        let output = output.expect("started");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let quick = doctor("--quick");
    for part in ["processors", "cifar10: not here; `train fetch cifar10` gets it", "shapes: needs no files", " free"] {
        assert!(quick.contains(part), "{part}: {quick}");
    }
    if cfg!(target_os = "linux") {
        assert!(quick.contains("nothing runs shaders here"), "{quick}");
    }
    assert!(!quick.contains("images/s"), "{quick}");
    let whole = doctor("--device cpu");
    assert!(whole.contains("images/s in training") && whole.contains("would take"), "{whole}");
}

#[test]
fn completions_and_the_manual_page_know_the_options() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed(&format!("completions {shell}"));
        assert!(script.contains("fan-out") && script.contains("predict"), "{shell}");
    }
    let page = succeed("man");
    for part in [".TH train 1", "\\-\\-fan\\-out", "train\\-predict", "\\-\\-normalise"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn a_wrong_name_is_answered_with_the_nearest() {
    fail("--net resnet23", 2, &["did you mean resnet20?", "6n+2"]);
    fail("--data cifar-10", 2, &["did you mean cifar10?"]);
    fail("--branchs 3", 2, &["--branchs"]);
}
