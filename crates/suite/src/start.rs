//! Measures the start of a child up to its first reply. The floor is the bare start of the same program up to its first byte.
//!
//! Both are also measured in a parent that holds much memory, whose page tables a start by `fork` would have to copy.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::floor;
use crate::interleave::{Batch, Budget, Subject, interleave, rows};
use crate::report::BenchReport;
use crate::{BoxError, Clock, Progress, Transport};
use callgate::Wait;
use std::hint::black_box;
use std::time::Duration;

/// The names of the floor and the bridge.
pub const PLAIN: [&str; 2] = ["spawn", "callgate start"];

/// Their names in a parent that holds the memory of [`hold`].
pub const LARGE: [&str; 2] = ["spawn 1 GiB parent", "callgate start 1 GiB parent"];

/// Measures the group `start`. Nothing is pinned. Needs 1 GiB of memory for a while.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let budget = budget.at_least(20, Duration::from_millis(2));
    let mut measured = interleave(budget, &clock, progress, || Ok(subjects(PLAIN)))?;
    let held = hold();
    measured.extend(interleave(budget, &clock, progress, || Ok(subjects(LARGE)))?);
    drop(black_box(held));
    let series = measured.iter().map(|measured| measured.curve("start")).collect();
    Ok(BenchReport { rows: rows("start", &measured), series, ..BenchReport::default() })
}

/// Subjects for the floor and the bridge, under these names. The time to end what was started does not count.
pub fn subjects([floor, bridge]: [&str; 2]) -> Vec<Subject> {
    let start = || {
        let mut bridge = BridgeTransport::start(Wait::Adaptive, None)?;
        bridge.add(1)?;
        Ok(bridge)
    };
    vec![
        Subject::custom(floor, |batch| each(batch, || Ok(floor::spawn()?))),
        Subject::custom(bridge, move |batch| each(batch, start)).beside(floor),
    ]
}

/// Measures `start` until the batch is over.
pub(crate) fn each<S>(batch: &mut Batch<'_>, start: impl Fn() -> Result<S, BoxError>) -> Result<(), BoxError> {
    loop {
        let from = batch.clock.now();
        let started = start()?;
        let to = batch.clock.now();
        drop(started);
        batch.record(batch.clock.nanos(from, to));
        if batch.is_over() {
            return Ok(());
        }
    }
}

/// Allocates 1 GiB for the large parent and writes to every page, so that all of it is mapped.
pub fn hold() -> Vec<u8> {
    let mut memory = vec![0; 1 << 30];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    black_box(memory)
}
