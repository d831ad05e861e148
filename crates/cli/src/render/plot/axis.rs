//! Places values on an axis, and chooses and labels its marks.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// One axis: its title, its scale, and how its values are written.
pub struct Axis {
    pub title: &'static str,
    pub scale: Scale,
    pub write: fn(f64) -> String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// Whole numbers, from the smallest.
    Whole,
    /// Powers of ten.
    Log10,
    /// Powers of two; zero stands before the smallest other value.
    Log2,
    /// The percentiles 0, 90, 99, 99.9 .. at equal distances.
    Percentile,
}

impl Scale {
    /// Whether `value` can be placed on this scale.
    pub fn takes(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Linear | Self::Whole | Self::Log2 => value >= 0.0,
                Self::Log10 => value > 0.0,
                Self::Percentile => (0.0..100.0).contains(&value),
            }
    }

    /// The position of `value`; minus infinity for zero on a logarithmic scale.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear | Self::Whole => value,
            Self::Log10 => value.log10(),
            Self::Log2 => value.log2(),
            Self::Percentile => -(1.0 - value / 100.0).log10(),
        }
    }
}

/// An axis, fitted to the values that it shows.
pub struct AxisSpread {
    scale: Scale,
    /// Where zero stands on a logarithmic axis.
    zero: f64,
    range: (f64, f64),
    /// The values to write beside the axis.
    marks: Vec<f64>,
    write: fn(f64) -> String,
}

impl AxisSpread {
    /// Fits the axis to `values`, which its scale must [take](Scale::takes). There is room for at most `most` marks.
    pub fn of(axis: &Axis, values: impl Iterator<Item = f64>, most: usize) -> Self {
        let (zeros, others): (Vec<_>, Vec<_>) = values.partition(|&value| axis.scale == Scale::Log2 && value == 0.0);
        let (least, greatest) = axis.scale.bounds(&others);
        let (low, high) = (axis.scale.place(least), axis.scale.place(greatest));
        let zero = low - 2.0;
        let fitting = axis.scale.marks(least, greatest).find(|marks| marks.len() <= most.max(2));
        let mut marks = fitting.unwrap_or_else(|| vec![least, greatest]);
        let mut range = (low, high);
        if !zeros.is_empty() {
            range.0 = zero;
            marks.insert(0, 0.0);
        }
        Self { scale: axis.scale, zero, range, marks, write: axis.write }
    }

    fn place(&self, value: f64) -> f64 {
        self.scale.place(value).max(self.zero)
    }
}

/// Lets plotters use this as an axis: it maps values to pixels and knows its marks.
impl Ranged for AxisSpread {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let (low, high) = self.range;
        let share = (self.place(*value) - low) / (high - low);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // plotters asks for light points after the bold ones, to draw finer lines between them.
        if hint.weight().allow_light_points() { Vec::new() } else { self.marks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.marks.first().copied().unwrap_or(0.0)..self.marks.last().copied().unwrap_or(0.0)
    }
}

impl ValueFormatter<f64> for AxisSpread {
    fn format(value: &f64) -> String {
        format!("{value}")
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.write)(*value)
    }
}

