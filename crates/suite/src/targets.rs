//! The targets that the project sets itself, judged by the figures of a report.

#![forbid(unsafe_code)]

use crate::report::{BenchReport, Goal, Row};
use crate::stats::{Quantiles, Spread};
use crate::{asynchronous, soak, throughput, waiting};

/// A quantile and its name.
type Quantile = (&'static str, fn(&Quantiles) -> f64);

const P50: Quantile = ("p50", |quantiles| quantiles.p50);
const P99: Quantile = ("p99", |quantiles| quantiles.p99);
const P999: Quantile = ("p99.9", |quantiles| quantiles.p999);

/// What a target demands of a ratio.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Stated,
}
use Bound::{AtLeast, AtMost, Stated};

/// Group, row, row that it is divided by, quantile, bound.
type Rule = (&'static str, &'static str, &'static str, Quantile, Bound);

const RULES: &[Rule] = &[
    ("latency", "callgate add", "ping-pong", P99, AtMost(1.3)),
    ("latency", "callgate add", "ping-pong", P999, AtMost(1.5)),
    ("latency", "callgate greet", "ping-pong", P50, AtMost(1.35)),
    ("latency", "callgate add parked", "futex", P50, AtMost(1.15)),
    ("latency", "callgate add one CPU", "futex one CPU", P50, AtMost(1.3)),
    // Polling. What is begun is then waited for, all by one thread.
    ("pending", "callgate begin 32 deep", "callgate add", P50, AtMost(0.2)),
    ("pending", "callgate begin 32 deep", "raw pipeline 32 deep", P50, Stated),
    ("pending", "callgate batch of 32", "callgate add", P50, Stated),
    ("pending", "callgate batch of 32", "raw pipeline 32 deep", P50, Stated),
    ("pending", "callgate send", "raw stream", P50, Stated),
    // Items per second against calls per second, of at least 0.8.
    ("stream", "callgate stream item", "callgate send", P50, AtMost(1.25)),
    ("stream", "callgate stream item", "raw stream", P50, Stated),
    ("stream", "callgate callback", "callgate add", P50, AtMost(1.3)),
    // Woken by the process's own reactor.
    ("async", "callgate await add", "callgate add", P50, AtMost(1.4)),
    ("async", "callgate await work 50 us", "eventfd and epoll, work 50 us", P50, AtMost(1.8)),
    ("async", "callgate work 50 us", "eventfd and epoll, work 50 us", P50, Stated),
    ("async", asynchronous::CROWD, "raw pipeline 10000 deep", P50, Stated),
    ("start", "callgate start", "spawn", P50, AtMost(1.5)),
    ("start", "callgate start 1 GiB parent", "spawn 1 GiB parent", P50, AtMost(1.5)),
    // Measured while another thread calls. Includes the time in which the kernel ends a process, which a start does not have.
    ("restart", "callgate restart", "spawn", P50, Stated),
    ("restart", "callgate restart with a spare", "spawn", P50, Stated),
    // Both sides poll, as in the floors. Only the rows of `payload` and of `default waiting` wait as bridges do by default.
    // Floor and call both copy into memory that exists already; the call also copies the answer out into the caller's memory.
    ("large", "callgate echo 1 MiB", "raw copy 1 MiB", P50, AtMost(1.3)),
    ("payload", "callgate echo 1 MiB", "raw copy 1 MiB", P50, Stated),
    ("large", "callgate one-way 1 MiB", "raw one-way 1 MiB", P50, AtMost(1.15)),
    ("large", "callgate one-way 1 MiB, default waiting", "raw one-way 1 MiB", P50, Stated),
    ("large", "callgate one-way 64 MiB", "raw one-way 64 MiB", P50, AtMost(1.15)),
    ("large", "callgate one-way 64 MiB, default waiting", "raw one-way 64 MiB", P50, Stated),
    // Nothing is copied, so the length does not matter.
    ("large", "callgate box edited 64 MiB", "callgate box edited 64 B", P50, AtMost(1.5)),
    (
        "large",
        "callgate box, child not trusted, edited 64 MiB",
        "callgate box, child not trusted, edited 64 B",
        P50,
        Stated,
    ),
    // Only starting takes longer in a sandbox.
    ("sandbox", "sandboxed add", "plain add", P50, AtMost(1.03)),
    ("sandbox", "sandboxed add parked", "plain add parked", P50, Stated),
    ("sandbox", "sandboxed start", "plain start", P50, Stated),
    // A typed callback does the same work as `add`; the other one encodes and decodes self-describing values.
    ("manager", "callback add", "bridge add", P50, AtMost(1.3)),
    ("manager", "callback of values", "bridge add", P50, AtMost(2.0)),
    // A bridge gets its memory for large payloads when it first needs it.
    ("large", "callgate first echo 1 MiB", "callgate second echo 1 MiB", P50, Stated),
    ("large", "callgate first echo 16 MiB", "callgate second echo 16 MiB", P50, Stated),
    ("compare", "iceoryx2 polling add", "callgate add", P50, AtLeast(5.0)),
    ("compare", "ipc-channel add", "callgate add", P50, AtLeast(35.0)),
    ("compare", "tarpc add", "callgate add", P50, AtLeast(70.0)),
    ("compare", "cross-process-bridge add", "callgate add", P50, AtLeast(180.0)),
    ("compare", "ipc-channel memory one-way 1 MiB", "callgate one-way 1 MiB", P50, AtLeast(8.0)),
    // Both subjects fill and read the whole payload on each side, so there is little to gain.
    ("compare", "iceoryx2 loaned touched 1 MiB", "callgate box touched 1 MiB", P50, AtLeast(1.0)),
    ("compare", "iceoryx2 loaned touched 16 MiB", "callgate box touched 16 MiB", P50, AtLeast(1.0)),
    // A box needs only one line touched; with iceoryx2, each side has to copy the whole payload to pass it on.
    ("compare", "iceoryx2 loaned edited 1 MiB", "callgate box edited 1 MiB", P50, AtLeast(50.0)),
    ("compare", "iceoryx2 loaned edited 16 MiB", "callgate box edited 16 MiB", P50, AtLeast(50.0)),
    ("compare", "iceoryx2 event add", "callgate add", P50, Stated),
    ("compare", "Unix socket add", "callgate add", P50, Stated),
    ("compare", "pipe add", "callgate add", P50, Stated),
    ("compare", "crossbeam threads add", "callgate add", P50, Stated),
    ("compare", "multiprocessing.Manager add", "callgate add", P50, Stated),
    ("compare", "ringfire add", "callgate add", P50, Stated),
    ("compare", "tachyon-ipc add", "callgate add", P50, Stated),
    // Each call opens a connection and answers a challenge.
    ("compare", "multiprocessing.connection add", "callgate callback of values", P50, AtLeast(200.0)),
    // Peers that sleep whenever they wait, compared with a bridge that does the same.
    ("compare", "iceoryx2 event add", "callgate parked add", P50, Stated),
    ("compare", "Unix socket add", "callgate parked add", P50, Stated),
    ("compare", "pipe add", "callgate parked add", P50, Stated),
    ("compare", "ipc-channel add", "callgate parked add", P50, Stated),
    ("compare", "tarpc add", "callgate parked add", P50, Stated),
    ("compare", "remoc add", "callgate parked add", P50, Stated),
    ("compare", "cross-process-bridge add", "callgate parked add", P50, Stated),
    ("compare", "multiprocessing.Manager add", "callgate parked add", P50, Stated),
];

/// The p50 of `add` may be this many times that of the bare ping-pong, or this many nanoseconds more.
const ADD: (f64, f64) = (1.15, 50.0);

/// Group, row, row that is subtracted from it, the largest allowed p50 in nanoseconds.
type TargetLimit = (&'static str, &'static str, Option<&'static str>, f64);

const LIMITS: &[TargetLimit] = &[
    // What a second cache line costs, in either direction.
    ("latency", "callgate put 92 B", Some("callgate put 30 B"), 60.0),
    ("latency", "callgate get 92 B", Some("callgate get 30 B"), 60.0),
    ("pending", "callgate begin 32 deep", None, 60.0),
    ("pending", "callgate send", None, 40.0),
];

/// The strategy that is judged in each cell of the waiting matrix.
const JUDGED: &str = "adaptive";

/// The strategies it is judged against. Endless spinning is not among them, because it burns a CPU even when nobody calls.
const FIXED: [&str; 3] = ["park", "spin 20 us", "spin 50 us"];

/// The largest allowed ratio of its p50 to the best p50 among these in the same cell.
const WAITING_P50: f64 = 1.1;

/// The strategy whose CPU time per call it must not exceed.
const MOST_CPU: &str = "spin 50 us";

/// The CPU time in a second without calls that still counts as none, in nanoseconds: that of a few wake-ups.
const MOST_IDLE: f64 = 20_000.0;

/// The instructions of one call on each side, in lines such as `caller 300`. `.ci/instructions` counts them; the file holds the last accepted count.
const INSTRUCTIONS: &str = include_str!("../instructions.baseline");

/// Judges every target whose rows are in `report`.
pub fn of(report: &BenchReport) -> Vec<Goal> {
    let mut targets: Vec<Goal> = add(report).into_iter().flatten().collect();
    targets.extend(RULES.iter().filter_map(|rule| ratio(report, rule)));
    targets.extend(LIMITS.iter().filter_map(|limit| nanoseconds(report, limit)));
    targets.extend(in_flight(report));
    targets.extend(threads(report));
    targets.extend(in_cells(report));
    targets.extend(idle(report));
    targets.extend(resident(report).into_iter().flatten());
    targets.extend(instructions(report));
    targets
}

fn ratio(report: &BenchReport, (group, name, floor, (quantile, of), bound): &Rule) -> Option<Goal> {
    let (row, floor) = (report.row(group, name)?, report.row(group, floor)?);
    let reached = divided(row, floor, *of)?;
    let what = format!("{} / {} ({quantile})", row.name, floor.name);
    Some(bound.judge(what, reached))
}

/// Divides the quantiles of two rows, repeat by repeat.
fn divided(row: &Row, floor: &Row, of: fn(&Quantiles) -> f64) -> Option<Spread> {
    Spread::of(row.repeats.iter().zip(&floor.repeats).map(|(row, floor)| of(row) / of(floor)))
}

impl Bound {
    fn judge(self, what: String, reached: Spread) -> Goal {
        let (target, met) = match self {
            AtMost(most) => (format!("at most {most}"), Some(reached.median <= most)),
            AtLeast(least) => (format!("at least {least}"), Some(reached.median >= least)),
            Stated => ("stated".into(), None),
        };
        Goal { what, target, reached: reached.to_string(), met }
    }
}

/// Judges `add` against the ping-pong, by ratio or by difference.
fn add(report: &BenchReport) -> Option<[Goal; 2]> {
    let (row, floor) = (report.row("latency", "callgate add")?, report.row("latency", "ping-pong")?);
    let (ratio, above) = (divided(row, floor, P50.1)?, subtracted(row, floor)?);
    let (most, most_above) = ADD;
    let met = Some(ratio.median <= most || above.median <= most_above);
    Some([
        Goal {
            what: "callgate add / ping-pong (p50)".into(),
            target: format!("at most {most}, or {most_above} ns more"),
            reached: ratio.to_string(),
            met,
        },
        Stated.judge("callgate add - ping-pong (p50, in ns)".into(), above),
    ])
}

fn subtracted(row: &Row, floor: &Row) -> Option<Spread> {
    Spread::of(row.repeats.iter().zip(&floor.repeats).map(|(row, floor)| row.p50 - floor.p50))
}

/// Judges a p50, or a difference of two.
fn nanoseconds(report: &BenchReport, &(group, name, floor, most): &TargetLimit) -> Option<Goal> {
    let row = report.row(group, name)?;
    let (what, reached) = match floor {
        Some(floor) => (format!("{name} - {floor}"), subtracted(row, report.row(group, floor)?)?),
        None => (name.into(), Spread::of(row.repeats.iter().map(|repeat| repeat.p50))?),
    };
    Some(AtMost(most).judge(format!("{what} (p50, in ns)"), reached))
}

/// States what memory a call in flight takes, in both processes together.
fn in_flight(report: &BenchReport) -> Option<Goal> {
    let [before, with] = [asynchronous::CALM, asynchronous::CROWD].map(|name| report.row("async", name)?.resident);
    let (before, with, calls) = (before?, with?, asynchronous::IN_FLIGHT as f64);
    Some(Goal {
        what: format!("memory of each of {calls} calls in flight (in bytes)"),
        target: "stated".into(),
        reached: format!("{:.0} ({:.1} MiB in all)", (with - before) / calls, with / f64::from(1 << 20)),
        met: None,
    })
}

/// Calls per second with two threads, divided by those with one.
fn threads(report: &BenchReport) -> Option<Goal> {
    let [one, two] = [1, 2].map(|threads| report.row("throughput", &throughput::name(threads)));
    let what = "calls per second, 2 threads / 1 thread".into();
    // A row is the time per call.
    Some(Stated.judge(what, divided(one?, two?, P50.1)?))
}

/// Judges each cell of the waiting matrix: latency against the best fixed strategy, CPU time against [`MOST_CPU`].
fn in_cells(report: &BenchReport) -> Vec<Goal> {
    let judged = report.rows.iter().filter(|row| row.group == "waiting");
    let cells = judged.filter_map(|row| Some((row, row.name.strip_suffix(JUDGED)?)));
    cells
        .flat_map(|(row, cell)| {
            let fixed = |name: &str| report.row("waiting", &format!("{cell}{name}"));
            let others: Vec<&Row> = FIXED.into_iter().filter_map(fixed).collect();
            [against_best(row, &others), fixed(MOST_CPU).and_then(|most| against_cpu(row, most))]
        })
        .flatten()
        .collect()
}

fn against_best(row: &Row, others: &[&Row]) -> Option<Goal> {
    let best = |at: usize| others.iter().filter_map(|row| row.repeats.get(at)).map(|one| one.p50).reduce(f64::min);
    let ratios = row.repeats.iter().enumerate().filter_map(|(at, own)| Some(own.p50 / best(at)?));
    let what = format!("{} / the best of {} (p50)", row.name, FIXED.join(", "));
    Some(AtMost(WAITING_P50).judge(what, Spread::of(ratios)?))
}

fn against_cpu(row: &Row, most: &Row) -> Option<Goal> {
    let ratios = row.cpu_repeats.iter().zip(&most.cpu_repeats).map(|(own, most)| own / most);
    let what = format!("{} / {MOST_CPU} (CPU time per call)", row.name);
    Some(AtMost(1.0).judge(what, Spread::of(ratios)?))
}

fn idle(report: &BenchReport) -> Option<Goal> {
    let nanos = report.row("waiting", waiting::IDLE)?.cpu?;
    Some(Goal {
        what: "CPU time of both processes in a second without calls".into(),
        target: format!("none: at most {} us", MOST_IDLE / 1000.0),
        reached: format!("{:.0} us", nanos / 1000.0),
        met: Some(nanos <= MOST_IDLE),
    })
}

/// Judges the resident memory of both processes after very many calls, against the budget and against the first tenth of the calls.
fn resident(report: &BenchReport) -> Option<[Goal; 2]> {
    let row = |part| report.row("soak", &soak::name(part));
    let (first, last) = (row(1)?, row(soak::PARTS)?);
    let (before, after) = (first.resident?, last.resident?);
    let calls: u64 = report.rows.iter().filter(|row| row.group == "soak").map(|row| row.count).sum();
    let share = after / last.budget?;
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    let (grown, slack) = (mebibytes(after - before), mebibytes(soak::SLACK as f64));
    Some([
        Goal {
            what: format!("resident memory of both processes after {calls} calls of 0 to 1 MiB / budget"),
            target: "at most 1".into(),
            reached: format!("{share:.2} ({:.1} MiB)", mebibytes(after)),
            met: Some(share <= 1.0),
        },
        Goal {
            what: "the same in the last tenth of the calls - in the first (in MiB)".into(),
            target: format!("no growth: at most {slack}"),
            reached: format!("{grown:.2}"),
            met: Some(grown <= slack),
        },
    ])
}

/// States the instructions per call. They are not measured here but counted under callgrind, without the noise of a clock.
fn instructions(report: &BenchReport) -> Option<Goal> {
    report.row("latency", "callgate add")?;
    let [caller, callee] = [kept("caller")?, kept("callee")?];
    Some(Goal {
        what: "instructions per add, caller / callee".into(),
        target: "stated".into(),
        reached: format!("{caller} / {callee} (x86-64, kept in the repository; CI refuses a rise of more than 10%)"),
        met: None,
    })
}

fn kept(side: &str) -> Option<u32> {
    let mut figures = INSTRUCTIONS.lines().filter_map(|line| line.split_once(' '));
    figures.find(|(name, _)| *name == side)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, name: &str, p50s: &[f64]) -> Row {
        let quantiles = |&p50: &f64| Quantiles { p50, p90: p50, p99: 2.0 * p50, p999: 4.0 * p50 };
        let repeats = p50s.iter().map(quantiles).collect();
        Row { group: group.into(), name: name.into(), repeats, ..Row::default() }
    }

    fn targets(rows: Vec<Row>) -> Vec<(String, Option<bool>)> {
        let report = BenchReport { rows, ..BenchReport::default() };
        of(&report).into_iter().map(|target| (target.what, target.met)).collect()
    }

    #[test]
    fn a_target_needs_its_rows() {
        assert_eq!(targets(vec![]), []);
        assert_eq!(targets(vec![row("latency", "callgate greet", &[100.0])]), []);
        let other_group = vec![row("latency", "callgate greet", &[100.0]), row("floor", "ping-pong", &[100.0])];
        assert_eq!(targets(other_group), []);
    }

    #[test]
    fn instructions_are_stated_where_the_call_is_measured() {
        let rows = vec![row("latency", "callgate add", &[100.0])];
        let found = of(&BenchReport { rows, ..BenchReport::default() });
        let [target] = &found[..] else { panic!("{found:?}") };
        assert_eq!((target.what.as_str(), target.met), ("instructions per add, caller / callee", None));
        let figures = ["caller", "callee"].map(|side| kept(side).expect("a figure for each side"));
        assert!(figures.iter().all(|&figure| figure > 0 && target.reached.contains(&figure.to_string())), "{target:?}");
    }

    #[test]
    fn the_median_over_the_repeats_decides() {
        let add = |p50s: &[f64]| vec![row("latency", "callgate add", p50s), row("latency", "ping-pong", &[400.0; 3])];
        let p50 = "callgate add / ping-pong (p50)";
        let [good, bad] = [[450.0, 900.0, 440.0], [500.0, 470.0, 490.0]].map(|p50s| targets(add(&p50s)));
        assert!(good.contains(&(p50.into(), Some(true))), "{good:?}");
        assert!(bad.contains(&(p50.into(), Some(false))), "{bad:?}");
        assert_eq!(bad[1], ("callgate add - ping-pong (p50, in ns)".into(), None));
    }

    #[test]
    fn add_may_take_a_share_more_or_some_nanoseconds() {
        let met = |add, floor| {
            targets(vec![row("latency", "callgate add", &[add]), row("latency", "ping-pong", &[floor])])[0].1
        };
        assert_eq!((met(115.0, 100.0), met(150.0, 100.0), met(151.0, 100.0)), (Some(true), Some(true), Some(false)));
        assert_eq!((met(1150.0, 1000.0), met(1151.0, 1000.0)), (Some(true), Some(false)));
    }

    #[test]
    fn nanoseconds_are_judged_alone_or_above_another_row() {
        let rows = vec![row("latency", "callgate put 92 B", &[260.0]), row("latency", "callgate put 30 B", &[199.0])];
        assert_eq!(targets(rows), [("callgate put 92 B - callgate put 30 B (p50, in ns)".into(), Some(false))]);
        let send = |p50| targets(vec![row("pending", "callgate send", &[p50])]);
        let what = "callgate send (p50, in ns)";
        assert_eq!((send(40.0), send(41.0)), (vec![(what.into(), Some(true))], vec![(what.into(), Some(false))]));
    }

    #[test]
    fn memory_of_calls_in_flight_is_that_above_a_calm_bridge() {
        let part = |name, resident| Row { resident: Some(resident), ..row("async", name, &[]) };
        let rows = vec![part(asynchronous::CALM, 1e6), part(asynchronous::CROWD, 6e6)];
        let found = of(&BenchReport { rows, ..BenchReport::default() });
        assert_eq!((found.len(), found[0].reached.as_str()), (1, "500 (5.7 MiB in all)"));
    }

    #[test]
    fn peers_must_be_slower_than_callgate() {
        let peers = |p50| vec![row("compare", "callgate add", &[400.0]), row("compare", "ipc-channel add", &[p50])];
        let what = "ipc-channel add / callgate add (p50)";
        assert_eq!(targets(peers(20_000.0)), [(what.into(), Some(true))]);
        assert_eq!(targets(peers(10_000.0)), [(what.into(), Some(false))]);
    }

    #[test]
    fn threads_are_stated_as_calls_per_second() {
        let rows = vec![
            row("throughput", "callgate add 1 thread", &[400.0]),
            row("throughput", "callgate add 2 threads", &[200.0]),
        ];
        let found = of(&BenchReport { rows, ..BenchReport::default() });
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].reached.as_str(), found[0].met), ("2.00 (2.00 to 2.00 over 1 repeats)", None));
    }

    #[test]
    fn in_each_cell_adaptive_is_held_against_the_best_fixed_strategy() {
        let rows = vec![
            row("waiting", "one CPU: adaptive", &[105.0]),
            row("waiting", "one CPU: park", &[100.0]),
            row("waiting", "one CPU: spin 20 us", &[900.0]),
            row("waiting", "one CPU: spin", &[1.0]),
            row("waiting", "gap 1 ms: adaptive", &[105.0]),
            row("waiting", "gap 1 ms: park", &[50.0]),
        ];
        let [one_cpu, gap] = ["one CPU", "gap 1 ms"]
            .map(|cell| format!("{cell}: adaptive / the best of park, spin 20 us, spin 50 us (p50)"));
        assert_eq!(targets(rows), [(one_cpu, Some(true)), (gap, Some(false))]);
    }

    #[test]
    fn adaptive_may_not_use_more_cpu_time_than_spinning_for_50_us() {
        let with = |name, cpu: [f64; 3]| Row { cpu_repeats: cpu.into(), ..row("waiting", name, &[100.0]) };
        let most = || with("gap 1 ms: spin 50 us", [100.0, 200.0, 100.0]);
        let met = |cpu| targets(vec![with("gap 1 ms: adaptive", cpu), most()])[1].1;
        // Repeat by repeat: 0.99, 1.0 and 9.
        assert_eq!(met([99.0, 200.0, 900.0]), Some(true));
        assert_eq!(met([99.0, 202.0, 900.0]), Some(false));
    }

    #[test]
    fn peers_that_sleep_are_stated_beside_a_callgate_that_sleeps() {
        let rows = vec![row("compare", "callgate parked add", &[9_000.0]), row("compare", "pipe add", &[18_000.0])];
        assert_eq!(targets(rows), [("pipe add / callgate parked add (p50)".into(), None)]);
    }

    #[test]
    fn memory_may_neither_grow_nor_exceed_the_budget() {
        let part = |at, mebibytes: f64| {
            let resident = Some(mebibytes * f64::from(1 << 20));
            Row { resident, budget: Some(f64::from(100 << 20)), count: 50, ..row("soak", &soak::name(at), &[1.0]) }
        };
        let met = |last| {
            let found = targets(vec![part(1, 60.0), part(soak::PARTS, last)]);
            assert_eq!(found[0].0, "resident memory of both processes after 100 calls of 0 to 1 MiB / budget");
            (found[0].1, found[1].1)
        };
        assert_eq!(met(64.0), (Some(true), Some(true)));
        assert_eq!(met(65.0), (Some(true), Some(false)));
        assert_eq!(met(101.0), (Some(false), Some(false)));
        assert_eq!(targets(vec![part(1, 60.0)]), []);
    }

    #[test]
    fn an_idle_bridge_may_use_next_to_nothing() {
        let idle = |nanos| Row { cpu: Some(nanos), ..row("waiting", waiting::IDLE, &[]) };
        let met = |nanos| targets(vec![idle(nanos)])[0].1;
        assert_eq!((met(0.0), met(20_000.0), met(20_001.0)), (Some(true), Some(true), Some(false)));
    }
}
