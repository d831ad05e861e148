//! How a call's time grows with its payload, beside the same bytes copied through shared memory with nothing on top.

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

/// The payloads, in bytes. The largest is left out where there is little time.
pub const SIZES: [usize; 10] = [0, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20];

/// The curves, in the order in which [`subjects`] has them.
const NAMES: [&str; 3] = ["raw copy", "callgate echo", "callgate greet"];

/// The group `payload`.
pub fn measure(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let Ok((caller, callee)) = pin::pair() else {
        return Ok(BenchReport::left_out("Payloads"));
    };
    let _pin = Pinned::to(caller)?;
    let clock = Clock::new();
    let mut report = BenchReport::default();
    let mut curves = NAMES.map(|name| Series { plot: "payload".into(), name: name.into(), points: Vec::new() });
    for len in SIZES {
        // A batch of one long call is mostly its warm-up, which is a call too.
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

/// An echo and a greeting of `len` bytes, and before them their floor.
pub fn subjects(len: usize, callee: usize) -> Result<Vec<Subject>, BoxError> {
    let bridge = Rc::new(RefCell::new(BridgeTransport::start(Wait::Adaptive, Some(callee))?));
    let [floor, echo, greet] = NAMES.map(|name| format!("{name} {}", size(len)));
    Ok(vec![
        RawCopy::start(len, callee)?.subject(floor.as_str(), len),
        workload::subject(echo, CallKind::Echo(len), &bridge).beside(&floor),
        workload::subject(greet, CallKind::GreetBytes(len), &bridge).beside(&floor),
    ])
}

/// `0 B`, `64 KiB`, `1 MiB`.
pub fn size(len: usize) -> String {
    match len {
        len if len >= 1 << 20 => format!("{} MiB", len >> 20),
        len if len >= 1 << 10 => format!("{} KiB", len >> 10),
        len => format!("{len} B"),
    }
}

/// About how long a call takes, at 1 GB/s.
pub(crate) fn expected(len: usize) -> Duration {
    Duration::from_nanos(len as u64)
}
