//! What a run of the benchmark has found, as `callgate bench --json` writes it.

#![forbid(unsafe_code)]

use crate::stats::Quantiles;
use serde::{Deserialize, Serialize};

/// One run of the benchmark on one machine, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The machine, as label and value, in order.
    pub machine: Vec<(String, String)>,
    /// One row for each thing measured.
    pub rows: Vec<Row>,
    /// The targets, each with what was reached.
    pub targets: Vec<Goal>,
    /// Curves for the plots.
    pub series: Vec<Series>,
    /// What was left out and why: one sentence each.
    pub skipped: Vec<String>,
}

impl BenchReport {
    /// Of a group that needs two CPUs, where there is one only.
    pub(crate) fn left_out(what: &str) -> Self {
        let skipped = vec![format!("{what} between two CPUs: this process may run on one only.")];
        Self { skipped, ..Self::default() }
    }

    /// Takes over what `part` has.
    pub fn append(&mut self, part: BenchReport) {
        self.machine.extend(part.machine);
        self.rows.extend(part.rows);
        self.targets.extend(part.targets);
        self.series.extend(part.series);
        self.skipped.extend(part.skipped);
    }

    /// The row of that group and name.
    pub fn row(&self, group: &str, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.name == name)
    }
}

/// The distribution of one thing measured, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// What it belongs to: `latency`, `waiting`, `start`, `payload`, `compare`, ..
    pub group: String,
    /// What was measured, such as `callgate add`.
    pub name: String,
    /// The name of the row that is this row's floor, in the same group; none if it is a floor itself.
    pub floor: Option<String>,
    /// Half of them took no longer. So for the others.
    pub p50: f64,
    /// 90%.
    pub p90: f64,
    /// 99%.
    pub p99: f64,
    /// 99.9%.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// Whether what was measured are the means of many calls: then only the p50 says something of a call.
    pub averaged: bool,
    /// How many were measured. None in a row that is not about calls; then it has no latencies.
    pub count: u64,
    /// Median over the repeats of this row's p50 divided by the floor's p50 of the same repeat.
    pub ratio: Option<f64>,
    /// CPU time of both processes per call, in nanoseconds, where it was measured. In a row without calls: per second.
    pub cpu: Option<f64>,
    /// The same for each repeat; empty where it was not measured.
    pub cpu_repeats: Vec<f64>,
    /// The most memory that was resident in both processes together, in bytes, where that was watched.
    pub resident: Option<f64>,
    /// What that is held against: the bridge's budget for large payloads, in bytes.
    pub budget: Option<f64>,
    /// The quantiles of each repeat. Rows that were measured in turn have repeats that can be compared one by one.
    pub repeats: Vec<Quantiles>,
}

/// Something that should hold, and whether it does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// What is compared, such as `add / bare ping-pong (p50)`.
    pub what: String,
    /// The target as a sentence, such as `at most 1.2`.
    pub target: String,
    /// What was reached, such as `1.14 (1.09 to 1.21 over 7 repeats)`.
    pub reached: String,
    /// `None` if there is no bound, only a figure to state.
    pub met: Option<bool>,
}

/// One curve of a plot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Which plot: `distribution-latency` and so for other groups (percentile against ns), `payload` (bytes against ns), `threads` (threads against calls per
    /// second), `gap` (idle gap in ns against CPU ns per call).
    pub plot: String,
    /// Which curve of it.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
}
