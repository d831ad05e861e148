//! The lock of a lane: whoever has it is never waited for by a thread that only wants something done there.
//!
//! ```text
//! whoever wants something done                   holder
//! L1  note it, behind a lock of its own          M1  word: HELD or WANTED -> FREE (AcqRel)
//! L2  word: FREE -> HELD, and do it (Acquire)    M2  if it was WANTED: claim again, and do what is noted
//!     or HELD, WANTED -> WANTED (Release)
//! ```
//!
//! L2 and M1 change the same word. If L2 comes first, M1 reads WANTED, and M2 finds the note. If M1 comes first, L2 finds the lane free. What is noted
//! is thus done by the one or by the other. A holder that waits for a reply also looks at the word meanwhile.
//!
//! A holder whose thread runs the user's code in between lends the value: nobody else can claim it, and the same thread gets it back where it asks next.
//!
//! Never sleeps.

use callgate_os::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use callgate_os::sync::{AtomicU32, AtomicU64};
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and there is something to do.
const WANTED: u32 = 2;

/// A value that one thread at a time has.
pub struct Gate<T> {
    word: AtomicU32,
    /// Who may have the value again: a thread by [`here`], or a [`Borrower`]; 0 = nobody. Written and read to effect by that one only.
    lent_to: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: hands out the value to one thread at a time, like a mutex.
unsafe impl<T: Send> Sync for Gate<T> {}

/// What a gate belongs to.
pub trait Attendant<T> {
    /// Does what is noted, because a holder has left that [owed](GateGuard::owe) it or was wanted.
    fn attend(&self, gate: &Gate<T>);
}

/// The value of a gate, for as long as this lives.
pub struct GateGuard<'a, T, A: Attendant<T>> {
    gate: &'a Gate<T>,
    attendant: &'a A,
    /// A whole word: bytes of padding beside a shorter one would be copied with it, one by one.
    duty: usize,
    /// It is shared between threads only if the value may be.
    value: PhantomData<&'a mut T>,
}

/// What a holder does when it leaves, beside what others want: nothing, ..
const NOTHING: usize = 0;
/// .. have the attendant look, ..
const ATTEND: usize = 1;
/// .. or lend the value to its own thread again.
const LEND: usize = 2;

/// A number for this thread that no other has while it lives.
fn here() -> u64 {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr() as u64)
}

/// What may have a gate's value again, whichever thread it is on. There is one of each number, so whoever has it is the only one.
#[derive(Debug)]
pub struct Borrower(u64);

impl Borrower {
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        // No address has the highest bit.
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) | 1 << 63)
    }
}

impl<T> Gate<T> {
    pub fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), lent_to: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Whether the value is [lent](GateGuard::lend) to this thread.
    pub fn is_lent_here(&self) -> bool {
        // Relaxed: only this thread writes its own number, and takes it away.
        self.lent_to.load(Relaxed) == here()
    }

    /// The value, if it is [lent](GateGuard::lend) to this thread: lent again when the guard is dropped, unless it is [kept](GateGuard::keep).
    pub fn borrow<'a, A: Attendant<T>>(&'a self, attendant: &'a A) -> Option<GateGuard<'a, T, A>> {
        self.borrow_for(here(), LEND, attendant)
    }

    /// The value, if it is lent [to this borrower](GateGuard::lend_to). Has the attendant look when the guard is dropped.
    pub fn take_back<'a, A: Attendant<T>>(
        &'a self,
        borrower: &mut Borrower,
        attendant: &'a A,
    ) -> Option<GateGuard<'a, T, A>> {
        self.borrow_for(borrower.0, ATTEND, attendant)
    }

    fn borrow_for<'a, A: Attendant<T>>(
        &'a self,
        who: u64,
        duty: usize,
        attendant: &'a A,
    ) -> Option<GateGuard<'a, T, A>> {
        // Acquire: a borrower may be another thread than it was. Pairs with the Release in `lend_for`.
        let is_lent = self.lent_to.load(Acquire) == who;
        if is_lent {
            // Relaxed: nobody else looks at its own number here.
            self.lent_to.store(0, Relaxed);
        }
        is_lent.then(|| GateGuard { gate: self, attendant, duty, value: PhantomData })
    }

    /// The value, if nobody has it.
    #[inline(always)]
    pub fn try_claim<'a, A: Attendant<T>>(&'a self, attendant: &'a A) -> Option<GateGuard<'a, T, A>> {
        // Acquire: pairs with the Release in `unlock`.
        let claimed = self.word.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok();
        // Made only if it is true: to drop one is to leave.
        claimed.then(|| GateGuard { gate: self, attendant, duty: NOTHING, value: PhantomData })
    }

    /// The value if nobody has it; otherwise has the holder do what is noted.
    pub fn want<'a, A: Attendant<T>>(&'a self, attendant: &'a A) -> Option<GateGuard<'a, T, A>> {
        let mut word = self.word.load(Relaxed);
        loop {
            let next = if word == FREE { HELD } else { WANTED };
            // L2. A write even if nothing changes: otherwise a holder could have looked before.
            match self.word.compare_exchange(word, next, AcqRel, Relaxed) {
                Ok(FREE) => return Some(GateGuard { gate: self, attendant, duty: NOTHING, value: PhantomData }),
                Ok(_) => return None,
                Err(now) => word = now,
            }
        }
    }

    /// Returns whether the holder was wanted.
    #[inline(always)]
    fn unlock(&self) -> bool {
        // M1. Release: publishes the value to the next holder. Acquire: finds what was noted before the WANTED that this reads.
        self.word.swap(FREE, AcqRel) == WANTED
    }
}

