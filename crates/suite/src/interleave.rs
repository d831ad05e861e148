//! Measures several subjects in turn, in short batches, so that drift of the machine affects all of them alike.
//!
//! Each repeat starts with a fresh setup, because the pages and cache lines that two processes happen to get affect all their
//! measurements. Within a repeat, the subjects take turns in alternating order (A B C, C B A, ..). Each batch begins with
//! calls that do not count: they wake a peer that has fallen asleep, and fill caches.

#![forbid(unsafe_code)]

use crate::cpu_time::CpuTime;
use crate::report::{Row, Series};
use crate::stats::{Distribution, Spread};
use crate::{BoxError, Clock, Progress};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// How long a measurement may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How often setup and measurement are repeated.
    pub repeats: u32,
    /// How long each subject is measured in each repeat, over all its batches.
    pub time: Duration,
    /// How long a batch lasts.
    pub batch: Duration,
}

impl Budget {
    /// Enough for figures that can be quoted.
    pub const fn full() -> Self {
        Self { repeats: 7, time: Duration::from_millis(400), batch: Duration::from_millis(4) }
    }

    /// Enough to see whether everything works. The figures are worth little.
    pub const fn quick() -> Self {
        Self { repeats: 2, time: Duration::from_millis(10), batch: Duration::from_millis(2) }
    }

    /// Extends the time so that each repeat has room for at least `count` operations that take about `each`.
    pub fn at_least(self, count: u32, each: Duration) -> Self {
        Self { time: self.time.max(each * count), ..self }
    }

    fn rounds(&self) -> u128 {
        self.time.as_nanos().div_ceil(self.batch.as_nanos().max(1)).max(1)
    }
}

/// The minimal duration of the uncounted calls before each batch.
const WARM_UP: Duration = Duration::from_micros(100);

/// The most calls in one batch of a plain operation.
const MOST: usize = 1 << 16;

/// One thing to measure, with the processes and memory that it needs.
pub struct Subject {
    /// The name of the subject's row.
    pub name: String,
    /// The name of the subject that is its floor.
    pub floor: Option<String>,
    peer: Option<u32>,
    polls: bool,
    means: bool,
    run: Box<Run>,
}

type Run = dyn FnMut(&mut Batch<'_>) -> Result<(), BoxError>;

impl Subject {
    /// Measures single calls of `operation`, back to back.
    pub fn new(name: impl Into<String>, operation: impl FnMut() -> Result<(), BoxError> + 'static) -> Self {
        Self::averaged(name, 1, operation)
    }

    /// Measures `operation` back to back, with `each` calls between two readings of the clock. For operations that are shorter than a
    /// reading. The distribution is one of averages.
    pub fn averaged(
        name: impl Into<String>,
        each: u32,
        mut operation: impl FnMut() -> Result<(), BoxError> + 'static,
    ) -> Self {
        let mut stamps = Vec::with_capacity(MOST);
        let subject = Self::custom(name, move |batch| {
            let most = MOST.min(usize::try_from(batch.most).unwrap_or(MOST).div_ceil(each as usize).saturating_add(1));
            stamps.clear();
            stamps.push(batch.clock.now());
            loop {
                for _ in 0..each {
                    operation()?;
                }
                let stamp = batch.clock.now();
                stamps.push(stamp);
                if stamp >= batch.until || stamps.len() >= most {
                    break;
                }
            }
            for pair in stamps.windows(2) {
                batch.record_many(batch.clock.nanos(pair[0], pair[1]) / f64::from(each), each);
            }
            Ok(())
        });
        if each > 1 { subject.of_means() } else { subject }
    }

    /// Runs `batch` for each batch. It must record values until the batch is over, and at least one.
    pub fn custom(
        name: impl Into<String>,
        batch: impl FnMut(&mut Batch<'_>) -> Result<(), BoxError> + 'static,
    ) -> Self {
        Self { name: name.into(), floor: None, peer: None, polls: false, means: false, run: Box::new(batch) }
    }

    /// Names the subject's floor.
    pub fn beside(mut self, floor: &str) -> Self {
        self.floor = Some(floor.into());
        self
    }

    /// Names the process that answers, so that its CPU time counts too.
    pub fn answered_by(mut self, peer: Option<u32>) -> Self {
        self.peer = peer;
        self
    }

    /// Declares that the peer polls even when nobody calls. It is stopped (SIGSTOP) while other subjects are measured.
    pub fn polling(mut self) -> Self {
        self.polls = true;
        self
    }

    /// Declares that the recorded values are means of many calls, so that their tail is not that of single calls.
    pub fn of_means(mut self) -> Self {
        self.means = true;
        self
    }

    /// Runs batches of this subject alone for at least `time` and returns the values recorded.
    pub fn measure(&mut self, clock: &Clock, time: Duration) -> Result<Distribution, BoxError> {
        let mut found = Distribution::new();
        let end = clock.now() + clock.counts(time);
        while clock.now() < end {
            found.merge(&self.turn(clock, u64::MAX)?.0);
        }
        Ok(found)
    }

    /// Takes one turn of about `calls` calls. Returns the values recorded and the number of calls. For callers that schedule
    /// the turns themselves and have paused all other subjects.
    pub fn turn(&mut self, clock: &Clock, calls: u64) -> Result<(Distribution, u64), BoxError> {
        let mut found = Distribution::new();
        let until = clock.counts(Budget::full().batch);
        self.resume();
        self.batch(clock, clock.now() + clock.counts(WARM_UP), calls, &mut Distribution::new())?;
        let (calls, _) = self.batch(clock, clock.now() + until, calls, &mut found)?;
        self.pause();
        Ok((found, calls))
    }

    /// Stops the peer, if it polls even when nobody calls.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Runs until the clock shows `until` or `most` calls have been made. Returns the number of calls, and the CPU time spent
    /// between calls.
    fn batch(
        &mut self,
        clock: &Clock,
        until: u64,
        most: u64,
        found: &mut Distribution,
    ) -> Result<(u64, Duration), BoxError> {
        let mut batch = Batch { clock, until, most, idle: Duration::ZERO, calls: 0, found };
        (self.run)(&mut batch).map_err(|error| format!("{}: {error}", self.name))?;
        Ok((batch.calls, batch.idle))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.peer.filter(|_| self.polls).and_then(|pid| Pid::from_raw(pid as i32)) {
            // If the peer is gone, the next call fails.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // A stopped peer could not end in an orderly way.
        self.resume();
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("name", &self.name).field("floor", &self.floor).finish_non_exhaustive()
    }
}

/// One turn of a subject.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The clock to measure with.
    pub clock: &'a Clock,
    /// When the batch is over.
    pub until: u64,
    /// The number of calls after which the batch is over.
    most: u64,
    /// CPU time that this process spent between calls, which does not count.
    pub idle: Duration,
    calls: u64,
    found: &'a mut Distribution,
}

impl Batch<'_> {
    /// Records a call that took `nanos`.
    #[inline]
    pub fn record(&mut self, nanos: f64) {
        self.record_many(nanos, 1);
    }

    /// Records `nanos` as the mean of `calls` calls.
    #[inline]
    pub fn record_many(&mut self, nanos: f64, calls: u32) {
        self.calls += u64::from(calls);
        self.found.record(nanos);
    }

    /// Whether the batch has reached its time or its number of calls.
    pub fn is_over(&self) -> bool {
        self.calls >= self.most || self.clock.now() >= self.until
    }
}

/// The measurements of one subject.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The subject's name.
    pub name: String,
    /// The name of its floor.
    pub floor: Option<String>,
    /// Whether the values are the means of many calls.
    pub averaged: bool,
    /// One distribution for each repeat.
    pub repeats: Vec<Distribution>,
    /// CPU time of this process and the peer per call, in nanoseconds, for each repeat; empty if there is no peer.
    pub cpu: Vec<f64>,
}

