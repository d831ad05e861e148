//! Prints the report as a table.

#![forbid(unsafe_code)]

use callgate_suite::report::{BenchReport, Row};
use callgate_suite::targets;
use std::io::{self, Write};

const HEADER: [&str; 9] = ["", "p50", "p90", "p99", "p99.9", "max", "calls", "x callgate", "CPU/call"];

/// Prints the rows, the project's targets that they judge, and what was left out.
pub fn table(report: &BenchReport) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let width = report.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    print_line(&mut out, width, &HEADER.map(str::to_owned))?;
    for row in &report.rows {
        print_line(&mut out, width, &cells(row))?;
    }
    for target in targets::of(report) {
        let verdict = target.met.map_or("", |met| if met { ": met" } else { ": MISSED" });
        writeln!(out, "{}: {} (wanted: {}{verdict})", target.what, target.reached, target.target)?;
    }
    report.skipped.iter().try_for_each(|why| writeln!(out, "left out: {why}"))
}

fn print_line(out: &mut impl Write, width: usize, [name, rest @ ..]: &[String; 9]) -> io::Result<()> {
    write!(out, "{name:width$}")?;
    rest.iter().try_for_each(|cell| write!(out, " {cell:>10}"))?;
    writeln!(out)
}

fn cells(row: &Row) -> [String; 9] {
    let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.3}"));
    let cpu = row.cpu.map_or(String::new(), time);
    // The tail of means of many calls is not the tail of single calls.
    let tail = |nanos| if row.averaged { "-".to_owned() } else { time(nanos) };
    let [p90, p99, p999, max] = [row.p90, row.p99, row.p999, row.max].map(tail);
    let p50 = time(row.p50);
    [row.name.clone(), p50, p90, p99, p999, max, row.count.to_string(), ratio, cpu]
}

/// Formats nanoseconds in a suitable unit.
fn time(nanos: f64) -> String {
    match nanos {
        ..100.0 => format!("{nanos:.1} ns"),
        ..10e3 => format!("{nanos:.0} ns"),
        ..10e6 => format!("{:.1} us", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_or_so() {
        let shown = [2.31, 412.4, 12_340.0, 23e6].map(time);
        assert_eq!(shown, ["2.3 ns", "412 ns", "12.3 us", "23.0 ms"]);
    }
}
