//! The ranks of an MPI world. One thread owns MPI, makes all its calls, and does jobs in the order of their arrival.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{mem, process};

use mpi::Threading;

use crate::collectives::Collectives;
use crate::exchange::Mpi;
use crate::patience::Control;
use crate::{Communicator, Error, Pending, Result};

/// Interval at which the idle thread wakes: MPI makes progress on messages only while it is called.
const IDLE: Duration = Duration::from_millis(5);
/// Time that MPI gets to end all ranks; after it, this one ends by itself.
const ABORT: Duration = Duration::from_secs(10);

type Answer<T> = Sender<Result<T>>;

enum Job {
    Broadcast(Vec<u8>, Answer<Vec<u8>>),
    AllGather(Vec<u8>, Answer<Vec<Vec<u8>>>),
    AllReduce(Vec<f32>, Answer<Vec<f32>>),
}

/// The ranks of an MPI world, two or more.
#[derive(Debug)]
pub(crate) struct World {
    rank: usize,
    size: usize,
    host: String,
    control: Arc<Control>,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl World {
    /// Starts MPI on its own thread; `None` if this process is alone.
    pub fn start() -> Result<Option<Self>> {
        let control = Arc::new(Control::default());
        let (jobs, todo) = mpsc::channel();
        let (told, introduction) = mpsc::channel();
        let shared = control.clone();
        let thread = thread::Builder::new()
            .name("mpi".to_owned())
            .spawn(move || serve(&shared, &told, &todo))
            .map_err(|error| Error::Mpi(format!("its thread cannot be started ({error})")))?;
        let (rank, size, host) = introduction.recv().map_err(|_| Error::ended())??;
        if size < 2 {
            drop(jobs);
            thread.join().map_err(|_| Error::ended())?;
            return Ok(None);
        }
        Ok(Some(Self { rank, size, host, control, jobs: Some(jobs), thread: Some(thread) }))
    }

    fn send<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<Receiver<Result<T>>> {
        let (answer, receiver) = mpsc::channel();
        let jobs = self.jobs.as_ref().ok_or_else(Error::ended)?;
        jobs.send(job(answer)).map_err(|_| Error::ended())?;
        Ok(receiver)
    }

    fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T> {
        self.send(job)?.recv().map_err(|_| Error::ended())?
    }
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn broadcast(&self, data: Vec<u8>) -> Result<Vec<u8>> {
        self.ask(|answer| Job::Broadcast(data, answer))
    }

    fn all_gather(&self, block: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        self.ask(|answer| Job::AllGather(block, answer))
    }

    fn all_reduce(&self, data: Vec<f32>) -> Result<Vec<f32>> {
        self.ask(|answer| Job::AllReduce(data, answer))
    }

    fn start_all_reduce(&self, data: Vec<f32>) -> Result<Pending> {
        Ok(Pending::coming(self.send(|answer| Job::AllReduce(data, answer))?))
    }

    fn set_time_limit(&self, limit: Option<Duration>) {
        self.control.set_limit(limit);
    }

    fn abort(&self, status: i32) -> ! {
        self.control.ask_abort(status);
        thread::sleep(ABORT);
        process::exit(status)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let jobs = self.jobs.take();
        // MPI finalises all ranks together; one that panics leaves it to the launcher to end the others.
        if thread::panicking() {
            mem::forget(jobs);
            return;
        }
        drop(jobs);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported already.
            drop(thread.join());
        }
    }
}

/// Body of the thread, from MPI's first call to its last.
fn serve(control: &Control, told: &Sender<Result<(usize, usize, String)>>, jobs: &Receiver<Job>) {
    let mpi = match initialise() {
        Ok((mpi, host)) => {
            // Its receiver waits for it.
            drop(told.send(Ok((mpi.rank(), mpi.size(), host))));
            mpi
        }
        Err(error) => {
            drop(told.send(Err(error)));
            return;
        }
    };
    let mut collectives = Collectives::new(mpi, control);
    loop {
        match jobs.recv_timeout(IDLE) {
            // A receiver that no longer waits needs no answer.
            Ok(Job::Broadcast(data, answer)) => drop(answer.send(collectives.broadcast(data))),
            Ok(Job::AllGather(block, answer)) => drop(answer.send(collectives.all_gather(block))),
            Ok(Job::AllReduce(data, answer)) => drop(answer.send(collectives.all_reduce(data))),
            Err(RecvTimeoutError::Timeout) => collectives.idle(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    collectives.finish();
}

fn initialise() -> Result<(Mpi, String)> {
    let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Funneled) else {
        return Err(Error::Mpi("it was started already".to_owned()));
    };
    if threading < Threading::Funneled {
        return Err(Error::Mpi("this library does not allow threads: install one that does".to_owned()));
    }
    let host = mpi::environment::processor_name().unwrap_or_else(|_| "unknown".to_owned());
    Ok((Mpi::new(universe)?, host))
}
