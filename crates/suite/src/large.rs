//! Payloads of a megabyte and more: one way, for the first time, and (with memory of their own) there and back.
//!
//! - **One way**: bytes in the caller's private memory go to the other process, which sums them where they lie. The floor is a copy
//!   into shared memory, summed there by the same function.
//! - **First call**: an echo on a fresh bridge, which has no memory for large payloads yet, beside the second.

#![forbid(unsafe_code)]

use crate::bridge::Bridged;
use crate::bytes;
use crate::floor::RawSum;
use crate::interleave::{Batch, Budget, Measured, Subject, interleave, rows};
use crate::payload::{expected, size};
use crate::pin::{self, Pinned};
use crate::report::Report;
use crate::{Clock, Failure, Progress, Transport};
use callgate::Wait;
use std::hint::black_box;

/// What goes one way, in bytes.
pub const ONE_WAY: [usize; 2] = [1 << 20, 64 << 20];

/// What the first call of a bridge carries, in bytes.
pub const FIRST: [usize; 2] = [1 << 20, 16 << 20];

/// The group `large`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<Report, Failure> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(Report::left_out("Large payloads"));
    };
    let _pin = Pinned::to(caller)?;
    let clock = Clock::new();
    let mut report = Report::default();
    for len in ONE_WAY {
        add(&mut report, &interleave(batches(budget, len), &clock, progress, || one_way(len, callee))?);
    }
    for len in FIRST {
        add(&mut report, &interleave(batches(budget, len), &clock, progress, || Ok(first(len, callee)))?);
    }
    Ok(report)
}

fn add(report: &mut Report, measured: &[Measured]) {
    report.rows.extend(rows("large", measured));
}

/// Batches of several calls: one that has a single long call is mostly its warm-up, which is a call too.
fn batches(budget: Budget, len: usize) -> Budget {
    Budget { batch: budget.batch.max(expected(len)), ..budget }.at_least(5, expected(len))
}

/// `len` bytes one way, and before them their floor.
pub fn one_way(len: usize, callee: usize) -> Result<Vec<Subject>, Failure> {
    let floor = format!("raw one-way {}", size(len));
    Ok(vec![raw_sum(&floor, len, callee)?, sum_bytes(len, callee)?.beside(&floor)])
}

fn raw_sum(name: &str, len: usize, callee: usize) -> Result<Subject, Failure> {
    let mut floor = RawSum::start(len, callee)?;
    let pid = floor.pid();
    let subject = summing(name, len, move |bytes| Ok(floor.sum(bytes)?));
    Ok(subject.answered_by(Some(pid)).polling())
}

/// `&[u8]` into a child, which sums it in place.
pub fn sum_bytes(len: usize, callee: usize) -> Result<Subject, Failure> {
    let bridged = Bridged::start(Wait::Adaptive, Some(callee))?;
    let peer = bridged.peer();
    let subject =
        summing(format!("callgate one-way {}", size(len)), len, move |bytes| Ok(bridged.bridge.sum_bytes(bytes)?));
    Ok(subject.answered_by(peer))
}

/// Has `len` bytes of private memory summed by `sum`, again and again.
pub fn summing(
    name: impl Into<String>,
    len: usize,
    mut sum: impl FnMut(&[u8]) -> Result<u64, Failure> + 'static,
) -> Subject {
    let (sent, expected) = (vec![7; len], bytes::sum_of(7, len));
    Subject::new(name, move || match sum(black_box(&sent))? {
        found if found == expected => Ok(()),
        found => Err(format!("{len} bytes were summed to {found}, and are {expected}").into()),
    })
}

/// The second and the first echo of `len` bytes on a bridge, each time a fresh one; the second is the floor of the first.
pub fn first(len: usize, callee: usize) -> Vec<Subject> {
    let [first, second] = ["first", "second"].map(|nth| format!("callgate {nth} echo {}", size(len)));
    let subject = |name: &str, before| Subject::custom(name, move |batch| fresh(batch, len, before, callee));
    vec![subject(&second, 1), subject(&first, 0).beside(&second)]
}

/// Times one echo of `len` bytes on fresh bridges, after `before` others, until the batch is over.
fn fresh(batch: &mut Batch<'_>, len: usize, before: u32, callee: usize) -> Result<(), Failure> {
    let sent = vec![7; len];
    loop {
        let mut bridged = Bridged::start(Wait::Adaptive, Some(callee))?;
        // The child is up and awake, and has no memory for large payloads.
        bridged.add(1)?;
        for _ in 0..before {
            bridged.echo(&sent)?;
        }
        let from = batch.clock.now();
        let back = bridged.echo(black_box(&sent))?;
        let to = batch.clock.now();
        batch.record(batch.clock.nanos(from, to));
        if back != sent {
            return Err("`echo` was answered wrongly".into());
        }
        if batch.is_over() {
            return Ok(());
        }
    }
}
