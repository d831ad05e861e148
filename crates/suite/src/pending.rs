//! Measures calls that overlap: begun one after the other with 32 on their way, begun in batches, and one-way.
//!
//! Both sides poll, as the floors do: numbers there and back through two rings, and numbers one way through a ring. Needs two CPUs.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::floor::{RawPipeline, RawStream};
use crate::interleave::{Batch, Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::BenchReport;
use crate::workload::{self, CallKind, check};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::{Pending, Wait};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::rc::Rc;

/// The number of calls on their way: as many as a lane has room for.
pub const DEPTH: usize = 32;

/// The number of one-way calls before each flush, which is part of their time.
pub const SENT: u32 = 1024;

/// The calls between two readings of the clock where calls are begun one after the other.
const CHUNK: u32 = 32;

/// Measures the group `pending`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Pending calls"));
    };
    let _pin = Pinned::to(caller)?;
    let measured = interleave(budget, &Clock::new(), progress, || subjects(callee))?;
    Ok(BenchReport { rows: rows("pending", &measured), ..BenchReport::default() })
}

/// The floors, the call that is waited for, and the calls that are not. Pin the caller to another CPU than `callee`.
pub fn subjects(callee: usize) -> Result<Vec<Subject>, BoxError> {
    let blocking = Rc::new(RefCell::new(polling(callee)?));
    Ok(vec![
        raw_pipeline(DEPTH, callee)?,
        raw_stream(callee)?,
        workload::subject("callgate add", CallKind::Add, &blocking).polling(),
        begun(polling(callee)?).beside(&pipeline_name(DEPTH)),
        batched(polling(callee)?).beside(&pipeline_name(DEPTH)),
        sent(polling(callee)?).beside("raw stream"),
    ])
}

pub(crate) fn polling(callee: usize) -> Result<BridgeTransport, BoxError> {
    BridgeTransport::start(Wait::Spin, Some(callee))
}

/// The name of the floor with so many numbers on their way.
pub(crate) fn pipeline_name(depth: usize) -> String {
    format!("raw pipeline {depth} deep")
}

/// The floor of calls of which so many are on their way.
pub(crate) fn raw_pipeline(depth: usize, callee: usize) -> Result<Subject, BoxError> {
    let mut floor = RawPipeline::start(depth as u64, callee)?;
    let pid = floor.pid();
    Ok(Subject::averaged(pipeline_name(depth), CHUNK, move || floor.step()).answered_by(Some(pid)).polling())
}

pub(crate) fn raw_stream(callee: usize) -> Result<Subject, BoxError> {
    let mut floor = RawStream::start(callee)?;
    let pid = floor.pid();
    let subject = Subject::custom("raw stream", move |batch| means(batch, SENT, || floor.take(SENT)));
    Ok(subject.of_means().answered_by(Some(pid)).polling())
}

/// Takes the result of the oldest call, and begins another.
fn begun(bridged: BridgeTransport) -> Subject {
    let (peer, mut totals) = (bridged.peer(), Totals::default());
    let mut under_way = VecDeque::<Pending<u64>>::with_capacity(DEPTH);
    let subject = Subject::averaged(format!("callgate begin {DEPTH} deep"), CHUNK, move || {
        if under_way.len() == DEPTH
            && let Some(oldest) = under_way.pop_front()
        {
            totals.check(oldest.wait()?)?;
        }
        under_way.push_back(bridged.bridge.begin().add(black_box(1)));
        Ok(())
    });
    subject.answered_by(peer).polling()
}

/// Begins calls in a batch, and then takes their results.
fn batched(bridged: BridgeTransport) -> Subject {
    let (peer, mut totals) = (bridged.peer(), Totals::default());
    let mut round = move || {
        let pending = bridged.bridge.batch(|batch| [(); DEPTH].map(|()| batch.add(black_box(1))));
        pending.into_iter().try_for_each(|pending| totals.check(pending.wait()?))
    };
    let subject =
        Subject::custom(format!("callgate batch of {DEPTH}"), move |batch| means(batch, DEPTH as u32, &mut round));
    subject.of_means().answered_by(peer).polling()
}

/// Sends one-way calls, and flushes them.
pub(crate) fn sent(bridged: BridgeTransport) -> Subject {
    let (peer, mut total) = (bridged.peer(), 0);
    let subject = Subject::custom("callgate send", move |batch| {
        means(batch, SENT, || {
            for _ in 0..SENT {
                bridged.bridge.send().add(black_box(1))?;
            }
            total += u64::from(SENT);
            Ok(bridged.bridge.flush()?)
        })?;
        check(bridged.bridge.add(0)? == total, "send")
    });
    subject.of_means().answered_by(peer).polling()
}

/// Records the mean time of the `calls` calls of each round, until the batch is over.
pub(crate) fn means(
    batch: &mut Batch<'_>,
    calls: u32,
    mut round: impl FnMut() -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    loop {
        let from = batch.clock.now();
        round()?;
        batch.record_many(batch.clock.nanos(from, batch.clock.now()) / f64::from(calls), calls);
        if batch.is_over() {
            return Ok(());
        }
    }
}

/// The totals that calls of `add(1)` return, which must rise by one.
#[derive(Debug, Default)]
pub(crate) struct Totals(Option<u64>);

impl Totals {
    #[inline(always)]
    pub(crate) fn check(&mut self, total: u64) -> Result<(), BoxError> {
        let before = self.0.replace(total);
        check(before.is_none_or(|before| total == before + 1), "add")
    }
}
