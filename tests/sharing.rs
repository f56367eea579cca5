//! Programs that share a batch: threads stand for the processes, each with a device of its own, and an exchange in
//! memory for what connects them. What they train together is what one program trains alone.

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use nets::Architecture;
use nets::Model;
use nets::densenet::DenseNetBc;
use nets::resnet::{Block, CifarResNet, Shortcut};
use one::{Config, LossWeights};
use tensor::optim::SgdConfig;
use tensor::{CompileOptions, Device, Exchange, Graph, Rng, Sharing, Spec};

const BATCH: usize = 12;
const SIZE: usize = 8;
const CLASSES: usize = 5;
const BRANCHES: usize = 3;
const STEPS: usize = 4;

/// The meeting point of threads, where they lay down their data.
#[derive(Debug)]
struct Table {
    places: Mutex<Vec<Vec<f32>>>,
    barrier: Barrier,
}

impl Table {
    fn new(processes: usize) -> Self {
        Self { places: Mutex::new(vec![Vec::new(); processes]), barrier: Barrier::new(processes) }
    }

    /// Data that every thread has laid down.
    fn all(&self, rank: usize, own: Vec<f32>) -> Vec<Vec<f32>> {
        self.places.lock().expect("nobody panicked")[rank] = own;
        self.barrier.wait();
        let all = self.places.lock().expect("nobody panicked").clone();
        self.barrier.wait();
        all
    }
}

/// One process of several.
#[derive(Debug)]
struct Process {
    rank: usize,
    processes: usize,
    table: Arc<Table>,
    begun: Mutex<VecDeque<(Vec<f32>, bool)>>,
    /// Lengths of the sums that were taken.
    lengths: Mutex<Vec<usize>>,
}

fn sum(all: Vec<Vec<f32>>) -> Vec<f32> {
    all.into_iter()
        .reduce(|mut sum, part| {
            assert_eq!(sum.len(), part.len(), "all sum the same");
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            sum
        })
        .expect("one process at least")
}

impl Exchange for Process {
    fn processes(&self) -> usize {
        self.processes
    }

    fn gather_statistics(&self, own: Vec<f32>) -> Result<Vec<f32>, String> {
        Ok(self.table.all(self.rank, own).concat())
    }

    fn sum_statistics(&self, own: Vec<f32>) -> Result<Vec<f32>, String> {
        Ok(sum(self.table.all(self.rank, own)))
    }

    fn begin_sum(&self, own: Vec<f32>, last: bool) -> Result<(), String> {
        self.begun.lock().expect("nobody panicked").push_back((own, last));
        Ok(())
    }

    fn end_sum(&self) -> Result<Vec<f32>, String> {
        let (own, last) = self.begun.lock().expect("nobody panicked").pop_front().expect("a sum was begun");
        assert_eq!(last, self.begun.lock().expect("nobody panicked").is_empty(), "the last part comes last");
        self.lengths.lock().expect("nobody panicked").push(own.len());
        Ok(sum(self.table.all(self.rank, own)))
    }
}

/// Images and labels of a step, for all processes together.
fn batch(step: usize) -> (Vec<f32>, Vec<u32>) {
    let mut rng = Rng::named("batch", &[step as u64]);
    let images = (0..BATCH * SIZE * SIZE * 4).map(|i| if i % 4 == 3 { 0.0 } else { rng.normal() as f32 }).collect();
    (images, (0..BATCH).map(|_| rng.below(CLASSES) as u32).collect())
}

/// State after training: parameters, velocities, running statistics, sums of the losses.
type State = [Vec<f32>; 4];

/// Trains for some steps on the part of every batch that is this process's.
fn train(
    architecture: &dyn Architecture,
    device: &Device,
    process: Option<(Arc<Process>, bool, usize)>,
    steps: usize,
) -> State {
    let (rank, processes) = process.as_ref().map_or((0, 1), |(process, ..)| (process.rank, process.processes));
    let own = BATCH / processes;
    let (mut graph, mut model) = (Graph::new(), Model::new());
    if let Some((process, batch_norm, parts)) = process {
        graph.share(Sharing { exchange: process, batch_norm, parts });
    }
    let image = graph.input("image", Spec::f32([1, own, SIZE, SIZE, 4]));
    let labels = graph.input("labels", Spec::u32([own]));
    let config = Config::paper(architecture, BRANCHES, CLASSES);
    let optimizer = SgdConfig { nesterov: true };
    let step = one::training(&mut graph, &mut model, architecture, (image, labels), &config, optimizer);
    let step = step.unwrap_or_else(|error| panic!("{error}"));
    let program = graph.compile_with(device, CompileOptions { poison: true, ..CompileOptions::default() });
    let mut program = program.unwrap_or_else(|error| panic!("{}: {error}", device.name()));
    model.initialize(device, 7).expect("initial values");
    for number in 0..steps {
        let (images, all) = batch(number);
        let pixels = SIZE * SIZE * 4;
        program.feed_f32(image, &images[rank * own * pixels..][..own * pixels]).expect("images");
        program.feed_u32(labels, &all[rank * own..][..own]).expect("labels");
        step.feed(&mut program, [0.05, 0.9, 1e-3], LossWeights::default(), BATCH).expect("settings");
        match number {
            // Kernel by kernel gives the same.
            1 => assert_eq!(program.run_checked().expect("runs"), None),
            _ => program.run().unwrap_or_else(|error| panic!("{error}")),
        }
    }
    let params = model.params();
    let read = |bank: &tensor::Bank| bytemuck::cast_vec(bank.read(device).expect("readable"));
    let totals = step.totals(device).expect("totals");
    [read(params.values()), read(params.velocities()), read(params.running()), totals]
}

