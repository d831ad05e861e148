//! Measures a wake-up from a futex: how long it takes the waker, and how long until the sleeper runs.

use callgate_suite::BoxError;
use callgate_suite::pin::Pinned;
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The median times of a wake-up, from its beginning.
pub struct Wake {
    /// Until the waker goes on.
    pub waker: Duration,
    /// Until the sleeper runs.
    pub sleeper: Duration,
}

const TIMES: u32 = 200;

/// Long enough for the sleeper to fall asleep, and too short for its CPU to enter a deep idle state.
const PAUSE: Duration = Duration::from_micros(200);

/// Wakes a thread on the CPU `sleeper` from one on the CPU `waker`.
pub fn measure(waker: usize, sleeper: usize) -> Result<Wake, BoxError> {
    let word = AtomicU32::new(0);
    let (begins, ends) = thread::scope(|scope| {
        let woken = scope.spawn(|| sleep_and_wake(&word, sleeper));
        let begins = scope.spawn(|| wake_often(&word, waker)).join().expect("no panic");
        (begins, woken.join().expect("no panic"))
    });
    let (begins, ends) = (begins?, ends?);
    let waker = begins.iter().map(|(begin, after)| *after - *begin);
    let sleeper = begins.iter().zip(&ends).map(|((begin, _), ran)| ran.saturating_duration_since(*begin));
    Ok(Wake { waker: median(waker), sleeper: median(sleeper) })
}

/// Wakes the sleeper many times. Returns the times before and after each wake-up.
fn wake_often(word: &AtomicU32, cpu: usize) -> Result<Vec<(Instant, Instant)>, BoxError> {
    let pin = Pinned::to(cpu);
    let wake = |turn| {
        thread::sleep(PAUSE);
        let begin = Instant::now();
        // Release: pairs with the Acquire in `sleep_and_wake`, though only the word itself is handed over.
        word.store(turn, Ordering::Release);
        let woken = futex::wake(word, futex::Flags::PRIVATE, 1);
        (begin, Instant::now(), woken)
    };
    // Makes all turns even after an error, because the sleeper waits for each of them.
    let turns: Vec<_> = (1..=TIMES).map(wake).collect();
    drop(pin?);
    turns.into_iter().map(|(begin, after, woken)| Ok(woken.map(|_| (begin, after))?)).collect()
}

/// Sleeps until it is woken, many times. Returns when it ran after each wake-up.
fn sleep_and_wake(word: &AtomicU32, cpu: usize) -> Result<Vec<Instant>, BoxError> {
    let _pin = Pinned::to(cpu)?;
    let mut ran = Vec::with_capacity(TIMES as usize);
    for turn in 0..TIMES {
        while word.load(Ordering::Acquire) <= turn {
            // Woken, interrupted, or the word changed before the sleep: look again.
            let _ = futex::wait(word, futex::Flags::PRIVATE, turn, None);
        }
        ran.push(Instant::now());
    }
    Ok(ran)
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_suite::pin;

    #[test]
    fn a_sleeper_is_woken_each_time() {
        let (first, last) = (pin::allowed()[0], *pin::allowed().last().expect("a CPU"));
        let wake = measure(first, last).expect("a working futex");
        assert!(wake.waker > Duration::ZERO && wake.sleeper > Duration::ZERO);
    }
}
