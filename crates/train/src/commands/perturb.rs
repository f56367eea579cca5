//! The width of an optimum (the paper's Figure 3): cross-entropy and error at `theta + d v`, where theta are all
//! trained parameters of the deployed network as one vector, v is a random direction of unit length, and d a distance.
//! Running statistics stay as they are.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nets::{Model, NamedTensor};
use one::LossWeights;
use tensor::{Device, Kind, Rng};

use super::eval_input::EvalInput;
use crate::failure::usage;
use crate::interrupt;
use crate::options::args::{EvalArgs, PerturbArgs};
use crate::output::line;
use crate::run::files::write_atomically;
use crate::show::plot::{self, Line, Panel, Point};
use crate::show::progress::Measurement;
use crate::show::words::{describe, describe_device, grouped};
use crate::step::evaluated::Evaluated;
use crate::step::evaluation::evaluate;
use crate::step::programs::{EvaluationProgram, StepSpec};

/// The splits, in the order of everything below.
const SPLITS: [&str; 2] = ["train", "test"];

/// Prints, plots and writes the errors around a checkpoint.
///
/// # Errors
/// When the weights or the data cannot be read or do not fit each other, the files cannot be written, or the end was
/// asked for meanwhile.
pub fn run(args: &EvalArgs) -> Result<()> {
    let options = &args.perturbation;
    let files = Files::new(options, &args.weights)?;
    let input = EvalInput::load(args, options.limit_train)?;
    let images = [input.dataset.train.len(), input.dataset.test.len()];
    let name = input.dataset.name.clone();
    let network = input.network.alone();
    let mut landscape = Landscape::new(input, &args.weights, args.batch)?;
    line(format!(
        "{}, {name}, {} training and {} test images, {}",
        describe(&network),
        grouped(images[0]),
        grouped(images[1]),
        describe_device(&landscape.device)
    ))?;
    line(format!(
        "{} parameters along {} random directions of unit length, seed {}: mean ± standard deviation over directions\n",
        grouped(landscape.dimensions()),
        options.directions,
        options.perturb_seed
    ))?;
    interrupt::catch()?;
    let rows = landscape.explore(options)?;
    write_atomically(&files.table, csv(&rows).as_bytes())?;
    write_atomically(&files.plot, plot::svg(&panels(&rows, options.directions))?.as_bytes())?;
    // The measurement is complete and saved, whether anybody reads this or not.
    let _ = line(format!("\nplot  {}\ntable {}", files.plot.display(), files.table.display()));
    Ok(())
}

/// Files of the results.
#[derive(Debug)]
struct Files {
    plot: PathBuf,
    table: PathBuf,
}

impl Files {
    /// The files, whose folder must be writable: better known now than after the measurement.
    fn new(options: &PerturbArgs, weights: &Path) -> Result<Self> {
        let plot = options.to.clone().unwrap_or_else(|| weights.with_file_name("perturb.svg"));
        if plot.extension().is_none_or(|extension| extension != "svg") {
            let name = plot.display();
            return Err(usage(format!(
                "--to {name} should end in .svg: the table is written beside it, ending in .csv"
            )));
        }
        let folder = plot.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        tempfile::tempfile_in(folder).with_context(|| format!("cannot write to the directory {}", folder.display()))?;
        Ok(Self { table: plot.with_extension("csv"), plot })
    }
}

/// Measurement of one split: mean cross-entropy, and top-1 error in per cent.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Losses {
    cross_entropy: f64,
    error: f64,
}

impl Losses {
    fn new(found: &Evaluated) -> Self {
        let (network, predictions) = (one::Network::Member(0), &found.predictions);
        Self { cross_entropy: predictions.cross_entropy(network), error: predictions.top_k_error(network, 1) }
    }
}

/// Mean and standard deviation over directions (of the sample: divided by their number less one).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    mean: f64,
    std: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { mean, std: if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// Measurements at one distance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    distance: f64,
    /// One for each split.
    cross_entropy: [Spread; 2],
    error: [Spread; 2],
}

