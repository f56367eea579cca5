//! Every kernel on every adapter of the machine against its CPU reference, over the table of cases.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tensor::device::{GpuOptions, open_with};
use tensor::tuning::Variant;
use tensor::{Device, Launch, Target};

/// A part of case names: only those that contain it are run.
const FILTER: &str = "ONFLY_CASE";

fn selected() -> Vec<cases::Case> {
    let filter = std::env::var(FILTER).unwrap_or_default();
    let selected: Vec<_> = cases::all().into_iter().filter(|case| case.name.contains(&filter)).collect();
    assert!(!selected.is_empty(), "no case contains {FILTER}={filter}");
    selected
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn references_write_every_output_and_nothing_else() {
    let device = Device::cpu();
    for case in selected() {
        let (name, specs) = (case.name.clone(), case.kernel.outputs());
        let tolerance = case.tolerance;
        let outputs = case.prepare(&device).expect("the CPU takes every kernel").outputs();
        let outputs = outputs.unwrap_or_else(|error| panic!("{name}: {error}"));
        for (words, spec) in outputs.iter().zip(&specs) {
            cases::compare(words, words, spec, tolerance).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn gpus_agree_with_references() {
    agree(common::gpus(None), &selected());
}

/// Where kernels have several variants, for kinds of adapters or to choose from, each of them runs on every adapter.
#[test]
fn gpus_agree_with_references_in_all_variants() {
    let variants: Vec<_> = selected().iter().flat_map(variants).collect();
    for device in common::gpus(None) {
        let runs = |case: &&cases::Case| {
            case.kernel.launch(&Target::HARDWARE).enable.is_none_or(|_| device.target().is_some_and(|t| t.shader_f16))
        };
        let variants: Vec<_> = variants.iter().filter(runs).cloned().collect();
        agree(vec![device], &variants);
    }
}

/// The variants of a case's kernel, if there is more than one, as cases of their own.
fn variants(case: &cases::Case) -> Vec<cases::Case> {
    let targets = [Target::HARDWARE, Target::SOFTWARE];
    let mut launches: Vec<Launch> = targets.iter().flat_map(|target| case.kernel.candidates(target)).collect();
    let mut seen = HashSet::new();
    launches.retain(|launch| seen.insert(launch.source()));
    if launches.len() == 1 {
        return Vec::new();
    }
    let variant = |(index, launch)| {
        let kernel = Arc::new(Variant::new(Arc::clone(&case.kernel), launch));
        cases::Case { name: format!("{}, variant {index}", case.name), kernel, ..case.clone() }
    };
    launches.into_iter().enumerate().map(variant).collect()
}

/// Sums that end in a subgroup are those that end in workgroup memory, to the bit: not even the size of the subgroup, which is
/// the adapter's, is to be seen in them.
#[test]
fn sums_in_subgroups_are_the_same_bits() {
    for device in common::gpus(None) {
        let Some(target) = device.target().filter(|target| target.subgroup >= 4) else {
            eprintln!("{}: no subgroups, nothing to compare", device.name());
            continue;
        };
        let plain = GpuOptions { checked: true, target: Some(Target { subgroup: 0, ..target }) };
        let plain = open_with(device.name(), plain).unwrap_or_else(|error| panic!("{error}"));
        let differs = |case: &&cases::Case| {
            let launch = case.kernel.launch(&target);
            launch.in_subgroups(&target).passes().any(|pass| pass.subgroups)
        };
        let cases: Vec<cases::Case> = selected().iter().filter(differs).cloned().collect();
        let filtered = std::env::var(FILTER).is_ok();
        assert!(filtered || cases.len() > 3, "{}: {} cases have such sums", device.name(), cases.len());
        eprintln!("{}: {} cases in subgroups of {} or more", device.name(), cases.len(), target.subgroup);
        for case in cases {
            let run = |device: &Device| case.clone().prepare(device).map(|mut case| case.outputs());
            let [first, second] = [&device, &plain].map(|device| {
                run(device).unwrap_or_else(|error| panic!("{error}")).unwrap_or_else(|error| panic!("{error}"))
            });
            assert!(first == second, "{}: {}", device.name(), case.name);
        }
    }
}

/// Runs the cases, some at a time: compiling their shaders is what takes time.
fn agree(devices: Vec<Device>, cases: &[cases::Case]) {
    for device in devices {
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let failures: Vec<String> = std::thread::scope(|scope| {
            let run = || {
                let taken = std::iter::from_fn(|| cases.get(next.fetch_add(1, Ordering::Relaxed)));
                taken.filter_map(|case| check(case, &device).err()).collect::<Vec<_>>()
            };
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no case panics")).collect()
        });
        assert!(failures.is_empty(), "{}: {} cases fail\n{}", device.name(), failures.len(), failures.join("\n"));
    }
}

/// Runs a case on a device, and compares what it wrote with the reference.
fn check(case: &cases::Case, device: &Device) -> Result<(), String> {
    let fail = |problem: String| format!("{}: {problem}", case.name);
    let mut prepared = case.clone().prepare(device).map_err(|error| fail(error.to_string()))?;
    let (got, want) = (prepared.outputs().map_err(fail)?, case.reference());
    for (i, spec) in case.kernel.outputs().iter().enumerate() {
        cases::compare(&got[i], &want[i], spec, case.tolerance).map_err(|e| fail(format!("output {i}: {e}")))?;
    }
    Ok(())
}