impl<T, A: Attendant<T>> GateGuard<'_, T, A> {
    /// Has the attendant look when this is dropped.
    pub fn owe(&mut self) {
        self.duty |= ATTEND;
    }

    /// Whether the value is only borrowed, and lent again when this is dropped.
    pub fn is_borrowed(&self) -> bool {
        self.duty & LEND != 0
    }

    /// Leaves the value to this thread alone: it [borrows](Gate::borrow) it where it needs it next, and nobody else can claim it.
    pub fn lend(self) {
        self.lend_for(here());
    }

    /// Leaves the value to `borrower` alone.
    pub fn lend_to(self, borrower: &mut Borrower) {
        self.lend_for(borrower.0);
    }

    fn lend_for(self, who: u64) {
        if self.duty & ATTEND != 0 {
            // What this holder owes, the last one finds. Release: as in `want`.
            let _ = self.gate.word.compare_exchange(HELD, WANTED, Release, Relaxed);
        }
        // Release: publishes the value to whoever it is lent to. Pairs with the Acquire in `borrow_for`.
        self.gate.lent_to.store(who, Release);
        std::mem::forget(self);
    }

    /// Holds what was borrowed for good: to drop this is to leave. Has the attendant look then.
    pub fn keep(&mut self) {
        self.duty = ATTEND;
    }

    /// Leaves with a duty.
    #[cold]
    fn leave_slow(&mut self) {
        if self.is_borrowed() {
            return GateGuard {
                gate: self.gate,
                attendant: self.attendant,
                duty: self.duty & ATTEND,
                value: PhantomData,
            }
            .lend();
        }
        self.gate.unlock();
        self.attendant.attend(self.gate);
    }

    /// Whether something has been noted since the value was claimed, or since [`clear_want`](Self::clear_want).
    #[inline(always)]
    pub fn is_wanted(&self) -> bool {
        // Relaxed: `clear_want` orders.
        self.gate.word.load(Relaxed) == WANTED
    }

    /// Notes that the holder now does what is noted.
    pub fn clear_want(&mut self) {
        // Acquire: as in `unlock`.
        let _ = self.gate.word.compare_exchange(WANTED, HELD, Acquire, Relaxed);
    }

    /// Leaves without a look at what is noted. Returns whether there is something.
    #[must_use]
    pub fn release(self) -> bool {
        let wanted = self.gate.unlock();
        std::mem::forget(self);
        wanted
    }
}

impl<T, A: Attendant<T>> Drop for GateGuard<'_, T, A> {
    #[inline(always)]
    fn drop(&mut self) {
        // M2.
        if self.duty != NOTHING {
            self.leave_slow();
        } else if self.gate.unlock() {
            self.attendant.attend(self.gate);
        }
    }
}

impl<T, A: Attendant<T>> Deref for GateGuard<'_, T, A> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this thread alone has the value, from `try_claim` or `want` until `unlock`, which ends this.
        unsafe { &*self.gate.value.get() }
    }
}

