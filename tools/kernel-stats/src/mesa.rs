//! AMD's compiler without a GPU: Mesa's RADV has a null device, chosen by environment variables that it reads when it
//! is loaded. Each GPU therefore has a separate process, this program again, which reads jobs and writes the
//! compiler's results.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, thread};

use anyhow::{Context, Result, anyhow, bail};

use crate::specialisations::Job;
use crate::vulkan::{Compiled, Compiler};

/// The hidden argument by which this program starts itself.
pub const COMPILE: &str = "compile-from-stdin";

/// Marker that the other process writes to its standard error after the listing of each shader, and once before the
/// first: old drivers compile internal shaders as they start.
const END: &str = "kernel-stats: end of a shader";

/// Location of RADV.
#[derive(Debug, Clone)]
pub struct Mesa {
    /// The file by which Vulkan's loader finds the driver.
    manifest: PathBuf,
    /// The folder of its libraries, unless the system has them.
    libraries: Option<PathBuf>,
}

/// The manifest of RADV in a folder of manifests.
fn manifest(folder: &Path) -> Option<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("radeon_icd")));
    // The names of 64-bit architectures sort after i686.
    found.into_iter().max()
}

impl Mesa {
    /// The Mesa that `mesa.sh` unpacked into `folder`.
    pub fn unpacked(folder: &Path) -> Option<Self> {
        let manifest = manifest(&folder.join("usr/share/vulkan/icd.d"))?;
        let libraries = fs::read_dir(folder.join("usr/lib")).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let libraries = libraries.into_iter().find(|path| path.join("libvulkan_radeon.so").exists())?;
        Some(Self { manifest, libraries: Some(libraries) })
    }

    /// The Mesa installed on this system.
    pub fn installed() -> Option<Self> {
        let manifest = manifest(Path::new("/usr/share/vulkan/icd.d"))?;
        Some(Self { manifest, libraries: None })
    }

    /// Compiles `jobs` for a GPU by Mesa's name for it; returns the driver and one result for each job.
    pub fn compile(&self, gpu: &str, jobs: &[Job]) -> Result<(String, Vec<Compiled>)> {
        let mut input = tempfile::tempfile()?;
        for job in jobs {
            writeln!(input, "{}", serde_json::to_string(job)?)?;
        }
        input.rewind()?;
        let errors = tempfile::tempfile()?;
        let mut command = Command::new(env::current_exe()?);
        command
            .arg(COMPILE)
            .env("RADV_FORCE_FAMILY", gpu)
            .env("VK_DRIVER_FILES", &self.manifest)
            .env("VK_ICD_FILENAMES", &self.manifest)
            .env("VK_LOADER_LAYERS_DISABLE", "~all~")
            .env("NODEVICE_SELECT", "1")
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .env("ACO_DEBUG", "perfinfo")
            .stdin(Stdio::from(input))
            .stdout(Stdio::piped())
            .stderr(Stdio::from(errors.try_clone()?));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("the compiler's output was not captured")?;
        let mut lines = BufReader::new(output).lines();
        let driver = lines.next().transpose()?;
        let compiled: Result<Vec<Compiled>> = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect();
        let status = child.wait()?;
        let errors = said(errors)?;
        let Some(driver) = driver else {
            bail!(
                "the compiler of {} knows no GPU called {gpu}, or cannot be opened: {}; if it is too old, run \
                 tools/kernel-stats/mesa.sh, which unpacks a newer one",
                self.manifest.display(),
                last_line(&errors)
            );
        };
        let mut compiled = compiled?;
        for (compiled, listing) in compiled.iter_mut().zip(errors.split(END).skip(1)) {
            listing.clone_into(&mut compiled.listing);
        }
        match jobs.get(compiled.len()) {
            None if status.success() => Ok((driver, compiled)),
            None => Err(anyhow!("the compiler for {gpu} ended with {status}: {}", last_line(&errors))),
            Some(job) => {
                Err(anyhow!("{}: the compiler for {gpu} ended with {status}: {}", job.name, last_line(&errors)))
            }
        }
    }

    /// Works as [`Mesa::compile`], for several GPUs at once.
    pub fn compile_for_all(&self, gpus: &[String], jobs: &[Job]) -> Vec<Result<(String, Vec<Compiled>)>> {
        thread::scope(|scope| {
            let running: Vec<_> = gpus.iter().map(|gpu| scope.spawn(move || self.compile(gpu, jobs))).collect();
            running
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread failed"))))
                .collect()
        })
    }
}

/// Standard error of a process.
fn said(mut errors: File) -> Result<String> {
    errors.rewind()?;
    let mut bytes = Vec::new();
    errors.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_line(errors: &str) -> &str {
    errors.lines().last().unwrap_or("it said nothing")
}

/// Body of the other process: prints the driver's name, then the result of each job, line by line.
pub fn compile_from_stdin() -> Result<()> {
    let compiler = Compiler::open()?;
    let mut output = io::stdout().lock();
    writeln!(output, "{}", compiler.driver)?;
    eprintln!("{END}");
    for line in io::stdin().lines() {
        let job: Job = serde_json::from_str(&line?)?;
        let compiled = compiler.compile(&job.spirv, &job.entry, job.bindings)?;
        eprintln!("{END}");
        writeln!(output, "{}", serde_json::to_string(&compiled)?)?;
    }
    Ok(())
}
