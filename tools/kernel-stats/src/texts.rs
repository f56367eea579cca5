//! The shaders as text, one file each, for compilers that read WGSL.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tensor::{Form, Target};

/// Adapters whose variants are written: hardware with 16-bit floats, without, with small and with large subgroups, and
/// software.
const TARGETS: [Target; 5] = [
    Target::HARDWARE,
    Target { shader_f16: false, ..Target::HARDWARE },
    Target { subgroup: 8, ..Target::HARDWARE },
    Target { subgroup: 32, ..Target::HARDWARE },
    Target::SOFTWARE,
];

/// Writes every pass of every candidate of these kernels, each text once: `0001.wgsl` and so on, and `index.tsv` with a
/// line of file, entry point and kernel for each. Returns their number.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(folder: &Path, kernels: &[(String, Form)]) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (mut seen, mut index) = (BTreeSet::new(), String::new());
    for (name, kernel) in kernels {
        let launches = TARGETS.into_iter().flat_map(|target| {
            let candidates = kernel.candidates(&target).into_iter();
            candidates.map(move |launch| launch.in_subgroups(&target))
        });
        for launch in launches {
            for pass in launch.passes() {
                // naga knows no such directive yet; the language asks for it.
                let enable = if pass.subgroups { "enable subgroups;\n" } else { "" };
                let text = enable.to_owned() + &pass.source();
                if seen.insert((text.clone(), pass.entry)) {
                    let file = format!("{:04}.wgsl", seen.len());
                    let path = folder.join(&file);
                    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
                    let _ = writeln!(index, "{file}\t{}\t{name}", pass.entry);
                }
            }
        }
    }
    let path = folder.join("index.tsv");
    fs::write(&path, index).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(seen.len())
}
