//! Kernels that are broken on purpose are found and named; those beside them are not.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::Case;
use cases::verify::{Opened, Outcome, Reach, candidates, verify, verify_all};
use tensor::device::{GpuOptions, adapters, open_with};
use tensor::kernel::Prelude;
use tensor::kernels::elementwise::Fill;
use tensor::{DType, Device, Form, Kernel, Launch, Target};

/// Writes 2.5 into 1028 elements, 4 at a time.
const FILL: Fill = Fill { words: 1028, value: 2.5 };

/// Every adapter that is to be tested on, with naga's checks and without.
fn gpus() -> Vec<[Opened; 2]> {
    let given = std::env::var("ONFLY_TEST_DEVICES").ok();
    let names: Vec<String> = match &given {
        Some(list) => list.split(',').map(str::trim).filter(|name| *name != "cpu").map(str::to_owned).collect(),
        None => adapters().into_iter().map(|adapter| adapter.name).collect(),
    };
    assert!(given.is_some() || !names.is_empty(), "an adapter, as tools/setup.sh installs one");
    names.iter().map(|name| opened(name)).collect()
}

fn opened(name: &str) -> [Opened; 2] {
    [true, false].map(|checked| {
        let device = open_with(name, GpuOptions { checked, target: None }).unwrap_or_else(|error| panic!("{error}"));
        Opened { checked, device, reach: Reach::All }
    })
}

/// A case of the kernel with its launch altered.
fn broken(name: &str, alter: impl Fn(&mut Launch)) -> Case {
    let mut launch = FILL.launch(&Target::SOFTWARE);
    alter(&mut launch);
    Case { kernel: Form::from(FILL).launched_as(launch), ..Case::new(name, FILL, 1) }
}

/// Replaces a constant of the prelude.
fn constant(launch: &mut Launch, value: Prelude) {
    let named = |line: &&mut Prelude| {
        matches!((**line, value), (Prelude::U32(a, _), Prelude::U32(b, _)) | (Prelude::F32(a, _), Prelude::F32(b, _))
            if a == b)
    };
    *launch.prelude.iter_mut().find(named).expect("the shader has such a constant") = value;
}

fn healthy(index: usize) -> Case {
    Case::new(format!("healthy {index}"), FILL, 1)
}

#[test]
fn a_wrong_constant_is_named_with_case_candidate_element_and_both_values() {
    for devices in gpus() {
        let case = broken("fill/wrong", |launch| constant(launch, Prelude::F32("VALUE", 2.75)));
        let outcome = verify(&case, &devices);
        assert_eq!((outcome.candidates, outcome.runs, outcome.failures.len()), (1, 2, 2), "{outcome:?}");
        assert!(!outcome.lost && outcome.worst > 1e3);
        for (failure, checked) in outcome.failures.iter().zip([true, false]) {
            assert_eq!((failure.case.as_str(), failure.candidate.as_str()), ("fill/wrong", "hardware 0"));
            assert_eq!(failure.checked, checked);
            let mismatch = failure.mismatch.as_ref().expect("it has outputs");
            assert_eq!((mismatch.output, mismatch.index), (0, 0));
            assert_eq!((mismatch.expected, mismatch.got, mismatch.wrong), (2.5, 2.75, 1028));
            let text = failure.to_string();
            assert!(text.starts_with("fill/wrong (hardware 0, checks o"), "{text}");
            assert!(text.contains("element 0: expected 2.5, got 2.75"), "{text}");
        }
    }
}

#[test]
fn what_is_not_written_is_named_too() {
    for devices in gpus() {
        let outcome = verify(&broken("fill/short", |launch| constant(launch, Prelude::U32("ELEMENTS", 256))), &devices);
        let mismatch = outcome.failures[0].mismatch.as_ref().expect("it has outputs");
        assert_eq!((mismatch.index, mismatch.expected, mismatch.wrong), (1024, 2.5, 4));
        assert!(mismatch.got.is_nan() && outcome.worst.is_infinite());
    }
}

fn names_of_failures(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes.iter().filter(|outcome| !outcome.failures.is_empty()).map(|outcome| outcome.case.as_str()).collect()
}

