//! What a peer costs: the time that system calls on shared objects take, and how much of it the peer may use up.
//!
//! Some calls take as long as the peer likes: sending a message wakes everything that waits at the other end, and a peer can have a million epoll
//! entries wait there. So each such call is timed. The clock is the calling thread's CPU time, because the kernel walks what a peer has piled up on
//! the caller's time, and because the machine's load must not count.

#![forbid(unsafe_code)]

use crate::selfproc::cpu_time;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A call that takes this long is the peer's doing: a message takes a few microseconds. A single one may be bad luck (on a virtual machine, say).
const SLOW: Duration = Duration::from_millis(10);

/// Two slow calls within this time are no bad luck.
const AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// A single call that takes this long is enough.
const FAR_TOO_SLOW: Duration = Duration::from_millis(100);

/// What system calls on one peer's objects have cost.
#[derive(Debug, Default)]
pub struct Toll {
    /// Nanoseconds since the last [`take`](Self::take).
    spent: AtomicU64,
    is_exceeded: AtomicBool,
    /// When the last slow call was made.
    slow_at: Mutex<Option<Instant>>,
}

impl Toll {
    /// Runs and times `call`, a system call on an object that the peer shares.
    pub fn pay<R>(&self, call: impl FnOnce() -> R) -> R {
        let before = cpu_time();
        let result = call();
        self.note(cpu_time().saturating_sub(before));
        result
    }

    fn note(&self, took: Duration) {
        self.spent.fetch_add(took.as_nanos() as u64, Relaxed);
        if took >= SLOW {
            self.note_slow(took);
        }
    }

    #[cold]
    fn note_slow(&self, took: Duration) {
        let mut slow_at = self.slow_at.lock().unwrap_or_else(PoisonError::into_inner);
        let again = slow_at.replace(Instant::now()).is_some_and(|before| before.elapsed() < AGAIN_WITHIN);
        if again || took >= FAR_TOO_SLOW {
            self.is_exceeded.store(true, Relaxed);
        }
    }

    /// Whether the peer has made calls so slow that it should get no further service.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Relaxed)
    }

    /// Returns the cost since the previous call, and resets it.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(self.spent.swap(0, Relaxed))
    }
}

/// What receiving or answering a message takes when nobody slows it down. On a virtual machine, a message that wakes a thread takes 8 to 40 us. Were
/// the price below what honest messages cost, a peer would have to wait for credit before each of them.
const MESSAGE: Duration = Duration::from_micros(16);

/// Beyond this duration, a message's time counts [`WEIGHT`] times, which leaves such a peer less than a hundredth of a CPU.
const LONG: Duration = Duration::from_micros(200);
const WEIGHT: i64 = 16;

/// How often credit grows.
pub const SPELL: Duration = Duration::from_millis(10);

/// A debt is capped at the credit of this many spells, so that the peer is served again within a second.
const MOST_OWED: i64 = 100;

/// How much of this thread's time a peer may still take. Given in messages of [`MESSAGE`] each; a longer one costs its real time.
#[derive(Debug)]
pub struct Credit {
    /// Nanoseconds; negative after a call took longer than what was left.
    left: i64,
    /// When credit was last added.
    since: Instant,
    most: i64,
    each_spell: i64,
}

fn nanos(messages: u32) -> i64 {
    i64::from(messages) * MESSAGE.as_nanos() as i64
}

impl Credit {
    /// Grants `burst` messages at once, and `each_spell` more in each [`SPELL`].
    pub fn new(burst: u32, each_spell: u32) -> Self {
        let (most, each_spell) = (nanos(burst), nanos(each_spell));
        Self { left: most, since: Instant::now(), most, each_spell }
    }

    /// Grants `burst` messages at once, and `in_a_second` more in each second from `now` on.
    pub fn each_second(burst: u32, in_a_second: u32, now: Instant) -> Self {
        let each_spell = nanos(in_a_second) * SPELL.as_millis() as i64 / 1000;
        Self { left: nanos(burst), since: now, most: nanos(burst), each_spell }
    }

