//! Ranks that cannot train together say why, once, before they begin.

use std::fs;
use std::io::Write;

use crate::running::{SMALL, fail, make_images, mpirun, place, ranks};

#[test]
fn other_options() {
    let place = place();
    let one = format!("-n 1 TRAIN {SMALL} --batch 6 --device cpu --out run");
    let sentence = fail(&mut mpirun(place.path(), &format!("{one} : {one} --lr 0.02 : {one}")), 2);
    assert!(sentence.contains("error: rank 1 has lr = 0.02, and rank 0 has 0.01"), "{sentence}");
    assert!(!place.path().join("run").exists(), "nothing was begun");
}

#[test]
fn another_build() {
    let place = place();
    let other = place.path().join("train");
    fs::copy(env!("CARGO_BIN_EXE_train"), &other).expect("copied");
    // Bytes behind a program in its file change nothing of what it does.
    let mut file = fs::OpenOptions::new().append(true).open(&other).expect("its copy");
    file.write_all(b"another build").expect("written");
    drop(file);
    let own = format!("{SMALL} --device cpu --out run");
    let sentence = fail(&mut mpirun(place.path(), &format!("-n 1 TRAIN {own} : -n 1 ./train {own}")), 2);
    assert!(sentence.contains("error: rank 1 runs another build of this program than rank 0"), "{sentence}");
}

#[test]
fn other_data() {
    let place = place();
    let (here, there) = (place.path(), place.path().join("there"));
    make_images(&there.join("noise"));
    fs::copy(here.join("noise/train/class 0/0.png"), there.join("noise/train/class 0/4.png")).expect("copied");
    let own = format!("TRAIN {SMALL} --device cpu --out run");
    let sentence = fail(&mut mpirun(here, &format!("-n 1 {own} : -n 1 -wdir {} {own}", there.display())), 2);
    assert!(sentence.contains("error: rank 1 has training images = 160 of 8x8"), "{sentence}");
    assert!(sentence.contains("all ranks need the same data"), "{sentence}");
}

#[test]
fn data_that_one_has_not() {
    let place = place();
    let there = place.path().join("there");
    make_images(&there.join("noise"));
    fs::remove_dir_all(there.join("noise/val")).expect("removed");
    let own = format!("TRAIN {SMALL} --device cpu --out run");
    let sentence = fail(&mut mpirun(place.path(), &format!("-n 1 {own} : -n 1 -wdir {} {own}", there.display())), 1);
    assert!(sentence.contains("error: rank 1: ") && sentence.contains("val"), "{sentence}");
}

#[test]
fn what_cannot_be_shared() {
    let place = place();
    let sentence = fail(&mut ranks(place.path(), 3, "--out run"), 2);
    assert!(sentence.contains("a batch of 8 cannot be shared equally by 3 ranks: give --batch 6 or 9"), "{sentence}");
    let sentence = fail(&mut ranks(place.path(), 2, "--out run --net resnet9"), 2);
    assert!(sentence.contains("resnet9"), "{sentence}");
    let sentence = fail(&mut ranks(place.path(), 2, "--profile"), 2);
    assert!(sentence.contains("start it without mpirun"), "{sentence}");
}
