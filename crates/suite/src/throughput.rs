//! Calls per second with several threads calling one bridge, each back to back.
//!
//! Nothing is pinned: where the callers and the child run is left to the kernel, as in a program that has such threads.

#![forbid(unsafe_code)]

use crate::bridge::Bridged;
use crate::interleave::{Batch, Budget, Measured, Subject, interleave, rows};
use crate::report::{Report, Series};
use crate::{Clock, Failure, Progress, Transport};
use callgate::{CallError, Wait};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

/// How many threads call.
pub const THREADS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Calls between two readings of the clock.
const CHUNK: u32 = 32;

/// The group `throughput`: a row is the time per call, all threads together; the series is its inverse.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<Report, Failure> {
    // Threads are started in each batch.
    let budget =
        Budget { batch: budget.batch.max(Duration::from_millis(20)), ..budget }.at_least(5, Duration::from_millis(20));
    let measured = interleave(budget, &Clock::new(), progress, subjects)?;
    let per_second = |measured: &Measured| 1e9 / measured.merged().at(0.5);
    let points = THREADS.iter().zip(&measured).map(|(&threads, measured)| (threads as f64, per_second(measured)));
    let series = vec![Series { plot: "threads".into(), name: "callgate add".into(), points: points.collect() }];
    Ok(Report { rows: rows("throughput", &measured), series, ..Report::default() })
}

/// One for each number of threads; the first is the others' floor.
pub fn subjects() -> Result<Vec<Subject>, Failure> {
    THREADS.iter().map(|&threads| subject(threads)).collect()
}

/// What its row is called.
pub fn name(threads: usize) -> String {
    match threads {
        1 => "callgate add 1 thread".into(),
        _ => format!("callgate add {threads} threads"),
    }
}

fn subject(threads: usize) -> Result<Subject, Failure> {
    let bridged = Bridged::start(Wait::Adaptive, None)?;
    let peer = bridged.peer();
    let subject = Subject::custom(name(threads), move |batch| run(batch, threads, &bridged)).answered_by(peer);
    Ok(if threads == 1 { subject } else { subject.beside(&name(1)) })
}

/// Has all threads call until the batch is over, and records the time per call.
fn run(batch: &mut Batch<'_>, threads: usize, bridged: &Bridged) -> Result<(), Failure> {
    let (clock, until) = (batch.clock, batch.until);
    let begin = Barrier::new(threads);
    let call = || -> Result<(u64, u64, u64), CallError> {
        begin.wait();
        let (from, mut calls) = (clock.now(), 0);
        loop {
            for _ in 0..CHUNK {
                bridged.bridge.add(1)?;
            }
            calls += u64::from(CHUNK);
            let to = clock.now();
            if to >= until {
                return Ok((from, to, calls));
            }
        }
    };
    let done = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(call)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<Vec<_>, _>>()
    })?;
    let from = done.iter().map(|(from, ..)| *from).min().unwrap_or_default();
    let to = done.iter().map(|(_, to, _)| *to).max().unwrap_or_default();
    let calls: u64 = done.iter().map(|(.., calls)| calls).sum();
    batch.record_many(clock.nanos(from, to) / calls as f64, calls as u32);
    Ok(())
}