impl Row {
    /// From the samples of each direction.
    fn new(distance: f64, samples: &[[Losses; 2]]) -> Self {
        let spread = |split: usize, of: fn(&Losses) -> f64| {
            Spread::of(&samples.iter().map(|sample| of(&sample[split])).collect::<Vec<f64>>())
        };
        Self {
            distance,
            cross_entropy: [0, 1].map(|split| spread(split, |sample| sample.cross_entropy)),
            error: [0, 1].map(|split| spread(split, |sample| sample.error)),
        }
    }

    fn line(&self) -> String {
        let mut text = format!("{:>8.3}", self.distance);
        for (loss, error) in self.cross_entropy.iter().zip(&self.error) {
            let (loss, error) =
                (format!("{:.4} ± {:.4}", loss.mean, loss.std), format!("{:.2} ± {:.2}", error.mean, error.std));
            let _ = write!(text, "  {loss:>19}  {error:>15}");
        }
        text
    }
}

/// The lines above the table.
fn heading() -> String {
    let splits: String = ["training images", "test images"].iter().map(|split| format!("  {split:>36}")).collect();
    let columns = format!("  {:>19}  {:>15}", "cross-entropy", "error, %").repeat(2);
    format!("{:>8}{splits}\n{:>8}{columns}", "", "distance")
}

/// The table for other programs.
fn csv(rows: &[Row]) -> String {
    let mut text = "distance".to_owned();
    for split in SPLITS {
        for quantity in ["cross_entropy", "error"] {
            let _ = write!(text, ",{split}_{quantity}_mean,{split}_{quantity}_std");
        }
    }
    for row in rows {
        let _ = write!(text, "\n{}", row.distance);
        for spread in row.cross_entropy.iter().zip(&row.error).flat_map(|(&loss, &error)| [loss, error]) {
            let _ = write!(text, ",{:.6},{:.6}", spread.mean, spread.std);
        }
    }
    text.push('\n');
    text
}

/// Two panels: cross-entropy and error of both splits. The legend tells how far each line goes: of a wide optimum, the
/// line alone shows little more than that it is flat.
fn panels(rows: &[Row], directions: usize) -> [Panel; 2] {
    let panel = |title: &str, y_axis: &str, decimals: usize, of: fn(&Row) -> [Spread; 2]| {
        let line = |split: usize| {
            let point = |row: &Row| {
                let Spread { mean, std } = of(row)[split];
                Point { x: row.distance, mean, spread: std }
            };
            let points: Vec<Point> = rows.iter().map(point).collect();
            let mean = |point: Option<&Point>| point.map_or(f64::NAN, |point| point.mean);
            let (first, last) = (mean(points.first()), mean(points.last()));
            let name = ["training", "test"][split];
            Line { label: format!("{name}, {first:.decimals$} to {last:.decimals$}"), points }
        };
        Panel {
            title: title.to_owned(),
            x_axis: format!("distance from the optimum ({directions} random directions)"),
            y_axis: y_axis.to_owned(),
            lines: vec![line(0), line(1)],
        }
    };
    [
        panel("Cross-entropy", "nats per image", 3, |row| row.cross_entropy),
        panel("Error", "top-1 error, %", 1, |row| row.error),
    ]
}

/// A direction: uniform over the sphere of unit length, a pure function of the seed and its number. Normal draws have
/// no preferred direction, so it is enough to normalise them.
fn direction(seed: u64, number: usize, dimensions: usize) -> Vec<f32> {
    let mut rng = Rng::named("perturbation", &[seed, number as u64]);
    let mut values: Vec<f32> = (0..dimensions).map(|_| rng.normal() as f32).collect();
    let length = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    values
}

/// The deployed network at its optimum, and what measures it elsewhere.
#[derive(Debug)]
struct Landscape {
    device: Device,
    model: Model,
    /// The network's state, each tensor with whether it is trained.
    optimum: Vec<(NamedTensor, bool)>,
    /// One for each split.
    programs: [EvaluationProgram; 2],
}

