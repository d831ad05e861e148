//! Measures calls per second when several threads call one bridge back to back.
//!
//! The child is pinned to one CPU. A single caller is pinned to another, so that it never shares the child's CPU. Several callers may run on every
//! CPU, as threads of a real program would, and one of them may share the child's. Needs two CPUs.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::interleave::{Batch, Budget, Measured, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::{BenchReport, Series};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::Wait;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

/// The numbers of calling threads.
pub const THREADS: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Calls between two readings of the clock.
const CHUNK: u32 = 32;

/// Measures the group `throughput`. A row is the time per call over all threads together; the series is its inverse.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok(cpus) = pin::pair() else {
        return Ok(BenchReport::left_out("Throughput"));
    };
    // Each batch starts its threads, so it must be long.
    let budget =
        Budget { batch: budget.batch.max(Duration::from_millis(20)), ..budget }.at_least(5, Duration::from_millis(20));
    let measured = interleave(budget, &Clock::new(), progress, || subjects(cpus))?;
    let per_second = |measured: &Measured| 1e9 / measured.merged().at(0.5);
    let points = THREADS.iter().zip(&measured).map(|(&threads, measured)| (threads as f64, per_second(measured)));
    let series = vec![Series { plot: "threads".into(), name: "callgate add".into(), points: points.collect() }];
    Ok(BenchReport { rows: rows("throughput", &measured), series, ..BenchReport::default() })
}

/// Subjects for each number of threads, on `cpus` of caller and child. The first is the floor of the others.
pub fn subjects(cpus: (usize, usize)) -> Result<Vec<Subject>, BoxError> {
    THREADS.iter().map(|&threads| subject(threads, cpus)).collect()
}

/// The name of the row for a number of threads.
pub fn name(threads: usize) -> String {
    match threads {
        1 => "callgate add 1 thread".into(),
        _ => format!("callgate add {threads} threads"),
    }
}

fn subject(threads: usize, (caller, callee): (usize, usize)) -> Result<Subject, BoxError> {
    let bridged = BridgeTransport::start(Wait::Adaptive, Some(callee))?;
    let peer = bridged.peer();
    let alone = (threads == 1).then_some(caller);
    let subject = Subject::custom(name(threads), move |batch| run(batch, threads, alone, &bridged));
    // Each batch records one value, a mean.
    let subject = subject.answered_by(peer).of_means();
    Ok(if threads == 1 { subject } else { subject.beside(&name(1)) })
}

/// Has all threads call until the batch is over, and records the time per call. Pins them to `cpu`, if given.
fn run(batch: &mut Batch<'_>, threads: usize, cpu: Option<usize>, bridged: &BridgeTransport) -> Result<(), BoxError> {
    let (clock, until) = (batch.clock, batch.until);
    let begin = Barrier::new(threads);
    let call = || -> Result<(u64, u64, u64), BoxError> {
        // The other threads wait for this one at the barrier, so nothing may fail before it.
        let pinned = cpu.map(Pinned::to).transpose();
        begin.wait();
        let _pin = pinned?;
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
