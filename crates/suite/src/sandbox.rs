//! Measures the cost of the strictest sandbox: calls while polling, calls while parked, and the start. The floor of each is the same operation
//! without a sandbox.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::interleave::{Batch, Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::Wait;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Measures the group `sandbox`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let Ok((caller, callee)) = pin::pair() else { return Ok(BenchReport::left_out("Sandbox")) };
    let pin = Pinned::to(caller)?;
    let mut measured = interleave(budget, &clock, progress, || polling(callee))?;
    measured.extend(interleave(budget, &clock, progress, || parked(callee))?);
    drop(pin);
    let budget = budget.at_least(20, Duration::from_millis(4));
    measured.extend(interleave(budget, &clock, progress, || Ok(starting()))?);
    let series = measured.iter().map(|measured| measured.curve("sandbox")).collect();
    Ok(BenchReport { rows: rows("sandbox", &measured), series, ..BenchReport::default() })
}

/// Subjects whose two sides get what they wait for while they still poll. Pin the caller to another CPU than `callee`.
pub fn polling(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let calls = [("add", CallKind::Add), ("record", CallKind::Record)];
    against(Wait::Adaptive, callee, &calls)
}

/// Subjects whose two sides sleep whenever they wait, so that each call makes system calls, which the sandbox's filters check.
pub fn parked(callee: usize) -> Result<Vec<Subject>, BoxError> {
    against(Wait::Park, callee, &[("add parked", CallKind::Add)])
}

fn against(wait: Wait, callee: usize, calls: &[(&str, CallKind)]) -> Result<Vec<Subject>, BoxError> {
    let plain = Rc::new(RefCell::new(BridgeTransport::start(wait, Some(callee))?));
    let sandboxed = Rc::new(RefCell::new(BridgeTransport::sandboxed(wait, Some(callee))?));
    let subjects = calls.iter().flat_map(|&(name, call)| {
        let floor = format!("plain {name}");
        let beside = workload::subject(format!("sandboxed {name}"), call, &sandboxed).beside(&floor);
        [workload::subject(&floor, call, &plain), beside]
    });
    Ok(subjects.collect())
}

/// Subjects for the time from nothing to the first reply.
pub fn starting() -> Vec<Subject> {
    let (plain, sandboxed) =
        (|| BridgeTransport::start(Wait::Adaptive, None), || BridgeTransport::sandboxed(Wait::Adaptive, None));
    vec![
        Subject::custom("plain start", move |batch| each(batch, plain)),
        Subject::custom("sandboxed start", move |batch| each(batch, sandboxed)).beside("plain start"),
    ]
}

fn each(batch: &mut Batch<'_>, start: impl Fn() -> Result<BridgeTransport, BoxError>) -> Result<(), BoxError> {
    loop {
        let from = batch.clock.now();
        let mut bridge = start()?;
        bridge.add(1)?;
        let to = batch.clock.now();
        drop(bridge);
        batch.record(batch.clock.nanos(from, to));
        if batch.is_over() {
            return Ok(());
        }
    }
}
