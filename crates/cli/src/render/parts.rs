//! Divides a report into parts, each a table of texts. Every form of the report shows these.

use super::units;
use callgate_suite::BenchReport;
use callgate_suite::report::{Goal, Row};
use callgate_suite::stats::Spread;

/// The rows of one group as a table. The first column says what was measured; all others are figures.
pub struct TablePart<'a> {
    pub group: &'a str,
    pub title: &'a str,
    /// What the reader must know about how the group was measured.
    pub note: Option<&'static str>,
    pub headings: Vec<&'static str>,
    pub lines: Vec<Vec<String>>,
}

/// Explains the headings of the figures.
pub const LEGEND: &str = "Times are those of one round trip. × floor: the ratio to the floor of the same part, \
    which was measured alternately with it; the median over the repeats, which also decides whether a target is met. CPU per call: of both processes together. A dash: not measured, or too few measurements for that percentile, or means of many calls, of which only the p50 \
    is shown, with its least and its greatest among the repeats.";

/// Divides the report into parts, in the order in which their groups first occur.
pub fn parts(report: &BenchReport) -> Vec<TablePart<'_>> {
    let mut groups: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !groups.contains(&row.group.as_str()) {
            groups.push(&row.group);
        }
    }
    groups.into_iter().map(|group| part(report, group)).collect()
}

fn part<'a>(report: &'a BenchReport, group: &'a str) -> TablePart<'a> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.group == group).collect();
    let mut headings = vec!["", "p50", "p90", "p99", "p99.9", "max", "× floor", CPU, RESIDENT, "measured"];
    let mut lines: Vec<_> = rows.iter().map(|row| line(row, &rows)).collect();
    for rare in [CPU, RESIDENT] {
        remove_if_empty(rare, &mut headings, &mut lines);
    }
    TablePart { group, title: title(group), note: note(group), headings, lines }
}

/// Headings of columns that only some groups have.
const CPU: &str = "CPU per call";
const RESIDENT: &str = "resident";

fn remove_if_empty(heading: &str, headings: &mut Vec<&'static str>, lines: &mut [Vec<String>]) {
    let at = headings.iter().position(|other| *other == heading);
    if let Some(at) = at.filter(|&at| lines.iter().all(|line| line[at] == NONE)) {
        headings.remove(at);
        lines.iter_mut().for_each(|line| drop(line.remove(at)));
    }
}

fn line(row: &Row, rows: &[&Row]) -> Vec<String> {
    let is_floor = rows.iter().any(|other| other.floor.as_ref() == Some(&row.name));
    let beside = match row.ratio {
        Some(ratio) => units::ratio(ratio),
        None if is_floor => "floor".to_owned(),
        None => NONE.to_owned(),
    };
    let mut line = vec![row.name.clone()];
    line.extend(times(row));
    let resident = row.resident.map_or(NONE.to_owned(), units::bytes);
    line.extend([beside, cpu(row), resident, if row.count == 0 { NONE.to_owned() } else { units::count(row.count) }]);
    line
}

/// The times from p50 to the longest. Means of many calls have a p50 but no tail, so it is shown with its range over the repeats.
fn times(row: &Row) -> [String; 5] {
    if row.count == 0 {
        return [NONE; 5].map(Into::into);
    }
    if row.averaged {
        return [middle(row), NONE.into(), NONE.into(), NONE.into(), NONE.into()];
    }
    let [p50, p90, max] = [row.p50, row.p90, row.max].map(units::nanoseconds);
    [p50, p90, tail(row.p99, 100, row), tail(row.p999, 1000, row), max]
}

fn cpu(row: &Row) -> String {
    let per = if row.count == 0 { " per second" } else { "" };
    row.cpu.map_or(NONE.to_owned(), |nanos| units::nanoseconds(nanos) + per)
}

fn middle(row: &Row) -> String {
    let p50 = units::nanoseconds(row.p50);
    let Some(Spread { min, max, .. }) = Spread::of(row.repeats.iter().map(|one| one.p50)) else {
        return p50;
    };
    format!("{p50} ({} to {})", units::nanoseconds(min), units::nanoseconds(max))
}

