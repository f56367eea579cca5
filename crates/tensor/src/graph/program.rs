//! A compiled step: fed, run, read and profiled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use half::f16;

use crate::device::{Buffer, Device, Dispatch, Executable, View};
use crate::error::{Error, NotFinite, Result};
use crate::graph::fuse::Fired;
use crate::graph::plan::{Plan, plan};
use crate::graph::work::Work;
use crate::graph::{Graph, Home, Var};
use crate::kernel::choices::Choices;
use crate::kernel::{Cost, Form};
use crate::shape::{DType, Spec};
use crate::state::bank::next_buffer_id;

/// A graph compiled for a device. Shapes are fixed, so a run allocates nothing.
#[derive(Debug)]
pub struct Program {
    device: Device,
    executable: Executable,
    work: Vec<Work>,
    /// The kernels with their operands.
    dispatches: Vec<Dispatch>,
    /// Work of the host, by the dispatch before which it runs.
    host: BTreeMap<usize, HostDispatch>,
    poison: bool,
    readable: BTreeMap<Var, (View, Spec, String)>,
    slots: Vec<Slot>,
    memory: Memory,
    fired: Fired,
}

/// Work of the host with its operands.
#[derive(Debug, Clone)]
struct HostDispatch {
    inputs: Vec<View>,
    outputs: Vec<View>,
}

/// Memory that temporaries share, one after another.
#[derive(Debug, Clone)]
struct Slot {
    buffer: Buffer,
    id: usize,
    words: usize,
}

/// Device memory that a program needs, in bytes, besides banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Slots of the temporaries, those of another program included ([`Graph::compile_beside`]).
    pub planned: usize,
    /// Size of the temporaries if none shared a slot.
    pub unshared: usize,
    /// The largest slot.
    pub largest: usize,
}

/// One line of a profile: all dispatches of a kernel family.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileRow {
    /// The family's name.
    pub kernel: &'static str,
    /// Dispatches per run.
    pub count: usize,
    /// Time per run.
    pub time: Duration,
    /// Operations and unavoidable bytes per run.
    pub cost: Cost,
}

impl ProfileRow {
    /// 10^9 floating-point operations per second.
    pub fn gflops(&self) -> f64 {
        self.cost.flops as f64 / self.time.as_secs_f64().max(1e-12) / 1e9
    }

    /// 10^9 unavoidable bytes per second.
    pub fn gigabytes(&self) -> f64 {
        self.cost.bytes as f64 / self.time.as_secs_f64().max(1e-12) / 1e9
    }
}

/// Compilation options.
#[derive(Debug, Clone, Copy)]
pub struct CompileOptions {
    /// Rewrite the graph by the [rules of fusion](crate::fuse) first. Without it, the step runs as it was
    /// recorded.
    pub fuse: bool,
    /// Fill every slot with NaN before the first run, so that a kernel that reads what nothing wrote is found; and, in
    /// [`Program::run_checked`], what a kernel is to write before it does.
    pub poison: bool,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self { fuse: true, poison: false }
    }
}

/// The floats that memory holds.
fn floats(words: Vec<u32>, dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => bytemuck::cast_slice(&words).iter().map(|half: &f16| half.to_f32()).collect(),
        DType::F32 | DType::U32 => bytemuck::cast_vec(words),
    }
}

impl Graph {
    /// The kernels that a compiled program runs, in order.
    ///
    /// # Errors
    /// As [`Graph::compile`].
    pub fn live_kernels(&self) -> Result<Vec<Form>> {
        Ok(self.live_work()?.into_iter().filter_map(|work| work.kernel().cloned()).collect())
    }

    /// All that a compiled program runs, in order: kernels and work of the host.
    ///
    /// # Errors
    /// As [`Graph::compile`].
    pub fn live_work(&self) -> Result<Vec<Work>> {
        let (graph, _) = self.fused()?;
        Ok(plan(&graph)?.order.into_iter().map(|index| graph.nodes[index].work.clone()).collect())
    }

    /// Orders the kernels, drops dead ones, plans memory, and prepares everything for `device`.
    ///
    /// # Errors
    /// When a kernel reads what nothing wrote, or the device cannot run a kernel or hold the tensors.
    pub fn compile(&self, device: &Device) -> Result<Program> {
        self.compile_with(device, CompileOptions::default())
    }

    /// As [`Graph::compile`], with options.
    ///
    /// # Errors
    /// As [`Graph::compile`].
    pub fn compile_with(&self, device: &Device, options: CompileOptions) -> Result<Program> {
        self.compile_into(device, options, &[])
    }

