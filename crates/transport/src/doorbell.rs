//! Doorbells: one side notifies, the other waits. To wait is to spin, then to park.
//!
//! Makes no system call unless a side sleeps. Knows nothing of processes: the word
//! that reports a peer's death is just a second futex to wait on. A [`Sleeper`] knows how a side sleeps and is woken.
//!
//! # Why no wake-up is lost
//!
//! ```text
//! notifier                          waiter
//! N1  publish (the commit word)     W1  parked = PARKED
//! N2  fence(SeqCst)                 W2  fence(SeqCst)
//! N3  if parked: wake               W3  if nothing is published: sleep while parked == PARKED
//! ```
//!
//! The two fences stand in one total order. If N2 is first, W3 sees what N1 published, and the waiter does not sleep. If W2
//! is first, N3 sees W1, and wakes; the wake finds the waiter asleep, or not yet asleep, and then the kernel's own
//! comparison fails because the notifier has set `parked` to AWAKE before it wakes (a futex), or the wake is remembered (the
//! other backends). Without either fence both sides can read the other's old value: the loom model below then deadlocks.

#![forbid(unsafe_code)]

use crate::bounds::MAX_SPURIOUS;
use crate::failpoints::{self, Step};
use crate::layout::{AWAKE, BellLine, LISTENED, PARKED};
use crate::wake::Sleeper;
use callgate_os::futex::Futex;
use callgate_os::futex::PrivateScope;
use callgate_os::sync::Ordering::{Acquire, Relaxed, SeqCst};
use callgate_os::sync::{fence, spin_hint};
use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time that an adaptive side polls before it parks. A side that usually waits longer does not poll at all.
///
/// Waking a side that has parked costs from 10 to 50 us here, and polling burns a CPU. Polling for about as long as a wake
/// costs is never worse than twice the best choice made with foreknowledge (Karlin, Manasse, Rudolph, Sleator, "Competitive
/// snoopy caching", 1988).
const SPIN_MOST: Duration = Duration::from_micros(50);

/// The longest time that a task polls which could do something else.
const BRIEF_MOST: Duration = Duration::from_micros(6);

/// A side that usually waits longer than [`SPIN_MOST`] still polls in one of this many waits, to see whether waits have become shorter:
/// the time that a parked side waited says little, because it includes the wake-up.
const LOOK_AGAIN: u32 = 16;

/// Polls between two looks at the clock, which costs as much as a poll.
const POLLS_PER_CLOCK: u32 = 16;

/// The length of such a nap.
const NAP: Duration = Duration::from_millis(1);

/// How a bridge waits for a reply, or a child for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wait {
    /// Poll for up to 50 microseconds, then sleep. Sleep at once while waits usually take longer than that, or if the peer last
    /// ran on this CPU, where it cannot run while this side polls.
    #[default]
    Adaptive,
    /// Poll until the answer comes, for the lowest latency. Burns one CPU in each process, even while the bridge is idle.
    Spin,
    /// Poll for this long, whatever happened before, then sleep.
    SpinFor(Duration),
    /// Sleep at once. Spends the least CPU time.
    Park,
}

/// The codes of the ways of waiting that have no duration.
const ADAPTIVE: u64 = u64::MAX;
const SPIN: u64 = u64::MAX - 1;

/// A way of waiting as a number: how long to poll in nanoseconds, or one of the two largest numbers.
pub fn wait_code(wait: Wait) -> u64 {
    match wait {
        Wait::Adaptive => ADAPTIVE,
        Wait::Spin => SPIN,
        Wait::SpinFor(time) => u64::try_from(time.as_nanos()).map_or(SPIN, |nanos| nanos.min(SPIN)),
        Wait::Park => 0,
    }
}

/// The inverse of [`wait_code`].
pub fn wait_from_code(code: u64) -> Wait {
    match code {
        ADAPTIVE => Wait::Adaptive,
        SPIN => Wait::Spin,
        0 => Wait::Park,
        nanos => Wait::SpinFor(Duration::from_nanos(nanos)),
    }
}
/// What one side has learnt about its waits: a running median of how long they take.
///
/// The estimate moves by an eighth of itself towards each wait, so a rare long one counts no more than a short one ("frugal
/// streaming": Ma, Muthukrishnan, Sandler, "Frugal Streaming for Estimating Quantiles", 2013; here in steps of a ratio).
#[derive(Debug)]
pub struct Pace {
    /// The usual length of a wait, in nanoseconds.
    usual: Cell<u32>,
    /// Waits since the last that polled.
    unpolled: Cell<u32>,
}