/// Stands in place of a missing figure.
const NONE: &str = "–";

/// The time that one call in `one_of` exceeds. None is shown if fewer calls than that were measured.
fn tail(nanoseconds: f64, one_of: u64, row: &Row) -> String {
    if row.count < one_of { NONE.to_owned() } else { units::nanoseconds(nanoseconds) }
}

/// The title above a group's table. An unknown group keeps its own name.
pub fn title(group: &str) -> &str {
    match group {
        "floor" => "Floors of this machine",
        "latency" => "Latency of a call",
        "pending" => "Calls that overlap",
        "async" => "Awaited calls",
        "throughput" => "Throughput",
        "waiting" => "Waiting",
        "start" => "Starting a child",
        "payload" => "Payloads",
        "large" => "Large payloads",
        "manager" => "Named callbacks",
        "sandbox" => "Sandbox",
        "soak" => "Memory after many calls",
        "compare" => "Other ways across",
        other => other,
    }
}

/// The note below a group's title: what the reader must know about how it was measured.
fn note(group: &str) -> Option<&'static str> {
    match group {
        "pending" => Some(
            "Both sides poll. Time per call, taken by one thread: with 32 calls on their way all the time; begun in batches of 32, each \
             waited for in turn; one-way, with a flush after 1,024.",
        ),
        "async" => Some(
            "One thread polls the futures and sleeps until it is woken. 10,000 in flight: time per call on a bridge with 8 lanes, all begun \
             before the first is awaited; resident memory with all of them begun.",
        ),
        "throughput" => Some(
            "Time per call, all threads together. The child is pinned to one CPU. A single caller is pinned to another; several callers \
             may run on every CPU, also on the child's.",
        ),
        "large" => Some(
            "Both sides poll, as the floors do, but where a row says otherwise. One-way: bytes in the caller's private memory are summed by the other process where they lie in shared memory; only the \
             sum comes back. A box lies in shared memory already and goes there and back, and one line of it is changed on the way. \
             The first echo is on a bridge that has no memory for large payloads yet.",
        ),
        "manager" => Some(
            "Two processes that a hub has introduced to each other; the values are three numbers and two with keywords.",
        ),
        "sandbox" => Some(
            "A child in `Sandbox::strict()` beside one that is not, both served by the same code. Parked, both sides make system calls for \
             each call, which the child's filters look at; the start is until the first reply.",
        ),
        "soak" => Some(
            "Requests and replies of random lengths from nothing to 1 MiB. Resident: the most that both processes had together in that \
             tenth of the calls, private memory too; pages that both have are counted twice.",
        ),
        "compare" => Some(
            "Of peers that sleep while they wait, the ratio is mostly what a wake-up costs on this machine (the row `futex` of the \
             floors); beside `callgate parked`, which sleeps too, they show what they add to it. Beside large payloads (one-way, touched, edited) both sides \
             of callgate poll, as iceoryx2 does.",
        ),
        _ => None,
    }
}

/// Says in a word whether a target was met.
pub fn verdict(target: &Goal) -> &'static str {
    match target.met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "stated",
    }
}

/// Says how many bounds were met, such as `9 of 11 met`. `None` if there are no bounds.
pub fn score(targets: &[Goal]) -> Option<String> {
    let bounds: Vec<_> = targets.iter().filter_map(|target| target.met).collect();
    let met = bounds.iter().filter(|met| **met).count();
    (!bounds.is_empty()).then(|| format!("{met} of {} met", bounds.len()))
}

/// The command that measures a group again.
pub fn command(group: &str) -> String {
    format!("cargo run --release -p callgate-cli -- bench --only {group}")
}

