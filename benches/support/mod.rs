//! Runs a subject of the suite as a criterion benchmark, in turn with its floor.
//!
//! Criterion measures one benchmark after another, but this kind of machine drifts within seconds. So each benchmark runs
//! its floor between its own batches, and prints the ratio of the two medians in addition to criterion's output.

#![allow(dead_code, reason = "each benchmark uses a part")]

use callgate_suite::stats::Distribution;
use callgate_suite::{BoxError, Clock, Subject};
use criterion::Criterion;
use std::time::Duration;

/// Criterion with short times, so that all benchmarks together take a few minutes.
pub fn criterion() -> Criterion {
    let (warm_up, measurement) = (Duration::from_millis(300), Duration::from_millis(1_500));
    Criterion::default().warm_up_time(warm_up).measurement_time(measurement).sample_size(20).configure_from_args()
}

/// The most calls between two turns of the floor.
const SLICE: u64 = 2_000;

/// The fewest values for which a ratio is worth printing. With fewer, criterion was asked for a test, not a measurement.
const ENOUGH: u64 = 100;

/// Runs each of `subjects` as a benchmark of `group`. The first is the floor of the others.
pub fn beside_floor(c: &mut Criterion, group: &str, subjects: Result<Vec<Subject>, BoxError>) {
    let mut subjects = subjects.unwrap_or_else(|error| panic!("{group}: {error}"));
    subjects.iter().for_each(Subject::pause);
    let (floor, others) = subjects.split_first_mut().expect("a floor");
    let clock = Clock::new();
    bench(c, group, floor, None, &clock);
    others.iter_mut().for_each(|subject| bench(c, group, subject, Some(floor), &clock));
}

/// Runs each of `subjects` as a benchmark of `group`, without a floor.
pub fn alone(c: &mut Criterion, group: &str, subjects: Result<Vec<Subject>, BoxError>) {
    let mut subjects = subjects.unwrap_or_else(|error| panic!("{group}: {error}"));
    subjects.iter().for_each(Subject::pause);
    let clock = Clock::new();
    subjects.iter_mut().for_each(|subject| bench(c, group, subject, None, &clock));
}

fn bench(c: &mut Criterion, group: &str, subject: &mut Subject, floor: Option<&mut Subject>, clock: &Clock) {
    let mut pair = Pair { subject, floor, own: Distribution::new(), beside: Distribution::new() };
    let id = format!("{group}/{}", pair.subject.name);
    c.bench_function(&id, |bencher| bencher.iter_custom(|calls| pair.run(calls, clock).expect("answers")));
    pair.print();
}

/// A subject and its floor, with the measurements of both in turn.
struct Pair<'a> {
    subject: &'a mut Subject,
    floor: Option<&'a mut Subject>,
    own: Distribution,
    beside: Distribution,
}

impl Pair<'_> {
    /// Makes `calls` calls in slices, with a turn of the floor before each. Returns how long the calls took.
    fn run(&mut self, calls: u64, clock: &Clock) -> Result<Duration, BoxError> {
        let (mut taken, mut made) = (Distribution::new(), 0);
        while made < calls {
            let slice = SLICE.min(calls - made);
            if let Some(floor) = &mut self.floor {
                self.beside.merge(&floor.turn(clock, slice)?.0);
            }
            let (found, calls) = self.subject.turn(clock, slice)?;
            taken.merge(&found);
            made += calls;
        }
        self.own.merge(&taken);
        Ok(Duration::from_nanos((taken.mean() * calls as f64) as u64))
    }

    fn print(&self) {
        if let Some(floor) = self.floor.as_ref().filter(|_| self.beside.count() >= ENOUGH) {
            let (own, beside) = (self.own.quantiles(), self.beside.quantiles());
            let [p50, p99] = [own.p50 / beside.p50, own.p99 / beside.p99];
            println!(
                "  in turn with {}: p50 {:.0} ns, ratio {p50:.2}; p99 {:.0} ns, ratio {p99:.2}",
                floor.name, own.p50, own.p99
            );
        }
    }
}
