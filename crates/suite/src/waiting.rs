//! The waiting matrix: how well each way of waiting does in different situations.
//!
//! Cells differ in how long the callee works, how long the caller is idle between calls, on which CPUs the two run, and whether other processes
//! compete for them. In each cell the strategies take turns, and each gets the latency of a call and the CPU time per call of both processes.

#![forbid(unsafe_code)]

use crate::bridge::BridgeTransport;
use crate::cpu_time::{self, CpuTime};
use crate::floor::Hog;
use crate::interleave::{Batch, Budget, Measured, Subject, interleave, rows};
use crate::pin::{self, Pinned};
use crate::report::{BenchReport, Row, Series};
use crate::{BoxError, Clock, Progress, Transport};
use callgate::Wait;
use std::thread;
use std::time::Duration;

/// The longest gap that is spent spinning, because a sleep lasts longer than asked. Longer gaps are slept.
const SPUN: Duration = Duration::from_micros(100);

/// The length of a batch that competes with a hog: several time slices of the scheduler.
const HOGGED_BATCH: Duration = Duration::from_millis(60);

/// One situation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The beginning of the names of the cell's rows.
    pub name: String,
    /// How long the callee works on each call.
    pub work: Duration,
    /// How long a caller is idle between two calls.
    pub gap: Duration,
    /// The number of calling threads. If there are several, neither they nor the child are pinned.
    pub callers: usize,
    /// The callers' CPU and the child's.
    pub cpus: (usize, usize),
    /// CPUs that another process keeps busy.
    pub hogs: Vec<usize>,
}

/// All cells, for callers on the first CPU of `cpus` and a child on the second.
pub fn cells(cpus: (usize, usize)) -> Vec<Cell> {
    let plain = Cell { callers: 1, cpus, ..Cell::default() };
    let (caller, callee) = cpus;
    let mut cells = Vec::new();
    for us in [0, 1, 10, 100] {
        cells.push(Cell { name: format!("work {us} us"), work: Duration::from_micros(us), ..plain.clone() });
    }
    for (us, name) in [(10, "gap 10 us"), (100, "gap 100 us"), (1_000, "gap 1 ms"), (10_000, "gap 10 ms")] {
        cells.push(Cell { name: name.into(), gap: Duration::from_micros(us), ..plain.clone() });
    }
    cells.push(Cell { name: "one CPU".into(), cpus: (caller, caller), ..plain.clone() });
    cells.push(Cell { name: "4 callers".into(), callers: 4, ..plain.clone() });
    for (name, hogs) in [
        ("hog beside the caller", vec![caller]),
        ("hog beside the callee", vec![callee]),
        ("hogs beside both", vec![caller, callee]),
    ] {
        cells.push(Cell { name: name.into(), hogs, ..plain.clone() });
    }
    cells
}

/// Measures the group `waiting`: a row for each cell and strategy, with a name such as `work 10 us: adaptive`, and the series `gap`.
///
/// [`targets`](crate::targets) judges `adaptive` against `park`, `spin 20 us` and `spin 50 us`, if these are among the strategies.
pub fn measure(budget: Budget, strategies: &[(&str, Wait)], progress: Progress<'_>) -> Result<BenchReport, BoxError> {
    let clock = Clock::new();
    let mut report = BenchReport::default();
    let mut curves: Vec<Series> = strategies
        .iter()
        .map(|(name, _)| Series { plot: "gap".into(), name: (*name).into(), points: Vec::new() })
        .collect();
    let Ok(cpus) = pin::pair() else {
        let mut report = BenchReport::left_out("Waiting");
        report.rows.push(idle(progress)?);
        return Ok(report);
    };
    for cell in cells(cpus) {
        let measured = measure_cell(&cell, budget, strategies, &clock, progress)?;
        let rows = rows("waiting", &measured);
        if !cell.gap.is_zero() {
            for (curve, row) in curves.iter_mut().zip(&rows) {
                curve.points.push((cell.gap.as_nanos() as f64, row.cpu.unwrap_or_default()));
            }
        }
        report.rows.extend(rows);
    }
    report.series = curves;
    report.rows.push(idle(progress)?);
    Ok(report)
}

/// The name of the row of a bridge that nobody calls.
pub const IDLE: &str = "idle bridge";

