//! Whole steps on every adapter of the machine, in every precision.

use cases::steps::{Reference, check};
use tensor::device::{GpuOptions, adapters, open_with};
use tensor::{DType, Device};

fn gpus() -> Vec<Device> {
    let given = std::env::var("ONFLY_TEST_DEVICES").ok();
    let names: Vec<String> = match &given {
        Some(list) => list.split(',').map(str::trim).filter(|name| *name != "cpu").map(str::to_owned).collect(),
        None => adapters().into_iter().map(|adapter| adapter.name).collect(),
    };
    assert!(given.is_some() || !names.is_empty(), "an adapter, as tools/setup.sh installs one");
    let open = |name: &String| open_with(name, GpuOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    names.iter().map(open).collect()
}

#[test]
fn three_steps_are_the_cpu_devices_and_repeat_themselves() {
    for (precision, name) in [(DType::F32, "32 bits"), (DType::F16, "16 bits")] {
        let reference = Reference::new(precision).expect("the CPU device takes every step");
        for device in gpus() {
            let checks = check(&device, precision, name, Some(&reference));
            assert_eq!(checks.len(), 2);
            for found in checks {
                assert!(found.problem.is_none(), "{}: {found:?}", device.name());
                eprintln!("{}: {}, {:?} of tolerance", device.name(), found.what, found.worst);
            }
        }
    }
}
