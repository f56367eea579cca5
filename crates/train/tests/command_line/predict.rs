//! Predictions: the same as `eval` finds, on files of any size, and what cannot be used is named.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::program::{argument, command, error_line, fail, folder, succeed, text};

/// Photographs of two classes, to train on and to test on.
fn pictures(root: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures");
    let files = [("grey", "grey.jpg"), ("colour", "rgb.jpg"), ("colour", "progressive.jpg"), ("grey", "cmyk.jpg")];
    for split in ["train", "val"] {
        for (class, image) in files {
            let place = root.join(split).join(class);
            fs::create_dir_all(&place).expect("made");
            fs::copy(fixtures.join(image), place.join(image)).expect("copied");
        }
    }
}

/// A trained network of two branches, and the folder that it was trained on.
fn trained(path: &impl Fn(&str) -> PathBuf) -> (PathBuf, PathBuf) {
    let data = path("pictures");
    pictures(&data);
    let run = path("run");
    succeed(&format!(
        "--net resnet8 --branches 2 --image-size 20 --batch 4 --epochs 8 --lr 0.02 --device cpu --data {} --out {}",
        argument(&data),
        argument(&run)
    ));
    (run.join("last.safetensors"), data)
}

/// A class, its index, and how probable it is.
type Guess = (String, usize, f64);

/// Objects of `predict --json`, by the last part of the file's name.
fn objects(options: &str) -> Vec<(String, Vec<Guess>)> {
    let lines = succeed(&format!("predict --device cpu --json {options}"));
    let object = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("an object per line");
        let file = Path::new(value["file"].as_str().expect("a name")).file_name().expect("a name").to_owned();
        let guess = |guess: &Value| {
            let class = guess["class"].as_str().expect("a class").to_owned();
            (class, guess["index"].as_u64().expect("a number") as usize, guess["probability"].as_f64().expect("one"))
        };
        let guesses = value["predictions"].as_array().expect("a list").iter().map(guess).collect();
        (file.into_string().expect("a plain name"), guesses)
    };
    lines.lines().map(object).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|x| x.exp()).collect();
    powers.iter().map(|power| power / powers.iter().sum::<f64>()).collect()
}

/// Results of `eval`: logits `[2, 4, 2]`, shares `[4, 2]`, in the order in which classes take turns.
fn evaluated(weights: &Path, to: &Path) -> (Vec<f64>, Vec<f64>) {
    succeed(&format!("eval --device cpu --weights {} --logits {}", argument(weights), argument(to)));
    let bytes = fs::read(to).expect("written");
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    let floats = |name: &str| -> Vec<f64> {
        let words = tensors.tensor(name).expect("there").data().as_chunks().0;
        words.iter().map(|&word| f64::from(f32::from_le_bytes(word))).collect()
    };
    (floats("logits"), floats("gate"))
}

#[test]
fn images_of_any_size_get_the_probabilities_that_eval_finds() {
    let (_folder, path) = folder();
    let (weights, data) = trained(&path);
    let (logits, gate) = evaluated(&weights, &path("logits.safetensors"));
    // The first of each class, then the second of each, by name.
    let order = ["progressive.jpg", "cmyk.jpg", "rgb.jpg", "grey.jpg"];
    let of = |member: usize, image: usize| &logits[(member * 4 + image) * 2..][..2];
    let fused = |image: usize| -> Vec<f64> {
        (0..2).map(|k| (0..2).map(|m| gate[image * 2 + m] * of(m, image)[k]).sum()).collect()
    };
    let options = format!("--model {} {}", argument(&weights), argument(&data.join("val")));
    for (branch, expected) in [
        ("", [0, 1, 2, 3].map(|image| softmax(of(0, image)))),
        ("--branch 1", [0, 1, 2, 3].map(|image| softmax(of(1, image)))),
        ("--branch all --batch 3", [0, 1, 2, 3].map(|image| softmax(&fused(image)))),
    ] {
        let found = objects(&format!("{options} {branch}"));
        let names: Vec<&str> = found.iter().map(|(file, _)| file.as_str()).collect();
        assert_eq!(names, ["progressive.jpg", "rgb.jpg", "cmyk.jpg", "grey.jpg"], "by folder and name");
        for (file, guesses) in &found {
            let image = order.iter().position(|name| name == file).expect("one of these");
            assert_eq!(guesses.len(), 2, "all classes there are");
            assert!(guesses[0].2 >= guesses[1].2, "the most probable first");
            for (class, index, probability) in guesses {
                assert_eq!(class, ["colour", "grey"][*index]);
                let error = (probability - expected[image][*index]).abs();
                assert!(error < 1e-5, "{branch} {file} {class}: {probability}, {expected:?}");
            }
        }
    }
}