impl<T, A: Attendant<T>> DerefMut for GateGuard<'_, T, A> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`.
        unsafe { &mut *self.gate.value.get() }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::cell::Cell;
    use loom::sync::{Arc, Mutex};

    /// What two threads share: a value that only a holder may touch, as loom checks, and notes of what is to be added to it.
    struct Notes {
        gate: Gate<Cell<u32>>,
        noted: Mutex<u32>,
    }

    struct Doer(Arc<Notes>);

    impl Attendant<Cell<u32>> for Doer {
        fn attend(&self, gate: &Gate<Cell<u32>>) {
            while let Some(held) = gate.want(self) {
                let noted = std::mem::take(&mut *self.0.noted.lock().unwrap());
                held.set(held.get() + noted);
                if !held.release() {
                    break;
                }
            }
        }
    }

    /// Whatever is noted is done, although nobody waits: by the thread that notes it, or by the holder.
    #[test]
    fn loom_what_is_noted_is_done_by_the_holder_or_by_whoever_noted_it() {
        loom::model(|| {
            let notes = Arc::new(Notes { gate: Gate::new(Cell::new(0)), noted: Mutex::new(0) });
            let other = Doer(notes.clone());
            let noting = loom::thread::spawn(move || {
                *other.0.noted.lock().unwrap() += 1;
                if let Some(mut held) = other.0.gate.want(&other) {
                    held.owe();
                }
            });
            let doer = Doer(notes.clone());
            let was_free = notes.gate.try_claim(&doer).map(|held| held.set(held.get() + 10)).is_some();
            noting.join().unwrap();
            let done = notes.gate.try_claim(&doer).map(|held| held.get());
            assert_eq!(done, Some(if was_free { 11 } else { 1 }));
        });
    }

    /// A value that is lent passes from one thread of a task to the next, and what is noted meanwhile is done when it is left.
    #[test]
    fn loom_a_value_that_is_lent_is_had_by_its_borrower_alone() {
        loom::model(|| {
            let notes = Arc::new(Notes { gate: Gate::new(Cell::new(0)), noted: Mutex::new(0) });
            let doer = Doer(notes.clone());
            let next = Doer(notes.clone());
            let polling = loom::thread::spawn(move || {
                let held = loop {
                    // The same borrower, on another thread than the one that lends.
                    match next.0.gate.take_back(&mut Borrower(1 << 63), &next) {
                        Some(held) => break held,
                        None => loom::thread::yield_now(),
                    }
                };
                held.set(held.get() + 100);
            });
            let held = notes.gate.try_claim(&doer).expect("nobody has it");
            held.set(held.get() + 10);
            held.lend_to(&mut Borrower(1 << 63));
            let other = Doer(notes.clone());
            let noting = loom::thread::spawn(move || {
                *other.0.noted.lock().unwrap() += 1;
                if let Some(mut held) = other.0.gate.want(&other) {
                    held.owe();
                }
            });
            noting.join().unwrap();
            polling.join().unwrap();
            assert_eq!(notes.gate.try_claim(&doer).map(|held| held.get()), Some(111));
        });
    }

    /// A lane's bell, and whether whoever attended last found somebody who relies on it: the `is_watched` of a lane.
    struct Bell {
        is_armed: Cell<bool>,
        is_watched: Cell<bool>,
    }

    /// What two threads share: the bell, which only a holder may touch, and whether somebody relies on it.
    struct Lane {
        gate: Gate<Bell>,
        has_waiter: Mutex<bool>,
    }

    struct Keeper(Arc<Lane>);

    impl Attendant<Bell> for Keeper {
        fn attend(&self, gate: &Gate<Bell>) {
            while let Some(held) = gate.want(self) {
                let has_waiter = *self.0.has_waiter.lock().unwrap();
                held.is_watched.set(has_waiter);
                held.is_armed.set(has_waiter);
                if !held.release() {
                    break;
                }
            }
        }
    }

    /// A holder that has used the bell for itself attends only if the lane was watched when it came. Whoever begins to wait meanwhile has it attend all the
    /// same.
    #[test]
    fn loom_a_holder_that_attends_only_if_watched_leaves_no_waiter_without_a_bell() {
        loom::model(|| {
            let lane = Arc::new(Lane {
                gate: Gate::new(Bell { is_armed: Cell::new(false), is_watched: Cell::new(false) }),
                has_waiter: Mutex::new(false),
            });
            let other = Keeper(lane.clone());
            let waiting = loom::thread::spawn(move || {
                *other.0.has_waiter.lock().unwrap() = true;
                if let Some(mut held) = other.0.gate.want(&other) {
                    held.owe();
                }
            });
            let keeper = Keeper(lane.clone());
            if let Some(mut held) = lane.gate.try_claim(&keeper) {
                held.is_armed.set(false);
                if held.is_watched.get() {
                    held.owe();
                }
            }
            waiting.join().unwrap();
            let is_armed = lane.gate.try_claim(&keeper).map(|held| held.is_armed.get());
            assert_eq!(is_armed, Some(true));
        });
    }
}
