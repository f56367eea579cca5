//! The kernel guide (`docs/adding-a-kernel.md`) is true: its quotations are those of the files, its shader computes on
//! every device what its reference specifies, and all shaders keep to its rules.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use cases::Case;
use cases::verify::{Opened, Reach, candidates, verify};
use tensor::kernels::sum_members::SumMembers;
use tensor::{Activations, Binding, Cost, Device, Kernel, Launch, Slice, SliceMut, Spec, Target};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn guide() -> String {
    read("docs/adding-a-kernel.md")
}

/// A fenced block of the guide, and the file that the text before it names last.
struct Quotation {
    language: String,
    file: String,
    text: String,
}

/// The blocks of Rust and WGSL in the guide.
fn quotations() -> Vec<Quotation> {
    let (mut found, mut file, mut open): (Vec<Quotation>, String, Option<Quotation>) = Default::default();
    for line in guide().lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Quotation { language: language.to_owned(), file: file.clone(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => file = paths(line).pop().unwrap_or(file),
        }
    }
    found.retain(|block| ["rust", "wgsl"].contains(&block.language.as_str()));
    found
}

/// The paths in backticks of a line, but for those with a name to be filled in.
fn paths(line: &str) -> Vec<String> {
    let quoted = line.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| {
        let folder = text.split('/').next().unwrap_or_default();
        let folders = ["benches", "crates", "docs", "examples", "shaders", "tests", "tools"];
        text.contains('/') && folders.contains(&folder) && !text.contains("NAME") && !text.contains(' ')
    };
    quoted.filter(is_path).map(str::to_owned).collect()
}

#[test]
fn every_quotation_is_in_its_file() {
    let quotations = quotations();
    for Quotation { file, text, .. } in &quotations {
        assert!(read(file).contains(text.as_str()), "{file} has no\n{text}");
    }
    let of = |file: &str| quotations.iter().filter(|block| block.file.ends_with(file)).count();
    // Three files, and three lines in two more.
    assert_eq!(["sum_members.wgsl", "sum_members.rs", "reduction.rs"].map(of), [1; 3]);
    assert_eq!(["kernels/mod.rs", "table/mod.rs"].map(of), [1, 2]);
    let shader = quotations.iter().find(|block| block.language == "wgsl").expect("counted above");
    assert_eq!(shader.text, read(&shader.file), "the shader is quoted in full");
}

#[test]
fn every_path_exists() {
    let paths: Vec<String> = guide().lines().flat_map(paths).collect();
    assert!(paths.len() > 10, "{paths:?}");
    for path in paths {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists(), "{path}");
    }
}

/// The guide's kernel, with the shader as it stands in the guide.
#[derive(Debug)]
struct FromTheGuide {
    kernel: SumMembers,
    wgsl: &'static str,
}

impl Kernel for FromTheGuide {
    fn name(&self) -> &'static str {
        self.kernel.name()
    }

    fn inputs(&self) -> Vec<Spec> {
        self.kernel.inputs()
    }

    fn outputs(&self) -> Vec<Spec> {
        self.kernel.outputs()
    }

    fn activations(&self) -> Activations {
        self.kernel.activations()
    }

    fn cost(&self) -> Cost {
        self.kernel.cost()
    }

    fn reference(&self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) {
        self.kernel.reference(inputs, outputs);
    }

    fn launch(&self, target: &Target) -> Launch {
        let mut launch = self.kernel.launch(target);
        launch.wgsl = self.wgsl;
        launch
    }
}

/// On the CPU device and on every adapter, in shapes that fill vectors, and in awkward ones.
#[test]
fn the_shader_of_the_guide_computes_what_its_reference_specifies() {
    let shader = quotations().into_iter().find(|block| block.language == "wgsl").expect("there is one");
    let wgsl: &'static str = Box::leak(shader.text.into_boxed_str());
    let opened = |checked: bool, device: Device| Opened { checked, device, reach: Reach::All };
    let devices: Vec<Opened> = [opened(false, Device::cpu())]
        .into_iter()
        .chain(common::gpus(None).into_iter().map(|device| opened(true, device)))
        .collect();
    for (members, words) in [(3, 1028), (2, 17), (1, 1), (5, 11)] {
        let kernel = FromTheGuide { kernel: SumMembers { members, words }, wgsl };
        let outcome = verify(&Case::new(format!("guide/{members}x{words}"), kernel, members), &devices);
        let failures: Vec<String> = outcome.failures.iter().map(ToString::to_string).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(outcome.runs >= devices.len(), "{} runs", outcome.runs);
    }
}

/// The text of every shader below a folder, by its path.
fn shaders(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            shaders(&path, found);
        } else {
            let text = fs::read_to_string(&path).expect("readable");
            found.push((path, text));
        }
    }
}

#[test]
fn every_shader_keeps_to_the_rules() {
    let mut all = Vec::new();
    shaders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders"), &mut all);
    let mut kernels = 0;
    for (path, text) in &all {
        let name = path.display();
        assert!(!text.contains("GRID_ROW"), "{name}: the grid is unfolded by `workgroup_index`");
        let builtins = ["@builtin(workgroup_id) wid: vec3<u32>", "@builtin(local_invocation_index) lid: u32"];
        for (index, _) in text.match_indices("@builtin") {
            assert!(builtins.iter().any(|builtin| text[index..].starts_with(builtin)), "{name}: `wid` and `lid`");
        }
        if !text.contains("@compute") {
            assert!(text.starts_with("// Helper: "), "{name}: a helper says so");
            continue;
        }
        kernels += 1;
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let places = ["// Shapes:", "// Tiles:", "// Workgroup:", "// Grid"].map(|part| {
            head.iter().position(|line| line.starts_with(part)).unwrap_or_else(|| panic!("{name}: no `{part}`"))
        });
        assert!(places[0] > 0 && places.is_sorted(), "{name}: formula, shapes, tiles, workgroup, grid");
    }
    assert!(kernels > 30, "{kernels} kernels of {} shaders", all.len());
}

/// Bindings are the inputs, then the outputs.
#[test]
fn inputs_are_bound_before_outputs() {
    let writes = |binding: &Binding| matches!(binding, Binding::Output(_));
    for case in cases::all() {
        for candidate in candidates(&case.kernel, Some(Target::HARDWARE), Reach::All) {
            for pass in candidate.kernel.launch(&Target::HARDWARE).passes() {
                assert!(pass.bindings.is_sorted_by_key(writes), "{}: {:?}", case.name, pass.bindings);
            }
        }
    }
}