    /// As [`Graph::compile`], in the slots of another program as far as they reach: the two must run alternately, and
    /// what is kept of a run is lost with the other one's next.
    ///
    /// # Errors
    /// As [`Graph::compile`].
    pub fn compile_beside(&self, other: &Program, options: CompileOptions) -> Result<Program> {
        self.compile_into(&other.device, options, &other.slots)
    }

    fn compile_into(&self, device: &Device, options: CompileOptions, lent: &[Slot]) -> Result<Program> {
        if !options.fuse {
            return self.compile_recorded(device, options, lent, Fired::new());
        }
        let (graph, fired) = self.fused()?;
        graph.compile_recorded(device, options, lent, fired)
    }

    /// Compiles the nodes as they are.
    fn compile_recorded(
        &self,
        device: &Device,
        options: CompileOptions,
        lent: &[Slot],
        fired: Fired,
    ) -> Result<Program> {
        let plan = plan(self)?;
        let slots = allocate_slots(device, &plan, options, lent)?;
        let mut views: Vec<Option<View>> = vec![None; self.variables.len()];
        for (index, variable) in self.variables.iter().enumerate() {
            let view = |buffer: Buffer, buffer_id: usize, offset: usize| View {
                buffer,
                buffer_id,
                offset,
                words: variable.spec.words(),
                dtype: variable.spec.dtype,
            };
            views[index] = match &variable.home {
                Home::Temporary => plan.slots[index].map(|slot| {
                    let Slot { buffer, id, .. } = slots[slot].clone();
                    view(buffer, id, 0)
                }),
                Home::Fed(name) => Some(view(device.alloc(variable.spec.words(), name)?, next_buffer_id(), 0)),
                Home::State(bank, offset) => Some(view(bank.buffer(device)?, bank.id(), *offset)),
            };
        }
        let operand = |var: &Var| views[var.0].clone().expect("the plan gives every live tensor a place");
        let dispatches: Vec<Dispatch> = plan
            .order
            .iter()
            .map(|&index| &self.nodes[index])
            .map(|node| Dispatch {
                work: node.work.clone(),
                inputs: node.inputs.iter().map(operand).collect(),
                outputs: node.outputs.iter().map(operand).collect(),
            })
            .collect();
        let work = dispatches.iter().map(|dispatch| dispatch.work.clone()).collect();
        let host = dispatches.iter().enumerate().filter(|(_, dispatch)| dispatch.work.host().is_some());
        let host = host.map(|(index, Dispatch { inputs, outputs, .. })| {
            (index, HostDispatch { inputs: inputs.clone(), outputs: outputs.clone() })
        });
        let host = host.collect();
        let readable = self.readable(&views);
        Ok(Program {
            device: device.clone(),
            executable: device.prepare(dispatches.clone())?,
            work,
            dispatches,
            host,
            poison: options.poison,
            readable,
            slots,
            memory: Memory {
                planned: 4 * plan.words(),
                unshared: 4 * plan.unshared_words,
                largest: 4 * plan.slot_words.iter().max().copied().unwrap_or(0),
            },
            fired,
        })
    }

    /// Tensors that can be fed or read: inputs, state, and what is kept.
    fn readable(&self, views: &[Option<View>]) -> BTreeMap<Var, (View, Spec, String)> {
        let mut readable = BTreeMap::new();
        for (index, variable) in self.variables.iter().enumerate() {
            let var = Var(index);
            let name = match &variable.home {
                Home::Temporary if self.kept.contains(&var) => format!("kept {index}"),
                Home::Temporary => continue,
                Home::Fed(name) => name.clone(),
                Home::State(bank, offset) => format!("{}[{offset}]", bank.name()),
            };
            if let Some(view) = &views[index] {
                readable.insert(var, (view.clone(), variable.spec.clone(), name));
            }
        }
        readable
    }
}

/// A place for each slot of the plan: the largest ones in the largest of the slots that are lent.
fn allocate_slots(device: &Device, plan: &Plan, options: CompileOptions, lent: &[Slot]) -> Result<Vec<Slot>> {
    let mut lent: Vec<&Slot> = lent.iter().collect();
    lent.sort_by_key(|slot| slot.words);
    let mut largest_first: Vec<usize> = (0..plan.slot_words.len()).collect();
    largest_first.sort_by_key(|&slot| std::cmp::Reverse(plan.slot_words[slot]));
    let mut slots: Vec<Option<Slot>> = vec![None; plan.slot_words.len()];
    for index in largest_first {
        let words = plan.slot_words[index];
        slots[index] = Some(match lent.pop_if(|slot| slot.words >= words) {
            Some(slot) => slot.clone(),
            None => {
                let buffer = device.alloc(words, &format!("activation slot {index}"))?;
                if options.poison {
                    device.write(&buffer, 0, &vec![u32::MAX; words])?;
                }
                Slot { buffer, id: next_buffer_id(), words }
            }
        });
    }
    Ok(slots.into_iter().flatten().collect())
}

