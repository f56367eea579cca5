//! The GPU device: an adapter opened through `wgpu`, its pipelines, the recorder and read-back.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::select::{Adapter, identity};
use super::{Buffer, Device, Dispatch, View};
use crate::error::{Error, Result};
use crate::kernel::choices::Choices;
use crate::kernel::{Binding, Launch, Target};

/// Options for opening a GPU device.
#[derive(Debug, Clone, Copy, Default)]
pub struct GpuOptions {
    /// Keep the bounds, loop and division checks that naga can add to shaders. Tests do; normal runs do not.
    pub checked: bool,
    /// Run the variants for such an adapter, whatever the adapter is. Tests do.
    pub target: Option<Target>,
}

/// Work in one submission at most: drivers reset a GPU that is busy for about two seconds, and a slow one does some
/// 200 GFLOP/s here.
const SUBMISSION_FLOPS: u64 = 40_000_000_000;
/// A byte moved counts as this many operations towards a submission's length.
const FLOPS_PER_BYTE: u64 = 8;
/// Submissions in flight at most, so that a step's inputs are never far ahead of the device.
const SUBMISSIONS_IN_FLIGHT: usize = 4;

/// Limit of a submission's time: far longer than any of this program takes on the slowest adapter.
const PATIENCE: Duration = Duration::from_secs(600);
/// The variable of the environment that says it otherwise, in seconds.
const PATIENCE_VARIABLE: &str = "ONFLY_GPU_PATIENCE";

/// Bindings of all bind groups together: a step of the deepest networks has some thousand dispatches of up to eight.
const MAX_BINDINGS: u32 = 200_000;

/// An opened adapter.
#[derive(Debug, Clone)]
pub struct GpuDevice {
    name: String,
    adapter: Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    checked: bool,
    target: Target,
    choices: Choices,
    timestamps: bool,
    host_memory: bool,
    patience: Duration,
    failure: Arc<Mutex<Option<String>>>,
}

