//! Rules of the house that a compiler does not check: licences, sources and duplicates of dependencies, and every `unsafe`
//! explained. It is what `cargo deny` would look at without network, but for known vulnerabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Licences that this project may be distributed under together with its own.
const LICENCES: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Dependencies that there are two versions of, none of which is ours to choose.
const DUPLICATES: [&str; 12] = [
    "cpufeatures",
    "getrandom",
    "hashbrown",
    "itertools",
    "miniz_oxide",
    "rustc-hash",
    "shlex",
    "syn",
    "thiserror",
    "thiserror-impl",
    "windows-sys",
    "winnow",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether one alternative of every part of an SPDX expression is among [`LICENCES`].
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        let alternatives = part.trim().trim_start_matches('(').trim_end_matches(')').split(" OR ");
        alternatives.map(|one| one.split(" WITH ").next().unwrap_or(one).trim()).any(|one| LICENCES.contains(&one))
    })
}

#[test]
fn licences_are_read_as_they_are_written() {
    for expression in ["MIT", "Unlicense/MIT", "(MIT OR GPL-3.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception"] {
        assert!(allowed(expression), "{expression}");
    }
    for expression in ["GPL-3.0", "MIT AND GPL-3.0", "", "GPL-2.0 OR LGPL-2.1"] {
        assert!(!allowed(expression), "{expression}");
    }
}

/// Of all that is built on this system.
#[test]
fn every_dependency_has_a_licence_that_fits() {
    let version = Command::new("rustc").arg("-vV").output().expect("rustc is there");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    for package in packages {
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(allowed(licence), "{} {}: {licence:?}", package["name"], package["version"]);
    }
}

#[test]
fn no_dependency_comes_in_two_versions_unseen() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("readable");
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for line in lock.lines().filter_map(|line| line.strip_prefix("name = ")) {
        *names.entry(line.trim_matches('"')).or_default() += 1;
    }
    let duplicates: BTreeSet<&str> = names.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect();
    let known: BTreeSet<&str> = DUPLICATES.into_iter().collect();
    let new: Vec<_> = duplicates.difference(&known).collect();
    let gone: Vec<_> = known.difference(&duplicates).collect();
    assert!(new.is_empty(), "now in two versions: {new:?}; use the version that is there, or list it here");
    assert!(gone.is_empty(), "no longer in two versions: {gone:?}; take it off the list");
}

/// What is not of this workspace comes from one registry, and is held to a checksum.
#[test]
fn every_dependency_has_a_source_and_a_checksum() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("readable");
    let field = |package: &str, name: &str| {
        let start = format!("{name} = ");
        let found = package.lines().find_map(|line| line.strip_prefix(&start));
        found.map(|value| value.trim_matches('"').to_owned())
    };
    let mut registries = BTreeSet::new();
    let (mut own, mut others) = (0, 0);
    for package in lock.split("[[package]]").skip(1) {
        let name = field(package, "name").expect("every package has a name");
        let Some(source) = field(package, "source") else {
            own += 1;
            continue;
        };
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        assert_eq!(field(package, "checksum").map(|sum| sum.len()), Some(64), "{name}");
        registries.insert(source);
        others += 1;
    }
    assert_eq!(registries.len(), 1, "{registries:?}");
    assert!(own >= 6 && others > 100, "{own} of this workspace, {others} others");
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Clippy sees to it that each has a comment; this, that the table in the documentation has a row for each.
#[test]
fn every_unsafe_block_stands_in_the_table() {
    let mut files = Vec::new();
    for folder in ["benches", "crates", "src", "tests", "tools"] {
        sources(&root().join(folder), &mut files);
    }
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let word = concat!("un", "safe");
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let code = text.lines().map(|line| line.split("//").next().unwrap_or(line));
        let count =
            code.filter(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)).count();
        if count > 0 {
            let name = file.strip_prefix(root()).expect("inside").to_string_lossy().replace('\\', "/");
            found.insert(name, count);
        }
    }
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("readable");
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `") && line.contains(".rs` |")) {
        let name = row.split('`').nth(1).expect("a name");
        *told.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(found, told, "left: the sources; right: the table in docs/architecture.md");
}
