//! Batches that workers prepare.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use data::{
    Augmentation, Batch, Epoch, Evaluation, Files, Images, LoadOptions, Loader, Missing, Pictures, Sampler, View,
    folder, image_words, pack_image,
};

use crate::made::slope;

const SIZE: usize = 8;

/// Two classes of seven training and five test images, of several shapes; the `broken` ones are not images.
fn folder(broken: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temporary folder");
    for (split, count) in [("train", 7), ("val", 5)] {
        for (class, name) in ["a", "b"].into_iter().enumerate() {
            let place = root.path().join(split).join(name);
            fs::create_dir_all(&place).expect("made");
            for i in 0..count {
                let image = slope(9 + 5 * i, 20 - i, (16 * i) as u8 + class as u8);
                fs::write(place.join(format!("{i}.png")), image).expect("written");
            }
        }
    }
    for path in broken {
        fs::write(root.path().join(path), "no image").expect("written");
    }
    root
}

fn files(root: &Path, strict: bool) -> (Files, Files) {
    let options = LoadOptions { image_size: Some(SIZE), strict, ..LoadOptions::default() };
    let dataset = folder::list("made", root, &options).expect("a folder of images");
    (dataset.train, dataset.test)
}

/// The next `count` batches.
fn take(loader: &mut Loader, count: usize) -> data::Result<Vec<Batch>> {
    (0..count).map(|_| loader.next(|| ()).cloned()).collect()
}

