//! Which devices the tests run on.

use tensor::device::{GpuOptions, adapters, open_with};
use tensor::{Device, Target};

/// Names the devices to test on, as `--device` does, separated by commas. Unset means all adapters of the machine,
/// software ones too; `cpu` leaves the GPU tests out, visibly.
pub const VARIABLE: &str = "ONFLY_TEST_DEVICES";

/// The GPU devices to test on, opened with shader checks on. Fails when there is none, unless the environment asks
/// for the CPU alone. With a `target`, kernels run in their variants for adapters like it, whatever the adapters are.
pub fn gpus(target: Option<Target>) -> Vec<Device> {
    let names: Vec<String> = match std::env::var(VARIABLE) {
        Ok(list) => list.split(',').map(|name| name.trim().to_owned()).filter(|name| name != "cpu").collect(),
        Err(_) => {
            let names: Vec<String> = adapters().into_iter().map(|adapter| adapter.name).collect();
            assert!(
                !names.is_empty(),
                "no GPU adapter on this machine: `tools/setup.sh` installs the software Vulkan driver (on Debian and \
                 Ubuntu: apt-get install mesa-vulkan-drivers), or set {VARIABLE}=cpu to test the CPU device alone"
            );
            names
        }
    };
    if names.is_empty() {
        eprintln!("{VARIABLE} asks for the CPU device alone: the tests that need an adapter do nothing");
    }
    names
        .iter()
        .map(|name| {
            let device =
                open_with(name, GpuOptions { checked: true, target }).unwrap_or_else(|error| panic!("{error}"));
            eprintln!("testing on {}", device.name());
            device
        })
        .collect()
}
