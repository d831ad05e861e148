//! Formats numbers for people: three significant digits and a unit.

/// A time in nanoseconds: `398 ns`, `12.6 µs`, `1.07 ms`.
pub fn nanoseconds(ns: f64) -> String {
    scaled(ns, 1000.0, &["ns", "µs", "ms", "s"])
}

/// A length in bytes: `0 B`, `4 KiB`, `1 MiB`.
pub fn bytes(len: f64) -> String {
    scaled(len, 1024.0, &["B", "KiB", "MiB", "GiB"])
}

/// A rate: `2.41 M/s`.
pub fn per_second(rate: f64) -> String {
    scaled(rate, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

/// A count: `70,000`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A ratio to the floor: `1.14`.
pub fn ratio(ratio: f64) -> String {
    if ratio >= 1000.0 { count(ratio.round() as u64) } else { significant(ratio, 2) }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (value, 0);
    // Without the 0.5, 999.6 would be written as 1000.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 2 };
    format!("{} {}", trimmed(value, digits), units[unit])
}

/// Formats with `digits` after the point, but without them for a round number: `4`, not `4.00`.
fn trimmed(value: f64, digits: usize) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { significant(value, digits) }
}

/// Formats with at most three significant digits, and at most `digits` after the point.
fn significant(value: f64, digits: usize) -> String {
    let before = if value.abs() >= 100.0 { 2 } else { usize::from(value.abs() >= 10.0) };
    format!("{value:.*}", digits.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        for (ns, text) in [
            (0.0, "0 ns"),
            (2.4, "2 ns"),
            (398.0, "398 ns"),
            (999.6, "1.00 µs"),
            (12_600.0, "12.6 µs"),
            (1_070_000.0, "1.07 ms"),
            (2e9, "2 s"),
            (4e12, "4000 s"),
        ] {
            assert_eq!(nanoseconds(ns), text);
        }
    }

    #[test]
    fn lengths_rates_counts_and_ratios() {
        assert_eq!([bytes(0.0), bytes(48.0), bytes(4096.0), bytes(1.5e6)], ["0 B", "48 B", "4 KiB", "1.43 MiB"]);
        assert_eq!([per_second(950.0), per_second(2_411_000.0)], ["950 /s", "2.41 M/s"]);
        assert_eq!([count(0), count(999), count(70_000), count(1_234_567)], ["0", "999", "70,000", "1,234,567"]);
        assert_eq!(
            [ratio(1.0), ratio(1.137), ratio(35.62), ratio(180.2), ratio(2000.4)],
            ["1.00", "1.14", "35.6", "180", "2,000"]
        );
    }
}
