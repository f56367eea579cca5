//! Folders of images, validation splits, augmentation, and checking what was fetched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{SMALL, argument, command, comparable, fail, folder, last, metrics, succeed, text};

/// A folder of images: two classes, twelve images to train on and four to test on, and one file that is no image.
fn images(root: PathBuf) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures");
    for (split, count) in [("train", 6), ("val", 2)] {
        for (class, image) in [("grey", "grey.jpg"), ("colour", "rgb.jpg")] {
            let place = root.join(split).join(class);
            fs::create_dir_all(&place).expect("made");
            for i in 0..count {
                fs::copy(fixtures.join(image), place.join(format!("{i}.jpg"))).expect("copied");
            }
        }
    }
    fs::write(root.join("train/grey/broken.jpg"), "no image").expect("written");
    root
}

#[test]
fn a_folder_of_images_is_trained_on_resumed_and_evaluated_without_any_code() {
    let (_folder, path) = folder();
    let data = images(path("pictures"));
    let run = argument(&path("run"));
    let options = format!(
        "--net resnet8 --branches 1 --image-size 16 --batch 4 --epochs 2 --lr 0.01 --device cpu --data {} --out {run}",
        argument(&data)
    );
    let output = command(&format!("{options} --stop-after 4")).output().expect("started");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(stdout.contains("12 training and 4 test images of 16x16, 2 classes"), "{stdout}{stderr}");
    for part in ["decoded 12 images", "broken.jpg is no JPEG or PNG", "1 of 13 images were skipped"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let resumed = succeed(&format!("--resume {run}"));
    assert!(resumed.contains("last test error") && resumed.contains("best test error"), "{resumed}");
    let table = succeed(&format!("eval --device cpu --weights {}", argument(&path("run/best.safetensors"))));
    assert!(table.contains("4 test images"), "the checkpoint knows the folder and the size: {table}");
    fail(&format!("{options} --strict"), 1, &["broken.jpg", "is no JPEG or PNG image", "--strict"]);
    fail(&format!("{options} --limit-train 6 --image-size 4096 --classes 3"), 2, &["has 2 classes, not 3"]);
    fs::remove_dir_all(data.join("val")).expect("removed");
    fail(&options, 1, &["has no folder val or test", "train/CLASS/*.jpg"]);
}

/// The state and the metrics of a run on a folder of images, and what was said on stderr.
fn run_on(data: &Path, run: &Path, options: &str) -> (Vec<u8>, Vec<serde_json::Value>, String) {
    let output = command(&format!(
        "--net resnet8 --branches 1 --image-size 16 --batch 4 --epochs 2 --lr 0.01 --device cpu --data {} --out {} \
         {options}",
        argument(data),
        argument(run)
    ))
    .output()
    .expect("started");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{options}: {said}");
    (last(run), comparable(run), said)
}

#[test]
fn a_streamed_run_and_its_resume_do_not_depend_on_workers_and_count_what_is_broken() {
    let (_folder, path) = folder();
    let data = images(path("pictures"));
    fs::write(data.join("val/colour/broken.jpg"), "").expect("written");
    let imagenet = |name: &str, options: &str| run_on(&data, &path(name), &format!("--augment imagenet {options}"));
    let (state, records, said) = imagenet("alone", "--workers 0 --stream on");
    for part in [
        "grey/broken.jpg is no JPEG or PNG image",
        "1 of 13 training images cannot be decoded, and others of their classes took their places (--strict",
        "1 of 5 test images cannot be decoded, and they were left out (--strict",
    ] {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    let (two, two_records, said) = imagenet("two", "--workers 2");
    assert!(said.contains("1 of 5 images were skipped"), "test images that fit are decoded once: {said}");
    assert!(two == state && two_records == records, "two workers make another run");
    let test_images = |records: &[serde_json::Value]| {
        // There are four images: thirds would tell that the broken one was counted.
        records.iter().filter(|record| record["split"] == "test").all(|record| {
            let quarters = record["top1_error"][0].as_f64().expect("a number") / 25.0;
            (quarters - quarters.round()).abs() < 1e-6
        })
    };
    assert!(test_images(&records), "{records:?}");

    // Resumed in the midst of an epoch, with other workers.
    let run = path("stopped");
    let options = format!(
        "--net resnet8 --branches 1 --image-size 16 --batch 4 --epochs 2 --lr 0.01 --device cpu --augment imagenet \
         --data {} --out {}",
        argument(&data),
        argument(&run)
    );
    command(&format!("{options} --workers 3 --stop-after 4")).output().expect("started");
    let resumed = succeed(&format!("--resume {} --workers 1", argument(&run)));
    assert!(resumed.contains("images/s prepared by 1 worker; the device waited"), "{resumed}");
    assert!(last(&run) == state);
    assert_eq!(comparable(&run), records);
    let shares: Vec<f64> = metrics(&run).iter().filter_map(|record| record["data_wait_share"].as_f64()).collect();
    assert!(shares.len() == 2 && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");

    // The evaluation of its weights sees the test images as the run did.
    let weights = argument(&run.join("last.safetensors"));
    let table = succeed(&format!("eval --device cpu --weights {weights}"));
    let error = records.last().expect("the test")["top1_error"][0].as_f64().expect("a number");
    assert!(table.contains(&format!("{error:.2} %")), "{error}: {table}");

    fail(&format!("{options} --strict"), 1, &["broken.jpg", "--strict"]);
    fail(&format!("{options} --stream off"), 2, &["leave --stream off out"]);
    fail(&format!("{SMALL} --augment imagenet"), 2, &["shapes is no folder of images", "--augment standard"]);
}

#[test]
fn what_is_streamed_trains_as_what_lies_on_the_device() {
    let (_folder, path) = folder();
    let data = images(path("pictures"));
    fs::remove_file(data.join("train/grey/broken.jpg")).expect("removed");
    let (state, records, _) = run_on(&data, &path("resident"), "--stream off");
    let (streamed, streamed_records, _) = run_on(&data, &path("files"), "--stream on");
    assert!(state == streamed && records == streamed_records, "of files");
    // A dataset that is decoded as a whole, with images held out.
    let run = |name: &str, options: &str| {
        let options = format!("{SMALL} --validation 20 --augment standard {options} --out {}", argument(&path(name)));
        let output = succeed(&options);
        (last(&path(name)), comparable(&path(name)), output)
    };
    let (state, records, _) = run("shapes", "");
    let (streamed, streamed_records, output) = run("streamed", "--stream on --workers 2");
    assert!(state == streamed && records == streamed_records, "of memory");
    assert!(output.contains("all are streamed to the device, prepared by 2 workers"), "{output}");
}

#[test]
fn the_held_out_split_decides_on_the_best_epoch_and_the_test_split_is_still_told() {
    let (_folder, path) = folder();
    let run = path("run");
    let options =
        format!("{SMALL} --limit-train 126 --validation 30 --augment standard --epochs 3 --out {}", argument(&run));
    let output = succeed(&options);
    assert!(output.contains("96 training, 30 validation and 50 test images"), "{output}");
    assert!(output.contains("valid 0") && output.contains("where the validation error was lowest"), "{output}");
    let records = metrics(&run);
    let errors = |split: &str| -> Vec<f64> {
        let of = |record: &&serde_json::Value| record["split"] == split;
        records.iter().filter(of).map(|record| record["top1_error"][0].as_f64().expect("a number")).collect()
    };
    let (validation, test) = (errors("validation"), errors("test"));
    assert_eq!((validation.len(), test.len(), records.len()), (3, 3, 9));
    let best = (0..3).reduce(|best, i| if validation[i] < validation[best] { i } else { best }).expect("three");
    let line = format!(
        "best test error {:.2} % (branch 0, epoch {}) where the validation error was lowest, {:.2} %",
        test[best],
        best + 1,
        validation[best]
    );
    assert!(output.contains(&line), "{line}\n{output}");
    assert!(output.contains(&format!("last test error {:.2} %", test[2])), "{output}");
    fail(&format!("{SMALL} --validation 96"), 2, &["96 of 96 training images cannot be held out"]);
}

#[test]
fn augmentation_changes_what_is_learned_and_is_resolved_in_the_configuration() {
    let (_folder, path) = folder();
    let loss = |name: &str, options: &str| {
        succeed(&format!("{SMALL} --epochs 1 {options} --out {}", argument(&path(name))));
        metrics(&path(name))[0]["loss"].as_f64().expect("a number")
    };
    let (default, none, standard) =
        (loss("default", ""), loss("none", "--augment none"), loss("standard", "--augment standard"));
    assert_eq!(default.to_bits(), none.to_bits(), "shapes are not augmented unless that is asked for");
    assert!((none - standard).abs() > 1e-6);
    let config = |name: &str| fs::read_to_string(path(name).join("config.toml")).expect("written");
    assert!(config("default").contains("augment = \"none\"") && config("standard").contains("augment = \"standard\""));
    fail(&format!("--resume {} --augment standard", argument(&path("none"))), 2, &["augment"]);
}

#[test]
fn what_was_fetched_can_be_checked() {
    let (_folder, path) = folder();
    let dir = argument(&path(""));
    fail(&format!("fetch cifar100 --verify --data-dir {dir}"), 1, &["2 of 2 files in", "run `train fetch cifar100`"]);
    fail("fetch shapes --verify", 2, &["made by the program itself"]);
    fail("fetch imagenet", 2, &["by hand"]);
    fail("--data cifar10 --device cpu --image-size 0", 2, &["--image-size"]);
}
