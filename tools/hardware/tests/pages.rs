//! Tests of pages of folders that are complete, cut short, and damaged; and of the project's own pages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn hardware(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hardware")).args(arguments).output().expect("the program runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file");
        }
    }
}

/// Copies a fixture, and makes its page.
fn page(name: &str) -> (TempDir, PathBuf, String) {
    let temporary = TempDir::new().expect("a folder");
    let folder = temporary.path().join(name);
    copy(&here().join("fixtures").join(name), &folder);
    let output = hardware(&["page", text(&folder)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(folder.join("page.md")).expect("a page");
    (temporary, folder, page)
}

#[track_caller]
fn holds(page: &str, lines: &[&str]) {
    for line in lines {
        assert!(page.contains(line), "there is no {line:?} in\n{page}");
    }
}

#[test]
fn everything_is_on_the_page() {
    let (_temporary, folder, page) = page("full");
    // Adapter, and selftest with its faults.
    holds(
        &page,
        &[
            "# Fixture GPU\n",
            "| driver | Fixture 1.2.3 |",
            "| date (UTC) | 2026-01-02 03:04:05 |",
            "| program | 0.1.0, commit 0123456789ab |",
            "* Selftest: 1 of 2 kernels wrong (whole).",
            "| conv2d_forward | 60 | 240 | 960 | **2** | 25.0 % | 3.0 s |",
            "| conv2d_forward/strided \\| odd | 2 | [0,1,2,3] | 1.5 | – | is not finite |",
            "| resnet8, 3 branches, f32 | 12.5 % | right |",
            "## Notes\n\nThe fan was loud.\n",
        ],
    );
    // Rates: ours is the mean of those around PyTorch; without one of that batch, there is no ratio.
    holds(
        &page,
        &[
            "* resnet32 with 3 branches, batch 128, training: 26,000 images/s in f32, 36,000 in f16 (1.38 times).",
            "* Against PyTorch in eager mode, f32: 2.60 times its images/s.",
            "* Against PyTorch by CUDA graphs, f32: 1.30 times its images/s.",
            "* Share of the step's roofline, f32: 40.0 %.",
            "60,000 GFLOP/s of f32, 3,000 GB/s in",
            "* Trained resnet32 with 3 branches (one): 3 epochs, 23,002 images/s, test error 29.25 %.",
            "| resnet32, 3 branches | 128 | eager | 10,000 | f32 | 25,000 and 27,000 | 2.60 |",
            "| resnet32, 3 branches | 128 | eager-f16 | 9,000 | f16 | 36,000 | 4.00 |",
            "| resnet32, 3 branches | 1024 | eager | 80,000 | f32 | – | – |",
            "| resnet32, 3 branches | 128 | compile | RuntimeError: no compiler |",
            "| resnet110, 3 branches | f32 | 1024 | it needs 12.0 GiB, and a buffer holds 2.0 GiB |",
            "| resnet32, 3 branches | f32 | 128 | 12,500 | 24,000 | 1.92 |",
        ],
    );
    // A kernel of 1 ms does 10 GFLOP of 60 TFLOP/s, and moves 1 GB of 3 TB/s.
    holds(&page, &["| kernel_0 | 4 | 1.000 | 28.6 % | 16.7 % | 33.3 % | 40.0 % |", "| 4 more | 16 |"]);
    holds(
        &page,
        &[
            "### resnet32, 3 branches, f32, batch 128, by kernel and shape\n",
            "| resnet32, alone, vanilla | cifar10, batch 128, f32 | 4 | 31.50 % | 30.00 % | – | 23,003 | 50 s |",
            "| resnet32, 3 branches, one | cifar10, batch 128, f32 | 3 of 4 | 29.25 / 29.50 / 29.75 % | 29.25 % |",
            "% | 28.25 % | 23,002 | 90 s | 30.00 s | 2.5 h |",
            "| 4 | 31.50 % | – |",
            "| bench | **failed** (status 1) | 30 s | 70 s | error: the device was lost \\| again |",
            "| tune | **cut at its limit** | 60 s | 60 s |  |",
            "| tune | skipped | – | – | too little time was left: 3 s |",
            "Training on 2026-01-02 04:00:00 (UTC), `--device gpu`, within 10.0 min:",
        ],
    );
    assert!(!page.contains("Not come to an end"), "{page}");
    assert!(folder.join("training.json").is_file());
    let summary = hardware(&["summary", text(&folder)]);
    holds(&String::from_utf8_lossy(&summary.stdout), &["2.60 times"]);
}

#[test]
fn a_page_is_made_of_what_there_is() {
    let (_temporary, _, page) = page("cut");
    holds(
        &page,
        &[
            "* Selftest: all 230 cases right (quick).",
            "* Before tuning: 12,500 images/s in f32, 40.0 % of the roofline.",
            "The bench did not run.",
            "| resnet32, 3 branches | f32 | 128 | 12,500 | – | – |",
            "PyTorch was not measured.",
            "No profile was made.",
            "No network was trained",
            "**Not come to an end: `tune`, `bench`, `profile-resnet32-3`,",
            "`tune` was under way when this page was made.",
        ],
    );
}

#[test]
fn damaged_files_are_left_out_with_a_sentence() {
    let (_temporary, _, page) = page("damaged");
    for file in ["selftest-quick", "bench", "bench-untuned", "pytorch", "training"] {
        holds(&page, &[&format!("Left out: {file}.json is damaged: ")]);
    }
    holds(&page, &["## What ran"]);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[test]
fn an_empty_folder_has_a_page_and_none_has_not() {
    let folder = TempDir::new().expect("a folder");
    assert!(hardware(&["page", text(folder.path())]).status.success());
    let page = fs::read_to_string(folder.path().join("page.md")).expect("a page");
    holds(&page, &["# An unknown adapter", "`run.sh` left no record of its steps."]);
    let output = hardware(&["page", text(&folder.path().join("none"))]);
    assert_eq!(output.status.code(), Some(1));
    holds(&String::from_utf8_lossy(&output.stderr), &["error: there is no folder"]);
}

#[test]
fn results_are_kept_and_listed() {
    let docs = TempDir::new().expect("a folder");
    fs::copy(here().join("../../docs/hardware/README.md"), docs.path().join("README.md")).expect("an index");
    let (_full, full, _) = page("full");
    let (_cut, cut, _) = page("cut");
    let arguments = ["keep", text(&cut), text(&full), "--docs", text(docs.path())];
    let output = hardware(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = docs.path().join("fixture-gpu-fixture-1.2.3");
    let steps = fs::read_to_string(kept.join("steps.tsv")).expect("steps");
    assert_eq!(steps.lines().count(), 3 + 16);
    assert!(kept.join("page.md").is_file() && kept.join("training.json").is_file() && !kept.join("runs").exists());
    let index = fs::read_to_string(docs.path().join("README.md")).expect("an index");
    holds(
        &index,
        &["[Fixture GPU](fixture-gpu-fixture-1.2.3/page.md) | Fixture 1.2.3 | 2026-01-02 | 0123456789 | \
             1 of 2 kernels wrong (whole) | 26,000 | 36,000 | 2.60 | 1.30 | 40.0 % | 29.25 % after 3 epochs |"],
    );
    // A folder that is kept already can be among the folders, so that results are added to it.
    let added = hardware(&["keep", text(&kept), text(&cut), "--docs", text(docs.path())]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    assert_eq!(fs::read_to_string(kept.join("steps.tsv")).expect("steps").lines().count(), 3 + 16 + 3);
    assert!(hardware(&arguments).status.success());
    // A second time, nothing changes.
    assert!(hardware(&["index", text(docs.path())]).status.success());
    assert_eq!(fs::read_to_string(docs.path().join("README.md")).expect("an index"), index);
    let output = hardware(&["keep", text(&full), "--docs", text(docs.path()), "--name", "../elsewhere"]);
    assert_eq!(output.status.code(), Some(1));
    holds(&String::from_utf8_lossy(&output.stderr), &["a folder's name has letters"]);
}

#[test]
fn the_pages_of_the_project_are_what_is_made_of_their_files() {
    let docs = here().join("../../docs/hardware");
    let copied = TempDir::new().expect("a folder");
    copy(&docs, copied.path());
    let output = hardware(&["index", text(copied.path())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compare = |file: &Path| {
        let [ours, made] = [&docs, copied.path()]
            .map(|root| fs::read_to_string(root.join(file)).expect("a page").replace("\r\n", "\n"));
        assert!(ours == made, "docs/hardware/{} is another one: cargo run -p hardware -- index", file.display());
    };
    compare(Path::new("README.md"));
    for entry in fs::read_dir(&docs).expect("a folder").flatten().filter(|entry| entry.path().is_dir()) {
        compare(&Path::new(&entry.file_name()).join("page.md"));
    }
}
