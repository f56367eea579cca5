//! Tests with ranks that mpirun starts: the checks of `check_ranks`, and that no process survives a failure.
#![cfg(feature = "mpi")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One launch at a time: ranks that wait for the processor look like ranks that hang.
static MACHINE: Mutex<()> = Mutex::new(());

/// Far longer than any check takes.
const LIMIT: Duration = Duration::from_secs(120);

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `check_ranks MODE`, with this many ranks. The variables are Open MPI's: other launchers ignore them.
fn mpirun(ranks: usize, mode: &str) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_check_ranks")]);
    command.args((!mode.is_empty()).then_some(mode));
    for variable in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(variable, "1");
    }
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_mpi_yield_when_idle", "1");
    command.env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(command: &mut Command) -> Child {
    command.spawn().expect("mpirun is there: tools/mpi.sh installs it")
}

/// Waits for a process within the limit, and collects its output.
fn finish(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if start.elapsed() > LIMIT {
            drop(child.kill());
            let output = child.wait_with_output().expect("a child");
            panic!("still running after {LIMIT:?}: {output:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("a child")
}

/// The status of mpirun, and the output of the ranks.
fn run(ranks: usize, mode: &str) -> (Option<i32>, String, String) {
    let output = finish(start(&mut mpirun(ranks, mode)));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn holds(ranks: usize) -> String {
    let (status, stdout, stderr) = run(ranks, "");
    assert_eq!(status, Some(0), "{stderr}");
    let start = format!("{ranks} ranks: all collectives hold, digest ");
    stdout.trim().strip_prefix(&start).unwrap_or_else(|| panic!("{stdout}{stderr}")).to_owned()
}

#[test]
fn collectives_hold_and_two_runs_give_the_same_bits() {
    let _alone = alone();
    for ranks in [2, 4] {
        assert_eq!(holds(ranks), holds(ranks), "{ranks} ranks");
    }
    holds(3);
}

#[test]
fn one_rank_is_a_process_alone() {
    let _alone = alone();
    holds(1);
}

#[test]
fn a_rank_that_hangs_is_named_by_all_others() {
    let _alone = alone();
    for ranks in [2, 4] {
        let (status, _, stderr) = run(ranks, "silent");
        assert_eq!(status, Some(7), "{stderr}");
        for rank in 0..ranks - 1 {
            let sentence = format!("rank {rank}: rank {} has not answered for ", ranks - 1);
            assert!(stderr.contains(&sentence), "{sentence:?} is not in {stderr}");
        }
    }
}

#[test]
fn ranks_with_different_lengths_are_told_so() {
    let _alone = alone();
    let (status, _, stderr) = run(3, "lengths");
    assert_eq!(status, Some(7), "{stderr}");
    for sentence in [
        "rank 2 passes 6 values to a sum to which rank 0 passes 5",
        "rank 2 passes 6 values to a sum to which rank 1 passes 5",
        "rank 0 passes 5 values to a sum to which rank 2 passes 6",
    ] {
        assert!(stderr.contains(sentence), "{sentence:?} is not in {stderr}");
    }
}

#[test]
fn ranks_that_do_not_do_the_same_are_told_so() {
    let _alone = alone();
    let (status, _, stderr) = run(2, "order");
    assert_eq!(status, Some(7), "{stderr}");
    assert!(stderr.contains("rank 1 is at a broadcast where rank 0 is at a gathering"), "{stderr}");
    assert!(stderr.contains("rank 0 is at a gathering where rank 1 is at a broadcast"), "{stderr}");
}

#[test]
fn any_thread_ends_all_ranks_while_they_wait() {
    let _alone = alone();
    let begun = Instant::now();
    let (status, _, stderr) = run(3, "abort");
    assert_eq!(status, Some(9), "{stderr}");
    // One rank would sleep for longer.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_rank_that_panics_ends_the_others() {
    let _alone = alone();
    let (status, _, stderr) = run(3, "panic");
    assert_eq!(status, Some(101), "{stderr}");
    assert!(stderr.contains("a fault of rank 2"), "{stderr}");
}

/// A process that no launcher of this MPI started is alone to it, even if another launcher names several.
#[test]
fn the_launcher_of_another_mpi_is_told_apart() {
    let _alone = alone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_check_ranks"));
    let output = command.env("MPI_LOCALNRANKS", "2").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("2 of these processes were started together (MPI_LOCALNRANKS), but MPI sees one"),
        "{stderr}"
    );
}

#[cfg(unix)]
mod kills {
    use super::*;

    fn kill(pid: &str) {
        assert!(Command::new("kill").args(["-KILL", pid]).status().expect("kill is there").success());
    }

    /// Tells whether a process runs; one that has ended but was not yet collected by its parent does not.
    fn runs(pid: &str) -> bool {
        let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().expect("ps is there");
        let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        !state.is_empty() && !state.starts_with('Z')
    }

    /// Starts mpirun; returns it and the processes of three ranks that wait for each other.
    fn waiting() -> (Child, Vec<String>) {
        let mut child = start(&mut mpirun(3, "wait"));
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
        let pids: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
        if pids.len() != 3 {
            let mut told = String::new();
            drop(child.kill());
            drop(child.stderr.take().expect("piped").read_to_string(&mut told));
            panic!("{line:?} instead of three processes: {told}");
        }
        assert!(pids.iter().all(|pid| runs(pid)));
        (child, pids)
    }

    fn all_end(pids: &[String]) {
        let start = Instant::now();
        while pids.iter().any(|pid| runs(pid)) {
            if start.elapsed() > Duration::from_secs(20) {
                let left: Vec<_> = pids.iter().filter(|pid| runs(pid)).collect();
                left.iter().for_each(|pid| kill(pid));
                panic!("{left:?} of {pids:?} live on");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn no_rank_outlives_its_launcher() {
        let _alone = alone();
        let (mut child, pids) = waiting();
        child.kill().expect("it runs");
        child.wait().expect("a child");
        all_end(&pids);
    }

    #[test]
    fn no_rank_outlives_another_one() {
        let _alone = alone();
        for rank in [0, 2] {
            let (child, pids) = waiting();
            kill(&pids[rank]);
            let status = finish(child).status;
            assert!(!status.success(), "{status}");
            all_end(&pids);
        }
    }
}
