//! Measures how a call's time grows with its payload. The floor copies the same bytes through shared memory and does nothing else.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::floor::RawCopy;
use crate::interleave::{Budget, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::{BenchReport, Series};
use crate::workload::{self, CallKind};
use crate::{BoxError, Clock, Progress};
use callgate::Wait;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The lengths of payloads, in bytes.
pub const SIZES: [usize; 10] = [0, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20];

/// The curves, in the order of [`subjects`].
const NAMES: [&str; 3] = ["raw copy", "callgate echo", "callgate greet"];

/// Measures the group `payload`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Payloads"));
    };
    let _pin = Pinned::to(caller)?;
    let clock = Clock::new();
    let mut report = BenchReport::default();
    let mut curves = NAMES.map(|name| Series { plot: "payload".into(), name: name.into(), points: Vec::new() });
    for len in SIZES {
        // The warm-up takes at least one call, so it would dominate a batch of one long call.
        let budget = Budget { batch: budget.batch.max(expected(len)), ..budget }.at_least(5, expected(len));
        let measured = interleave(budget, &clock, progress, || subjects(len, callee))?;
        for (curve, measured) in curves.iter_mut().zip(&measured) {
            curve.points.push((len as f64, measured.merged().at(0.5)));
        }
        report.rows.extend(rows("payload", &measured));
        report.series.extend(measured.iter().filter(|_| len == 1 << 20).map(|measured| measured.curve("payload")));
    }
    report.series.extend(curves);
    Ok(report)
}

/// Subjects for `len` bytes: the floor, an echo and a greeting.
pub fn subjects(len: usize, callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridge = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let [floor, echo, greet] = NAMES.map(|name| format!("{name} {}", size(len)));
    Ok(vec![
        RawCopy::start(len, callee)?.subject(floor.as_str(), len),
        workload::subject(echo, CallKind::Echo(len), &bridge).beside(&floor),
        workload::subject(greet, CallKind::GreetBytes(len), &bridge).beside(&floor),
    ])
}

/// Formats a length in bytes: `0 B`, `64 KiB`, `1 MiB`.
pub fn size(len: usize) -> String {
    match len {
        len if len >= 1 << 20 => format!("{} MiB", len >> 20),
        len if len >= 1 << 10 => format!("{} KiB", len >> 10),
        len => format!("{len} B"),
    }
}

/// Estimates how long a call takes, at 1 GB/s.
pub(crate) fn expected(len: usize) -> Duration {
    Duration::from_nanos(len as u64)
}
