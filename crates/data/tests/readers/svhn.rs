use std::fs;

use data::{Augmentation, LoadOptions, svhn};

use crate::made::{compressed, digits, element, file, mat, variable, x, y};

fn read(bytes: &[u8], limit: Option<usize>) -> data::Result<data::Images> {
    let (_folder, path) = file("made.mat", bytes);
    svhn::read(&path, limit)
}

#[test]
fn columns_become_rows_and_ten_becomes_nought() {
    let images = read(&mat(&[compressed(&x(3)), compressed(&y(&[1, 10, 9]))]), None).expect("valid");
    assert_eq!((images.size, images.labels.as_slice()), (32, &[1, 0, 9][..]));
    let bytes = digits(3);
    for (image, row, column) in [(0, 0, 0), (1, 0, 31), (1, 31, 0), (2, 5, 17)] {
        let at = |channel: usize| u32::from(bytes[row + 32 * column + 1024 * channel + 3072 * image]);
        assert_eq!(images.image(image)[32 * row + column], at(0) | at(1) << 8 | at(2) << 16);
    }
}

#[test]
fn order_compression_and_other_variables_do_not_matter() {
    let labels = [3, 10, 1, 2, 5];
    let expected = read(&mat(&[compressed(&x(5)), compressed(&y(&labels))]), None).expect("valid");
    let other = variable("other", 6, &[1, 1], 9, &1.5_f64.to_le_bytes());
    let text = variable("text", 4, &[1, 2], 4, &[65, 0, 66, 0]);
    let doubles: Vec<u8> = labels.iter().flat_map(|&label| f64::from(label).to_le_bytes()).collect();
    let as_doubles = variable("y", 6, &[1, 5], 9, &doubles);
    for variables in [
        vec![y(&labels), other.clone(), x(5)],
        vec![compressed(&text), compressed(&as_doubles), compressed(&other), x(5)],
    ] {
        assert_eq!(read(&mat(&variables), None).expect("valid"), expected);
    }
    for limit in [0, 1, 4] {
        let mut first = expected.clone();
        first.truncate(limit);
        for variables in [[compressed(&x(5)), compressed(&y(&labels))], [y(&labels), x(5)]] {
            assert_eq!(read(&mat(&variables), Some(limit)).expect("valid"), first);
        }
    }
    // A last dimension of one is not written.
    let single = variable("X", 9, &[32, 32, 3], 2, &digits(1));
    assert_eq!(read(&mat(&[single, y(&[4])]), None).expect("valid").labels, [4]);
}

#[test]
fn wrong_files_are_errors_that_say_what_is_wrong() {
    let labels = [1, 2];
    let whole = mat(&[compressed(&x(2)), compressed(&y(&labels))]);
    let inner = x(2);
    let mut of_7_3 = whole.clone();
    of_7_3[..10].copy_from_slice(b"MATLAB 7.3");
    let mut big_endian = whole.clone();
    big_endian[124..128].copy_from_slice(&[1, 0, b'M', b'I']);
    let mut many = variable("X", 9, &[32, 32, 3, 1 << 20], 2, &[]);
    let length = many.len();
    many[length - 4..].copy_from_slice(&(3072_u32 << 20).to_le_bytes());
    let mut wrong_sum = whole.clone();
    let end_of_x = 128 + 8 + u32::from_le_bytes([whole[132], whole[133], whole[134], whole[135]]) as usize;
    wrong_sum[end_of_x - 1] ^= 1;
    let longer = [&inner[..], &[7; 64]].concat();
    let cases: [(&[u8], &str); 18] = [
        (b"", "breaks off"),
        (&whole[..100], "breaks off"),
        (&whole[..whole.len() - 1], "breaks off in the element"),
        (&[0; 4096], "is no MATLAB 5 file"),
        (&of_7_3, "is a MATLAB 7.3 file"),
        (&big_endian, "big-endian"),
        (&mat(&[]), "holds no variable X"),
        (&mat(&[x(2)]), "holds no variable y"),
        (&mat(&[x(2), x(2)]), "holds X twice"),
        (&mat(&[x(2), y(&[1])]), "holds 2 images and 1 labels"),
        (&mat(&[x(2), y(&[1, 11])]), "has the label 11 at image 1"),
        (&mat(&[x(2), y(&[0, 1])]), "has the label 0 at image 0"),
        (&mat(&[variable("X", 9, &[28, 28, 3, 1], 2, &[0; 28 * 28 * 3])]), "instead of bytes of 32 x 32 x 3 x N"),
        (&mat(&[variable("X", 9, &[32, 32, 3, 3], 2, &digits(2))]), "in 6144 of"),
        (&mat(&[compressed(&many)]), "of dimensions [32, 32, 3, 1048576]"),
        (&mat(&[compressed(&inner[..3000])]), "breaks off after image"),
        (&wrong_sum, "is damaged"),
        (&mat(&[element(9, &[0; 16])]), "has an element of type 9"),
    ];
    for (bytes, part) in cases {
        let error = read(bytes, None).expect_err(part).to_string();
        assert!(error.contains(part) && error.ends_with("delete it and run `train fetch svhn`"), "{part}: {error}");
    }
    let error = read(&mat(&[compressed(&longer), y(&labels)]), None).expect_err("too long").to_string();
    assert!(error.contains("goes on after the last value of X"), "{error}");
}

#[test]
fn a_small_file_cannot_claim_much() {
    // A compressed element of a few bytes claims 4 GiB of X; real zeros claim a count beyond that of the extra set.
    let mut claim = variable("X", 9, &[32, 32, 3, 531_131], 2, &[]);
    let length = claim.len();
    claim[length - 4..].copy_from_slice(&(531_131_u32 * 3072).to_le_bytes());
    claim[4..8].copy_from_slice(&(531_131_u32 * 3072 + 64).to_le_bytes());
    let error = read(&mat(&[compressed(&claim)]), None).expect_err("cannot be").to_string();
    assert!(error.contains("claims 1631634496 bytes of type 14 in the"), "{error}");
}

#[test]
fn the_extra_set_follows_the_standard_one_and_is_not_needed_below_it() {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = root.path().join("svhn");
    fs::create_dir(&folder).expect("made");
    let write = |name: &str, labels: &[u8]| {
        let bytes = mat(&[compressed(&x(labels.len() as u32)), compressed(&y(labels))]);
        fs::write(folder.join(name), bytes).expect("written");
    };
    write("train_32x32.mat", &[1, 2, 3]);
    write("test_32x32.mat", &[10]);
    let load = |limit_train| {
        svhn::load(&LoadOptions { data_dir: Some(root.path().to_owned()), limit_train, ..LoadOptions::default() })
    };
    assert_eq!(load(Some(3)).expect("the extra set is not needed").train.labels, [1, 2, 3]);
    let error = load(None).expect_err("the extra set is absent").to_string();
    assert!(error.contains("extra_32x32.mat is not there"), "{error}");
    write("extra_32x32.mat", &[4, 5]);
    let dataset = load(None).expect("all there");
    assert_eq!((dataset.train.labels, dataset.test.labels), (vec![1, 2, 3, 4, 5], vec![0]));
    assert!(dataset.augment == Augmentation::None && dataset.classes[3] == "3");
    let little =
        LoadOptions { data_dir: Some(root.path().to_owned()), max_bytes: Some(4 * 4096), ..LoadOptions::default() };
    let error = svhn::load(&little).expect_err("five images do not fit").to_string();
    assert!(error.starts_with("5 images of 32 x 32 take 0 MiB") && error.contains("at most 4"), "{error}");
}