/// How long an idle bridge is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// Measures the cost of an idle bridge: the CPU time of both processes in a second, less that of the measuring thread. The row has no latencies.
fn idle(progress: Progress<'_>) -> Result<Row, BoxError> {
    progress(IDLE);
    let mut bridged = BridgeTransport::start(Wait::Adaptive, None)?;
    for _ in 0..1000 {
        bridged.add(1)?;
    }
    let cpu = CpuTime::with(bridged.peer())?;
    // Both sides poll for a moment before they sleep.
    thread::sleep(Duration::from_millis(10));
    let others = || Ok::<_, BoxError>(cpu.used()?.saturating_sub(cpu_time::of_this_thread()?));
    let before = others()?;
    thread::sleep(WATCHED);
    let used = others()?.saturating_sub(before).as_nanos() as f64;
    Ok(Row { group: "waiting".into(), name: IDLE.into(), cpu: Some(used), ..Row::default() })
}

/// Measures `strategies` in one cell, in turn.
pub fn measure_cell(
    cell: &Cell,
    budget: Budget,
    strategies: &[(&str, Wait)],
    clock: &Clock,
    progress: Progress<'_>,
) -> Result<Vec<Measured>, BoxError> {
    let _pin = if cell.callers == 1 { Some(Pinned::to(cell.cpus.0)?) } else { None };
    let _hogs = cell.hogs.iter().map(|&cpu| Hog::on(cpu)).collect::<Result<Vec<_>, _>>()?;
    interleave(cell.budget(budget), clock, progress, || cell.subjects(strategies))
}

impl Cell {
    /// The name of the row of `strategy`.
    pub fn row_name(&self, strategy: &str) -> String {
        format!("{}: {strategy}", self.name)
    }

    /// One subject for each strategy. Pin the caller and start the hogs before measuring.
    pub fn subjects(&self, strategies: &[(&str, Wait)]) -> Result<Vec<Subject>, BoxError> {
        strategies.iter().map(|&(name, wait)| self.subject(name, wait)).collect()
    }

    fn budget(&self, budget: Budget) -> Budget {
        let least = if self.hogs.is_empty() { Duration::ZERO } else { HOGGED_BATCH };
        let batch = budget.batch.max(self.gap * 10).max(least);
        Budget { batch, ..budget }.at_least(2, batch)
    }

    fn subject(&self, strategy: &str, wait: Wait) -> Result<Subject, BoxError> {
        let (alone, cell) = (self.callers == 1, self.clone());
        let bridged = BridgeTransport::start(wait, alone.then_some(self.cpus.1))?;
        let peer = bridged.peer();
        let subject = Subject::custom(self.row_name(strategy), move |batch| cell.run(batch, &bridged));
        let subject = subject.answered_by(peer);
        // A strategy that learns from its waits would count the time while it is stopped as one long wait.
        Ok(if wait == Wait::Spin { subject.polling() } else { subject })
    }

    fn run(&self, batch: &mut Batch<'_>, bridged: &BridgeTransport) -> Result<(), BoxError> {
        let (clock, until) = (batch.clock, batch.until);
        let all = if self.callers == 1 {
            vec![self.call(clock, until, bridged)?]
        } else {
            thread::scope(|scope| {
                let call = || self.call(clock, until, bridged);
                let threads: Vec<_> = (0..self.callers).map(|_| scope.spawn(call)).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<_, _>>()
            })?
        };
        for seen in all {
            seen.nanos.iter().for_each(|nanos| batch.record(*nanos));
            batch.idle += seen.idle;
        }
        Ok(())
    }

    /// Makes one caller's calls.
    fn call(&self, clock: &Clock, until: u64, bridged: &BridgeTransport) -> Result<BatchSeen, BoxError> {
        let mut seen = BatchSeen::default();
        loop {
            // The gap comes before the call, so that the first call of a batch follows a gap too.
            seen.idle += self.idle(clock)?;
            let from = clock.now();
            if self.work.is_zero() {
                bridged.bridge.add(1)?;
            } else {
                bridged.bridge.work(self.work.as_nanos() as u64)?;
            }
            let to = clock.now();
            seen.nanos.push(clock.nanos(from, to));
            if to >= until {
                return Ok(seen);
            }
        }
    }

    /// Lets the gap pass and returns the CPU time that this took.
    fn idle(&self, clock: &Clock) -> Result<Duration, BoxError> {
        if self.gap.is_zero() {
            return Ok(Duration::ZERO);
        }
        let before = cpu_time::of_this_thread()?;
        if self.gap <= SPUN {
            clock.spin(self.gap)
        } else {
            thread::sleep(self.gap)
        }
        Ok(cpu_time::of_this_thread()? - before)
    }
}

/// What one caller measured in one batch.
#[derive(Debug, Default)]
struct BatchSeen {
    nanos: Vec<f64>,
    idle: Duration,
}
