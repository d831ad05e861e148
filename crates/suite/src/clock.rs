//! A clock for single operations: the time stamp counter, less the cost of reading it.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// Reads the time stamp counter. Clones share the calibration.
#[derive(Clone, Debug)]
pub struct Clock {
    counter: quanta::Clock,
    /// The cost of one reading, in counts.
    cost: u64,
    nanos_per_count: f64,
}

/// How long the counter is compared with the system's clock. Creating the first clock of a process takes this long too.
const CALIBRATION: Duration = Duration::from_millis(20);

impl Clock {
    /// A calibrated clock.
    pub fn new() -> Self {
        let counter = quanta::Clock::new();
        Self { cost: cost_of_reading(&counter), nanos_per_count: nanos_per_count(&counter), counter }
    }

    /// Reads the counter.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        self.counter.raw()
    }

    /// The nanoseconds between two readings, less the cost of one reading.
    #[inline]
    pub fn nanos(&self, from: u64, to: u64) -> f64 {
        to.saturating_sub(from).saturating_sub(self.cost) as f64 * self.nanos_per_count
    }

    /// The cost of one reading, in nanoseconds.
    pub fn cost(&self) -> f64 {
        self.cost as f64 * self.nanos_per_count
    }

    /// The number of counts in `duration`.
    pub fn counts(&self, duration: Duration) -> u64 {
        (duration.as_nanos() as f64 / self.nanos_per_count) as u64
    }

    /// Keeps the CPU busy for `duration`.
    pub fn spin(&self, duration: Duration) {
        let end = self.now() + self.counts(duration);
        while self.now() < end {
            std::hint::spin_loop();
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The median difference between two consecutive readings.
fn cost_of_reading(counter: &quanta::Clock) -> u64 {
    let stamps: Vec<u64> = (0..10_001).map(|_| counter.raw()).collect();
    let mut costs: Vec<u64> = stamps.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

fn nanos_per_count(counter: &quanta::Clock) -> f64 {
    let (begin, from) = (Instant::now(), counter.raw());
    while begin.elapsed() < CALIBRATION {
        std::hint::spin_loop();
    }
    let (nanos, counts) = (begin.elapsed().as_nanos(), counter.raw() - from);
    nanos as f64 / counts.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_systems_clock() {
        let clock = Clock::new();
        let (begin, from) = (Instant::now(), clock.now());
        std::thread::sleep(Duration::from_millis(20));
        let nanos = clock.nanos(from, clock.now());
        let most = begin.elapsed().as_nanos() as f64;
        assert!(nanos > 10e6, "{nanos} ns for a sleep of 20 ms");
        assert!(nanos < most * 1.5, "{nanos} ns of {most}");
        assert_eq!(clock.nanos(10, 10), 0.0);
    }

    #[test]
    fn it_spins_for_as_long_as_it_was_told() {
        let clock = Clock::new();
        let begin = Instant::now();
        clock.spin(Duration::from_millis(2));
        assert!(begin.elapsed() > Duration::from_millis(1));
    }
}