impl Pace {
    /// From either of these bounds the estimate crosses [`SPIN_MOST`] within about twenty waits.
    const LEAST: u32 = 4_000;
    const MOST: u32 = 200_000;

    pub const fn new() -> Self {
        Self { usual: Cell::new(Self::LEAST), unpolled: Cell::new(0) }
    }

    /// How long waits take for a side that does not want to wait: `None` if they usually take longer than [`BRIEF_MOST`].
    pub fn brief(&self) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.get().into());
        (usual <= BRIEF_MOST).then_some(usual)
    }

    /// Whether to poll in the next wait.
    fn polls(&self) -> bool {
        if self.usual.get() <= SPIN_MOST.as_nanos() as u32 {
            return true;
        }
        self.unpolled.set(self.unpolled.get() + 1);
        self.unpolled.get() >= LOOK_AGAIN
    }

    /// A wait ended while it polled, after at most this many nanoseconds.
    #[inline]
    fn polled(&self, nanos: u32) {
        let usual = self.usual.get();
        if nanos < usual && usual == Self::LEAST {
            return;
        }
        // A side that had not polled for a while restarts from the wait just seen.
        if self.unpolled.replace(0) > 0 {
            self.usual.set(nanos.clamp(Self::LEAST, Self::MOST));
        } else {
            self.step(nanos > usual);
        }
    }

    /// A wait ended in sleep, after this time.
    fn slept(&self, time: Duration) {
        self.step(time.as_nanos() > u128::from(self.usual.get()));
        if self.unpolled.get() >= LOOK_AGAIN {
            self.unpolled.set(0);
        }
    }

    /// Moves the estimate up or down.
    fn step(&self, longer: bool) {
        let usual = self.usual.get();
        let next = if longer { usual + usual / 8 } else { usual - usual / 8 };
        self.usual.set(next.clamp(Self::LEAST, Self::MOST));
    }
}

/// A point in time, or never: the internal form of a timeout.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    pub const NEVER: Deadline = Deadline(None);

    /// `timeout` from now; never if there is no timeout or the clock cannot represent it.
    #[inline]
    pub fn after(timeout: Option<Duration>) -> Self {
        match timeout {
            None => Self::NEVER,
            Some(timeout) => Self(Instant::now().checked_add(timeout)),
        }
    }

    /// At this time.
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Now.
    pub fn now() -> Self {
        Self(Some(Instant::now()))
    }

    /// The time left, `None` if there is no limit.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The earlier of the two.
    #[inline]
    pub fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(at), Some(other)) => Self(Some(at.min(other))),
            (at, other) => Self(at.or(other)),
        }
    }

    /// The point in time itself.
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Instant::now())
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The awaited event has come.
    Ready,
    /// The deadline has passed first.
    DeadlinePassed,
    /// The peer died first.
    Dead,
}

/// Tells the waiter behind `bell` that something has been published.
///
/// `sleeper` is behind two references so that nothing of it is read unless the waiter sleeps.
#[inline(always)]
pub fn notify(bell: &BellLine, sleeper: &Arc<dyn Sleeper>) {
    // N2: orders the commit word before the load of `parked`. Pairs with W2 in `arm`.
    fence(SeqCst);
    if bell.parked.word().load(Relaxed) != AWAKE {
        wake_slow(bell, sleeper);
    }
}

#[cold]
fn wake_slow(bell: &BellLine, sleeper: &Arc<dyn Sleeper>) {
    // In one step: a thread may have begun to sleep where nobody slept before, and it must not be left to a ring.
    match bell.parked.word().swap(AWAKE, Relaxed) {
        LISTENED => sleeper.ring(),
        _ => sleeper.wake(bell),
    }
}

/// Asks notifiers to ring at `bell` from now on, and looks whether something is already published: W1 to W3.
#[inline]
fn arm(bell: &BellLine, ready: impl FnOnce() -> bool) -> bool {
    arm_as(PARKED, bell, ready)
}

/// The same for the bridge's ring: nobody sleeps at `bell`.
pub fn listen(bell: &BellLine, ready: impl FnOnce() -> bool) -> bool {
    arm_as(LISTENED, bell, ready)
}

#[inline]
fn arm_as(state: u32, bell: &BellLine, ready: impl FnOnce() -> bool) -> bool {
    // W1. A swap, so that it is ordered after that of a notifier who found LISTENED: a plain store is so, too, but loom does not know it.
    bell.parked.word().swap(state, Relaxed);
    // W2: orders `parked` before the look at the commit word. Pairs with N2 in `notify`.
    fence(SeqCst);
    // W3.
    ready()
}

