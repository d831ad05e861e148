//! The results of a benchmark run, in the form that `callgate bench --json` writes.

#![forbid(unsafe_code)]

use crate::stats::Quantiles;
use serde::{Deserialize, Serialize};

/// The results of one benchmark run on one machine, or a part of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Facts about the machine, as pairs of label and value, in the order to show them.
    pub machine: Vec<(String, String)>,
    /// One row for each thing measured.
    pub rows: Vec<Row>,
    /// The targets, each with the figure reached.
    pub targets: Vec<Goal>,
    /// Curves for the plots.
    pub series: Vec<Series>,
    /// What was left out and why, one sentence each.
    pub skipped: Vec<String>,
}

impl BenchReport {
    /// The report of a group that needs two CPUs, on a process that may run on only one.
    pub(crate) fn left_out(what: &str) -> Self {
        let skipped = vec![format!("{what} between two CPUs: this process may run on one only.")];
        Self { skipped, ..Self::default() }
    }

    /// Appends everything in `part`.
    pub fn append(&mut self, part: BenchReport) {
        self.machine.extend(part.machine);
        self.rows.extend(part.rows);
        self.targets.extend(part.targets);
        self.series.extend(part.series);
        self.skipped.extend(part.skipped);
    }

    /// Finds a row by its group and name.
    pub fn row(&self, group: &str, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.name == name)
    }
}

/// The distribution of one thing measured, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The group of the row: `latency`, `waiting`, `start`, `payload`, `compare`, ..
    pub group: String,
    /// What was measured, such as `callgate add`.
    pub name: String,
    /// The name of the row that is this row's floor, in the same group; `None` if the row is a floor itself.
    pub floor: Option<String>,
    /// The median: 50% took no longer.
    pub p50: f64,
    /// 90% took no longer.
    pub p90: f64,
    /// 99% took no longer.
    pub p99: f64,
    /// 99.9% took no longer.
    pub p999: f64,
    /// The longest time.
    pub max: f64,
    /// Whether each value is the mean of many calls. If so, only the p50 says something about a single call.
    pub averaged: bool,
    /// The number of calls measured. 0 in a row that is not about calls; such a row has no latencies.
    pub count: u64,
    /// This row's p50 divided by the floor's p50 of the same repeat; the median over the repeats.
    pub ratio: Option<f64>,
    /// CPU time of both processes per call, in nanoseconds, if it was measured. In a row without calls: per second.
    pub cpu: Option<f64>,
    /// `cpu` for each repeat; empty if it was not measured.
    pub cpu_repeats: Vec<f64>,
    /// The most memory resident in both processes together, in bytes, if it was watched.
    pub resident: Option<f64>,
    /// The limit for `resident`: the bridge's budget for large payloads, in bytes.
    pub budget: Option<f64>,
    /// The quantiles of each repeat. The repeats of rows that were measured in turn can be compared one by one.
    pub repeats: Vec<Quantiles>,
}

/// A target, and whether it was met.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What is compared, such as `add / bare ping-pong (p50)`.
    pub what: String,
    /// The target as a sentence, such as `at most 1.2`.
    pub target: String,
    /// The figure reached, such as `1.14 (1.09 to 1.21 over 7 repeats)`.
    pub reached: String,
    /// `None` if the target has no bound and only states a figure.
    pub met: Option<bool>,
}

/// One curve of a plot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The plot: `distribution-GROUP`, such as `distribution-latency` (percentile against ns), `payload` (bytes against ns), `threads` (threads
    /// against calls per second), `gap` (idle gap in ns against CPU ns per call).
    pub plot: String,
    /// The name of the curve in that plot.
    pub name: String,
    /// Pairs of x and y.
    pub points: Vec<(f64, f64)>,
}
