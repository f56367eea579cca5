use std::fs;

use data::{LoadOptions, fashion_mnist};

use crate::made::{file, gzip, idx};

fn grey(count: usize) -> Vec<u8> {
    (0..count * 784).map(|i| (i * 3 + i / 784 * 11) as u8).collect()
}

fn read(images: &[u8], labels: &[u8], limit: Option<usize>) -> data::Result<data::Images> {
    let ((_first, images), (_second, labels)) = (file("images", images), file("labels", labels));
    fashion_mnist::read(&images, &labels, limit)
}

#[test]
fn grey_becomes_three_channels_with_a_black_border_zipped_or_not() {
    let count = 300;
    let values = grey(count);
    let images = idx(&[count as u32, 28, 28], &values);
    let numbers: Vec<u8> = (0..count).map(|i| (i % 10) as u8).collect();
    let labels = idx(&[count as u32], &numbers);
    let plain = read(&images, &labels, None).expect("valid");
    assert_eq!((plain.len(), plain.size, plain.labels[7]), (count, 32, 7));
    for (image, y, x) in [(0, 2, 2), (1, 29, 29), (299, 10, 20)] {
        let value = u32::from(values[784 * image + 28 * (y - 2) + x - 2]);
        assert_eq!(plain.image(image)[32 * y + x], value * 0x01_01_01);
    }
    for (y, x) in [(0, 0), (1, 15), (30, 15), (15, 1), (15, 30), (31, 31)] {
        assert_eq!(plain.image(257)[32 * y + x], 0);
    }
    assert_eq!(read(&gzip(&images), &gzip(&labels), None).expect("valid"), plain);
    for limit in [0, 1, 256, 299] {
        let mut first = plain.clone();
        first.truncate(limit);
        assert_eq!(read(&gzip(&images), &labels, Some(limit)).expect("valid"), first);
    }
}

#[test]
fn wrong_files_are_errors_that_say_what_is_wrong() {
    let (images, labels) = (idx(&[2, 28, 28], &grey(2)), idx(&[2], &[0, 9]));
    let zipped = gzip(&images);
    let mut wrong_sum = zipped.clone();
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let longer = [&images[..], &[0]].concat();
    let cases: [(&[u8], &[u8], &str); 15] = [
        (b"", &labels, "breaks off"),
        (&images[..9], &labels, "breaks off"),
        (&images[..images.len() - 1], &labels, "claims to hold [2, 28, 28] values"),
        (&zipped[..zipped.len() / 2], &labels, "breaks off"),
        (&wrong_sum, &labels, "is damaged"),
        (&longer, &labels, "goes on after its last value"),
        (&gzip(&longer), &labels, "goes on after its last value"),
        (&labels, &labels, "is no IDX file of images"),
        (&images, &images, "is no IDX file of labels"),
        (&idx(&[2, 32, 32], &[0; 2048]), &labels, "holds images of 32 x 32"),
        (&images, &idx(&[3], &[0; 3]), "holds 3 labels"),
        (&idx(&[0, 28, 28], &[]), &labels, "claims to hold [0, 28, 28]"),
        (&idx(&[u32::MAX; 3], &[]), &labels, "claims to hold [4294967295"),
        (&gzip(&idx(&[900_000, 28, 28], &[])), &labels, "claims to hold [900000, 28, 28]"),
        (&images, &idx(&[2], &[0, 10]), "has the label 10"),
    ];
    for (images, labels, part) in cases {
        let error = read(images, labels, None).expect_err(part).to_string();
        assert!(error.contains(part) && error.ends_with("delete it and run `train fetch fashion-mnist`"), "{error}");
    }
}

#[test]
fn files_are_found_in_any_of_their_places() {
    let root = tempfile::tempdir().expect("temporary folder");
    let options = LoadOptions { data_dir: Some(root.path().to_owned()), ..LoadOptions::default() };
    let error = fashion_mnist::load(&options).expect_err("nothing there").to_string();
    assert!(error.contains("train-images-idx3-ubyte.gz is not there: run `train fetch fashion-mnist"), "{error}");
    let folder = root.path().join("FashionMNIST/raw");
    fs::create_dir_all(&folder).expect("made");
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("written");
    write("train-images-idx3-ubyte", &idx(&[2, 28, 28], &grey(2)));
    write("train-labels-idx1-ubyte.gz", &gzip(&idx(&[2], &[3, 4])));
    write("t10k-images-idx3-ubyte.gz", &gzip(&idx(&[1, 28, 28], &grey(1))));
    let error = fashion_mnist::load(&options).expect_err("a file is absent").to_string();
    assert!(error.contains("t10k-labels-idx1-ubyte.gz is not there"), "{error}");
    write("t10k-labels-idx1-ubyte", &idx(&[1], &[9]));
    let dataset = fashion_mnist::load(&options).expect("all there");
    assert_eq!((dataset.train.labels, dataset.test.labels), (vec![3, 4], vec![9]));
}