fn add(sums: &mut [Duration], times: Vec<Duration>) {
    for (sum, time) in sums.iter_mut().zip(times) {
        *sum += time;
    }
}

impl HostDispatch {
    /// Does `work` on its operands.
    fn run(&self, device: &Device, work: &Work) -> Result<()> {
        let Some(work) = work.host() else { return Ok(()) };
        let read = |view: &View| device.read(&view.buffer, view.offset, view.words).map(bytemuck::cast_vec);
        let inputs = self.inputs.iter().map(read).collect::<Result<Vec<Vec<f32>>>>()?;
        let updates = work.updates();
        let outputs = self.outputs.iter().map(|view| if updates { read(view) } else { Ok(vec![0.0; view.words]) });
        let mut outputs = outputs.collect::<Result<Vec<Vec<f32>>>>()?;
        work.run(&inputs, &mut outputs)?;
        let mut written = self.outputs.iter().zip(&outputs);
        written.try_for_each(|(view, data)| device.write(&view.buffer, view.offset, bytemuck::cast_slice(data)))
    }
}

impl Program {
    /// The device it was compiled for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same step in the same memory, with the variants of its kernels that `choices` name. The two run alternately:
    /// each takes the inputs that were fed last and the state that the other one left.
    ///
    /// # Errors
    /// When the device cannot run a variant.
    pub fn tuned(&self, choices: Choices) -> Result<Self> {
        let device = self.device.tuned(choices);
        Ok(Self {
            executable: device.prepare(self.dispatches.clone())?,
            device,
            work: self.work.clone(),
            dispatches: self.dispatches.clone(),
            host: self.host.clone(),
            poison: self.poison,
            readable: self.readable.clone(),
            slots: self.slots.clone(),
            memory: self.memory,
            fired: self.fired.clone(),
        })
    }

    /// The work of one run, in order.
    pub fn work(&self) -> &[Work] {
        &self.work
    }

