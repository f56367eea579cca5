//! Whole training and evaluation steps on the device that `ONFLY_BENCH_DEVICE` names, at the batch that
//! `ONFLY_BENCH_BATCH` gives, for the networks that `ONFLY_BENCH_NETS` lists as `name:branches`, separated by commas.
//!
//! `cargo bench --bench steps -- training` measures training alone, and `-- --test` runs each step once.

mod common;
mod device;
mod step;

use std::time::Duration;

use common::Suite;
use step::Step;

fn main() {
    let (device, batch) = (device::named(), common::batch());
    println!("steps of {batch} images on {}", device::describe(&device));
    let mut criterion = common::criterion(Duration::from_secs(1), Duration::from_secs(3));
    let mut suite = Suite::new(&mut criterion, "steps");
    for (name, branches) in step::networks() {
        for training in [true, false] {
            let kind = if training { "training" } else { "evaluation" };
            let step = Step::record(&name, branches, training, batch).unwrap_or_else(|error| panic!("{error}"));
            let cost = step.cost().unwrap_or_else(|error| panic!("{error}"));
            let prepare = || step.compile(&device).unwrap_or_else(|error| panic!("{error}"));
            let label = format!("{kind} {name} branches={branches} batch={batch}");
            suite.measure(&label, (cost, 1), prepare, |program, runs| {
                for _ in 0..runs {
                    program.run().unwrap_or_else(|error| panic!("{error}"));
                }
                device.synchronize().unwrap_or_else(|error| panic!("{error}"));
            });
        }
    }
    suite.finish();
    criterion.final_summary();
}