    fn grow(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.since).as_millis();
        let spells = i64::try_from(waited / SPELL.as_millis()).unwrap_or(i64::MAX);
        if spells > 0 {
            self.left = self.left.saturating_add(spells.saturating_mul(self.each_spell)).min(self.most);
            self.since = now;
        }
    }

    /// Takes the credit for `messages` if there is enough, and returns whether there was.
    pub fn take(&mut self, messages: u32) -> bool {
        let has_enough = self.has(messages, Instant::now());
        self.left -= if has_enough { nanos(messages) } else { 0 };
        has_enough
    }

    /// Whether there is credit for `messages`; takes none.
    pub fn has(&mut self, messages: u32, now: Instant) -> bool {
        self.grow(now);
        self.left >= nanos(messages)
    }

    /// Charges a message that was as much work as `messages`; the credit may become negative.
    pub fn charge(&mut self, messages: u32) {
        self.left -= nanos(messages);
    }

    /// Charges calls that took `took`, beyond the [`MESSAGE`] already paid for.
    pub fn charge_time(&mut self, took: Duration) {
        let nanos = |time: Duration| time.as_nanos() as i64;
        let cost = nanos(took.saturating_sub(MESSAGE)) + (WEIGHT - 1) * nanos(took.saturating_sub(LONG));
        if cost > 0 {
            self.left = (self.left - cost).max(self.left.min(-MOST_OWED * self.each_spell));
        }
    }

    /// Whether the credit is negative.
    pub fn is_overdrawn(&mut self) -> bool {
        self.grow(Instant::now());
        self.left < 0
    }

    /// Whether the credit is at its maximum.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.grow(now);
        self.left >= self.most
    }
}

/// Makes `entries` epoll entries wait at `descriptor`, which slows down whatever wakes them, while the result is kept.
#[cfg(all(any(test, feature = "testkit"), not(loom)))]
pub fn burden(descriptor: impl std::os::fd::AsFd, entries: usize) -> Vec<std::os::fd::OwnedFd> {
    use rustix::event::epoll::{self, EventData, EventFlags};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    let side = entries.isqrt();
    let copies: Vec<_> = (0..side).map(|_| descriptor.as_fd().try_clone_to_owned().unwrap()).collect();
    let sets: Vec<_> = (0..side).map(|_| epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()).collect();
    for set in &sets {
        for copy in &copies {
            epoll::add(set, copy, EventData::new_u64(0), EventFlags::IN | EventFlags::OUT).unwrap();
        }
    }
    sets.into_iter().chain(copies).collect()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn credit_ends_and_comes_back() {
        let mut credit = Credit::new(1024, 64);
        let mut taken = 0;
        while credit.take(1) {
            taken += 1;
            assert!(taken < 10_000_000, "it never ends");
        }
        assert!(taken >= 1024);
        std::thread::sleep(SPELL * 2);
        assert!(credit.take(1));
        credit.charge(u32::MAX);
        credit.since = Instant::now();
        assert!(!credit.take(1) && credit.is_overdrawn());
    }

    #[test]
    fn fault_40_what_takes_long_counts_for_more_and_is_paid_off_in_a_second() {
        let mut credit = Credit::new(1024, 64);
        credit.charge_time(MESSAGE);
        assert_eq!(credit.left, nanos(1024), "a message is paid for as one");
        credit.charge_time(MESSAGE * 11);
        assert_eq!(credit.left, nanos(1014));
        credit.charge_time(LONG + MESSAGE * 100);
        assert!(credit.left < -nanos(500), "{credit:?}");
        credit.charge_time(Duration::from_secs(2));
        assert_eq!(credit.left, -100 * nanos(64));
        credit.charge(1);
        assert_eq!(credit.left, -100 * nanos(64) - nanos(1));
    }

    /// A healthy child's messages on a virtual machine cost what they are worth, and one moment of bad luck is forgiven.
    #[test]
    fn fault_39_honest_messages_are_worth_what_they_cost() {
        let mut credit = Credit::new(1024, 64);
        for _ in 0..400 {
            assert!(credit.take(1));
            credit.charge_time(Duration::from_micros(32));
        }
        let mut credit = Credit::new(1024, 64);
        credit.charge_time(Duration::from_millis(1));
        assert!(credit.take(1), "{credit:?}");
    }

    #[test]
    fn fault_40_what_is_slow_twice_or_very_slow_once_is_enough() {
        let toll = Toll::default();
        (0..1000).for_each(|_| toll.note(SLOW - Duration::from_nanos(1)));
        assert!(!toll.is_exceeded());
        toll.note(SLOW);
        assert!(!toll.is_exceeded());
        // As if the last slow call was long ago.
        *toll.slow_at.lock().unwrap() = Instant::now().checked_sub(AGAIN_WITHIN);
        toll.note(SLOW);
        assert!(!toll.is_exceeded() || Instant::now().checked_sub(AGAIN_WITHIN).is_none());
        toll.note(SLOW);
        assert!(toll.is_exceeded());
        let toll = Toll::default();
        toll.note(FAR_TOO_SLOW);
        assert!(toll.is_exceeded());
        assert_eq!((toll.take(), toll.take()), (FAR_TOO_SLOW, Duration::ZERO));
    }

    #[test]
    fn fault_40_waiting_costs_nothing() {
        let toll = Toll::default();
        toll.pay(|| std::thread::sleep(FAR_TOO_SLOW * 2));
        assert!(!toll.is_exceeded() && toll.take() < FAR_TOO_SLOW);
    }
}
