//! Running the program as its users do.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub use crate::records::{comparable, last, metrics, text};

/// A network and data so small that an epoch takes a second.
pub const SMALL: &str = "--net resnet8 --branches 2 --data shapes --limit-train 96 --limit-test 50 --batch 16 \
    --eval-batch 32 --epochs 2 --lr 0.02 --device cpu";

/// The program with these arguments, split at spaces.
pub fn command(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    // Mesa's device selection otherwise complains on stderr where there is no desktop.
    command.args(arguments.split_whitespace()).env("NODEVICE_SELECT", "1");
    command
}

/// Runs the program, which must succeed, and returns its stdout.
pub fn succeed(arguments: &str) -> String {
    let output = command(arguments).output().expect("started");
    assert!(output.status.success(), "`{arguments}` failed: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Checks that the program failed with `status` and told why in one line, which is returned.
pub fn error_line(output: &Output, status: i32) -> String {
    let stderr = text(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    errors[0].to_owned()
}

/// Runs the program, which must fail with `status` and one line that holds all of `parts`.
pub fn fail(arguments: &str, status: i32, parts: &[&str]) {
    let output = command(arguments).output().expect("started");
    let line = error_line(&output, status);
    for part in parts {
        assert!(line.contains(part), "`{arguments}` should name \"{part}\": {line}");
    }
}

/// A path as an argument. Temporary folders have no spaces in their names.
pub fn argument(path: &Path) -> String {
    path.to_str().expect("temporary folders have plain names").to_owned()
}

/// A folder for the runs of one test.
pub fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let root = folder.path().to_owned();
    (folder, move |name: &str| root.join(name))
}
