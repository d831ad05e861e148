//! Measures every group of the report once, in little time: its rows, its curves and the targets about them must be there.

#![deny(unsafe_code)]

#[path = "../../../tests/support/mod.rs"]
mod support;

use callgate::Wait;
use callgate_suite::pin;
use callgate_suite::report::{BenchReport, Row};
#[cfg(feature = "sandbox")]
use callgate_suite::sandbox;
use callgate_suite::{BoxError, Budget, Progress};
use callgate_suite::{
    asynchronous, floor, large, latency, manager, payload, pending, restart, soak, start, stream, targets, throughput,
    waiting,
};
use std::time::Duration;
use support::within;

#[allow(unsafe_code, reason = "the link section that makes floors work in tests")]
mod init {
    callgate_suite::test_support!();
}

type Measure = fn(Budget, Progress<'_>) -> Result<BenchReport, BoxError>;

/// Each group with one of its rows and, if it has any, one of its targets.
const GROUPS: &[(&str, Measure, &str, Option<&str>)] = &[
    ("floor", floor::measure, "eventfd", None),
    ("latency", latency::measure, "callgate add", Some("callgate add / ping-pong (p99.9)")),
    ("pending", pending::measure, "callgate send", Some("callgate begin 32 deep (p50, in ns)")),
    ("stream", stream::measure, "callgate stream item", Some("callgate stream item / callgate send (p50)")),
    ("async", asynchronous::measure, asynchronous::CROWD, Some("memory of each of 10000 calls in flight (in bytes)")),
    ("throughput", throughput::measure, "callgate add 8 threads", Some("calls per second, 2 threads / 1 thread")),
    ("waiting", waiting, "gap 10 ms: adaptive", Some("hogs beside both: adaptive / spin 50 us (CPU time per call)")),
    ("start", start::measure, "callgate start", Some("callgate start 1 GiB parent / spawn 1 GiB parent (p50)")),
    ("restart", restart::measure, "callgate restart", Some("callgate restart with a spare / spawn (p50)")),
    ("payload", payload::measure, "callgate echo 16 MiB", Some("callgate echo 1 MiB / raw copy 1 MiB (p50)")),
    (
        "large",
        large::measure,
        "callgate first echo 16 MiB",
        Some("callgate box edited 64 MiB / callgate box edited 64 B (p50)"),
    ),
    ("manager", manager::measure, "callback of values", Some("callback add / bridge add (p50)")),
    #[cfg(feature = "sandbox")]
    ("sandbox", sandbox::measure, "sandboxed start", Some("sandboxed add / plain add (p50)")),
];

fn waiting(budget: Budget, progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let longest = ("spin 50 us", Wait::SpinFor(Duration::from_micros(50)));
    waiting::measure(budget, &[("adaptive", Wait::Adaptive), longest], progress)
}

/// One test for all groups: they pin the measuring thread, and would disturb each other if they ran in parallel.
#[test]
fn every_group_has_its_rows_curves_and_targets() {
    within(600, "every_group_has_its_rows_curves_and_targets", measure_every_group);
}

fn measure_every_group() {
    if pin::pair().is_err() {
        println!("skipped: most groups need two CPUs");
        return;
    }
    let budget = Budget { repeats: 2, ..Budget::quick() };
    for &(group, measure, row, target) in GROUPS {
        let begin = std::time::Instant::now();
        let mut said = 0;
        let report = measure(budget, &mut |_| said += 1).unwrap_or_else(|error| panic!("{group}: {error}"));
        println!("{group}: {:.1} s", begin.elapsed().as_secs_f64());
        assert!(said > 0, "{group} says nothing of its progress");
        assert_eq!(report.skipped, [""; 0], "{group}");
        assert!(report.row(group, row).is_some(), "{group} has no row {row}");
        report.rows.iter().for_each(|row| assert_sound(row, group, &report));
        for series in &report.series {
            assert!(!series.points.is_empty(), "{group}: no points in {series:?}");
            assert!(series.points.iter().all(|(_, y)| *y > 0.0), "{group}: {series:?}");
        }
        let found: Vec<_> = targets::of(&report).into_iter().map(|target| target.what).collect();
        assert!(target.is_none_or(|target| found.iter().any(|what| what == target)), "{group} has only {found:?}");
    }
}

#[test]
fn the_soak_has_a_row_for_each_tenth_and_its_targets() {
    within(300, "the_soak_has_a_row_for_each_tenth_and_its_targets", soak_a_little);
}

fn soak_a_little() {
    let mut said = 0;
    let report = soak::measure(50, &mut |_| said += 1).expect("right answers");
    assert_eq!((said, report.rows.len()), (1 + soak::PARTS, soak::PARTS as usize));
    for row in &report.rows {
        assert!(row.count == 5 && row.p50 > 0.0 && row.resident < row.budget && row.resident > Some(0.0), "{row:?}");
    }
    let targets = targets::of(&report);
    assert!(targets.len() == 2 && targets[0].met == Some(true), "{targets:?}");
}

#[track_caller]
fn assert_sound(row: &Row, group: &str, report: &BenchReport) {
    assert_eq!(row.group, group);
    if [waiting::IDLE, asynchronous::CALM].contains(&row.name.as_str()) {
        assert!(row.count == 0 && row.repeats.is_empty(), "{row:?}");
        assert!(row.cpu.is_some() || row.resident.is_some(), "{row:?}");
        return;
    }
    assert!(row.count > 0 && row.p50 > 0.0, "{row:?}");
    assert!(row.p50 <= row.p99 && row.p99 <= row.p999 && row.p999 <= row.max * 1.01, "{row:?}");
    assert_eq!(row.repeats.len(), 2, "{row:?}");
    assert_eq!(row.cpu.map_or(0, |_| 2), row.cpu_repeats.len(), "{row:?}");
    let is_mean = |name: &str| {
        let means =
            ["raw ", "callgate begin", "callgate batch", "callgate send", "callgate stream", "callgate callback"];
        means.iter().any(|of| name.starts_with(of))
    };
    let averaged = group == "throughput"
        || ["pending", "stream"].contains(&group) && is_mean(&row.name)
        || row.name.contains("in flight");
    assert_eq!(row.averaged, averaged || row.name.starts_with("raw pipeline"), "{row:?}");
    assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{row:?}");
    let floor = row.floor.as_ref().map(|floor| report.row(group, floor));
    assert!(floor.is_none_or(|floor| floor.is_some()), "its floor is no row: {row:?}");
}