#[test]
fn an_export_needs_nothing_beside_itself_and_a_line_says_what_is_on_an_image() {
    let (_folder, path) = folder();
    let (weights, data) = trained(&path);
    let file = path("net.safetensors");
    succeed(&format!("export --model {} --fold --to {}", argument(&weights), argument(&file)));
    let image = argument(&data.join("val/grey/grey.jpg"));
    fs::remove_dir_all(data.join("train")).expect("removed");
    let (from_run, from_file) = (
        succeed(&format!("predict --device cpu --model {} --top 1 {image}", argument(&weights))),
        succeed(&format!("predict --device cpu --model {} --top 1 {image}", argument(&file))),
    );
    assert_eq!(from_run, from_file);
    let said = from_file.trim_end().strip_prefix(&format!("{image}: ")).expect("the file first").to_owned();
    let (class, probability) = said.split_once(' ').expect("two parts");
    assert!(["grey", "colour"].contains(&class) && probability.ends_with(" %"), "{said}");
    let options = format!("predict --device cpu --model {} {}", argument(&file), argument(&data.join("val")));
    let output = command(&options).output().expect("started");
    assert!(text(&output.stderr).contains("4 images in") && text(&output.stderr).contains("images/s"), "its speed");
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_is_predicted() {
    let (_folder, path) = folder();
    let (weights, data) = trained(&path);
    let model = format!("predict --device cpu --model {}", argument(&weights));
    let (good, bad) = (data.join("val/grey/grey.jpg"), path("bad.jpg"));
    fs::write(&bad, "no image").expect("written");
    let output = command(&format!("{model} {} {}", argument(&bad), argument(&good))).output().expect("started");
    assert!(text(&output.stdout).starts_with(&argument(&good)) && text(&output.stdout).lines().count() == 1);
    assert!(text(&output.stderr).contains("bad.jpg is no JPEG or PNG image"), "{}", text(&output.stderr));
    assert!(error_line(&output, 1).contains("1 of 2 images cannot be used"));

    fail(&format!("{model} {}", argument(&bad)), 1, &["cannot be used", "JPEG or PNG"]);
    fail(&format!("{model} {}", argument(&path("nowhere.png"))), 1, &["cannot be used"]);
    fs::create_dir(path("empty")).expect("made");
    fail(&format!("{model} {}", argument(&path("empty"))), 1, &["empty holds no image"]);
    fail(&format!("{model} --branch 2 {}", argument(&good)), 2, &["no branch 2", "branches 0 to 1"]);
    fail(&model, 2, &["required"]);
    fail(&format!("predict --model {} {0}", argument(&good)), 1, &["grey.jpg is damaged"]);

    // Weights from elsewhere, which say nothing of themselves.
    let bare = path("bare.safetensors");
    let bytes = fs::read(&weights).expect("read");
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    fs::write(&bare, safetensors::serialize(tensors.tensors(), None).expect("serialised")).expect("written");
    fail(
        &format!("predict --model {} {}", argument(&bare), argument(&good)),
        1,
        &["bare.safetensors does not say what network it is of", "train export"],
    );
}
