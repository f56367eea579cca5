//! Shared parts of the benches: criterion's settings, and a table of rates at the end.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tensor::Cost;

/// Variable for the images in a batch of the layers and steps; 128 if unset.
const BATCH: &str = "ONFLY_BENCH_BATCH";

/// Images in a batch.
pub fn batch() -> usize {
    let wanted = std::env::var(BATCH).unwrap_or_else(|_| "128".to_owned());
    match wanted.parse() {
        Ok(batch) if batch > 0 => batch,
        _ => panic!("{BATCH} should be a whole number above 0, got \"{wanted}\""),
    }
}

/// Ten samples after `warm_up`, spread over `time` if they fit; the command line may ask for others.
pub fn criterion(warm_up: Duration, time: Duration) -> Criterion {
    Criterion::default().sample_size(10).warm_up_time(warm_up).measurement_time(time).configure_from_args()
}

/// One line of the table: the fastest sample.
struct Row {
    name: String,
    cost: Cost,
    time: Duration,
}

/// Benches of one group, and their times.
pub struct Suite<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    rows: Vec<Row>,
}

impl<'a> Suite<'a> {
    /// A group of this name.
    pub fn new(criterion: &'a mut Criterion, name: &str) -> Self {
        let mut group = criterion.benchmark_group(name);
        // All samples of equal size: steps are too long for samples that grow.
        group.sampling_mode(SamplingMode::Flat);
        Self { group, rows: Vec::new() }
    }

    /// Measures `run(prepared, n)`, which does n times `repeats` runs of the work that costs `cost`, and waits for
    /// the last. `prepare` is called once, if the command line selects this bench.
    pub fn measure<P>(
        &mut self,
        name: &str,
        (cost, repeats): (Cost, u64),
        prepare: impl FnOnce() -> P,
        mut run: impl FnMut(&mut P, u64),
    ) {
        let throughput = if cost.flops > 0 { Throughput::Elements(cost.flops) } else { Throughput::Bytes(cost.bytes) };
        let (mut prepare, mut prepared, mut best) = (Some(prepare), None, None::<Duration>);
        self.group.throughput(throughput).bench_function(name, |bencher| {
            if let Some(prepare) = prepare.take() {
                prepared = Some(prepare());
            }
            let prepared = prepared.as_mut().expect("the first call prepares");
            bencher.iter_custom(|count| {
                let runs = count.div_ceil(repeats);
                let start = Instant::now();
                run(prepared, runs);
                let once = start.elapsed().div_f64((runs * repeats) as f64);
                best = Some(best.map_or(once, |best| best.min(once)));
                once.mul_f64(count as f64)
            });
        });
        self.rows.extend(best.map(|time| Row { name: name.to_owned(), cost, time }));
    }

    /// Ends the group, and prints times and rates of its benches.
    pub fn finish(self) {
        self.group.finish();
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        if width > 0 {
            println!("\n{:width$}  {:>10}  {:>9}  {:>8}", "fastest of all samples", "ms", "GFLOP/s", "GB/s");
        }
        for Row { name, cost, time } in &self.rows {
            let seconds = time.as_secs_f64().max(1e-12);
            let (flops, bytes) = (cost.flops as f64 / seconds / 1e9, cost.bytes as f64 / seconds / 1e9);
            println!("{name:width$}  {:>10.4}  {flops:>9.2}  {bytes:>8.2}", 1e3 * seconds);
        }
    }
}