impl GpuDevice {
    pub(super) fn open(adapter: &wgpu::Adapter, options: GpuOptions) -> Result<Self> {
        let info = adapter.get_info();
        let name = info.name.clone();
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
        let features = adapter.features() & wanted;
        let mut limits = adapter.limits();
        // DX12 allocates a descriptor heap of this size up front, and its default is a million.
        limits.max_non_sampler_bindings = limits.max_non_sampler_bindings.min(MAX_BINDINGS);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("onfly"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| Error::Device {
                device: name.clone(),
                problem: format!("the adapter cannot be opened: {error}; a newer driver may help, or --device cpu"),
            })?;
        let failure = Arc::new(Mutex::new(None));
        let record = |failure: &Arc<Mutex<Option<String>>>, text: String| {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        };
        let slot = Arc::clone(&failure);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| record(&slot, explain(&error))));
        let slot = Arc::clone(&failure);
        device.set_device_lost_callback(move |reason, message| {
            record(
                &slot,
                format!(
                    "the device was lost ({reason:?}: {message}): its driver may have reset it after a long \
                     computation; \
                     try a smaller --batch, or raise the driver's limit on the time of a computation"
                ),
            );
        });
        Ok(Self {
            name,
            adapter: identity(&info),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            host_memory: matches!(info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu),
            patience: patience(std::env::var(PATIENCE_VARIABLE).ok().as_deref()),
            device,
            queue,
            checked: options.checked,
            target: options.target.unwrap_or(Target {
                software: info.device_type == wgpu::DeviceType::Cpu,
                shader_f16: features.contains(wgpu::Features::SHADER_F16),
                subgroup: if features.contains(wgpu::Features::SUBGROUP) { info.subgroup_min_size } else { 0 },
            }),
            choices: Choices::default(),
            failure,
        })
    }

    /// The same device, running the variants that `choices` name.
    pub(super) fn tuned(&self, choices: Choices) -> Self {
        Self { choices, ..self.clone() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(super) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn max_binding_bytes(&self) -> u64 {
        self.device.limits().max_storage_buffer_binding_size
    }

    pub(super) fn max_buffer_bytes(&self) -> u64 {
        self.device.limits().max_buffer_size
    }

    pub(super) fn uses_host_memory(&self) -> bool {
        self.host_memory
    }

    /// The first failure since the device was opened, if any. A failed device stays failed.
    fn check(&self) -> Result<()> {
        match &*self.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(problem) => Err(self.error(problem.clone())),
        }
    }

    fn error(&self, problem: String) -> Error {
        Error::Device { device: self.name.clone(), problem }
    }

    /// Runs `create`, and turns what `wgpu` reports of it into an error that begins with `what`.
    fn scoped<T>(&self, what: &str, create: impl FnOnce() -> T) -> Result<T> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = create();
        let validation = pollster::block_on(validation.pop());
        let internal = pollster::block_on(internal.pop());
        let memory = pollster::block_on(memory.pop());
        match validation.or(internal).or(memory) {
            None => Ok(value),
            Some(error) => Err(self.error(format!("{what}: {}", explain(&error)))),
        }
    }

    pub(super) fn alloc(&self, words: usize, label: &str) -> Result<wgpu::Buffer> {
        let size = 4 * words.max(4) as u64;
        let limit = self.device.limits().max_buffer_size;
        if size > limit {
            return Err(self.error(format!(
                "{label} needs {} MiB, and the adapter's largest buffer is {} MiB; a smaller --batch needs less",
                size >> 20,
                limit >> 20
            )));
        }
        self.scoped(&format!("{label} ({} MiB)", size >> 20), || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    pub(super) fn write(&self, buffer: &wgpu::Buffer, offset: usize, data: &[u32]) -> Result<()> {
        self.check_range(buffer, offset, data.len())?;
        self.queue.write_buffer(buffer, 4 * offset as u64, bytemuck::cast_slice(data));
        self.check()
    }

    pub(super) fn read(&self, buffer: &wgpu::Buffer, offset: usize, words: usize) -> Result<Vec<u32>> {
        self.check_range(buffer, offset, words)?;
        if words == 0 {
            return Ok(Vec::new());
        }
        let size = 4 * words as u64;
        let staging = self.scoped("reading back", || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let mut encoder =
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read-back") });
        encoder.copy_buffer_to_buffer(buffer, 4 * offset as u64, &staging, 0, size);
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.synchronize()?;
        match receiver.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.error(format!("reading back failed: {error}"))),
            Err(_) => return Err(self.error("reading back was dropped by the driver".to_owned())),
        }
        let view = staging.get_mapped_range(..).map_err(|error| self.error(format!("reading back failed: {error}")))?;
        let mut data = vec![0u32; words];
        bytemuck::cast_slice_mut(&mut data).copy_from_slice(&view);
        drop(view);
        staging.unmap();
        Ok(data)
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.wait(None)
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.device.poll(wgpu::PollType::Poll), Ok(wgpu::PollStatus::QueueEmpty))
    }

    /// Waits for a submission, or for all of them.
    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let polled =
            self.device.poll(wgpu::PollType::Wait { submission_index: submission, timeout: Some(self.patience) });
        self.check()?;
        match polled {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => Err(self.error(format!(
                "it has not answered for {:?}: it may hang; try a smaller --batch, more patience by \
                 {PATIENCE_VARIABLE}=SECONDS, \
                 or restart the machine",
                self.patience
            ))),
            Err(error) => Err(self.error(format!("waiting for the device failed: {error}"))),
        }
    }

    pub(super) fn copy(&self, from: &wgpu::Buffer, to: &wgpu::Buffer, words: usize) -> Result<()> {
        self.check_range(from, 0, words)?;
        self.check_range(to, 0, words)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy") });
        encoder.copy_buffer_to_buffer(from, 0, to, 0, 4 * words as u64);
        self.queue.submit([encoder.finish()]);
        self.check()
    }

    fn check_range(&self, buffer: &wgpu::Buffer, offset: usize, words: usize) -> Result<()> {
        if 4 * (offset + words) as u64 <= buffer.size() {
            return Ok(());
        }
        Err(self.error(format!("words {offset}..{} of a buffer of {} words", offset + words, buffer.size() / 4)))
    }

    /// The layout of a launch: storage bindings of group 0, read-only for inputs.
    fn layout(&self, bindings: &[Binding]) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(i, binding)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !matches!(binding, Binding::Output(_)) },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let group =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&group)],
            immediate_size: 0,
        });
        (group, layout)
    }

    fn pipeline(&self, name: &str, launch: &Launch, source: &str) -> Result<Pipeline> {
        self.scoped(&format!("kernel {name}"), || {
            let (group, layout) = self.layout(&launch.bindings);
            let descriptor =
                wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(source.into()) };
            let module = if self.checked {
                self.device.create_shader_module(descriptor)
            } else {
                // SAFETY: every kernel stays inside its bindings and ends its loops: tests run each of them with the
                // checks on and with guard words around its outputs, and compare it with its reference.
                unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
            };
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(launch.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            });
            Pipeline { pipeline, group }
        })
    }
}

/// A duration of this many seconds; none if the number is no duration.
fn patience(seconds: Option<&str>) -> Duration {
    let given = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.parse().ok()?).ok());
    given.unwrap_or(PATIENCE)
}

