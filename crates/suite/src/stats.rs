//! Distributions of times, and the spread of figures over several repeats.

#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A distribution of times in nanoseconds, accurate to three digits.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// In picoseconds, so that a time of two nanoseconds has three digits too.
    picos: Histogram<u64>,
}

impl Distribution {
    /// An empty distribution.
    pub fn new() -> Self {
        Self { picos: Histogram::new(3).expect("three digits are possible") }
    }

    /// Adds one value.
    #[inline]
    pub fn record(&mut self, nanos: f64) {
        self.picos.record((nanos * 1e3) as u64).expect("it grows as it must");
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Distribution) {
        self.picos.add(&other.picos).expect("it grows as it must");
    }

    /// The value that the share `quantile` (0 to 1) of all values does not exceed.
    pub fn at(&self, quantile: f64) -> f64 {
        self.picos.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The mean of the values.
    pub fn mean(&self) -> f64 {
        self.picos.mean() / 1e3
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.picos.max() as f64 / 1e3
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.picos.len()
    }

    /// The quantiles that a row states.
    pub fn quantiles(&self) -> Quantiles {
        let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|quantile| self.at(quantile));
        Quantiles { p50, p90, p99, p999 }
    }

    /// Percentiles against nanoseconds, denser towards the tail, up to the last percentile for which there are enough values.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let body = (0..90).map(|percent| percent as f64 / 100.0);
        let tail =
            (1..4).flat_map(|nines| (0..9).map(move |step| 1.0 - 0.1f64.powi(nines) * (10 - step) as f64 / 10.0));
        let known = |quantile: &f64| (1.0 - quantile) * self.count() as f64 >= 1.0;
        body.chain(tail).filter(known).map(|quantile| (quantile * 100.0, self.at(quantile))).collect()
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Self::new()
    }
}

/// The quantiles of one repeat, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Quantiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
}

/// Summarizes figures from several repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median; for an even number of figures, the mean of the middle two.
    pub median: f64,
    /// The smallest figure.
    pub min: f64,
    /// The largest figure.
    pub max: f64,
    /// The number of figures.
    pub repeats: usize,
}

impl Spread {
    /// Summarizes the finite figures; `None` if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_unstable_by(f64::total_cmp);
        let (min, max, repeats) = (*figures.first()?, *figures.last()?, figures.len());
        let median = (figures[repeats / 2] + figures[(repeats - 1) / 2]) / 2.0;
        Some(Self { median, min, max, repeats })
    }
}

/// Formats as in a target: `1.14 (1.09 to 1.21 over 7 repeats)`. The smallest figure decides the number of digits of all.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max, repeats } = self;
        let smallest = [median, min, max].into_iter().fold(f64::INFINITY, |least, figure| least.min(figure.abs()));
        let places = if smallest < 10.0 { 2 } else { 0 };
        write!(f, "{median:.places$} ({min:.places$} to {max:.places$} over {repeats} repeats)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniform(from: u32, to: u32) -> Distribution {
        let mut all = Distribution::new();
        (from..=to).for_each(|nanos| all.record(nanos.into()));
        all
    }

    #[test]
    fn quantiles_of_a_uniform_distribution_are_where_they_must_be() {
        let all = uniform(1, 10_000);
        let Quantiles { p50, p90, p99, p999 } = all.quantiles();
        for (found, expected) in [(p50, 5e3), (p90, 9e3), (p99, 9.9e3), (p999, 9.99e3), (all.max(), 1e4)] {
            assert!((found / expected - 1.0).abs() < 2e-3, "{found} is not {expected}");
        }
        assert_eq!(all.count(), 10_000);
    }

    #[test]
    fn short_times_keep_their_digits() {
        let mut all = Distribution::new();
        (0..9).for_each(|_| all.record(2.25));
        assert!((all.at(0.5) - 2.25).abs() < 0.01, "{}", all.at(0.5));
    }

    #[test]
    fn merging_is_as_if_all_had_been_recorded_in_one() {
        let mut halves = uniform(1, 5_000);
        halves.merge(&uniform(5_001, 10_000));
        assert_eq!(halves.quantiles(), uniform(1, 10_000).quantiles());
        assert_eq!(halves.count(), 10_000);
    }

    #[test]
    fn a_curve_rises_and_ends_where_values_become_few() {
        let curve = uniform(1, 1_000).curve();
        assert!(curve.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{curve:?}");
        let (last, _) = *curve.last().expect("a curve");
        assert!((99.8..=99.9 + 1e-6).contains(&last), "{last}");
        assert_eq!(Distribution::new().curve(), []);
    }

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        let spread = Spread::of([3.0, 1.0, 2.0]).expect("figures");
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0, repeats: 3 });
        assert_eq!(Spread::of([1.0, 2.0, 3.0, 40.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN, 1.0]).map(|spread| spread.repeats), Some(1));
        assert_eq!(spread.to_string(), "2.00 (1.00 to 3.00 over 3 repeats)");
    }

    #[test]
    fn the_smallest_figure_of_a_spread_keeps_its_digits() {
        let text = |figures: [f64; 3]| Spread::of(figures).expect("figures").to_string();
        assert_eq!(text([0.4, 22.0, 44.0]), "22.00 (0.40 to 44.00 over 3 repeats)");
        assert_eq!(text([-30.0, 5.2, 44.0]), "5.20 (-30.00 to 44.00 over 3 repeats)");
        assert_eq!(text([150.4, 180.0, 220.0]), "180 (150 to 220 over 3 repeats)");
    }
}
