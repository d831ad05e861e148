//! Measures how long a call takes, and its floor: polling, parked on both sides, and with both processes on one CPU.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::floor::{Asleep, Tokens};
use crate::interleave::{Budget, Measured, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::Wait;
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

/// The calls whose floor is the ping-pong.
pub const CALLS: [(&str, CallKind); 4] = [
    ("callgate add", CallKind::Add),
    ("callgate greet", CallKind::Greet),
    ("callgate sum 1000", CallKind::Sum),
    ("callgate record", CallKind::Record),
];

/// The lengths of payloads that fill one cache line of a slot and begin a second one, without the 8 bytes that say their length.
const LENGTHS: [usize; 2] = [30, 92];

/// Measures the group `latency`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let mut report = BenchReport::default();
    if let Ok((caller, callee)) = pin::pair() {
        let _pin = Pinned::to(caller)?;
        add(&mut report, &interleave(budget, &clock, progress, || polling(callee))?);
        add(&mut report, &interleave(budget, &clock, progress, || lines(callee))?);
        add(&mut report, &interleave(budget, &clock, progress, || parked(callee))?);
    } else {
        report = BenchReport::left_out("Latency");
    }
    let cpu = pin::allowed().first().copied().unwrap_or_default();
    let _pin = Pinned::to(cpu)?;
    add(&mut report, &interleave(budget, &clock, progress, || one_cpu(cpu))?);
    Ok(report)
}

fn add(report: &mut BenchReport, measured: &[Measured]) {
    report.rows.extend(rows("latency", measured));
    report.series.extend(measured.iter().map(|measured| measured.curve("latency")));
}

/// Subjects whose two sides get what they wait for while they still poll. Pin the caller to another CPU than `callee`.
pub fn polling(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridge = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let calls = CALLS.map(|(name, call)| workload::subject(name, call, &bridge).beside("ping-pong"));
    Ok([Tokens::start(Asleep::Never, callee)?.subject("ping-pong")].into_iter().chain(calls).collect())
}

/// Subjects whose requests, or replies, have one cache line or two. Both sides still poll.
pub fn lines(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridge = Rc::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?);
    let subjects = LENGTHS.map(|len| [put(len, bridge.clone()), get(len, bridge.clone())]);
    Ok(subjects.into_iter().flatten().collect())
}

fn put(len: usize, bridged: Rc<BridgeTransport>) -> Subject {
    let (peer, bytes) = (bridged.peer(), vec![1; len]);
    let put = move || workload::check(bridged.bridge.put(black_box(&bytes))? == len as u64, "put");
    Subject::new(format!("callgate put {len} B"), put).answered_by(peer)
}

fn get(len: usize, bridged: Rc<BridgeTransport>) -> Subject {
    let peer = bridged.peer();
    let get = move || workload::check(bridged.bridge.get(black_box(len as u64))?.len() == len, "get");
    Subject::new(format!("callgate get {len} B"), get).answered_by(peer)
}

/// Subjects whose two sides sleep whenever they wait.
pub fn parked(callee: usize) -> Result<Vec<Subject>, BoxError> {
    against_futex(Wait::Park, callee, ["futex", "callgate add parked"])
}

/// Subjects with both processes on `cpu`. Pin the caller to it as well.
pub fn one_cpu(cpu: usize) -> Result<Vec<Subject>, BoxError> {
    against_futex(Wait::Adaptive, cpu, ["futex one CPU", "callgate add one CPU"])
}

fn against_futex(wait: Wait, callee: usize, [floor, name]: [&str; 2]) -> Result<Vec<Subject>, BoxError> {
    let bridge = Rc::new(RefCell::new(BridgeTransport::start(wait, Some(callee))?));
    Ok(vec![
        Tokens::start(Asleep::Always, callee)?.subject(floor),
        workload::subject(name, CallKind::Add, &bridge).beside(floor),
    ])
}
