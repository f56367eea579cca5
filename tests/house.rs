//! Rules of the house that a compiler does not check: licences, sources and duplicates of dependencies, and every
//! `unsafe` explained. It is what `cargo deny` would look at without network, but for known vulnerabilities.

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

/// Tells whether one alternative of every part of an SPDX expression is among [`LICENCES`].
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

/// Dependencies outside this workspace come from one registry, and are held to checksums.
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

/// The files below a folder whose name ends in one of `endings`; measured results and what is built are left out.
fn files(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && !["target", "runs", "hardware"].contains(&name.as_str()) {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// Prose in Markdown without tables, code and addresses.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence && !line.trim_start().starts_with('|') && !line.contains("](http")
    })
}

#[test]
fn no_line_is_longer_than_120_columns() {
    let mut all = Vec::new();
    for folder in ["benches", "crates", "docs", "examples", "shaders", "src", "tests", "tools"] {
        files(&root().join(folder), &[".rs", ".wgsl", ".md"], &mut all);
    }
    all.extend([root().join("README.md"), root().join("datasets/README.md")]);
    assert!(all.len() > 300, "{} files", all.len());
    let mut long = Vec::new();
    for file in all {
        let text = fs::read_to_string(&file).expect("readable");
        let is_page = file.extension().is_some_and(|extension| extension == "md");
        let lines: Vec<(usize, &str)> =
            if is_page { prose(&text).collect() } else { text.lines().enumerate().collect() };
        let long_lines = lines.into_iter().filter(|(_, line)| line.chars().count() > 120);
        long.extend(long_lines.map(|(index, _)| format!("{}:{}", file.display(), index + 1)));
    }
    assert!(long.is_empty(), "{} lines are longer:\n{}", long.len(), long.join("\n"));
}

/// Words of a question: a comment says what a thing is, and begins with a noun or a verb.
const QUESTIONS: [&str; 7] = ["What", "Whether", "How", "Has", "Have", "Is", "Are"];

/// Phrases that have a plainer word: instead of, in alternation, expensive, a count by its name, your own.
const PHRASES: [&str; 6] = ["in place of", "by turns", "is dear", "as ever", "so many", "of one's own"];

/// Tells whether a text has these words, and not only as the beginning of longer ones.
fn has_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| !text[at + words.len()..].starts_with(char::is_alphabetic))
}

/// The text of a line that is a comment and nothing else.
fn comment(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//").map(|text| text.trim_start_matches(['/', '!']).trim())
}

/// The first lines of a file's comments, and of their paragraphs, with their indices.
fn beginnings(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut inside = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let text = comment(line).filter(|text| !text.is_empty());
        let begins = !inside;
        inside = text.is_some();
        text.filter(|_| begins).map(|text| (index, text))
    })
}

#[test]
fn comments_begin_with_a_noun_or_a_verb() {
    let mut sources = Vec::new();
    for folder in ["benches", "crates", "examples", "shaders", "src", "tests", "tools"] {
        files(&root().join(folder), &[".rs", ".wgsl"], &mut sources);
    }
    assert!(sources.len() > 250, "{} files", sources.len());
    let mut found = Vec::new();
    for file in sources {
        let text = fs::read_to_string(&file).expect("readable");
        for (index, line) in beginnings(&text) {
            if QUESTIONS.contains(&line.split(' ').next().unwrap_or_default()) {
                found.push(format!("{}:{}: {line}", file.display(), index + 1));
            }
        }
    }
    assert!(found.is_empty(), "{} comments begin with a question:\n{}", found.len(), found.join("\n"));
}

#[test]
fn prose_is_plain() {
    let mut all = Vec::new();
    for folder in ["benches", "crates", "docs", "examples", "shaders", "src", "tests", "tools", "recipes"] {
        files(&root().join(folder), &[".rs", ".wgsl", ".md", ".toml", ".sh", ".py"], &mut all);
    }
    all.extend([root().join("README.md"), root().join("datasets/README.md")]);
    let mut found = Vec::new();
    // This file has the phrases in a list.
    for file in all.into_iter().filter(|file| !file.ends_with("tests/house.rs")) {
        let text = fs::read_to_string(&file).expect("readable");
        let is_page = file.extension().is_some_and(|extension| extension == "md");
        for (index, line) in text.lines().enumerate() {
            let words = if is_page { Some(line) } else { comment(line).or(line.trim_start().strip_prefix('#')) };
            if let Some(phrase) = words.and_then(|words| PHRASES.into_iter().find(|phrase| has_words(words, phrase))) {
                found.push(format!("{}:{}: {phrase}", file.display(), index + 1));
            }
        }
    }
    assert!(found.is_empty(), "{} lines have a plainer word:\n{}", found.len(), found.join("\n"));
}

/// WGSL zeroes a variable that is declared without a value each time; some compilers do so once, before the loop.
#[test]
fn no_variable_in_a_loop_is_without_a_value() {
    let mut shaders = Vec::new();
    files(&root().join("shaders"), &[".wgsl"], &mut shaders);
    assert!(shaders.len() > 40, "{} shaders", shaders.len());
    let mut found = Vec::new();
    for file in shaders {
        let text = fs::read_to_string(&file).expect("readable");
        // The depth of braces at which each loop around a line began.
        let (mut depth, mut loops) = (0usize, Vec::new());
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or(line);
            let starts = |word: &str| code.trim_start().starts_with(word);
            if starts("for ") || starts("for(") || starts("loop") || starts("while") {
                loops.push(depth);
            }
            if !loops.is_empty() && starts("var ") && !code.contains('=') {
                found.push(format!("{}:{}", file.display(), index + 1));
            }
            depth = (depth + code.matches('{').count()).saturating_sub(code.matches('}').count());
            loops.retain(|&began| began < depth);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Clippy sees to it that each has a comment; this, that the table in the documentation has a row for each.
#[test]
fn every_unsafe_block_stands_in_the_table() {
    let mut sources = Vec::new();
    for folder in ["benches", "crates", "src", "tests", "tools"] {
        files(&root().join(folder), &[".rs"], &mut sources);
    }
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    let word = concat!("un", "safe");
    for file in sources {
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
    let section = page.split("\n## ").find(|section| section.starts_with("Unsafe code")).expect("the section is there");
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let name = row.split('`').nth(1).expect("a name");
        *told.entry(name.to_owned()).or_default() += 1;
    }
    assert_eq!(found, told, "left: the sources; right: the table in docs/architecture.md");
}