impl Measured {
    /// The distribution over all repeats.
    pub fn merged(&self) -> Distribution {
        let mut all = Distribution::new();
        self.repeats.iter().for_each(|repeat| all.merge(repeat));
        all
    }

    /// This subject's p50 divided by the p50 of `floor`, repeat by repeat.
    pub fn ratio(&self, floor: &Measured) -> Option<Spread> {
        Spread::of(self.repeats.iter().zip(&floor.repeats).map(|(own, floor)| own.at(0.5) / floor.at(0.5)))
    }

    /// The curve for the plot `distribution-GROUP`. Each group has its own plot, because a name may occur in several groups.
    pub fn curve(&self, group: &str) -> Series {
        Series { plot: format!("distribution-{group}"), name: self.name.clone(), points: self.merged().curve() }
    }

    fn row(&self, group: &str, floor: Option<&Measured>) -> Row {
        let all = self.merged();
        let quantiles = all.quantiles();
        Row {
            group: group.into(),
            name: self.name.clone(),
            floor: floor.map(|floor| floor.name.clone()),
            p50: quantiles.p50,
            p90: quantiles.p90,
            p99: quantiles.p99,
            p999: quantiles.p999,
            max: all.max(),
            count: all.count(),
            ratio: floor.and_then(|floor| self.ratio(floor)).map(|spread| spread.median),
            cpu: Spread::of(self.cpu.iter().copied()).map(|spread| spread.median),
            cpu_repeats: self.cpu.clone(),
            averaged: self.averaged,
            repeats: self.repeats.iter().map(Distribution::quantiles).collect(),
            ..Row::default()
        }
    }
}

/// Turns the measurements into rows.
pub fn rows(group: &str, measured: &[Measured]) -> Vec<Row> {
    let find = |name: &String| measured.iter().find(|other| other.name == *name);
    measured.iter().map(|subject| subject.row(group, subject.floor.as_ref().and_then(find))).collect()
}

