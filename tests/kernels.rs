//! Every kernel on every adapter of the machine against its CPU reference, over the table of cases.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use cases::verify::{Opened, Reach, candidates, verify_all};
use tensor::device::{GpuOptions, open_with};
use tensor::{DType, Device, Target};

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

/// A quick check leaves no kernel out: none of a shader's entry points, and of each kernel it takes two shapes, where
/// it has as many.
#[test]
fn a_quick_check_takes_two_cases_of_every_kernel_and_every_entry_point() {
    let (all, mut kernels, mut entries) = (cases::all(), BTreeMap::new(), BTreeMap::new());
    for case in &all {
        let (cases, quick): &mut (usize, usize) = kernels.entry(case.kernel.name()).or_default();
        *cases += 1;
        *quick += usize::from(case.quick);
        for candidate in candidates(&case.kernel, Some(Target::HARDWARE), Reach::All) {
            for pass in candidate.kernel.launch(&Target::HARDWARE).passes() {
                let helpers: Vec<&str> = pass.helpers.iter().filter_map(|text| text.lines().next()).collect();
                let shader = (pass.wgsl.lines().next(), pass.entry, pass.enable, helpers.join(" "));
                let taken: &mut bool = entries.entry(shader).or_default();
                *taken |= case.quick;
            }
        }
    }
    for (kernel, (cases, quick)) in &kernels {
        assert!(*quick >= (*cases).min(2), "{kernel}: {quick} of {cases} cases are in a quick check");
    }
    let left_out: BTreeSet<_> = entries.iter().filter(|(_, taken)| !**taken).map(|(shader, _)| shader).collect();
    assert!(left_out.is_empty(), "a quick check leaves out {left_out:#?}");
    let quick = all.iter().filter(|case| case.quick).count();
    eprintln!("{quick} of {} cases of {} kernels, {} entry points", all.len(), kernels.len(), entries.len());
    assert!(kernels.len() > 25 && quick < all.len() / 2);
}

/// The CPU device computes what the references specify, in 16 bits, too; nothing else is written.
#[test]
fn the_cpu_agrees_with_references() {
    let cases = selected();
    let open = || Ok(vec![Opened { checked: false, device: Device::cpu(), reach: Reach::All }]);
    let outcomes = verify_all(&cases, &open, &|_| ControlFlow::Continue(())).expect("the CPU device is always there");
    assert_eq!(outcomes.len(), cases.len());
    assert!(outcomes.iter().all(|outcome| outcome.runs == 1));
    let failures: Vec<String> =
        outcomes.iter().flat_map(|outcome| &outcome.failures).map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} runs fail\n{}", failures.len(), failures.join("\n"));
}

/// Set to anything, runs every case in every variant, as `train selftest` does; slow on software adapters.
const ALL: &str = "ONFLY_ALL_VARIANTS";

/// Tells whether activations of a case have 16 bits. Its shaders differ from those in 32 bits in nothing but how
/// activations are stored.
fn in_halves(case: &cases::Case) -> bool {
    [case.kernel.inputs(), case.kernel.outputs()].concat().iter().any(|spec| spec.dtype == DType::F16)
}

/// Every case in 32 bits runs on every adapter as adapters of every kind would run it untuned, and those of a quick
/// check in all variants that there are to choose from; of those in 16 bits, a quick check's.
#[test]
fn gpus_agree_with_references_in_all_variants() {
    let every = std::env::var_os(ALL).is_some();
    let cases = selected().into_iter().filter(|case| every || case.quick || !in_halves(case));
    let (all, some): (Vec<_>, Vec<_>) = cases.partition(|case| every || case.quick && !in_halves(case));
    for device in common::gpus(None) {
        for (reach, cases) in [(Reach::All, &all), (Reach::Kinds, &some)] {
            let name = device.name().to_owned();
            let open = || Ok(vec![Opened { checked: true, device: device.clone(), reach }]);
            let outcomes = verify_all(cases, &open, &|_| ControlFlow::Continue(())).expect("the device is open");
            assert_eq!(outcomes.len(), cases.len(), "{name}");
            let runs: usize = outcomes.iter().map(|outcome| outcome.runs).sum();
            eprintln!("{name}: {} cases, {runs} runs", cases.len());
            let failures = outcomes.iter().flat_map(|outcome| &outcome.failures);
            let failures: Vec<String> = failures.map(ToString::to_string).collect();
            assert!(failures.is_empty(), "{name}: {} runs fail\n{}", failures.len(), failures.join("\n"));
        }
    }
}

/// Sums that end in a subgroup are those that end in workgroup memory, to the bit: not even the size of the subgroup,
/// which is the adapter's, is to be seen in them.
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