#[test]
fn a_shader_that_is_refused_fails_alone() {
    for devices in gpus() {
        let refused = broken("fill/refused", |launch| launch.entry = "nowhere");
        let cases = [healthy(0), refused, healthy(1)];
        let open = || Ok(devices.to_vec());
        let outcomes = verify_all(&cases, &open, &|_| ControlFlow::Continue(())).expect("open");
        assert_eq!(outcomes.len(), 3);
        assert_eq!(names_of_failures(&outcomes), ["fill/refused"]);
        assert!(outcomes[1].failures.iter().all(|failure| failure.problem.contains("nowhere")), "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| outcome.runs == 2 && !outcome.lost));
    }
}

/// A grid that no device has makes it fail for good. All other cases run nevertheless, on a device opened anew.
#[test]
fn a_device_that_fails_for_good_is_opened_anew_and_only_the_culprit_has_failed() {
    for devices in gpus() {
        let name = devices[0].device.name().to_owned();
        let culprit = broken("fill/culprit", |launch| launch.workgroups = u32::MAX as usize);
        // More than there are cores: some are left when the device fails.
        let mut cases: Vec<Case> = (0..200).map(healthy).collect();
        cases.insert(5, culprit);
        let opens = AtomicUsize::new(0);
        let open = || {
            opens.fetch_add(1, Ordering::Relaxed);
            Ok(opened(&name).to_vec())
        };
        let outcomes = verify_all(&cases, &open, &|_| ControlFlow::Continue(())).expect("open");
        let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.case.as_str()).collect();
        assert_eq!(names, cases.iter().map(|case| case.name.as_str()).collect::<Vec<_>>());
        assert_eq!(names_of_failures(&outcomes), ["fill/culprit"], "{outcomes:?}");
        assert!(outcomes.iter().filter(|outcome| outcome.lost).count() == 1 && outcomes[5].lost);
        assert_eq!(opens.into_inner(), 3, "once, after the loss, and after the culprit ran alone");
    }
}

/// It is not opened for ever: what cannot be run is said not to have run.
#[test]
fn a_device_that_always_fails_is_given_up() {
    for devices in gpus() {
        let name = devices[0].device.name().to_owned();
        let culprit = |index| broken(&format!("culprit {index}"), |launch| launch.workgroups = u32::MAX as usize);
        let mut cases: Vec<Case> = (0..12).map(culprit).collect();
        cases.extend((0..200).map(healthy));
        let open = || Ok(opened(&name)[..1].to_vec());
        let outcomes = verify_all(&cases, &open, &|_| ControlFlow::Continue(())).expect("open");
        assert!(outcomes.len() == 212 && outcomes[..12].iter().all(|outcome| outcome.failures.len() == 1));
        let last = &outcomes[211].failures[0];
        assert!(last.problem.starts_with("not run: the device had to be opened anew 8 times"), "{last}");
    }
}

#[test]
fn a_check_ends_when_it_is_told_to() {
    let open = || Ok(vec![Opened { checked: false, device: Device::cpu(), reach: Reach::All }]);
    let cases: Vec<Case> = (0..1000).map(healthy).collect();
    let count = AtomicUsize::new(0);
    let watch = |outcome: &Outcome| {
        assert!(outcome.failures.is_empty() && outcome.runs == 1);
        if count.fetch_add(1, Ordering::Relaxed) < 9 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let outcomes = verify_all(&cases, &open, &watch).expect("the CPU is there");
    assert!((10..500).contains(&outcomes.len()), "{}", outcomes.len());
}

/// Launches of the table's kernels, on an adapter with 16-bit floats and on one without.
#[test]
fn candidates_are_those_of_every_kind_of_adapter_each_once() {
    let case = cases::all().into_iter().find(|case| case.name == "conv2d_forward/stage/f16").expect("in the table");
    assert!(case.kernel.inputs().iter().any(|spec| spec.dtype == DType::F16));
    let within =
        |own, reach| candidates(&case.kernel, own, reach).into_iter().map(|found| found.name).collect::<Vec<_>>();
    let names = |own| within(own, Reach::All);
    let with = names(Some(Target::HARDWARE));
    // Software adapters run the last of those for hardware.
    let count = with.len() / 2;
    let of = |stored: &str| (0..count).map(|i| format!("hardware {i}, {stored}")).collect::<Vec<_>>();
    assert!(count > 1);
    assert_eq!(with, [of("f16"), of("packed")].concat());
    assert_eq!(within(Some(Target::HARDWARE), Reach::Own), with);
    assert_eq!(within(Some(Target::HARDWARE), Reach::Rule), ["hardware 0, f16"]);
    assert_eq!(within(Some(Target::SOFTWARE), Reach::Own), ["software 0, packed"]);
    let without = names(Some(Target::SOFTWARE));
    assert!(without.len() * 2 == with.len() && without.iter().all(|name| name.ends_with("packed")), "{without:?}");
    assert_eq!(names(None), ["cpu"]);
}