/// A message of `wgpu` on one line.
fn explain(error: &wgpu::Error) -> String {
    let text = match error {
        wgpu::Error::OutOfMemory { .. } => "out of device memory; a smaller --batch needs less".to_owned(),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => description.clone(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[derive(Debug, Clone)]
struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroupLayout,
}

/// One pass of a dispatch with everything made before the first step.
#[derive(Debug)]
struct Recorded {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    grid: [u32; 3],
    weight: u64,
}

/// Recorded dispatches.
#[derive(Debug)]
pub struct GpuProgram {
    device: Arc<GpuDevice>,
    /// The passes of all dispatches.
    recorded: Vec<Recorded>,
    /// Which of them are each dispatch's.
    passes: Vec<Range<usize>>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
}

/// A pipeline to be built: its kernel's name, its launch, and its source, which identifies it.
type Wanted<'a> = (&'a str, &'a Launch, &'a str);

impl GpuProgram {
    pub(super) fn new(device: &Arc<GpuDevice>, dispatches: &[Dispatch]) -> Result<Self> {
        let target = &device.target;
        // Work of the host is no pass of the device.
        let launch = |dispatch: &Dispatch| {
            dispatch.work.kernel().map(|kernel| device.choices.launch(kernel, target).in_subgroups(target))
        };
        let launches: Vec<Option<Launch>> = dispatches.iter().map(launch).collect();
        let mut steps: Vec<(&Dispatch, &Launch, String)> = Vec::with_capacity(dispatches.len());
        let mut passes = Vec::with_capacity(dispatches.len());
        for (dispatch, launch) in dispatches.iter().zip(&launches) {
            let first = steps.len();
            let launched = launch.iter().flat_map(Launch::passes);
            steps.extend(launched.map(|pass| (dispatch, pass, pass.source())));
            passes.push(first..steps.len());
        }
        let mut index: HashMap<(&str, &str), usize> = HashMap::new();
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        let mut which = Vec::with_capacity(steps.len());
        for (dispatch, launch, source) in &steps {
            which.push(*index.entry((source, launch.entry)).or_insert_with(|| {
                wanted.push((dispatch.work.name(), launch, source));
                wanted.len() - 1
            }));
        }
        let pipelines = build(device, &wanted)?;
        let recorded = steps
            .iter()
            .zip(which)
            .map(|((dispatch, launch, _), which)| record(device, dispatch, launch, &pipelines[which]))
            .collect::<Result<_>>()?;
        Ok(Self { device: Arc::clone(device), recorded, passes, in_flight: VecDeque::new() })
    }

    pub(super) fn count(&self) -> usize {
        self.passes.len()
    }

    /// Passes of all dispatches.
    pub(crate) fn dispatches(&self) -> usize {
        self.recorded.len()
    }

    /// The passes of these dispatches.
    fn passes(&self, dispatches: Range<usize>) -> Range<usize> {
        match self.passes.get(dispatches) {
            Some([first, .., last]) => first.start..last.end,
            Some([only]) => only.clone(),
            _ => 0..0,
        }
    }

    pub(super) fn run(&mut self, dispatches: Range<usize>) -> Result<()> {
        let Range { mut start, end: last } = self.passes(dispatches);
        while start < last {
            let mut end = start;
            let mut weight = 0;
            while end < last && (end == start || weight + self.recorded[end].weight <= SUBMISSION_FLOPS) {
                weight += self.recorded[end].weight;
                end += 1;
            }
            self.submit(start, end)?;
            start = end;
        }
        self.device.check()
    }

    fn submit(&mut self, start: usize, end: usize) -> Result<()> {
        let mut encoder = self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for dispatch in &self.recorded[start..end] {
                dispatch.encode(&mut pass);
            }
        }
        self.in_flight.push_back(self.device.queue.submit([encoder.finish()]));
        while self.in_flight.len() > SUBMISSIONS_IN_FLIGHT {
            let oldest = self.in_flight.pop_front();
            self.device.wait(oldest)?;
        }
        Ok(())
    }

    pub(super) fn run_timed(&mut self, dispatches: Range<usize>) -> Result<Vec<Duration>> {
        let range = self.passes(dispatches.clone());
        let first = range.start;
        let times = if self.device.timestamps { self.run_timestamped(range)? } else { self.run_wall_clock(range)? };
        let of = |passes: &Range<usize>| times[passes.start - first..passes.end - first].iter().sum();
        Ok(self.passes[dispatches].iter().map(of).collect())
    }

    /// A compute pass for each, with timestamps at its ends: the only place where every vendor has them.
    fn run_timestamped(&mut self, passes: Range<usize>) -> Result<Vec<Duration>> {
        let gpu = Arc::clone(&self.device);
        let mut times = Vec::with_capacity(passes.len());
        for chunk in self.recorded[passes].chunks(1024) {
            let count = 2 * chunk.len() as u32;
            let queries = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("profile"),
                size: 8 * u64::from(count),
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            });
            for (i, dispatch) in chunk.iter().enumerate() {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(2 * i as u32),
                            end_of_pass_write_index: Some(2 * i as u32 + 1),
                        }),
                    });
                    dispatch.encode(&mut pass);
                }
                gpu.queue.submit([encoder.finish()]);
            }
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
            gpu.queue.submit([encoder.finish()]);
            let words = gpu.read(&resolved, 0, 2 * count as usize)?;
            let stamps: Vec<u64> = words.chunks(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect();
            let period = f64::from(gpu.queue.get_timestamp_period());
            times.extend(
                stamps
                    .chunks(2)
                    .map(|pair| Duration::from_nanos((pair[1].saturating_sub(pair[0]) as f64 * period) as u64)),
            );
        }
        Ok(times)
    }

    fn run_wall_clock(&mut self, passes: Range<usize>) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(passes.len());
        for i in passes {
            self.device.synchronize()?;
            let start = Instant::now();
            self.submit(i, i + 1)?;
            self.device.synchronize()?;
            times.push(start.elapsed());
        }
        Ok(times)
    }
}