    /// The kernels of one run, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &Form> {
        self.work.iter().filter_map(Work::kernel)
    }

    /// Counts of the changes that each rule of fusion made to the recorded step.
    pub fn fired(&self) -> &Fired {
        &self.fired
    }

    /// Number of dispatches of one run: on a GPU, a kernel whose variant works in passes takes several.
    pub fn dispatches(&self) -> usize {
        match &self.executable {
            Executable::Cpu(_) => self.work.len(),
            Executable::Gpu(program) => program.dispatches(),
        }
    }

    /// Device memory that the program needs.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// Sets an input (or state) to float data.
    ///
    /// # Errors
    /// When the tensor is no input, or the data is not as long as it.
    pub fn feed_f32(&mut self, var: Var, data: &[f32]) -> Result<()> {
        self.feed(var, bytemuck::cast_slice(data), DType::F32)
    }

    /// Sets an input (or state) to unsigned data.
    ///
    /// # Errors
    /// As [`Program::feed_f32`].
    pub fn feed_u32(&mut self, var: Var, data: &[u32]) -> Result<()> {
        self.feed(var, data, DType::U32)
    }

    fn feed(&mut self, var: Var, data: &[u32], dtype: DType) -> Result<()> {
        let (view, spec, name) = self.lookup(var)?;
        if spec.dtype != dtype || spec.words() != data.len() {
            return Err(Error::Transfer {
                tensor: name.clone(),
                problem: format!("it is {spec}, and {} elements of {dtype:?} were fed", data.len()),
            });
        }
        self.device.write(&view.buffer, view.offset, data)
    }

    /// Runs the step. On a GPU returns when it is submitted.
    ///
    /// # Errors
    /// Anything that failed on the device since the last call.
    pub fn run(&mut self) -> Result<()> {
        let mut first = 0;
        for (&index, work) in &self.host {
            self.executable.run_part(first..index)?;
            work.run(&self.device, &self.work[index])?;
            first = index + 1;
        }
        self.executable.run_part(first..self.work.len())
    }

    /// Runs one dispatch alone.
    fn run_one(&mut self, dispatch: usize) -> Result<()> {
        match self.host.get(&dispatch) {
            Some(work) => work.run(&self.device, &self.work[dispatch]),
            None => self.executable.run_part(dispatch..dispatch + 1),
        }
    }

    /// Runs the step kernel by kernel, to its end, and looks at every float that each kernel has written. Returns the
    /// first that is not finite, if there is one. It computes the same as [`Program::run`], and takes far longer.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn run_checked(&mut self) -> Result<Option<NotFinite>> {
        let mut first = None;
        for dispatch in 0..self.work.len() {
            if self.poison {
                self.poison_outputs(dispatch)?;
            }
            self.run_one(dispatch)?;
            if first.is_none() {
                first = self.first_not_finite(dispatch)?;
            }
        }
        Ok(first)
    }

    /// Fills with NaN what a kernel is to overwrite.
    fn poison_outputs(&self, dispatch: usize) -> Result<()> {
        for (i, view) in self.dispatches[dispatch].outputs.iter().enumerate() {
            if view.dtype != DType::U32 && !self.work[dispatch].updates(i) {
                // All ones are no number in 32 bits, and twice none in 16.
                self.device.write(&view.buffer, view.offset, &vec![u32::MAX; view.words])?;
            }
        }
        Ok(())
    }

    fn first_not_finite(&self, dispatch: usize) -> Result<Option<NotFinite>> {
        for (output, view) in
            self.dispatches[dispatch].outputs.iter().enumerate().filter(|(_, view)| view.dtype != DType::U32)
        {
            let data = floats(self.device.read(&view.buffer, view.offset, view.words)?, view.dtype);
            if let Some(element) = data.iter().position(|value| !value.is_finite()) {
                let kernel = &self.work[dispatch];
                return Ok(Some(NotFinite {
                    dispatch,
                    dispatches: self.work.len(),
                    kernel: kernel.describe(),
                    output,
                    spec: kernel.outputs().swap_remove(output),
                    element,
                    value: data[element],
                }));
            }
        }
        Ok(None)
    }

    /// Waits for the step, and copies a kept tensor, an input or state to the host.
    ///
    /// # Errors
    /// When the tensor was not kept, is not of floats, or anything failed on the device.
    pub fn read_f32(&self, var: Var) -> Result<Vec<f32>> {
        self.read(var, DType::F32).map(bytemuck::cast_vec)
    }

    /// As [`Program::read_f32`], for unsigned elements.
    ///
    /// # Errors
    /// As [`Program::read_f32`].
    pub fn read_u32(&self, var: Var) -> Result<Vec<u32>> {
        self.read(var, DType::U32)
    }

    fn read(&self, var: Var, dtype: DType) -> Result<Vec<u32>> {
        let (view, spec, name) = self.lookup(var)?;
        if spec.dtype != dtype {
            let problem = format!("it is {spec}, and was read as {dtype:?}");
            return Err(Error::Transfer { tensor: name.clone(), problem });
        }
        self.device.read(&view.buffer, view.offset, view.words)
    }

    fn lookup(&self, var: Var) -> Result<&(View, Spec, String)> {
        self.readable.get(&var).ok_or_else(|| Error::Transfer {
            tensor: format!("{}", var.0),
            problem: "it is a temporary that was not kept, so it can be neither fed nor read".to_owned(),
        })
    }

    /// Runs the step `runs` times, and returns the mean time of each of its [parts](Program::work).
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn time_kernels(&mut self, runs: u32) -> Result<Vec<Duration>> {
        let runs = runs.max(1);
        let mut times = vec![Duration::ZERO; self.work.len()];
        for _ in 0..runs {
            let mut first = 0;
            for (&index, work) in &self.host {
                add(&mut times[first..index], self.executable.time_part(first..index)?);
                let begun = Instant::now();
                work.run(&self.device, &self.work[index])?;
                times[index] += begun.elapsed();
                first = index + 1;
            }
            add(&mut times[first..], self.executable.time_part(first..self.work.len())?);
        }
        Ok(times.into_iter().map(|time| time / runs).collect())
    }

    /// Runs the step `runs` times with each kernel timed, and returns the kernel families, the longest first.
    ///
    /// # Errors
    /// Anything that failed on the device.
    pub fn profile(&mut self, runs: u32) -> Result<Vec<ProfileRow>> {
        let times = self.time_kernels(runs)?;
        let mut rows: BTreeMap<&'static str, ProfileRow> = BTreeMap::new();
        for (kernel, time) in self.work.iter().zip(times) {
            let name = kernel.name();
            let empty = ProfileRow { kernel: name, count: 0, time: Duration::ZERO, cost: Cost::default() };
            let row = rows.entry(name).or_insert(empty);
            let cost = kernel.cost();
            row.count += 1;
            row.time += time;
            row.cost.flops += cost.flops;
            row.cost.bytes += cost.bytes;
        }
        let mut rows: Vec<ProfileRow> = rows.into_values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.time));
        Ok(rows)
    }
}