/// A report with everything that can occur, for the tests of the renderers.
#[cfg(test)]
pub fn sample() -> BenchReport {
    use callgate_suite::report::Series;
    let row = |group: &str, name: &str, floor: Option<&str>, p50: f64| Row {
        group: group.into(),
        name: name.into(),
        floor: floor.map(Into::into),
        p50,
        p90: p50 * 1.1,
        p99: p50 * 2.0,
        p999: p50 * 4.0,
        max: p50 * 90.0,
        count: 70_000,
        ratio: floor.map(|_| 1.137),
        cpu: (group == "waiting").then_some(1500.0),
        ..Row::default()
    };
    let target = |what: &str, met| Goal {
        what: what.into(),
        target: "at most 1.2".into(),
        reached: "1.14 (1.09 to 1.21 over 7 repeats)".into(),
        met,
    };
    BenchReport {
        machine: vec![("CPU".into(), "a <fast> one & \"more\"".into())],
        rows: vec![
            row("latency", "ping-pong", None, 398.0),
            row("latency", "callgate add <&str>", Some("ping-pong"), 434.0),
            row("waiting", "gap 1 ms | adaptive", None, 26_000.0),
        ],
        targets: vec![target("add / ping-pong", Some(true)), target("greet", Some(false)), target("cpu", None)],
        series: vec![
            Series {
                plot: "distribution-latency".into(),
                name: "add <b>".into(),
                points: vec![(0.0, 380.0), (99.0, 800.0)],
            },
            Series { plot: "payload".into(), name: "add <b>".into(), points: vec![(0.0, 380.0), (4096.0, 3200.0)] },
        ],
        skipped: vec!["compare <script>: not asked for".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_shows_what_it_has() {
        let report = sample();
        let parts = parts(&report);
        assert_eq!(parts.iter().map(|part| part.group).collect::<Vec<_>>(), ["latency", "waiting"]);
        assert_eq!(parts[0].headings, ["", "p50", "p90", "p99", "p99.9", "max", "× floor", "measured"]);
        let figures = ["434 ns", "477 ns", "868 ns", "1.74 µs", "39.1 µs", "1.14", "70,000"];
        assert_eq!(parts[0].lines[1][1..], figures);
        assert_eq!(parts[0].lines[0][6], "floor");
        assert!(parts[1].headings.contains(&"CPU per call"));
        assert_eq!(parts[1].lines[0][6..], ["–", "1.50 µs", "70,000"]);
        for part in &parts {
            assert!(part.lines.iter().all(|line| line.len() == part.headings.len()));
        }
    }

    #[test]
    fn few_measurements_have_no_tail() {
        let mut report = sample();
        report.rows[0].count = 999;
        report.rows[1].count = 99;
        let lines = &parts(&report)[0].lines;
        assert_eq!([&*lines[0][3], &*lines[0][4]], ["796 ns", "–"]);
        assert_eq!([&*lines[1][3], &*lines[1][4]], ["–", "–"]);
    }

    #[test]
    fn means_have_a_middle_and_where_it_was() {
        let mut report = sample();
        let at = |p50| callgate_suite::stats::Quantiles { p50, ..Default::default() };
        report.rows[0] = Row { averaged: true, repeats: vec![at(390.0), at(410.0)], ..report.rows[0].clone() };
        assert_eq!(parts(&report)[0].lines[0][1..6], ["398 ns (390 ns to 410 ns)", "–", "–", "–", "–"]);
    }

    #[test]
    fn a_row_without_calls_has_its_cpu_time_per_second() {
        let row = Row { group: "waiting".into(), name: "idle".into(), cpu: Some(5_000.0), ..Row::default() };
        let report = BenchReport { rows: vec![row], ..BenchReport::default() };
        assert_eq!(parts(&report)[0].lines[0][1..], ["–", "–", "–", "–", "–", "–", "5 µs per second", "–"]);
    }

    #[test]
    fn memory_has_a_column_where_it_was_watched() {
        let row = Row { group: "soak".into(), resident: Some(f64::from(3 << 20)), ..sample().rows[0].clone() };
        let report = BenchReport { rows: vec![row], ..BenchReport::default() };
        let part = &parts(&report)[0];
        assert_eq!((part.headings[7], &*part.lines[0][7]), ("resident", "3 MiB"));
        assert!(!part.headings.contains(&"CPU per call"));
    }

    #[test]
    fn only_bounds_are_counted() {
        assert_eq!(score(&sample().targets).as_deref(), Some("1 of 2 met"));
        assert_eq!(score(&[]), None);
    }
}
