//! Every kernel on every adapter of the machine against its CPU reference, over the table of cases.

mod common;

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
    agree(common::gpus(), |_| true);
}

/// Where adapters of a kind have a variant of their own, each variant runs on every adapter.
#[test]
fn gpus_agree_with_references_in_all_variants() {
    let source = |case: &cases::Case, target: &Target| {
        case.kernel.launch(target).passes().map(Launch::source).collect::<Vec<_>>()
    };
    let differs = |case: &cases::Case| source(case, &Target::HARDWARE) != source(case, &Target::SOFTWARE);
    for target in [Target::HARDWARE, Target::SOFTWARE] {
        agree(common::gpus_as(Some(target)), differs);
    }
}

fn agree(devices: Vec<Device>, applies: impl Fn(&cases::Case) -> bool) {
    for device in devices {
        let mut failures = Vec::new();
        for case in selected().into_iter().filter(&applies) {
            let (name, specs, tolerance) = (case.name.clone(), case.kernel.outputs(), case.tolerance);
            let want = reference(&case);
            let got = match case.prepare(&device) {
                Ok(mut prepared) => prepared.outputs(),
                Err(error) => Err(error.to_string()),
            };
            let verdict = got.and_then(|got| {
                for (i, spec) in specs.iter().enumerate() {
                    cases::compare(&got[i], &want[i], spec, tolerance).map_err(|e| format!("output {i}: {e}"))?;
                }
                Ok(())
            });
            if let Err(problem) = verdict {
                failures.push(format!("{name}: {problem}"));
            }
        }
        assert!(failures.is_empty(), "{}: {} cases fail\n{}", device.name(), failures.len(), failures.join("\n"));
    }
}

/// The outputs of the reference, computed without any device.
fn reference(case: &cases::Case) -> Vec<Vec<u32>> {
    use tensor::{Slice, SliceMut};
    let (inputs, mut outputs) = case.operands();
    let inputs: Vec<Slice<'_>> = inputs.iter().map(|words| Slice::U32(words)).collect();
    let mut slices: Vec<SliceMut<'_>> = outputs.iter_mut().map(|words| SliceMut::U32(words)).collect();
    case.kernel.reference(&inputs, &mut slices);
    outputs
}