/// Wakes whoever of this process sleeps at its own `bell`, so that it looks around, if the backend can do that.
#[cold]
pub fn rouse(bell: &BellLine, sleeper: &dyn Sleeper) {
    if bell.parked.word().load(Relaxed) == PARKED {
        sleeper.rouse(bell);
    }
}

/// Asks notifiers not to ring any more.
pub fn disarm(bell: &BellLine) {
    // Written only if it changes: the peer keeps its copy of the line.
    if bell.parked.word().load(Relaxed) != AWAKE {
        bell.parked.word().store(AWAKE, Relaxed);
    }
}

/// One side's way of waiting at its own doorbell.
pub struct Waiter<'a> {
    /// The doorbell, in shared memory, written by this side.
    pub bell: &'a BellLine,
    /// How this side sleeps at it.
    pub sleeper: &'a dyn Sleeper,
    /// How to wait.
    pub wait: Wait,
    /// How long this side's waits at it usually take.
    pub pace: &'a Pace,
    /// Becomes nonzero when the peer is dead. Only in the parent: a child dies with its parent.
    pub dead: Option<&'a Futex<PrivateScope>>,
    /// The CPU that the peer last ran on, plus 1; 0 = not known.
    pub peer_cpu: u32,
}

impl Waiter<'_> {
    /// Waits until `ready` returns true, the deadline passes or the peer is dead. `ready` runs many times and must be cheap.
    ///
    /// Finds frames that were published before the peer died: after a death it asks `ready` once more.
    #[inline]
    pub fn wait(&self, deadline: Deadline, mut ready: impl FnMut() -> bool) -> Waited {
        let ready = &mut ready;
        if ready() {
            return Waited::Ready;
        }
        match self.wait {
            Wait::Adaptive => self.wait_adaptively(deadline, ready),
            Wait::Spin => self.spin(deadline, None, ready).0.unwrap_or(Waited::DeadlinePassed),
            Wait::SpinFor(time) => {
                self.spin(deadline, Some(time), ready).0.unwrap_or_else(|| self.park(deadline, ready))
            }
            Wait::Park => self.park(deadline, ready),
        }
    }

    /// Polls for at most `budget`.
    pub fn poll(&self, budget: Duration, mut ready: impl FnMut() -> bool) {
        if publish_cpu(self.bell) != self.peer_cpu {
            let (_, spent) = self.spin(Deadline::NEVER, Some(budget), &mut ready);
            self.pace.polled(spent.as_nanos().try_into().unwrap_or(u32::MAX));
        }
    }

    fn wait_adaptively(&self, deadline: Deadline, ready: &mut impl FnMut() -> bool) -> Waited {
        let cpu = publish_cpu(self.bell);
        // While this side polls, a peer on the same CPU cannot run.
        if cpu == self.peer_cpu {
            return self.park(deadline, ready);
        }
        let mut spent = Duration::ZERO;
        if self.pace.polls() {
            let waited;
            (waited, spent) = self.spin(deadline, Some(SPIN_MOST), ready);
            if let Some(waited) = waited {
                self.pace.polled(spent.as_nanos().try_into().unwrap_or(u32::MAX));
                return waited;
            }
        }
        let start = Instant::now();
        let waited = self.park(deadline, ready);
        self.pace.slept(spent + start.elapsed());
        waited
    }

    /// Polls; `None` when the budget is spent. Also returns the time polled as of the last look at the clock, which is a few polls too short.
    fn spin(
        &self,
        deadline: Deadline,
        budget: Option<Duration>,
        ready: &mut impl FnMut() -> bool,
    ) -> (Option<Waited>, Duration) {
        let mut start = None;
        let mut spent = Duration::ZERO;
        loop {
            for _ in 0..POLLS_PER_CLOCK {
                if ready() {
                    return (Some(Waited::Ready), spent);
                }
                spin_hint();
            }
            if self.is_dead() {
                return (Some(if ready() { Waited::Ready } else { Waited::Dead }), spent);
            }
            // One look for both; an event that arrives meanwhile waits for it.
            let now = Instant::now();
            if deadline.instant().is_some_and(|at| at <= now) {
                return (Some(Waited::DeadlinePassed), spent);
            }
            spent = now - *start.get_or_insert(now);
            if budget.is_some_and(|budget| spent >= budget) {
                return (None, spent);
            }
        }
    }

    fn is_dead(&self) -> bool {
        // Acquire: pairs with the Release in `PeerStatus::end`; what the peer published before it died is visible after this.
        self.dead.is_some_and(|dead| dead.word().load(Acquire) != 0)
    }

    fn park(&self, deadline: Deadline, ready: &mut dyn FnMut() -> bool) -> Waited {
        let waited = self.park_until(deadline, ready);
        disarm(self.bell);
        waited
    }

    fn park_until(&self, deadline: Deadline, ready: &mut dyn FnMut() -> bool) -> Waited {
        let mut spurious = 0u32;
        loop {
            let mut dead = false;
            let found = arm(self.bell, || {
                // Death is looked at first, so that a reply published before it is still found.
                dead = self.is_dead();
                ready()
            });
            if found {
                return Waited::Ready;
            }
            if dead {
                return Waited::Dead;
            }
            let left = deadline.left();
            if left.is_some_and(|left| left.is_zero()) {
                return Waited::DeadlinePassed;
            }
            failpoints::reach(if self.dead.is_some() { Step::ParentParking } else { Step::ChildParking });
            self.sleep(left, spurious > MAX_SPURIOUS);
            spurious = spurious.saturating_add(1);
        }
    }

    /// One sleep, at most `left`. `distrust` = this wait had too many spurious wakes. A hostile peer can cause those without end, so
    /// the sleep does not depend on the shared word, and the waiter looks again every [`NAP`].
    fn sleep(&self, left: Option<Duration>, distrust: bool) {
        match self.dead {
            Some(dead) if distrust => drop(dead.wait(0, Some(left.map_or(NAP, |left| left.min(NAP))))),
            dead => self.sleeper.sleep(self.bell, dead, left),
        }
    }
}