impl Landscape {
    /// Takes branch 0 of the checkpoint, which was read from `weights`; steps have `batch` images.
    fn new(input: EvalInput, weights: &Path, batch: usize) -> Result<Self> {
        let EvalInput { checkpoint, network, device, dataset, normalisation, workers } = input;
        let method = one::Config::independent(1, dataset.classes.len());
        let architecture = network.architecture()?;
        let spec = StepSpec::evaluation(&*architecture, &method, normalisation, batch, workers);
        let mut model = Model::new();
        let train = EvaluationProgram::new(&device, &mut model, spec, dataset.train)?;
        let test = EvaluationProgram::new(&device, &mut model, spec, dataset.test)?;
        let deployed = nets::deployed(&checkpoint.state, 0);
        model.load(&device, &deployed).with_context(|| format!("cannot use {}", weights.display()))?;
        let trained = model.params().entries().iter().map(|param| matches!(param.kind, Kind::Trained { .. }));
        let optimum = model.state(&device)?.into_iter().zip(trained).collect();
        Ok(Self { device, model, optimum, programs: [train, test] })
    }

    /// Number of trained values.
    fn dimensions(&self) -> usize {
        self.optimum.iter().filter(|(_, trained)| *trained).map(|(tensor, _)| tensor.data.len()).sum()
    }

    /// The state at `distance` from the optimum along `direction`.
    fn state(&self, direction: &[f32], distance: f64) -> Vec<NamedTensor> {
        let mut components = direction.iter();
        let moved = |(tensor, trained): &(NamedTensor, bool)| {
            let mut tensor = tensor.clone();
            if *trained {
                tensor.data.iter_mut().zip(&mut components).for_each(|(x, v)| *x += distance as f32 * v);
            }
            tensor
        };
        self.optimum.iter().map(moved).collect()
    }

    /// Measures both splits with this state; nothing when the end was asked for.
    fn measure(&mut self, state: &[NamedTensor], progress: &mut Measurement) -> Result<Option<[Losses; 2]>> {
        self.model.load(&self.device, state)?;
        let mut samples = [Losses { cross_entropy: 0.0, error: 0.0 }; 2];
        for (sample, program) in samples.iter_mut().zip(&mut self.programs) {
            let found = evaluate(program, LossWeights::default(), |_| progress.advance())?;
            let Some(found) = found else { return Ok(None) };
            *sample = Losses::new(&found);
        }
        Ok(Some(samples))
    }

