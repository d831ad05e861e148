//! Measures how long a restarting bridge takes from the SIGKILL of its child to the next answer, while another thread calls it without a pause.
//! The floor is the bare start of the same program, up to its first byte.

#![forbid(unsafe_code)]

use crate::bridge::{BridgeTransport, CountService};
use crate::floor;
use crate::interleave::{Batch, Budget, Subject, interleave, rows};
use crate::report::BenchReport;
use crate::start;
use crate::{BoxError, Clock, Progress};
use callgate::{Bridge, CallError, Restart};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The floor, and the bridges compared with it.
pub const ROWS: [&str; 3] = ["spawn", "callgate restart", "callgate restart with a spare"];

/// How long the next child may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after each restart, in which the spare child for the next one gets ready.
const REST: Duration = Duration::from_millis(20);

/// Measures the group `restart`. Nothing is pinned.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let budget = budget.at_least(20, Duration::from_millis(2));
    let measured = interleave(budget, &clock, progress, || Ok(subjects()))?;
    let series = measured.iter().map(|measured| measured.curve("restart")).collect();
    Ok(BenchReport { rows: rows("restart", &measured), series, ..BenchReport::default() })
}

/// The subjects, in the order of [`ROWS`].
pub fn subjects() -> Vec<Subject> {
    let [floor, plain, spare] = ROWS;
    vec![
        Subject::custom(floor, |batch| start::each(batch, || Ok(floor::spawn()?))),
        Subject::custom(plain, |batch| restarts(batch, false)).beside(floor),
        Subject::custom(spare, |batch| restarts(batch, true)).beside(floor),
    ]
}

/// Kills the child again and again until the batch is over, and records how long each replacement takes.
fn restarts(batch: &mut Batch<'_>, spare: bool) -> Result<(), BoxError> {
    let restart = Restart::on_death().at_most(u32::MAX).backoff(Duration::ZERO, Duration::ZERO).calls_wait(true);
    let bridge = BridgeTransport::restarting(restart.spare(spare), TIMEOUT)?.bridge;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Some calls die with a child.
                let _ = bridge.add(1);
            }
        });
        let outcome = kills(batch, &bridge);
        done.store(true, Ordering::Relaxed);
        outcome
    })
}

fn kills(batch: &mut Batch<'_>, bridge: &Bridge<CountService>) -> Result<(), BoxError> {
    loop {
        thread::sleep(REST);
        let generation = bridge.generation();
        let child = Pid::from_raw(bridge.child_pid() as i32).ok_or("a child without a number")?;
        let from = batch.clock.now();
        kill_process(child, Signal::KILL)?;
        // Answers from the old child do not count, nor do calls that died with it.
        loop {
            match bridge.add(1) {
                Ok(_) if bridge.generation() > generation => break,
                Ok(_) | Err(CallError::Died { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        batch.record(batch.clock.nanos(from, batch.clock.now()));
        if batch.is_over() {
            return Ok(());
        }
    }
}
