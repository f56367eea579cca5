//! The CPU device: runs the references over aligned memory.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytemuck::{Pod, Zeroable};

use super::{Buffer, Device, Dispatch, View};
use crate::error::{Error, Result};
use crate::graph::work::Work;
use crate::kernel::{Slice, SliceMut};
use crate::shape::DType;

/// One cache line: the unit of allocation, so that vector loads never straddle lines.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// Memory of the CPU device. Clones share it.
#[derive(Debug, Clone)]
pub struct CpuBuffer {
    lines: Arc<RwLock<Vec<Line>>>,
    words: usize,
}

impl CpuBuffer {
    fn lock(&self) -> RwLockReadGuard<'_, Vec<Line>> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_mut(&self) -> RwLockWriteGuard<'_, Vec<Line>> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processor with all its cores.
#[derive(Debug)]
pub struct CpuDevice {
    name: String,
}

impl CpuDevice {
    pub(super) fn new() -> Self {
        let threads = rayon::current_num_threads();
        Self { name: format!("cpu ({threads} thread{})", if threads == 1 { "" } else { "s" }) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn alloc(&self, words: usize, label: &str) -> Result<CpuBuffer> {
        let count = words.div_ceil(16).max(1);
        let mut lines: Vec<Line> = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| Error::Device {
            device: self.name.clone(),
            problem: format!("out of memory: {label} needs {} MiB; a smaller batch needs less", words / (1 << 18)),
        })?;
        lines.resize(count, Line([0; 16]));
        Ok(CpuBuffer { lines: Arc::new(RwLock::new(lines)), words })
    }

    pub(super) fn write(&self, buffer: &CpuBuffer, offset: usize, data: &[u32]) -> Result<()> {
        self.check(buffer, offset, data.len())?;
        bytemuck::cast_slice_mut(buffer.lock_mut().as_mut_slice())[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    pub(super) fn read(&self, buffer: &CpuBuffer, offset: usize, words: usize) -> Result<Vec<u32>> {
        self.check(buffer, offset, words)?;
        Ok(bytemuck::cast_slice(buffer.lock().as_slice())[offset..offset + words].to_vec())
    }

    pub(super) fn copy(&self, from: &CpuBuffer, to: &CpuBuffer, words: usize) -> Result<()> {
        self.check(from, 0, words)?;
        self.check(to, 0, words)?;
        if !Arc::ptr_eq(&from.lines, &to.lines) {
            let lines = words.div_ceil(16);
            to.lock_mut()[..lines].copy_from_slice(&from.lock()[..lines]);
        }
        Ok(())
    }

    fn check(&self, buffer: &CpuBuffer, offset: usize, words: usize) -> Result<()> {
        if offset + words <= buffer.words {
            return Ok(());
        }
        Err(Error::Device {
            device: self.name.clone(),
            problem: format!("words {offset}..{} of a buffer of {} words", offset + words, buffer.words),
        })
    }
}

/// References in order.
#[derive(Debug)]
pub struct CpuProgram {
    dispatches: Vec<Dispatch>,
}

impl CpuProgram {
    pub(super) fn new(device: &Arc<CpuDevice>, dispatches: Vec<Dispatch>) -> Result<Self> {
        let views = dispatches.iter().flat_map(|d| d.inputs.iter().chain(&d.outputs));
        for view in views {
            match &view.buffer {
                Buffer::Cpu(buffer) => device.check(buffer, view.offset, view.words)?,
                Buffer::Gpu(_) => return Err(Device::Cpu(Arc::clone(device)).foreign()),
            }
        }
        Ok(Self { dispatches })
    }

    pub(super) fn count(&self) -> usize {
        self.dispatches.len()
    }

    // Both run on a thread of the pool, which then computes, too, and does not wait to be woken for each kernel.

    pub(super) fn run(&mut self, dispatches: Range<usize>) -> Result<()> {
        let dispatches = &self.dispatches[dispatches];
        rayon::scope(|_| dispatches.iter().for_each(execute));
        Ok(())
    }

    pub(super) fn run_timed(&mut self, dispatches: Range<usize>) -> Result<Vec<Duration>> {
        let dispatches = &self.dispatches[dispatches];
        let timed = |dispatch| {
            let start = Instant::now();
            execute(dispatch);
            start.elapsed()
        };
        Ok(rayon::scope(|_| dispatches.iter().map(timed).collect()))
    }
}

fn cpu_buffer(view: &View) -> &CpuBuffer {
    match &view.buffer {
        Buffer::Cpu(buffer) => buffer,
        Buffer::Gpu(_) => unreachable!("CpuProgram::new refuses buffers of other devices"),
    }
}

/// Runs one reference. Inputs are locked for reading, each written buffer once for writing; the graph has made sure
/// that no buffer is both, and that written parts do not overlap.
fn execute(dispatch: &Dispatch) {
    let Work::Kernel(kernel) = &dispatch.work else { return };
    let guards: Vec<_> = dispatch.inputs.iter().map(|view| cpu_buffer(view).lock()).collect();
    let inputs: Vec<Slice<'_>> = dispatch
        .inputs
        .iter()
        .zip(&guards)
        .map(|(view, guard)| {
            let words: &[u32] = &bytemuck::cast_slice(guard.as_slice())[view.offset..view.offset + view.words];
            match view.dtype {
                DType::F32 => Slice::F32(bytemuck::cast_slice(words)),
                DType::F16 => Slice::F16(bytemuck::cast_slice(words)),
                DType::U32 => Slice::U32(words),
            }
        })
        .collect();

    let mut order: Vec<usize> = (0..dispatch.outputs.len()).collect();
    order.sort_by_key(|&i| (dispatch.outputs[i].buffer_id, dispatch.outputs[i].offset));
    let mut ids: Vec<usize> = order.iter().map(|&i| dispatch.outputs[i].buffer_id).collect();
    ids.dedup();
    let mut locked: Vec<_> = ids
        .iter()
        .map(|&id| {
            let view = dispatch.outputs.iter().find(|view| view.buffer_id == id).expect("ids come from the outputs");
            cpu_buffer(view).lock_mut()
        })
        .collect();
    let mut slices: Vec<Option<SliceMut<'_>>> = dispatch.outputs.iter().map(|_| None).collect();
    for (guard, id) in locked.iter_mut().zip(ids) {
        let mut rest: &mut [u32] = bytemuck::cast_slice_mut(guard.as_mut_slice());
        let mut consumed = 0;
        for &i in order.iter().filter(|&&i| dispatch.outputs[i].buffer_id == id) {
            let view = &dispatch.outputs[i];
            let (_, tail) = rest.split_at_mut(view.offset - consumed);
            let (words, tail) = tail.split_at_mut(view.words);
            consumed = view.offset + view.words;
            rest = tail;
            slices[i] = Some(match view.dtype {
                DType::F32 => SliceMut::F32(bytemuck::cast_slice_mut(words)),
                DType::F16 => SliceMut::F16(bytemuck::cast_slice_mut(words)),
                DType::U32 => SliceMut::U32(words),
            });
        }
    }
    let mut outputs: Vec<SliceMut<'_>> =
        slices.into_iter().map(|slice| slice.expect("every output belongs to a locked buffer")).collect();
    kernel.compute(&inputs, &mut outputs);
}
