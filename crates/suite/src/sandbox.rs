//! What the strictest sandbox costs: calls to a child in it beside calls to one without, polling and parked, and the
//! start. The floor of each is the same without a sandbox.

#![forbid(unsafe_code)]

use crate::bridge::Bridged;
use crate::interleave::{Batch, Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::Report;
use crate::workload::{self, Call};
use crate::{Clock, Failure, Progress, Transport};
use callgate::Wait;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The group `sandbox`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<Report, Failure> {
    let clock = Clock::new();
    let Ok((caller, callee)) = pin::pair() else { return Ok(Report::left_out("Sandbox")) };
    let pin = Pinned::to(caller)?;
    let mut measured = interleave(budget, &clock, progress, || polling(callee))?;
    measured.extend(interleave(budget, &clock, progress, || parked(callee))?);
    drop(pin);
    let budget = budget.at_least(20, Duration::from_millis(4));
    measured.extend(interleave(budget, &clock, progress, || Ok(starting()))?);
    let series = measured.iter().map(|measured| measured.curve("sandbox")).collect();
    Ok(Report { rows: rows("sandbox", &measured), series, ..Report::default() })
}

/// Both sides find what they wait for while they still poll. The caller is pinned to another CPU than `callee`.
pub fn polling(callee: usize) -> Result<Vec<Subject>, Failure> {
    let calls = [("add", Call::Add), ("record", Call::Record)];
    against(Wait::Adaptive, callee, &calls)
}

/// Both sides sleep whenever they wait, so that each call makes system calls, which filters look at.
pub fn parked(callee: usize) -> Result<Vec<Subject>, Failure> {
    against(Wait::Park, callee, &[("add parked", Call::Add)])
}

fn against(wait: Wait, callee: usize, calls: &[(&str, Call)]) -> Result<Vec<Subject>, Failure> {
    let plain = Rc::new(RefCell::new(Bridged::start(wait, Some(callee))?));
    let sandboxed = Rc::new(RefCell::new(Bridged::sandboxed(wait, Some(callee))?));
    let subjects = calls.iter().flat_map(|&(name, call)| {
        let floor = format!("plain {name}");
        let beside = workload::subject(format!("sandboxed {name}"), call, &sandboxed).beside(&floor);
        [workload::subject(&floor, call, &plain), beside]
    });
    Ok(subjects.collect())
}

/// From nothing to the first reply.
pub fn starting() -> Vec<Subject> {
    let (plain, sandboxed) = (|| Bridged::start(Wait::Adaptive, None), || Bridged::sandboxed(Wait::Adaptive, None));
    vec![
        Subject::custom("plain start", move |batch| each(batch, plain)),
        Subject::custom("sandboxed start", move |batch| each(batch, sandboxed)).beside("plain start"),
    ]
}

fn each(batch: &mut Batch<'_>, start: impl Fn() -> Result<Bridged, Failure>) -> Result<(), Failure> {
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