impl Scale {
    /// The smallest and largest value of an axis that shows `values`.
    fn bounds(self, values: &[f64]) -> (f64, f64) {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min).min(f64::MAX);
        let greatest = values.iter().copied().fold(0.0, f64::max);
        match self {
            Self::Linear => (0.0, if greatest > 0.0 { greatest * 1.08 } else { 1.0 }),
            Self::Whole => (least.min(greatest), greatest.max(least.min(greatest) + 1.0)),
            Self::Log2 => (least.min(greatest).max(1.0), greatest.max(least.min(greatest) * 2.0).max(2.0)),
            Self::Percentile => (0.0, greatest.max(90.0)),
            Self::Log10 => {
                let (low, high) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
                let steps = || steps_of_ten(low - 1, high + 1, &[1.0, 2.0, 5.0]);
                let below = steps().filter(|step| *step <= least).last().unwrap_or(least);
                let above = steps().find(|step| *step >= greatest && *step > below).unwrap_or(greatest);
                (below, above)
            }
        }
    }

    /// The possible sets of marks from `least` to `greatest`, the densest first.
    fn marks(self, least: f64, greatest: f64) -> impl Iterator<Item = Vec<f64>> {
        let within = move |value: &f64| (least * 0.9999..=greatest * 1.0001).contains(value);
        let decades = move |every: i32| {
            let (low, high) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
            (low..=high).filter(move |power| power % every == 0).map(|power| 10f64.powi(power))
        };
        let all: Vec<Vec<f64>> = match self {
            Self::Linear | Self::Whole => {
                let sizes = steps_of_ten(-1, 12, &[1.0, 2.0, 5.0]).filter(|&size| self == Self::Linear || size >= 1.0);
                // There is never room for more than a few hundred steps.
                let sizes = sizes.filter(|size| greatest / size < 500.0);
                sizes.map(|size| (0..=(greatest / size) as u32).map(|step| f64::from(step) * size).collect()).collect()
            }
            Self::Log10 => {
                let (low, high) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
                let fine = steps_of_ten(low, high, &[1.0, 2.0, 5.0]).collect();
                std::iter::once(fine).chain((1..=4).map(|every| decades(every).collect())).collect()
            }
            Self::Log2 => {
                let (low, high) = (least.log2().ceil() as i32, greatest.log2().floor() as i32);
                let every =
                    |step: i32| (low..=high).filter(|power| power % step == 0).map(|power| 2f64.powi(power)).collect();
                [1, 2, 3, 4, 5, 10].map(every).into()
            }
            Self::Percentile => vec![
                vec![0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999],
                vec![0.0, 90.0, 99.0, 99.9, 99.99, 99.999],
            ],
        };
        all.into_iter().map(move |marks| marks.into_iter().filter(within).collect())
    }
}

/// The `multiples` of each power of ten from 10^`low` to 10^`high`.
fn steps_of_ten(low: i32, high: i32, multiples: &[f64]) -> impl Iterator<Item = f64> {
    (low..=high).flat_map(move |power| multiples.iter().map(move |multiple| multiple * 10f64.powi(power)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64], most: usize) -> Vec<String> {
        let axis = Axis { title: "", scale, write: |value| format!("{value}") };
        let spread = AxisSpread::of(&axis, values.iter().copied(), most);
        for &value in values {
            let place = spread.place(value);
            assert!(
                spread.range.0 <= place && place <= spread.range.1,
                "{value} is off the axis: {place}, {:?}",
                spread.range
            );
        }
        assert!(spread.range.0 < spread.range.1, "{:?}", spread.range);
        spread.marks.iter().map(|mark| spread.format_ext(mark)).collect()
    }

    #[test]
    fn every_value_is_on_its_axis_and_marks_are_round() {
        assert_eq!(labels(Scale::Log10, &[270.0, 530.0], 9), ["200", "500", "1000"]);
        assert_eq!(labels(Scale::Log10, &[300.0, 9e6], 6), ["1000", "10000", "100000", "1000000", "10000000"]);
        assert_eq!(labels(Scale::Log10, &[100.0], 9), ["100", "200"]);
        assert_eq!(
            labels(Scale::Log2, &[0.0, 64.0, 1048576.0], 9),
            ["0", "64", "256", "1024", "4096", "16384", "65536", "262144", "1048576"]
        );
        assert_eq!(
            labels(Scale::Linear, &[3.0, 2.4e6], 6),
            ["0", "500000", "1000000", "1500000", "2000000", "2500000"]
        );
        assert_eq!(labels(Scale::Whole, &[1.0, 2.0, 8.0], 9), ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(labels(Scale::Percentile, &[0.0, 99.95], 9), ["0", "50", "90", "99", "99.9"]);
    }

    #[test]
    fn what_has_no_place_is_not_taken() {
        for (scale, value) in [
            (Scale::Log10, 0.0),
            (Scale::Percentile, 100.0),
            (Scale::Linear, -1.0),
            (Scale::Linear, f64::NAN),
            (Scale::Log2, f64::INFINITY),
        ] {
            assert!(!scale.takes(value), "{scale:?} {value}");
        }
        assert!(Scale::Log2.takes(0.0));
    }
}