/// Measures the subjects of `set_up` in turn. Each repeat calls `set_up` again; it must always return the same subjects.
///
/// # Errors
///
/// The first error of `set_up` or a subject.
pub fn interleave(
    budget: Budget,
    clock: &Clock,
    progress: Progress<'_>,
    mut set_up: impl FnMut() -> Result<Vec<Subject>, BoxError>,
) -> Result<Vec<Measured>, BoxError> {
    let mut measured: Vec<Measured> = Vec::new();
    for repeat in 1..=budget.repeats {
        let subjects = set_up()?;
        let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
        progress(&format!("{} (repeat {repeat} of {})", names.join(", "), budget.repeats));
        for (at, turns) in one_repeat(budget, clock, subjects)?.into_iter().enumerate() {
            if measured.len() == at {
                let (name, floor) = (turns.subject.name.clone(), turns.subject.floor.clone());
                let averaged = turns.subject.means;
                measured.push(Measured { name, floor, averaged, repeats: Vec::new(), cpu: Vec::new() });
            }
            measured[at].cpu.extend(turns.cpu_per_call());
            measured[at].repeats.push(turns.found);
        }
    }
    Ok(measured)
}

/// A subject with its measurements in one repeat.
struct Turns {
    subject: Subject,
    found: Distribution,
    calls: u64,
    cpu: Duration,
}

fn one_repeat(budget: Budget, clock: &Clock, subjects: Vec<Subject>) -> Result<Vec<Turns>, BoxError> {
    let begin = |subject| Turns { subject, found: Distribution::new(), calls: 0, cpu: Duration::ZERO };
    let mut all: Vec<Turns> = subjects.into_iter().map(begin).collect();
    all.iter().for_each(|turns| turns.subject.pause());
    for round in 0..budget.rounds() {
        for turn in 0..all.len() {
            let at = if round % 2 == 0 { turn } else { all.len() - 1 - turn };
            all[at].take(budget.batch, clock)?;
        }
    }
    Ok(all)
}

impl Turns {
    fn take(&mut self, time: Duration, clock: &Clock) -> Result<(), BoxError> {
        self.subject.resume();
        self.subject.batch(clock, clock.now() + clock.counts(WARM_UP), u64::MAX, &mut Distribution::new())?;
        let clocks = CpuTime::with(self.subject.peer)?;
        let before = clocks.used()?;
        let (calls, idle) = self.subject.batch(clock, clock.now() + clock.counts(time), u64::MAX, &mut self.found)?;
        self.cpu += (clocks.used()? - before).saturating_sub(idle);
        self.calls += calls;
        self.subject.pause();
        Ok(())
    }

    fn cpu_per_call(&self) -> Option<f64> {
        self.subject.peer.map(|_| self.cpu.as_nanos() as f64 / self.calls.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// A subject that records `nanos` once a batch and appends its name to `log`.
    fn constant(name: &'static str, nanos: f64, log: &Rc<RefCell<String>>) -> Subject {
        let log = log.clone();
        Subject::custom(name, move |batch| {
            log.borrow_mut().push_str(name);
            batch.record(nanos);
            Ok(())
        })
    }

    #[test]
    fn subjects_take_turns_there_and_back_and_are_compared_with_their_floor() {
        let log = Rc::default();
        let batch = Duration::from_millis(1);
        let budget = Budget { repeats: 3, time: 2 * batch, batch };
        let measured = interleave(budget, &Clock::new(), &mut |_| (), || {
            Ok(vec![constant("a", 100.0, &log), constant("b", 150.0, &log).beside("a")])
        })
        .expect("nothing can fail");
        // Each batch logs twice: once for its warm-up.
        assert_eq!(*log.borrow(), "aabbbbaa".repeat(3));
        let rows = rows("latency", &measured);
        assert_eq!((rows[0].ratio, rows[0].count, rows[0].repeats.len()), (None, 6, 3));
        let ratio = rows[1].ratio.expect("a ratio");
        assert!((ratio - 1.5).abs() < 0.01, "{ratio}");
        assert_eq!(rows[1].floor.as_deref(), Some("a"));
        assert_eq!(rows[1].cpu, None, "it has no peer");
    }

    #[test]
    fn an_operation_is_measured_at_least_once_and_its_error_names_it() {
        let (clock, budget) = (Clock::new(), Budget::quick());
        let slow = || {
            Subject::new("slow", || {
                std::thread::sleep(2 * Budget::quick().batch);
                Ok(())
            })
        };
        let measured = interleave(budget, &clock, &mut |_| (), || Ok(vec![slow()])).expect("a sleep");
        assert!(measured[0].merged().at(0.5) >= 2.0 * budget.batch.as_nanos() as f64);
        let broken = || Ok(vec![Subject::new("broken", || Err("no answer".into()))]);
        let error = interleave(budget, &clock, &mut |_| (), broken).expect_err("an error");
        assert_eq!(error.to_string(), "broken: no answer");
    }

    #[test]
    fn a_turn_makes_as_many_calls_as_it_was_asked_for_at_most() {
        let made = Rc::new(RefCell::new(0));
        let counter = made.clone();
        let mut subject = Subject::averaged("count", 4, move || {
            *counter.borrow_mut() += 1;
            Ok(())
        });
        let clock = Clock::new();
        let (found, calls) = subject.turn(&clock, 40).expect("nothing can fail");
        assert!((4..=40).contains(&calls), "{calls} calls");
        assert_eq!(found.count() * 4, calls);
        assert!((calls + 4..=80).contains(&*made.borrow()), "with the warm-up");
    }
}
