//! Tests of the generated dataset: it is deterministic and balanced, and a linear classifier is wrong on most of its
//! images.

use data::{Dataset, Images, LoadOptions, load};
use tensor::Rng;

fn shapes(train: usize, test: usize, seed: u64, classes: Option<usize>) -> Dataset {
    let options =
        LoadOptions { limit_train: Some(train), limit_test: Some(test), seed, classes, ..LoadOptions::default() };
    load("shapes", &options).expect("valid options")
}

#[test]
fn images_are_a_pure_function_of_the_seed_and_a_smaller_limit_gives_a_prefix() {
    let full = shapes(300, 200, 1, None);
    assert_eq!((full.train.len(), full.test.len(), full.classes.len()), (300, 200, 10));
    let again = shapes(120, 200, 1, None);
    assert_eq!(again.train.pixels, full.train.pixels[..120 * 1024]);
    assert_eq!(again.train.labels, full.train.labels[..120]);
    assert_eq!(again.test, full.test);
    assert_ne!(shapes(120, 200, 2, None).train, again.train);
    assert_ne!(full.train.pixels[..200 * 1024], full.test.pixels);
    assert!(full.train.pixels.iter().all(|pixel| pixel >> 24 == 0));
}

#[test]
fn classes_are_balanced_and_named_apart() {
    for classes in [2, 10, 11, 37, 100, 101, 1000] {
        let dataset = shapes(3 * classes, 0, 5, Some(classes));
        let mut counts = vec![0; classes];
        dataset.train.labels.iter().for_each(|&label| counts[label as usize] += 1);
        assert_eq!(counts, vec![3; classes]);
        let mut names = dataset.classes;
        names.sort();
        names.dedup();
        assert_eq!(names.len(), classes);
        assert!(dataset.test.is_empty());
    }
}

#[test]
fn impossible_options_are_errors() {
    let with = |classes, limit_train| LoadOptions { classes, limit_train, ..LoadOptions::default() };
    for classes in [0, 1, 1001, usize::MAX] {
        let error = load("shapes", &with(Some(classes), Some(1))).expect_err("out of range").to_string();
        assert_eq!(error, format!("dataset shapes has 2 to 1000 classes, not {classes}"));
    }
    let error = load("shapes", &with(None, Some(usize::MAX))).expect_err("too many").to_string();
    assert!(error.contains("at most 1000000 images"), "{error}");
}

#[test]
fn the_stated_moments_are_those_of_the_images() {
    let dataset = shapes(5000, 0, 9, None);
    for c in 0..3 {
        let values = || dataset.train.pixels.iter().map(|pixel| f64::from((pixel >> (8 * c)) as u8) / 255.0);
        let count = dataset.train.pixels.len() as f64;
        let mean = values().sum::<f64>() / count;
        let std = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
        let stated = (f64::from(dataset.mean[c]), f64::from(dataset.std[c]));
        assert!((mean - stated.0).abs() < 0.01 && (std - stated.1).abs() < 0.01, "channel {c}: {mean} {std}");
    }
}

const FEATURES: usize = 3 * 1024 + 1;
const CLASSES: usize = 10;

/// Normalised channels and a constant.
fn features(dataset: &Dataset, images: &Images, index: usize) -> Vec<f32> {
    let channel =
        |pixel: u32, c: usize| (f32::from((pixel >> (8 * c)) as u8) / 255.0 - dataset.mean[c]) / dataset.std[c];
    let pixels = images.image(index).iter().flat_map(|&pixel| [0, 1, 2].map(|c| channel(pixel, c)));
    pixels.chain([1.0]).collect()
}

fn logits(weights: &[f32], x: &[f32]) -> [f32; CLASSES] {
    let mut sums = [0.0; CLASSES];
    for (row, &value) in weights.chunks_exact(CLASSES).zip(x) {
        sums.iter_mut().zip(row).for_each(|(sum, &weight)| *sum += weight * value);
    }
    sums
}

fn percent_wrong(weights: &[f32], xs: &[Vec<f32>], labels: &[u32]) -> f64 {
    let wrong = xs.iter().zip(labels).filter(|(x, label)| {
        let scores = logits(weights, x);
        let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).expect("there are classes");
        best != **label as usize
    });
    100.0 * wrong.count() as f64 / labels.len() as f64
}

/// Softmax regression by plain SGD, one sample at a time, until it has memorised its training set.
#[test]
fn a_linear_classifier_on_pixels_stays_above_half_wrong() {
    let dataset = shapes(2000, 1000, 0, None);
    let all = |images: &Images| (0..images.len()).map(|i| features(&dataset, images, i)).collect::<Vec<Vec<f32>>>();
    let (train, test) = (all(&dataset.train), all(&dataset.test));
    let mut weights = vec![0.0_f32; FEATURES * CLASSES];
    for epoch in 0..50 {
        let rate = 5e-4 / (1.0 + epoch as f32 / 20.0);
        for sample in Rng::new(&[epoch]).permutation(train.len()) {
            let (x, label) = (&train[sample as usize], dataset.train.labels[sample as usize] as usize);
            let scores = logits(&weights, x);
            let highest = scores.iter().copied().fold(f32::MIN, f32::max);
            let exponentials = scores.map(|score| (score - highest).exp());
            let total: f32 = exponentials.iter().sum();
            let mut step = exponentials.map(|exponential| -rate * exponential / total);
            step[label] += rate;
            for (row, &value) in weights.chunks_exact_mut(CLASSES).zip(x) {
                row.iter_mut().zip(&step).for_each(|(weight, &change)| *weight += change * value);
            }
        }
    }
    let (train_error, test_error) =
        (percent_wrong(&weights, &train, &dataset.train.labels), percent_wrong(&weights, &test, &dataset.test.labels));
    println!("softmax regression: {train_error:.1} % wrong in training, {test_error:.1} % in test");
    assert!(train_error < 20.0, "it has not converged: {train_error} % wrong on its own training set");
    assert!(test_error > 50.0, "colours or places give the class away: only {test_error} % wrong");
}