fn equal(a: &[Batch], b: &[Batch]) -> bool {
    let same = |(a, b): (&Batch, &Batch)| {
        let valid = image_words(SIZE) * a.valid;
        (a.valid, &a.labels, &a.picks) == (b.valid, &b.labels, &b.picks) && a.pixels[..valid] == b.pixels[..valid]
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// All batches of some epochs.
fn epochs(pictures: &Arc<Pictures>, workers: usize, pause: Duration) -> Vec<Batch> {
    let sampler = Sampler::new(5, pictures.len(), 3, Augmentation::Resized).expect("fits");
    let mut loader = Loader::new(Arc::clone(pictures), Missing::Replace, workers).expect("threads");
    let epoch = |loader: &mut Loader, number| -> Vec<Batch> {
        let epoch = sampler.epoch(number);
        let one = |step| {
            loader.seek(&epoch, step);
            thread::sleep(pause);
            loader.next(|| ()).expect("drawn").clone()
        };
        (0..epoch.steps()).map(one).collect()
    };
    (0..3).flat_map(|number| epoch(&mut loader, number)).collect()
}

#[test]
fn what_a_batch_holds_depends_neither_on_workers_nor_on_how_far_they_are_ahead() {
    // A broken image whose successor is good, and one whose successor is broken, too.
    let root = folder(&["train/a/3.png", "train/b/5.png", "train/b/6.png"]);
    let drawn = |workers, pause| {
        let pictures = Arc::new(Pictures::Files(files(root.path(), false).0));
        let batches = epochs(&pictures, workers, pause);
        assert_eq!(pictures.broken(), 3);
        let named: usize = batches.iter().map(|batch| batch.broken.len()).sum();
        assert_eq!(named, 3, "each once");
        batches
    };
    let alone = drawn(0, Duration::ZERO);
    assert_eq!(alone.len(), 12);
    assert!(alone.iter().all(|batch| batch.valid == 3));
    for workers in [1, 2, 7] {
        assert!(equal(&alone, &drawn(workers, Duration::ZERO)), "{workers} workers");
        assert!(equal(&alone, &drawn(workers, Duration::from_millis(3))), "{workers} workers, far ahead");
    }
    // Every epoch draws new crops.
    assert!(!equal(&alone[..4], &alone[4..8]));
}

#[test]
fn a_run_that_is_resumed_in_an_epoch_gets_the_batches_that_it_missed() {
    let root = folder(&[]);
    let pictures = Arc::new(Pictures::Files(files(root.path(), false).0));
    let all = epochs(&pictures, 2, Duration::ZERO);
    let sampler = Sampler::new(5, pictures.len(), 3, Augmentation::Resized).expect("fits");
    let mut loader = Loader::new(Arc::clone(&pictures), Missing::Replace, 3).expect("threads");
    loader.seek(&sampler.epoch(1), 2);
    assert!(equal(&take(&mut loader, 2).expect("drawn"), &all[6..8]));
    // Seeks back and forth while workers are busy with the next batches.
    for (number, step) in [(0, 1), (2, 0), (2, 3), (0, 0)] {
        loader.seek(&sampler.epoch(number), step);
        assert!(equal(&take(&mut loader, 1).expect("drawn"), &all[4 * number + step..][..1]), "{number}, {step}");
    }
}

fn packed(pixels: &[u32]) -> Vec<u32> {
    let mut packed = vec![0; image_words(SIZE)];
    pack_image(pixels, &mut packed);
    packed
}

/// The picks' images, decoded directly.
fn expected(images: &Images, epoch: &Epoch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let batch = |picks: &[data::Pick]| {
        let indices: Vec<usize> = picks.iter().map(|pick| pick[0] as usize).collect();
        let pixels = indices.iter().flat_map(|&i| packed(images.image(i))).collect();
        (pixels, indices.iter().map(|&i| images.labels[i]).collect())
    };
    epoch.iter().map(batch).collect()
}

#[test]
fn batches_without_random_crops_are_those_of_images_that_lie_on_the_device() {
    let root = folder(&[]);
    let options = LoadOptions { image_size: Some(SIZE), ..LoadOptions::default() };
    let images = folder::load("made", root.path(), &options).expect("decoded").train;
    let sampler = Sampler::new(1, 14, 4, Augmentation::Padded).expect("fits");
    let epoch = sampler.epoch(2);
    let wanted = expected(&images, &epoch);
    for pictures in [Pictures::Files(files(root.path(), false).0), Pictures::Memory(images)] {
        let mut loader = Loader::new(Arc::new(pictures), Missing::Replace, 2).expect("threads");
        loader.seek(&epoch, 0);
        for (step, (pixels, labels)) in wanted.iter().enumerate() {
            let batch = loader.next(|| ()).expect("drawn");
            assert_eq!((&batch.pixels, &batch.labels), (pixels, labels));
            for (sample, (pick, of_device)) in batch.picks.iter().zip(epoch.step(step)).enumerate() {
                assert_eq!(*pick, [sample as u32, of_device[1]], "the kernel crops it as it would there");
            }
        }
    }
}

#[test]
fn a_broken_image_makes_way_for_the_next_of_its_class_in_training_and_for_none_in_a_test() {
    let root = folder(&["train/a/6.png", "val/a/1.png", "val/b/1.png", "val/a/4.png"]);
    let (train, test) = files(root.path(), false);
    let labels = test.labels.clone();
    let whole = |split: Files| folder::decode(&split, root.path(), &mut Vec::new()).expect("decoded");
    let (train_images, test_images) = (whole(train), whole(test));
    let (train, test) = files(root.path(), false);

    // The last image of class a is broken, and the first replaces it.
    let index = 12;
    let epoch = Sampler::new(0, 14, 14, Augmentation::None).expect("fits").epoch(0);
    let place = epoch.step(0).iter().position(|pick| pick[0] == index).expect("every image has its turn");
    let mut loader = Loader::new(Arc::new(Pictures::Files(train)), Missing::Replace, 2).expect("threads");
    loader.seek(&epoch, 0);
    let batch = loader.next(|| ()).expect("drawn");
    assert_eq!((batch.valid, batch.labels[place]), (14, 0));
    let words = image_words(SIZE);
    assert_eq!(batch.pixels[place * words..][..words], packed(train_images.image(0)));
    assert_eq!(batch.broken.len(), 1);
    assert!(batch.broken[0].contains("6.png is no JPEG or PNG image"), "{:?}", batch.broken);

    let pictures = Arc::new(Pictures::Files(test));
    let mut loader = Loader::new(Arc::clone(&pictures), Missing::LeaveOut, 2).expect("threads");
    let order = Evaluation::new(10, 4).expect("fits").epoch();
    for _ in 0..2 {
        loader.seek(&order, 0);
        let batches = take(&mut loader, order.steps()).expect("drawn");
        let valid = |batch: &Batch| batch.pixels[..batch.valid * words].to_vec();
        let whole = test_images.pixels.chunks(SIZE * SIZE).flat_map(packed);
        assert_eq!(batches.iter().flat_map(valid).collect::<Vec<u32>>(), whole.collect::<Vec<u32>>());
        let of = |batch: &Batch| batch.labels[..batch.valid].to_vec();
        assert_eq!(batches.iter().flat_map(of).collect::<Vec<u32>>(), test_images.labels);
        assert_eq!(batches.iter().map(|batch| batch.valid).collect::<Vec<usize>>(), [2, 4, 1]);
    }
    assert_eq!((pictures.broken(), labels.len()), (3, 10));
}

#[test]
fn strict_files_stop_at_the_batch_of_the_first_broken_image_whatever_the_workers() {
    let root = folder(&["val/b/3.png", "val/a/4.png"]);
    for workers in [0, 1, 5] {
        let pictures = Arc::new(Pictures::Files(files(root.path(), true).1));
        let mut loader = Loader::new(pictures, Missing::LeaveOut, workers).expect("threads");
        loader.seek(&Evaluation::new(10, 3).expect("fits").epoch(), 0);
        assert_eq!(take(&mut loader, 2).expect("whole images").len(), 2);
        let error = loader.next(|| ()).expect_err("an image is broken").to_string();
        assert!(error.contains("3.png is no JPEG or PNG image") && error.contains("--strict"), "{error}");
    }
    let all = (0..7).map(|i| format!("train/a/{i}.png")).collect::<Vec<String>>();
    let none = folder(&all.iter().map(String::as_str).collect::<Vec<&str>>());
    let pictures = Arc::new(Pictures::Files(files(none.path(), false).0));
    let mut loader = Loader::new(pictures, Missing::Replace, 2).expect("threads");
    loader.seek(&Sampler::new(0, 14, 14, Augmentation::None).expect("fits").epoch(0), 0);
    let error = loader.next(|| ()).expect_err("a class has no image").to_string();
    assert!(error.contains("nor can any other image of its class"), "{error}");
}

#[test]
fn workers_stop_when_two_batches_are_full_and_end_with_their_loader() {
    let root = folder(&[]);
    let mut loader =
        Loader::new(Arc::new(Pictures::Files(files(root.path(), false).0)), Missing::Replace, 3).expect("threads");
    let sampler = Sampler::new(0, 14, 2, Augmentation::Resized).expect("fits");
    let epoch = sampler.epoch(0);
    loader.seek(&epoch, 0);
    let began = Instant::now();
    while loader.drawn().0 < 4 {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", loader.drawn());
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(30));
    assert_eq!(loader.drawn().0, 4);
    let mut glances = 0;
    loader.next(|| glances += 1).expect("drawn");
    assert_eq!(glances, 0, "it was there");
    // Seek while workers are busy.
    loader.seek(&sampler.epoch(1), 3);
}

#[test]
fn held_out_files_are_the_images_that_would_be_held_out() {
    let root = folder(&[]);
    let options = LoadOptions { image_size: Some(SIZE), ..LoadOptions::default() };
    let mut images = folder::load("made", root.path(), &options).expect("decoded").train;
    let mut files = files(root.path(), false).0;
    files.still = View::Centre;
    let (held_images, held_files) = (images.hold_out(5, 2).expect("fewer"), files.hold_out(5, 2).expect("fewer"));
    assert_eq!((held_files.still, &held_files.labels), (View::Centre, &held_images.labels));
    files.still = View::Whole;
    assert_eq!(folder::decode(&files, root.path(), &mut Vec::new()).expect("decoded"), images);
}
