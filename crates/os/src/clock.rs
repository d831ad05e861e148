//! Points in time as numbers that two processes of one machine understand alike.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A point in time, by both clocks: they are one and the same, and the two looks lie less than a microsecond apart.
fn anchor() -> (Instant, Duration) {
    static ANCHOR: OnceLock<(Instant, Duration)> = OnceLock::new();
    *ANCHOR.get_or_init(|| {
        // Not rustix's, which reads the vDSO itself, and cannot under valgrind.
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a timespec to be written. The only failures are those of a bad pointer or clock.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
        (Instant::now(), Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
    })
}

/// `at` in nanoseconds of CLOCK_MONOTONIC; the latest number if it is too far away for one.
pub fn nanos_of(at: Instant) -> u64 {
    let (instant, nanos) = anchor();
    let since = match at.checked_duration_since(instant) {
        Some(after) => nanos.saturating_add(after),
        None => nanos.saturating_sub(instant - at),
    };
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The point in time of a number of [`nanos_of`], from whichever process; `None` if no clock gets there.
pub fn instant_of(nanos: u64) -> Option<Instant> {
    let (instant, anchored) = anchor();
    let at = Duration::from_nanos(nanos);
    match at.checked_sub(anchored) {
        Some(after) => instant.checked_add(after),
        None => instant.checked_sub(anchored - at),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_survives_the_crossing() {
        for offset in [Duration::ZERO, Duration::from_millis(3), Duration::from_secs(100_000)] {
            let at = Instant::now() + offset;
            assert_eq!(instant_of(nanos_of(at)), Some(at));
        }
        // Before the first look at the clock, too.
        let before = Instant::now().checked_sub(Duration::from_millis(5)).unwrap();
        assert_eq!(instant_of(nanos_of(before)), Some(before));
    }
}