impl Recorded {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Compiles pipelines on all cores, in no particular order.
fn build(device: &GpuDevice, wanted: &[Wanted<'_>]) -> Result<Vec<Pipeline>> {
    let next = AtomicUsize::new(0);
    let built: Mutex<Vec<Option<Result<Pipeline>>>> = Mutex::new(wanted.iter().map(|_| None).collect());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((i, (name, launch, source))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| wanted.get(i).map(|w| (i, w)))
                {
                    let pipeline = device.pipeline(name, launch, source);
                    built.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(pipeline);
                }
            });
        }
    });
    let built = built.into_inner().unwrap_or_else(PoisonError::into_inner);
    built.into_iter().map(|pipeline| pipeline.expect("every index was taken by a thread")).collect()
}

fn record(device: &Arc<GpuDevice>, dispatch: &Dispatch, launch: &Launch, pipeline: &Pipeline) -> Result<Recorded> {
    let mut resources = Vec::with_capacity(launch.bindings.len());
    for (i, binding) in launch.bindings.iter().enumerate() {
        let view: &View = match binding {
            Binding::Input(i) => &dispatch.inputs[*i],
            Binding::Output(i) | Binding::Written(i) => &dispatch.outputs[*i],
        };
        let Buffer::Gpu(buffer) = &view.buffer else { return Err(Device::Gpu(Arc::clone(device)).foreign()) };
        let bytes = 4 * view.words as u64;
        if bytes > device.max_binding_bytes() {
            return Err(device.error(format!(
                "kernel {} binds a tensor of {} MiB, and this adapter allows {} MiB in one binding; \
                 use a smaller --batch ({})",
                dispatch.work.name(),
                bytes >> 20,
                device.max_binding_bytes() >> 20,
                dispatch.work.describe()
            )));
        }
        resources.push(wgpu::BindGroupEntry {
            binding: i as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer,
                offset: 4 * view.offset as u64,
                size: std::num::NonZeroU64::new(bytes),
            }),
        });
    }
    let group = device.scoped(&format!("kernel {}", dispatch.work.name()), || {
        device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(dispatch.work.name()),
            layout: &pipeline.group,
            entries: &resources,
        })
    })?;
    let cost = dispatch.work.cost();
    Ok(Recorded {
        pipeline: pipeline.pipeline.clone(),
        group,
        grid: launch.grid(),
        weight: cost.flops + FLOPS_PER_BYTE * cost.bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{adapters, open};

    #[test]
    fn patience_is_a_number_of_seconds() {
        assert_eq!(patience(Some("0.5")), Duration::from_millis(500));
        for other in [None, Some(""), Some("-1"), Some("long"), Some("1e300"), Some("NaN")] {
            assert_eq!(patience(other), PATIENCE);
        }
    }

    /// Destroying a device stands for its driver's reset: whatever comes after fails, and nothing hangs or panics.
    #[test]
    fn what_a_lost_device_is_asked_to_do_is_an_error() {
        let Some(adapter) = adapters().into_iter().next() else {
            eprintln!("there is no adapter on this machine to lose");
            return;
        };
        let device = open(&adapter.name).unwrap_or_else(|error| panic!("{error}"));
        let Device::Gpu(gpu) = &device else { unreachable!("adapters are GPU devices") };
        let buffer = device.alloc(64, "state").expect("fits");
        gpu.device.destroy();
        let calls = [
            device.synchronize().err(),
            device.write(&buffer, 0, &[1]).err(),
            device.read(&buffer, 0, 1).err(),
            device.copy(&buffer, &buffer, 1).err(),
        ];
        for error in calls {
            let text = error.expect("the device is lost").to_string();
            assert!(text.starts_with(device.name()) && text.contains("the device was lost"), "{text}");
            assert!(text.contains("--batch") && !text.contains('\n'), "{text}");
        }
    }
}
