//! Refusals: one sentence and the right exit status, 2 for wrong usage, 1 for anything else.

use std::fs;
use std::process::Stdio;

use crate::program::{SMALL, argument, command, error_line, fail, folder, succeed, text};

/// Bytes of one CIFAR record, and records of one file.
const RECORD: u64 = 3073;
const RECORDS: u64 = 10_000;

#[test]
fn options_that_mean_nothing() {
    fail("--net resnet33", 2, &["resnet33", "6n+2", "did you mean resnet32?"]);
    fail("--net vgg", 2, &["unknown network \"vgg\"", "resnet32"]);
    fail("info --net resnet", 2, &["unknown network"]);
    fail("--branches 0", 2, &["--branches", "0"]);
    fail("--branches 9", 2, &["--branches", "9"]);
    fail("--data mnist", 2, &["mnist"]);
    fail("--fan-out layer9", 2, &["layer9", "layer3"]);
    fail("--method vanilla --branches 2", 2, &["vanilla", "--branches 2"]);
    fail("--branches 1 --no-gate", 2, &["--no-gate"]);
    fail("--lr nan", 2, &["--lr"]);
    fail("--mean 0.5,0.5", 2, &["--mean", "three numbers"]);
    fail("--save-every 0m", 2, &["--save-every", "10m"]);
    fail("--device cpu --data cifar10 --classes 7 --data-dir .", 2, &["10 classes, not 7"]);
    fail(&format!("{SMALL} --limit-train 15"), 2, &["a batch of 16 cannot be filled from 15 images"]);
    fail("--nonsense", 2, &["--nonsense"]);
}

#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_of_a_build_that_knows_of_one() {
    for (variable, value) in [("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "4"), ("PMIX_RANK", "1")] {
        let output = command(SMALL).env(variable, value).output().expect("started");
        let line = error_line(&output, 1);
        assert!(
            line.contains("built without MPI") && line.contains("--features mpi") && line.contains(variable),
            "{line}"
        );
    }
}

#[test]
fn a_device_that_is_not_there() {
    fail(&format!("{SMALL} --device abacus"), 2, &["no device fits \"abacus\"", "cpu"]);
    let list = succeed("devices");
    assert!(list.contains("cpu (") && list.lines().filter(|line| line.starts_with('*')).count() >= 1, "{list}");
}

#[test]
fn data_that_are_missing_or_damaged() {
    let (_folder, path) = folder();
    fail(&format!("--device cpu --data-dir {}", argument(&path("nowhere"))), 1, &["nowhere", "does not exist"]);

    let file = path("data_batch_1.bin");
    let train = format!("--device cpu --net resnet8 --limit-train 64 --batch 16 --data-dir {}", argument(&path("")));
    fs::write(&file, vec![0; 5000]).expect("truncated");
    fail(&train, 1, &["data_batch_1.bin has 5000 bytes instead of 30730000", "train fetch cifar10"]);

    // Zeros are black images of class 0; record 3 gets a label that is no class.
    let sparse = fs::File::create(&file).expect("made");
    sparse.set_len(RECORD * RECORDS).expect("sized");
    use std::io::{Seek, SeekFrom, Write};
    let mut sparse = sparse;
    sparse.seek(SeekFrom::Start(3 * RECORD)).expect("within");
    sparse.write_all(&[200]).expect("written");
    fail(&train, 1, &["record 3 of", "the label 200"]);
    assert!(!path("runs").exists());
}

#[test]
fn checkpoints_that_are_missing_or_damaged() {
    let (_folder, path) = folder();
    let weights = |name: &str| format!("eval --device cpu --weights {}", argument(&path(name)));
    fail(&weights("none.safetensors"), 1, &["cannot read the checkpoint", "none.safetensors"]);
    fs::write(path("junk.safetensors"), "not a checkpoint, but long enough to look at").expect("written");
    fail(&weights("junk.safetensors"), 1, &["junk.safetensors is damaged"]);
    fail(&format!("--resume {}", argument(&path("none"))), 1, &["no run's directory", "config.toml"]);

    let run = path("run");
    succeed(&format!("{SMALL} --epochs 1 --out {}", argument(&run)));
    let resume = format!("--resume {}", argument(&run));
    let last = run.join("last.safetensors");
    let whole = fs::read(&last).expect("saved");
    fs::write(&last, &whole[..whole.len() / 2]).expect("truncated");
    fail(&resume, 1, &["last.safetensors is damaged"]);
    let mut corrupt = whole.clone();
    *corrupt.last_mut().expect("not empty") ^= 1;
    fs::write(&last, corrupt).expect("corrupted");
    fail(&resume, 1, &["last.safetensors is damaged", "checksum"]);
    fs::write(&last, &whole).expect("restored");
    fail(&format!("{resume} --epochs 5"), 2, &["epochs = 1", "another run"]);
    fail(&format!("{SMALL} --out {}", argument(&run)), 1, &["holds a run already", "--resume"]);
    fs::write(run.join("config.toml"), "net = 5").expect("damaged");
    fail(&resume, 1, &["config.toml is not what a run writes"]);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let (_folder, path) = folder();
    fs::write(path("file"), "in the way").expect("written");
    fail(&format!("{SMALL} --out {}", argument(&path("file").join("run"))), 1, &["cannot make the directory"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for arguments in ["info --net resnet110", "devices"] {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ended");
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments}");
    }
}

#[test]
fn errors_name_the_option_that_eval_lacks() {
    let (_folder, path) = folder();
    let tensor = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).expect("a tensor");
    let bytes = safetensors::serialize([("fc.bias", tensor)], None).expect("written");
    fs::write(path("plain.safetensors"), bytes).expect("written");
    let eval =
        format!("eval --device cpu --data shapes --limit-test 8 --weights {}", argument(&path("plain.safetensors")));
    fail(&eval, 2, &["give --net"]);
    let output = command(&format!("{eval} --net resnet8")).output().expect("started");
    let line = error_line(&output, 1);
    assert!(line.contains("missing: conv1.weight") && line.contains("fc.bias is [1] instead of [10]"), "{line}");
}
