//! Waiting for other ranks: without occupying a core, and up to a limit.

use std::hint;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Number of looks that are taken in immediate succession.
const SPINS: usize = 200;
/// Time after the last message during which other threads get the core between two looks; later, the thread sleeps.
const YIELD: Duration = Duration::from_micros(500);
/// The shortest and the longest sleep. A sleep takes a 64th of the wait so far; long ones would hold up MPI's
/// forwarding of messages.
const SLEEP: [Duration; 2] = [Duration::from_micros(50), Duration::from_micros(250)];

/// Instructions from a rank's other threads to the waiting one.
#[derive(Debug, Default)]
pub(crate) struct Control {
    limit: Mutex<Option<Duration>>,
    abort: Mutex<Option<i32>>,
}

/// Reason to stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The wait has lasted this long, longer than allowed.
    Limit(Duration),
    /// All ranks must end with this status.
    Abort(i32),
}

impl Control {
    pub fn set_limit(&self, limit: Option<Duration>) {
        *self.limit.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    pub fn ask_abort(&self, status: i32) {
        self.abort.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(status);
    }

    /// The status with which all ranks must end, if they must.
    pub fn aborted(&self) -> Option<i32> {
        *self.abort.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One wait.
#[derive(Debug)]
pub(crate) struct Patience<'a> {
    control: &'a Control,
    since: Instant,
    progress: Instant,
    looks: usize,
}

impl<'a> Patience<'a> {
    pub fn new(control: &'a Control) -> Self {
        let now = Instant::now();
        Self { control, since: now, progress: now, looks: 0 }
    }

    /// Notes that a message has arrived or gone: the next ones are near.
    pub fn progress(&mut self) {
        self.progress = Instant::now();
        self.looks = 0;
    }

    /// Pauses for a moment before the next look, or returns the reason to stop.
    pub fn pause(&mut self) -> Result<(), Stop> {
        self.looks += 1;
        if self.looks < SPINS {
            hint::spin_loop();
            return Ok(());
        }
        if let Some(status) = self.control.aborted() {
            return Err(Stop::Abort(status));
        }
        let now = Instant::now();
        let limit = *self.control.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = now - self.since;
        if limit.is_some_and(|limit| waited > limit) {
            return Err(Stop::Limit(waited));
        }
        let still = now - self.progress;
        if still < YIELD {
            thread::yield_now();
        } else {
            thread::sleep((still / 64).clamp(SLEEP[0], SLEEP[1]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(control: &Control) -> Stop {
        let mut patience = Patience::new(control);
        loop {
            if let Err(stop) = patience.pause() {
                return stop;
            }
        }
    }

    #[test]
    fn patience_ends_at_the_limit() {
        let control = Control::default();
        control.set_limit(Some(Duration::from_millis(30)));
        let Stop::Limit(waited) = wait(&control) else { panic!("another reason") };
        assert!(waited >= Duration::from_millis(30) && waited < Duration::from_secs(5), "{waited:?}");
    }

    #[test]
    fn a_limit_holds_from_when_it_is_set() {
        let control = Control::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&control));
            thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            control.set_limit(Some(Duration::from_millis(60)));
            let Ok(Stop::Limit(_)) = waiting.join() else { panic!("another reason") };
        });
    }

    #[test]
    fn another_thread_ends_a_wait_and_the_first_status_counts() {
        let control = Control::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&control));
            control.ask_abort(3);
            control.ask_abort(4);
            assert_eq!(waiting.join().ok(), Some(Stop::Abort(3)));
        });
    }
}
