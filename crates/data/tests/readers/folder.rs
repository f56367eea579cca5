use std::fs;
use std::path::{Path, PathBuf};

use data::{Dataset, LoadOptions, folder};

use crate::made::{jpeg, png};

/// A path in a folder, and the file's bytes.
type Placed<'a> = (&'a str, Vec<u8>);

/// A folder of images.
fn made(files: &[Placed<'_>]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temporary folder");
    for (path, bytes) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    root
}

fn load(root: &Path, options: &LoadOptions) -> data::Result<Dataset> {
    folder::load("made", root, options)
}

fn rgb(pixel: u32) -> [u8; 3] {
    [0, 8, 16].map(|shift| (pixel >> shift) as u8)
}

fn animals() -> Vec<Placed<'static>> {
    vec![
        ("train/dog/1.png", png(40, 50, [1, 1, 1])),
        ("train/dog/2.PNG", png(8, 8, [2, 2, 2])),
        ("train/dog/3.jpeg", jpeg("rgb")),
        ("train/dog/notes.txt", b"no image".to_vec()),
        ("train/cat/a.png", png(32, 33, [3, 3, 3])),
        ("train/.hidden/x.png", png(8, 8, [9, 9, 9])),
        ("val/cat/b.png", png(64, 64, [4, 4, 4])),
        ("readme.md", Vec::new()),
    ]
}

#[test]
fn classes_are_folders_in_order_and_take_turns() {
    let root = made(&animals());
    let dataset = load(root.path(), &LoadOptions::default()).expect("valid");
    assert_eq!(dataset.classes, ["cat", "dog"]);
    assert_eq!((dataset.train.size, dataset.train.labels.as_slice()), (32, &[0, 1, 1, 1][..]));
    let first: Vec<u32> = (0..3).map(|image| dataset.train.image(image)[0]).collect();
    assert_eq!(first, [3, 1, 2].map(|value| value * 0x01_01_01));
    assert_eq!((dataset.test.labels.as_slice(), rgb(dataset.test.pixels[1023])), (&[0][..], [4; 3]));
    let some = LoadOptions { limit_train: Some(2), limit_test: Some(0), image_size: Some(5), ..LoadOptions::default() };
    let dataset = load(root.path(), &some).expect("valid");
    assert_eq!((dataset.train.size, dataset.train.labels), (5, vec![0, 1]));
    assert!(dataset.test.is_empty() && dataset.notes.len() == 1, "{:?}", dataset.notes);
}

#[test]
fn jpegs_of_every_kind_have_their_colours() {
    for (kind, tolerance) in [("rgb", 3), ("progressive", 3), ("cmyk", 12), ("grey", 3)] {
        let files = [("train/a/x.jpg", jpeg(kind)), ("train/b/y.png", png(1, 1, [0; 3])), ("val/a/x.jpg", jpeg(kind))];
        let dataset = load(made(&files).path(), &LoadOptions { image_size: Some(16), ..LoadOptions::default() });
        let image = dataset.expect(kind).test;
        let expected = match kind {
            // 0.299 r + 0.587 g + 0.114 b.
            "grey" => [[84; 3], [125; 3]],
            _ => [[200, 30, 60], [20, 160, 220]],
        };
        for (column, expected) in [(2, expected[0]), (13, expected[1])] {
            for row in [2, 8, 13] {
                let found = rgb(image.pixels[16 * row + column]);
                let near = found.iter().zip(expected).all(|(&a, b)| a.abs_diff(b) <= tolerance);
                assert!(near, "{kind} at {row}, {column}: {found:?} instead of {expected:?}");
            }
        }
    }
}

#[test]
fn broken_images_are_named_skipped_and_counted_or_stop_when_strict() {
    let mut files = animals();
    let whole = jpeg("rgb");
    files.push(("train/cat/empty.png", Vec::new()));
    files.push(("train/cat/cut.jpg", whole[..whole.len() - 20].to_vec()));
    files.push(("train/dog/text.png", b"text".to_vec()));
    let root = made(&files);
    let dataset = load(root.path(), &LoadOptions::default()).expect("the rest is right");
    assert_eq!(dataset.train.labels, [0, 1, 1, 1]);
    assert_eq!(rgb(dataset.train.image(0)[0]), [3; 3]);
    assert_eq!(rgb(dataset.train.image(1)[0]), [1; 3]);
    let notes = dataset.notes.join("\n");
    for part in [
        "empty.png is empty",
        "cut.jpg is a JPEG image that breaks off",
        "text.png is no JPEG or PNG",
        "3 of 7 images were skipped",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
    let error = load(root.path(), &LoadOptions { strict: true, ..LoadOptions::default() }).expect_err("strict");
    assert!(error.to_string().ends_with("remove it, or leave --strict out to skip such images"), "{error}");
}

#[test]
fn folders_of_another_layout_are_errors_that_say_what_is_missing() {
    let image = || png(2, 2, [5; 3]);
    let cases: [(&[Placed<'_>], &str); 6] = [
        (&[("a/x.png", image())], "has no folder train"),
        (&[("train/a/x.png", image()), ("train/b/x.png", image())], "has no folder val or test"),
        (&[("train/a/x.png", image()), ("val/a/x.png", image())], "has 1 folders of a class"),
        (&[("train/x.png", image()), ("val/x.png", image())], "has 0 folders of a class"),
        (&[("train/a/x.png", image()), ("train/b/x.png", image()), ("test/c/x.png", image())], "has a class \"c\""),
        (
            &[("train/a/x.png", Vec::new()), ("train/b/x.png", Vec::new()), ("test/a/x.png", image())],
            "holds no image that can be decoded",
        ),
    ];
    for (files, part) in cases {
        let error = load(made(files).path(), &LoadOptions::default()).expect_err(part).to_string();
        assert!(error.contains(part) && error.contains("train/CLASS/*.jpg"), "{error}");
    }
    let root = made(&animals());
    let error = |options: LoadOptions| load(root.path(), &options).expect_err("refused").to_string();
    assert_eq!(error(LoadOptions { classes: Some(3), ..LoadOptions::default() }), "dataset made has 2 classes, not 3");
    let much = error(LoadOptions { image_size: Some(1024), max_bytes: Some(12 << 20), ..LoadOptions::default() });
    assert!(much.starts_with("4 images of 1024 x 1024 take 16 MiB, and there is room for 12 MiB"), "{much}");
}

#[test]
fn imagenet_is_found_under_the_data_directory_or_in_it() {
    let root = made(&animals());
    let at =
        |dir: &Path| data::load("imagenet", &LoadOptions { data_dir: Some(dir.to_owned()), ..LoadOptions::default() });
    assert_eq!(at(root.path()).expect("in it").classes.len(), 2);
    let above = tempfile::tempdir().expect("temporary folder");
    fs::rename(root.path(), above.path().join("imagenet")).expect("moved");
    assert_eq!(at(above.path()).expect("under it").train.len(), 4);
    let error = at(&above.path().join("imagenet/val")).expect_err("not there").to_string();
    assert!(error.contains("imagenet has no folder train"), "{error}");
}

/// Test on real images, if they lie beside the project.
#[test]
fn real_images_decode_without_exception() {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/tiny-imagenet-20");
    if !root.is_dir() {
        println!("skipped: {} is not there", root.display());
        return;
    }
    let options = LoadOptions { strict: true, image_size: Some(64), ..LoadOptions::default() };
    let dataset = load(&root, &options).expect("all are whole");
    assert_eq!((dataset.classes.len(), dataset.train.len() + dataset.test.len()), (20, 1500));
}
