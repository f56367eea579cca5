//! Every kernel on the device that `ONFLY_BENCH_DEVICE` names: the table of cases, whose shapes are tiny, and the
//! layers of ResNet-32 with three branches at the batch that `ONFLY_BENCH_BATCH` gives.
//!
//! `cargo bench --bench kernels -- layers/conv2d_forward` measures those cases alone, and `-- --test` runs each once.

mod common;
mod device;

use std::time::Duration;

use cases::Case;
use common::Suite;
use tensor::Device;

/// Most dispatches in one submission: a submission alone takes as long as several small kernels.
const MOST_REPEATS: u64 = 32;
/// Operations that deserve a separate submission; a byte counts as eight.
const LONG: u64 = 1 << 30;

fn measure(suite: &mut Suite<'_>, device: &Device, cases: Vec<Case>) {
    for case in cases {
        let (name, cost) = (case.name.clone(), case.kernel.cost());
        let weight = cost.flops + 8 * cost.bytes;
        let repeats = if device.is_gpu() { (LONG / weight.max(1)).clamp(1, MOST_REPEATS) } else { 1 };
        let prepare = || {
            let repeated = case.prepare_repeated(device, repeats as usize);
            repeated.unwrap_or_else(|error| panic!("{error}"))
        };
        suite.measure(&name, (cost, repeats), prepare, |prepared, runs| {
            for _ in 0..runs {
                prepared.launch().unwrap_or_else(|error| panic!("{error}"));
            }
            device.synchronize().unwrap_or_else(|error| panic!("{error}"));
        });
    }
}

fn main() {
    let device = device::named();
    println!("kernels on {}", device::describe(&device));
    let mut criterion = common::criterion(Duration::from_millis(300), Duration::from_millis(700));
    let mut suite = Suite::new(&mut criterion, "cases");
    measure(&mut suite, &device, cases::all());
    suite.finish();
    let mut suite = Suite::new(&mut criterion, "layers");
    measure(&mut suite, &device, cases::layers(common::batch()));
    suite.finish();
    criterion.final_summary();
}
