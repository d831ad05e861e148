//! Measures awaited calls, on an executor that adds next to nothing: short ones, one that takes 50 us, and 10,000 at once.
//!
//! Bridges wait as they do by default, and wake tasks from the process's own reactor. Needs two CPUs.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::executor::Executor;
use crate::floor::RawEvents;
use crate::interleave::{Budget, Subject, interleave, rows};
use crate::pending::{Totals, means, pipeline_name, raw_pipeline};
use crate::pin::{self, Pinned};
use crate::report::{BenchReport, Row};
use crate::soak::MemoryUse;
use crate::workload::{self, CallKind, check};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::{Pending, Wait};
use std::cell::RefCell;
use std::fs;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

/// How long the method works that is awaited beside the event loop.
const WORK: Duration = Duration::from_micros(50);

/// The number of calls that are on their way at once. A bridge has 8 lanes with room for 32 each; the other requests wait in the caller's memory.
pub const IN_FLIGHT: usize = 10_000;

/// The name of the row of [`IN_FLIGHT`] calls.
pub const CROWD: &str = "callgate add 10,000 in flight";

/// The name of the row that has the memory of both processes before any of these calls.
pub const CALM: &str = "memory before 10,000 in flight";

/// Measures the group `async`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Awaited calls"));
    };
    let _pin = Pinned::to(caller)?;
    // First: later, the allocator has memory from before that it would use again.
    let [before, with] = memory(callee)?;
    let (clock, mut found) = (Clock::new(), Vec::new());
    found.extend(interleave(budget, &clock, progress, || short(callee))?);
    found.extend(interleave(budget, &clock, progress, || working(callee))?);
    found.extend(interleave(budget.at_least(5, Duration::from_millis(5)), &clock, progress, || crowd(callee))?);
    let mut rows = rows("async", &found);
    rows.iter_mut().filter(|row| row.name == CROWD).for_each(|row| row.resident = Some(with));
    rows.push(Row { group: "async".into(), name: CALM.into(), resident: Some(before), ..Row::default() });
    Ok(BenchReport { rows, ..BenchReport::default() })
}

/// A short call, waited for by a thread and by a task. Both sides get what they wait for while they still poll.
pub fn short(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let blocking = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let bridged = BridgeTransport::start(Wait::Adaptive, Some(callee))?;
    let (peer, executor, mut totals) = (bridged.peer(), Executor::here(), Totals::default());
    let await_add = move || totals.check(executor.run(bridged.bridge.as_async().add(black_box(1)))?);
    Ok(vec![
        workload::subject("callgate add", CallKind::Add, &blocking),
        Subject::new("callgate await add", await_add).answered_by(peer).beside("callgate add"),
    ])
}

/// A call that takes a while, beside an event loop that has the same work done.
pub fn working(callee: usize) -> Result<Vec<Subject>, BoxError> {
    const FLOOR: &str = "eventfd and epoll, work 50 us";
    let blocking = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let bridged = BridgeTransport::start(Wait::Adaptive, Some(callee))?;
    let (peer, executor) = (bridged.peer(), Executor::here());
    let await_work = move || Ok(executor.run(bridged.bridge.as_async().work(WORK.as_nanos() as u64))?);
    Ok(vec![
        RawEvents::start(callee)?.subject(FLOOR, WORK),
        workload::subject("callgate work 50 us", CallKind::Work(WORK), &blocking).beside(FLOOR),
        Subject::new("callgate await work 50 us", await_work).answered_by(peer).beside(FLOOR),
    ])
}

/// Very many calls at once.
pub fn crowd(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridged = BridgeTransport::start(Wait::Adaptive, Some(callee))?;
    let (peer, executor, mut total) = (bridged.peer(), Executor::here(), 0);
    let mut round = move || {
        // Lanes overtake each other, so only the sum of the totals is known.
        let sum = await_all(&executor, begin_all(&bridged))?;
        let calls = IN_FLIGHT as u64;
        let expected = calls * total + calls * (calls + 1) / 2;
        total += calls;
        check(sum == expected, "add")
    };
    let subject = Subject::custom(CROWD, move |batch| means(batch, IN_FLIGHT as u32, &mut round));
    Ok(vec![raw_pipeline(IN_FLIGHT, callee)?, subject.of_means().answered_by(peer).beside(&pipeline_name(IN_FLIGHT))])
}

fn begin_all(bridged: &BridgeTransport) -> Vec<Pending<u64>> {
    (0..IN_FLIGHT).map(|_| bridged.bridge.as_async().add(black_box(1))).collect()
}

/// Returns the sum of the results.
fn await_all(executor: &Executor, all: Vec<Pending<u64>>) -> Result<u64, BoxError> {
    all.into_iter().try_fold(0, |sum, pending| Ok(sum + executor.run(pending)?))
}

/// How long the child is busy while the memory of waiting calls is looked at.
const BUSY: Duration = Duration::from_millis(300);

/// The resident memory of both processes in bytes, before any call and with [`IN_FLIGHT`] of them.
///
/// # Errors
///
/// If the calls take a thread.
fn memory(callee: usize) -> Result<[f64; 2], BoxError> {
    let bridged = BridgeTransport::start(Wait::Adaptive, Some(callee))?;
    bridged.bridge.add(1)?;
    let resident = || -> Result<f64, BoxError> {
        let [own, child] = [std::process::id(), bridged.bridge.child_pid()].map(MemoryUse::of);
        Ok((own?.resident + child?.resident) as f64)
    };
    let threads = || -> Result<usize, BoxError> { Ok(fs::read_dir("/proc/self/task")?.count()) };
    let (before, threads_before) = (resident()?, threads()?);
    // The child is busy until after the look, so none of the calls is answered before.
    let busy = bridged.bridge.as_async().work(BUSY.as_nanos() as u64);
    let all = begin_all(&bridged);
    let (with, threads_with) = (resident()?, threads()?);
    await_all(&Executor::here(), all)?;
    Executor::here().run(busy)?;
    match threads_with > threads_before {
        true => Err(format!("{IN_FLIGHT} calls took {} threads", threads_with - threads_before).into()),
        false => Ok([before, with]),
    }
}