/// Says at `bell` which CPU this thread runs on; returns it plus 1.
#[inline]
pub(crate) fn publish_cpu(bell: &BellLine) -> u32 {
    let cpu = callgate_os::cpu::current() + 1;
    // Written only when it changes: the peer keeps its copy of the line.
    if bell.cpu.load(Relaxed) != cpu {
        bell.cpu.store(cpu, Relaxed);
    }
    cpu
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::layout::WorkerLine;
    use crate::wake::FutexSleeper;
    use callgate_os::sync::AtomicU32;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    const WAYS: [Wait; 4] = [Wait::Adaptive, Wait::Spin, Wait::SpinFor(Duration::from_micros(1)), Wait::Park];

    fn line() -> WorkerLine {
        let bell = BellLine { parked: Futex::new(AWAKE), cpu: AtomicU32::new(0) };
        WorkerLine { bell, lanes_in_use: AtomicU32::new(0) }
    }

    fn waiter<'a>(line: &'a WorkerLine, wait: Wait, dead: &'a Futex<PrivateScope>, pace: &'a Pace) -> Waiter<'a> {
        Waiter { bell: &line.bell, sleeper: &FutexSleeper, wait, pace, dead: Some(dead), peer_cpu: 0 }
    }

    #[test]
    fn a_side_polls_while_its_waits_are_short_and_looks_again_when_they_are_long() {
        let pace = Pace::new();
        assert!(pace.polls(), "nothing is known yet");
        let long = Duration::from_millis(1);
        let until_it_sleeps = (1..).find(|_| {
            pace.slept(long);
            !pace.polls()
        });
        assert!(until_it_sleeps.is_some_and(|waits| (5..40).contains(&waits)), "{until_it_sleeps:?}");
        // Every sixteenth wait polls, and as long as that finds nothing it stays so.
        let polled = (0..160).filter(|_| {
            let polls = pace.polls();
            pace.slept(long);
            polls
        });
        assert_eq!(polled.count(), 10);
        // One that finds something soon is believed at once.
        while !pace.polls() {
            pace.slept(long);
        }
        pace.polled(20_000);
        assert!((0..10).all(|_| pace.polls()));
    }

    #[test]
    fn a_rare_long_wait_counts_for_one() {
        let pace = Pace::new();
        for wait in 0..1000 {
            assert!(pace.polls(), "wait {wait}");
            if wait % 4 == 0 { pace.slept(Duration::from_secs(1)) } else { pace.polled(300) }
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        for wait in WAYS {
            let (line, dead) = (line(), Futex::new(0));
            let (start, timeout) = (Instant::now(), Duration::from_millis(20));
            let waited = waiter(&line, wait, &dead, &Pace::new()).wait(Deadline::after(Some(timeout)), || false);
            assert_eq!(waited, Waited::DeadlinePassed, "{wait:?}");
            assert!(start.elapsed() >= timeout, "{wait:?}");
        }
    }

    #[test]
    fn a_death_ends_a_wait_though_nobody_rings() {
        for wait in WAYS {
            let (line, dead) = (line(), Futex::new(0));
            thread::scope(|scope| {
                let waiting = scope.spawn(|| waiter(&line, wait, &dead, &Pace::new()).wait(Deadline::NEVER, || false));
                thread::sleep(Duration::from_millis(10));
                dead.word().store(1, Ordering::Release);
                dead.wake();
                assert_eq!(waiting.join().unwrap(), Waited::Dead, "{wait:?}");
            });
        }
    }

    #[test]
    fn what_was_published_before_a_death_is_found_after_it() {
        for wait in WAYS {
            let (line, dead, published) = (line(), Futex::new(1), AtomicBool::new(false));
            // The first looks come before the publication, as if the reply and the death had both just happened.
            let mut looks = 0;
            let waited = waiter(&line, wait, &dead, &Pace::new()).wait(Deadline::NEVER, || {
                looks += 1;
                published.store(looks > 1, Ordering::Relaxed);
                published.load(Ordering::Relaxed)
            });
            assert_eq!(waited, Waited::Ready, "{wait:?}");
        }
    }

    #[test]
    fn a_waiter_that_is_woken_for_nothing_all_the_time_still_ends() {
        let (line, dead, done) = (line(), Futex::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    line.bell.parked.word().store(AWAKE, Ordering::Relaxed);
                    line.bell.parked.wake();
                }
            });
            let timeout = Deadline::after(Some(Duration::from_millis(100)));
            assert_eq!(waiter(&line, Wait::Park, &dead, &Pace::new()).wait(timeout, || false), Waited::DeadlinePassed);
            done.store(true, Ordering::Relaxed);
        });
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::layout::{CallerLine, WorkerLine};
    use crate::wake::FutexSleeper;
    use callgate_os::sync::{AtomicU32, AtomicU64};
    use loom::sync::Arc as Shared;

    fn bell() -> BellLine {
        BellLine { parked: Futex::new(AWAKE), cpu: AtomicU32::new(0) }
    }

    fn futex() -> Arc<dyn Sleeper> {
        Arc::new(FutexSleeper)
    }

    fn waiter(bell: &BellLine) -> Waiter<'_> {
        let pace = Box::leak(Box::new(Pace::new()));
        Waiter { bell, sleeper: &FutexSleeper, wait: Wait::Park, pace, dead: None, peer_cpu: 0 }
    }

    /// A waiter that parks at once always sees what was published: otherwise loom reports a deadlock.
    #[test]
    fn loom_parked_waiter_is_always_woken() {
        loom::model(|| {
            let line = WorkerLine { bell: bell(), lanes_in_use: AtomicU32::new(0) };
            let shared = Shared::new((line, AtomicU64::new(0)));
            let peer = shared.clone();
            let notifier = loom::thread::spawn(move || {
                peer.1.store(1, Relaxed);
                notify(&peer.0.bell, &futex());
            });
            let waiter = waiter(&shared.0.bell);
            let waited = waiter.wait(Deadline::NEVER, || shared.1.load(Relaxed) == 1);
            assert_eq!(waited, Waited::Ready);
            notifier.join().unwrap();
        });
    }

    /// A caller that listened begins to sleep: it is woken, though the notifier may have looked when nobody slept.
    #[test]
    fn loom_a_thread_that_sleeps_where_nobody_slept_is_woken() {
        loom::model(|| {
            let line = WorkerLine { bell: bell(), lanes_in_use: AtomicU32::new(0) };
            let shared = Shared::new((line, AtomicU64::new(0)));
            let peer = shared.clone();
            let notifier = loom::thread::spawn(move || {
                for value in 1..=2 {
                    peer.1.store(value, Relaxed);
                    notify(&peer.0.bell, &futex());
                }
            });
            listen(&shared.0.bell, || shared.1.load(Relaxed) >= 1);
            let waiter = waiter(&shared.0.bell);
            assert_eq!(waiter.wait(Deadline::NEVER, || shared.1.load(Relaxed) >= 2), Waited::Ready);
            notifier.join().unwrap();
        });
    }

    /// The same for two waits in a row, as in a conversation: the second must not be fooled by what the first left behind.
    #[test]
    fn loom_second_wait_is_woken_too() {
        loom::model(|| {
            let (released, gone, chain) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0));
            let line = CallerLine { bell: bell(), released, gone, chain };
            let shared = Shared::new((line, AtomicU64::new(0)));
            let peer = shared.clone();
            let notifier = loom::thread::spawn(move || {
                for value in 1..=2 {
                    peer.1.store(value, Relaxed);
                    notify(&peer.0.bell, &futex());
                }
            });
            for value in 1..=2 {
                let waiter = waiter(&shared.0.bell);
                assert_eq!(waiter.wait(Deadline::NEVER, || shared.1.load(Relaxed) >= value), Waited::Ready);
            }
            notifier.join().unwrap();
        });
    }
}