/// The states of all processes, and the lengths of the sums that the first one took.
fn together(
    architecture: &dyn Architecture,
    devices: &[Device],
    batch_norm: bool,
    parts: usize,
    steps: usize,
) -> (Vec<State>, Vec<usize>) {
    let processes = devices.len();
    let table = Arc::new(Table::new(processes));
    let ranks: Vec<Arc<Process>> = (0..processes)
        .map(|rank| {
            let (begun, lengths) = (Mutex::default(), Mutex::default());
            Arc::new(Process { rank, processes, table: Arc::clone(&table), begun, lengths })
        })
        .collect();
    let states = thread::scope(|scope| {
        let running: Vec<_> = (ranks.iter().zip(devices))
            .map(|(rank, device)| {
                let process = Some((Arc::clone(rank), batch_norm, parts));
                scope.spawn(move || train(architecture, device, process, steps))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let lengths = ranks[0].lengths.lock().expect("nobody panicked").clone();
    (states, lengths)
}

fn resnet() -> CifarResNet {
    CifarResNet { block: Block::Basic, blocks: 1, width: 8, shortcut: Shortcut::B }
}

fn bits(state: &State) -> Vec<u32> {
    state.concat().into_iter().map(f32::to_bits).collect()
}

/// The largest difference, relative to the root of the mean square of what is expected.
fn difference(got: &[f32], expected: &[f32]) -> f64 {
    let scale = (expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    let largest = got.iter().zip(expected).map(|(&a, &b)| f64::from(a - b).abs()).fold(0.0, f64::max);
    largest / scale
}

#[track_caller]
fn assert_close(got: &State, expected: &State, tolerance: f64) {
    for (what, (got, expected)) in
        ["parameters", "velocities", "statistics", "losses"].iter().zip(got.iter().zip(expected))
    {
        let difference = difference(got, expected);
        assert!(difference < tolerance, "{what} differ by {difference:e} of their size");
    }
}

#[test]
fn with_shared_statistics_processes_train_what_one_does() {
    let dense = DenseNetBc { growth: 8, layers: 2 };
    let networks: [&dyn Architecture; 2] = [&resnet(), &dense];
    for architecture in networks {
        // Sums of single precision over 768 rows are taken in another order, through a dozen normalisations; what that
        // changes grows from step to step.
        for (steps, tolerance) in [(1, 5e-5), (STEPS, 2e-4)] {
            let alone = train(architecture, &Device::cpu(), None, steps);
            for processes in [1, 2, 3, 4] {
                let (states, _) = together(architecture, &vec![Device::cpu(); processes], true, 1, steps);
                for state in &states {
                    assert_close(state, &alone, tolerance);
                    assert_eq!(bits(state), bits(&states[0]), "all have the same bits");
                }
            }
        }
    }
}

#[test]
fn parts_travel_early_and_change_no_bit() {
    let devices = vec![Device::cpu(); 2];
    let (whole, lengths) = together(&resnet(), &devices, false, 1, STEPS);
    assert_eq!(lengths.len(), STEPS);
    for parts in [2, 3, 5] {
        let (states, lengths) = together(&resnet(), &devices, false, parts, STEPS);
        assert_eq!(lengths.len(), STEPS * parts);
        assert_eq!(bits(&states[0]), bits(&whole[0]));
        assert_eq!(bits(&states[1]), bits(&whole[0]));
    }
}

#[test]
fn with_statistics_of_their_own_processes_agree_and_learn_something_else() {
    let alone = train(&resnet(), &Device::cpu(), None, STEPS);
    let (states, _) = together(&resnet(), &vec![Device::cpu(); 4], false, 1, STEPS);
    assert!(states.iter().all(|state| bits(state) == bits(&states[0])));
    assert!(difference(&states[0][0], &alone[0]) > 1e-2, "normalising over a part of the batch is another network");
}

#[test]
fn a_gpu_and_the_cpu_train_together() {
    let alone = train(&resnet(), &Device::cpu(), None, STEPS);
    for gpu in common::gpus(None) {
        let (states, _) = together(&resnet(), &[gpu, Device::cpu()], true, 3, STEPS);
        for state in &states {
            assert_close(state, &alone, 1e-4);
        }
    }
}
