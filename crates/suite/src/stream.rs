//! Measures streams: numbers that an iterator in the child gives, one by one, beside one-way calls, which are the same traffic the other way; and
//! callbacks, beside calls, which are the same round trip the other way.
//!
//! Both sides poll, as the floor does: numbers one way through a ring. Needs two CPUs.

#![forbid(unsafe_code)]

use crate::interleave::{Budget, Subject, interleave, rows};
use crate::pending::{self, SENT, means};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind, check};
use crate::{BoxError, Clock, Progress};
use callgate::{Bridge, Items, Wait, bridge};
use std::cell::RefCell;
use std::rc::Rc;

/// Gives numbers. A service of its own: methods that lend to streams take another way to the service.
#[derive(Debug)]
pub struct NumberService {
    total: u64,
}

#[bridge]
impl NumberService {
    /// Pins the serving thread to `cpus`.
    pub fn new(cpus: Vec<usize>) -> Result<Self, String> {
        pin::this_thread(&cpus).map_err(|error| format!("pinning to the CPUs {cpus:?}: {error}"))?;
        Ok(Self { total: 0 })
    }

    /// All numbers, beginning with 0.
    pub fn numbers() -> impl Iterator<Item = u64> {
        0..
    }

    /// The same, borrowing the service.
    pub fn from_here(&self) -> impl Iterator<Item = u64> {
        self.total..
    }

    /// Asks the caller for each number up to this one, and sums what it says.
    pub fn ask(&self, numbers: u64, each: &mut dyn FnMut(u64) -> u64) -> u64 {
        (0..numbers).fold(0, |sum, number| sum.wrapping_add(each(number)))
    }

    /// Adds to a total, which a stream may borrow.
    pub fn add(&mut self, n: u64) -> u64 {
        self.total = self.total.wrapping_add(n);
        self.total
    }
}

/// Measures the group `stream`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Streams"));
    };
    let _pin = Pinned::to(caller)?;
    let measured = interleave(budget, &Clock::new(), progress, || subjects(callee))?;
    Ok(BenchReport { rows: rows("stream", &measured), ..BenchReport::default() })
}

/// The floor, one-way calls, and the items of a stream; then a call of a service that streams may borrow. Pin the caller to another CPU than `callee`.
pub fn subjects(callee: usize) -> Result<Vec<Subject>, BoxError> {
    Ok(vec![
        pending::raw_stream(callee)?,
        pending::sent(pending::polling(callee)?).beside("raw stream"),
        items(callee)?.beside("callgate send"),
        workload::subject("callgate add", CallKind::Add, &Rc::new(RefCell::new(pending::polling(callee)?))).polling(),
        lending_add(callee)?,
        callbacks(callee)?.beside("callgate add"),
    ])
}

/// Takes the items of one stream.
fn items(callee: usize) -> Result<Subject, BoxError> {
    let bridge = start(callee)?;
    let (peer, mut numbers, mut next): (_, Items<u64>, _) = (bridge.child_pid(), bridge.numbers()?, 0);
    let mut round = move || {
        // The stream is of this bridge's child.
        let _ = &bridge;
        for number in numbers.by_ref().take(SENT as usize) {
            check(number? == next, "numbers")?;
            next += 1;
        }
        Ok(())
    };
    let subject = Subject::custom("callgate stream item", move |batch| means(batch, SENT, &mut round));
    Ok(subject.of_means().answered_by(Some(peer)).polling())
}

/// Answers a method that calls back, within one call.
fn callbacks(callee: usize) -> Result<Subject, BoxError> {
    let bridge = start(callee)?;
    let peer = bridge.child_pid();
    let mut round = move || {
        let turns = u64::from(SENT);
        let sum = bridge.ask(turns, &mut |number| number + 1)?;
        check(sum == turns * (turns + 1) / 2, "ask")
    };
    let subject = Subject::custom("callgate callback", move |batch| means(batch, SENT, &mut round));
    Ok(subject.of_means().answered_by(Some(peer)).polling())
}

fn lending_add(callee: usize) -> Result<Subject, BoxError> {
    let (bridge, mut total) = (start(callee)?, 0);
    let peer = bridge.child_pid();
    let add = move || {
        total += 1;
        check(bridge.add(1)? == total, "add")
    };
    Ok(Subject::new("callgate add of a lending service", add).answered_by(Some(peer)).polling())
}

fn start(callee: usize) -> Result<Bridge<NumberService>, BoxError> {
    // The first start in a process also starts callgate's watcher, and all children inherit its CPUs.
    Ok(Pinned::nowhere(|| NumberService::bridge(vec![callee]).wait(Wait::Spin).start())??)
}