    /// Measures every distance along every direction, and prints the table.
    ///
    /// # Errors
    /// When the device fails, or the end was asked for.
    fn explore(&mut self, options: &PerturbArgs) -> Result<Vec<Row>> {
        // The optimum is the same in every direction, and measured once.
        let measurements = 1 + (options.points - 1) * options.directions;
        let steps: usize = self.programs.iter().map(EvaluationProgram::steps).sum();
        let mut progress = Measurement::new(measurements * steps);
        progress.line(&heading());
        let mut rows = Vec::with_capacity(options.points);
        for point in 0..options.points {
            let distance = options.distance * point as f64 / (options.points - 1) as f64;
            let directions = if point == 0 { 1 } else { options.directions };
            let mut samples = Vec::with_capacity(directions);
            for number in 0..directions {
                let state = self.state(&direction(options.perturb_seed, number, self.dimensions()), distance);
                let Some(sample) = self.measure(&state, &mut progress)? else {
                    progress.finish();
                    bail!("interrupted before distance {distance:.3} was measured: no file was written");
                };
                samples.push(sample);
            }
            let row = Row::new(distance, &samples);
            progress.line(&row.line());
            rows.push(row);
        }
        progress.finish();
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use data::{LoadOptions, Pictures};

    use super::*;
    use crate::options::args::Shortcut;
    use crate::options::config::Network;
    use crate::run::checkpoint::Checkpoint;
    use crate::step::feeding::Normalisation;

    #[test]
    fn directions_have_unit_length_and_are_functions_of_seed_and_number() {
        let length = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a * b)).sum::<f64>();
        let directions: Vec<Vec<f32>> = [(0, 0), (0, 1), (1, 0)].map(|(seed, n)| direction(seed, n, 10_000)).into();
        for (i, v) in directions.iter().enumerate() {
            assert!((length(v) - 1.0).abs() < 1e-6, "{}", length(v));
            // The cosine of independent directions has a standard deviation of 0.01.
            assert!(directions[..i].iter().all(|other| cosine(v, other).abs() < 0.05));
        }
        assert_eq!(directions[1], direction(0, 1, 10_000));
    }

    #[test]
    fn spreads_are_those_of_samples() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0]);
        assert!((spread.mean - 2.5).abs() < 1e-12 && (spread.std - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[7.0]), Spread { mean: 7.0, std: 0.0 });
    }

    /// A network with initial weights, a few images, and what a plain evaluation of both splits finds.
    fn landscape() -> Result<(Landscape, [Evaluated; 2])> {
        let network =
            Network { net: "resnet8".to_owned(), shortcut: Shortcut::B, branches: 1, fan_out: "layer3".to_owned() };
        let options = LoadOptions { limit_train: Some(21), limit_test: Some(10), ..LoadOptions::default() };
        let resident = |images| anyhow::Ok(Arc::new(Pictures::Resident(images)));
        let (device, dataset) = (Device::cpu(), data::load("shapes", &options)?.try_map(resident, resident)?);
        let normalisation = Normalisation { mean: [0.5; 3], std: [0.25; 3] };
        let (architecture, method) = (network.architecture()?, one::Config::independent(1, 10));
        let mut state = Vec::new();
        let mut plain = |images| -> Result<Evaluated> {
            let mut model = Model::new();
            let spec = StepSpec::evaluation(&*architecture, &method, normalisation, 8, 0);
            let mut program = EvaluationProgram::new(&device, &mut model, spec, images)?;
            model.initialize(&device, 3)?;
            state = model.state(&device)?;
            Ok(evaluate(&mut program, LossWeights::default(), |_| ())?.expect("nobody interrupts"))
        };
        let expected = [plain(Arc::clone(&dataset.train))?, plain(Arc::clone(&dataset.test))?];
        let checkpoint =
            Checkpoint { header: None, state, velocities: Vec::new(), totals: Vec::new(), loss_scale: None };
        let input = EvalInput { checkpoint, network, device, dataset, normalisation, workers: 0 };
        Ok((Landscape::new(input, Path::new("weights"), 8)?, expected))
    }

    #[test]
    fn at_no_distance_the_network_is_its_optimum_and_further_on_only_trained_parameters_move() {
        let (mut landscape, expected) = landscape().expect("compiled");
        assert_eq!(landscape.dimensions(), landscape.model.parameters(None));
        let v = direction(0, 0, landscape.dimensions());
        let here = landscape.state(&v, 0.0);
        let mut progress = Measurement::new(10);
        let samples = landscape.measure(&here, &mut progress).expect("measured").expect("nobody interrupts");
        let exactly = expected.map(|found| Losses::new(&found));
        assert_eq!(samples, exactly);

        let there = landscape.state(&v, 5.0);
        let mut squares = 0.0;
        for ((from, trained), to) in landscape.optimum.iter().zip(&there) {
            assert_eq!((&from.name, &from.shape), (&to.name, &to.shape));
            assert_eq!(*trained, from.data != to.data, "{}", from.name);
            assert_eq!(*trained, !from.name.contains("running"), "{}", from.name);
            squares += from.data.iter().zip(&to.data).map(|(&a, &b)| f64::from(b - a).powi(2)).sum::<f64>();
        }
        assert!((squares.sqrt() - 5.0).abs() < 1e-4, "{}", squares.sqrt());
        let moved = landscape.measure(&there, &mut progress).expect("measured").expect("nobody interrupts");
        assert_ne!(moved, samples);
    }

    #[test]
    fn the_plot_has_two_panels_with_a_line_for_each_split() {
        let sample =
            |x: f64| [Losses { cross_entropy: x, error: 10.0 * x }, Losses { cross_entropy: 2.0 * x, error: 5.0 }];
        let rows = [Row::new(0.0, &[sample(1.0)]), Row::new(5.0, &[sample(2.0), sample(4.0)])];
        let [loss, error] = panels(&rows, 2);
        let labels = |panel: &Panel| panel.lines.iter().map(|line| line.label.clone()).collect::<Vec<String>>();
        assert_eq!(labels(&loss), ["training, 1.000 to 3.000", "test, 2.000 to 6.000"]);
        assert_eq!(labels(&error), ["training, 10.0 to 30.0", "test, 5.0 to 5.0"]);
        let end = loss.lines[1].points[1];
        assert_eq!((end.x, end.mean), (5.0, 6.0));
        assert!((end.spread - 8.0f64.sqrt()).abs() < 1e-12, "{end:?}");
    }
}
