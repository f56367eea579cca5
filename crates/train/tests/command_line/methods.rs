//! Every method from the command line: it trains, resumes to the same bits, is evaluated, and refuses what it is not.

use std::fs;

use crate::program::{SMALL, argument, command, fail, folder, last, metrics, succeed};

/// The output of `eval` for a run's last checkpoint.
fn eval(file: &std::path::Path) -> String {
    succeed(&format!("eval --device cpu --limit-test 50 --weights {}", argument(file)))
}

#[test]
fn whole_networks_learn_from_each_other_or_alone() {
    let (_folder, path) = folder();
    for (method, networks) in [("dml", 2), ("ensemble", 3)] {
        let run = path(method);
        let text =
            succeed(&format!("{SMALL} --branches {networks} --method {method} --epochs 1 --out {}", argument(&run)));
        assert!(
            text.contains(&format!("{networks} whole networks")) && text.contains(&format!("method       {method}")),
            "{text}"
        );
        let records = metrics(&run);
        let test = &records[1];
        assert_eq!(test["top1_error"].as_array().map(Vec::len), Some(networks));
        let fusions: Vec<&str> = test["ensembles"]
            .as_array()
            .expect("fusions")
            .iter()
            .map(|f| f["fusion"].as_str().expect("a name"))
            .collect();
        assert_eq!(fusions, ["mean_logits", "mean_probabilities"]);
        assert_eq!(test["ensemble_top1_error"], test["ensembles"][1]["top1_error"], "it is the mean of probabilities");
        let distillation = records[0]["distillation"].as_f64().expect("a number");
        assert_eq!(distillation > 0.0, method == "dml", "{distillation}");
        let table = eval(&run.join("last.safetensors"));
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("ensemble")).collect();
        assert!(rows.len() == 2 && rows[0].contains("mean of probabilities"), "{table}");
        assert!(table.contains("mean ± deviation") && table.contains("TrCost"), "{table}");
    }
}

#[test]
fn a_teacher_is_distilled() {
    let (_folder, path) = folder();
    let teacher = path("teacher");
    succeed(&format!("{SMALL} --net resnet14 --branches 2 --epochs 1 --out {}", argument(&teacher)));
    let file = argument(&teacher.join("last.safetensors"));
    let kd = format!("{SMALL} --branches 1 --method kd --teacher {file}");
    let (whole, parts) = (path("whole"), path("parts"));
    succeed(&format!("{kd} --out {}", argument(&whole)));
    let records = metrics(&whole);
    assert!(records[0]["distillation"].as_f64().expect("a number") > 0.0);
    assert!(records[0]["teacher_top1_error"].is_number() && records[0]["ensemble_top1_error"].is_null());
    assert!(eval(&whole.join("last.safetensors")).contains("branch 0"));

    let stopped = command(&format!("{kd} --stop-after 4 --out {}", argument(&parts))).output().expect("started");
    assert_eq!(stopped.status.code(), Some(1));
    succeed(&format!("--resume {}", argument(&parts)));
    assert!(last(&parts) == last(&whole), "an interruption changes nothing");

    fail(&format!("{SMALL} --branches 1 --method kd"), 2, &["--teacher"]);
    fail(&format!("{SMALL} --branches 1 --teacher {file}"), 2, &["--teacher", "vanilla"]);
    fail(&format!("{kd} --mean 0.1,0.2,0.3"), 1, &["mean", "--mean and --std"]);
    fail(&format!("{kd} --teacher-net resnet20"), 2, &["resnet14"]);
    fail(&format!("{SMALL} --branches 1 --method kd --teacher nowhere"), 1, &["nowhere"]);
}

#[test]
fn snapshots_make_an_ensemble() {
    let (_folder, path) = folder();
    let (whole, parts) = (path("whole"), path("parts"));
    // Twelve steps in five cycles of three: four of them.
    let snapshot = format!("{SMALL} --branches 1 --method snapshot");
    let text = succeed(&format!("{snapshot} --out {}", argument(&whole)));
    assert!(text.contains("branch 3") && text.contains("ensemble (mean of probabilities)"), "{text}");
    let record = metrics(&whole).pop().expect("a record");
    assert_eq!((record["split"].as_str(), record["top1_error"].as_array().map(Vec::len)), (Some("snapshots"), Some(4)));
    let ensemble = eval(&whole.join("ensemble.safetensors"));
    assert!(ensemble.contains("branch 3"), "{ensemble}");
    // The last snapshot is the trained network.
    let row = |table: &str, name: &str| {
        table.lines().find(|line| line.starts_with(name)).map(|line| line[10..].trim().to_owned())
    };
    assert_eq!(row(&ensemble, "branch 3"), row(&eval(&whole.join("last.safetensors")), "branch 0"));

    let stopped = command(&format!("{snapshot} --stop-after 7 --out {}", argument(&parts))).output().expect("started");
    assert_eq!(stopped.status.code(), Some(1));
    succeed(&format!("--resume {}", argument(&parts)));
    let bytes = |run: &std::path::Path| fs::read(run.join("ensemble.safetensors")).expect("written");
    assert!(bytes(&parts) == bytes(&whole), "an interruption changes nothing");
    // A run that is complete says it again, once.
    succeed(&format!("--resume {}", argument(&parts)));
    assert_eq!(metrics(&parts).len(), metrics(&whole).len());
}

#[test]
fn methods_refuse_what_they_are_not() {
    for (options, parts) in [
        ("--method dml --branches 1", ["dml", "--branches 2"]),
        ("--method ensemble --fan-out 2", ["ensemble", "--fan-out"]),
        ("--method snapshot --branches 2", ["snapshot", "--branches 2"]),
        ("--method snapshot --schedule steps", ["snapshot", "--schedule"]),
        ("--method dml --no-gate", ["--no-gate", "dml"]),
        ("--cycles 9", ["--cycles", "9"]),
    ] {
        fail(&format!("--net resnet8 --data shapes {options}"), 2, &parts);
    }
}

#[test]
fn a_recipe_is_options_in_a_file() {
    let (_folder, path) = folder();
    let file = path("mine.toml");
    fs::write(&file, "# comments are allowed\nlr = 0.03\ndecay = \"weights\"\nepochs = 1\nmethod = \"dml\"\n")
        .expect("written");
    let run = path("run");
    succeed(&format!("{SMALL} --recipe {} --lr 0.04 --epochs 1 --out {}", argument(&file), argument(&run)));
    let config = fs::read_to_string(run.join("config.toml")).expect("written");
    for line in ["lr = 0.04", "decay = \"weights\"", "method = \"dml\"", "temperature = 1.0", "fan_out = \"input\""] {
        assert!(config.contains(line), "{line}: {config}");
    }
    fs::write(&file, "lr = -1\n").expect("written");
    let recipe = format!("--net resnet8 --data shapes --recipe {}", argument(&file));
    fail(&recipe, 2, &["mine.toml", "--lr"]);
    fs::write(&file, "rate = 1\n").expect("written");
    fail(&recipe, 2, &["mine.toml", "rate is no option"]);
    fail("--net resnet8 --data shapes --recipe papers", 2, &["papers", "paper, authors, strong"]);
}
