//! Host time of a training step: feeding, encoding and submitting it, on wgpu's `noop` backend, which has no driver
//! and computes nothing. Networks and batch are those of `steps`.

mod common;
mod step;

use std::time::Duration;

use common::Suite;
use step::Step;
use tensor::device::open_noop;

fn main() {
    let batch = common::batch();
    let device = open_noop().unwrap_or_else(|error| panic!("{error}"));
    println!("the host's part in training steps of {batch} images, without a driver");
    let mut criterion = common::criterion(Duration::from_secs(1), Duration::from_secs(3));
    let mut suite = Suite::new(&mut criterion, "host");
    for (name, branches) in step::networks() {
        let step = Step::record(&name, branches, true, batch).unwrap_or_else(|error| panic!("{error}"));
        let cost = step.cost().unwrap_or_else(|error| panic!("{error}"));
        let prepare = || step.compile(&device).unwrap_or_else(|error| panic!("{error}"));
        let label = format!("training {name} branches={branches} batch={batch}");
        suite.measure(&label, (cost, 1), prepare, |program, runs| {
            for _ in 0..runs {
                step.feed(program).and_then(|()| Ok(program.run()?)).unwrap_or_else(|error| panic!("{error}"));
            }
            device.synchronize().unwrap_or_else(|error| panic!("{error}"));
        });
    }
    suite.finish();
    criterion.final_summary();
}
