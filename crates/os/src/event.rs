//! Events in shared memory, through the crate `raw_sync`: a flag behind a pthread mutex, and a condition variable.
//!
//! `raw_sync` 0.1 has three limitations that its users must deal with, each shown by a test below:
//! - `set` waits for the mutex without a timeout, and the mutex is not robust: a process that is killed while it holds it leaves it locked for ever.
//! - A wait with a timeout also hangs while the mutex is locked, because it must lock the mutex again to return.
//! - Such a wait adds the timeout to the clock's nanoseconds without carrying into the seconds. The C library refuses a sum beyond a second, and the
//!   wait ends at once.
//!
//! It also makes `&mut` references to memory that other threads and processes change. So this file offers no timeouts, only threads that may hang
//! wait and set, and the memory is shared with a trusted peer only.

use crate::mapping::Mapping;
use raw_sync::Timeout;
use raw_sync::events::{Event as Raw, EventImpl, EventInit, EventState};
use std::io;
use std::sync::Arc;

/// Bytes from one event to the next, in memory that holds several.
pub const STRIDE: usize = 128;

/// An event that several processes share. Setting it ends one wait, or the next one if nobody waits.
pub struct SharedEvent {
    raw: Box<dyn EventImpl>,
    _memory: Arc<Mapping>,
}

// SAFETY: the raw pointers lead into the mapping, which belongs to no thread, and a mutex guards all access to what they point to.
unsafe impl Send for SharedEvent {}
// SAFETY: as above.
unsafe impl Sync for SharedEvent {}

impl SharedEvent {
    /// Creates event `index` in the memory. Nobody may use it before.
    pub fn create(memory: &Arc<Mapping>, index: usize) -> io::Result<Self> {
        let at = place(memory, index);
        // SAFETY: `place` checked that the event lies inside the mapping, which `_memory` keeps; it is aligned to 128 bytes.
        let (raw, _) = unsafe { Raw::new(at, true) }.map_err(failed)?;
        Ok(Self { raw, _memory: memory.clone() })
    }

    /// Opens event `index` of the memory, which a peer created.
    pub fn open(memory: &Arc<Mapping>, index: usize) -> io::Result<Self> {
        let at = place(memory, index);
        // SAFETY: as above; the peer created it before it shared the memory.
        let (raw, _) = unsafe { Raw::from_existing(at) }.map_err(failed)?;
        Ok(Self { raw, _memory: memory.clone() })
    }

    /// Waits until the event is set. Blocks for ever if a process was killed while it held the event's lock.
    pub fn wait(&self) {
        // The only failures are those of an invalid mutex or condition variable.
        let _ = self.raw.wait(Timeout::Infinite);
    }

    /// Sets the event. Blocks as [`wait`](Self::wait) does.
    pub fn set(&self) {
        let _ = self.raw.set(EventState::Signaled);
    }
}

/// The address of event `index`.
///
/// # Panics
///
/// If the event does not lie wholly inside the memory.
fn place(memory: &Mapping, index: usize) -> *mut u8 {
    assert!((index + 1) * STRIDE <= memory.len() && Raw::size_of(None) <= STRIDE, "outside the events");
    // SAFETY: inside the mapping, as just checked.
    unsafe { memory.start().as_ptr().add(index * STRIDE) }
}

fn failed(error: Box<dyn std::error::Error>) -> io::Error {
    io::Error::other(format!("an event: {error}"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mapping::Protection;
    use crate::memfd;
    use raw_sync::locks::{LockImpl, LockInit, Mutex};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// Two mappings of the same two events, as two processes have them.
    fn two_sides() -> ([SharedEvent; 2], [SharedEvent; 2], Arc<Mapping>) {
        let (ours, object) = memfd::create_sealed("callgate-test", 2 * STRIDE, Protection::ReadWrite).unwrap();
        let (ours, theirs) =
            (Arc::new(ours), Arc::new(Mapping::new(&object, 2 * STRIDE, Protection::ReadWrite).unwrap()));
        let created = [0, 1].map(|index| SharedEvent::create(&ours, index).unwrap());
        (created, [0, 1].map(|index| SharedEvent::open(&theirs, index).unwrap()), ours)
    }

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_set_is_remembered_once() {
        let ([ours, _], [theirs, _], _) = two_sides();
        theirs.set();
        theirs.set();
        ours.wait();
        assert!(ours.raw.wait(Timeout::Val(SOON)).is_err());
    }

    #[test]
    fn two_sides_wake_each_other() {
        let (ours, theirs, _) = two_sides();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..1000 {
                    theirs[0].wait();
                    theirs[1].set();
                }
            });
            for _ in 0..1000 {
                ours[0].set();
                ours[1].wait();
            }
        });
    }

    /// Locks the first event as a process killed with the lock would leave it: by a guard that is never dropped.
    fn lock_for_good(memory: &Mapping) -> Box<dyn LockImpl> {
        // SAFETY: an event begins with its mutex; no data is behind it.
        let (mutex, _) = unsafe { Mutex::from_existing(memory.start().as_ptr(), std::ptr::null_mut()) }.unwrap();
        std::mem::forget(mutex.lock().unwrap());
        mutex
    }

    /// Whether `body` is still blocked `timeout` after the lock was taken for good, `delay` after `body` began.
    fn blocks(delay: Duration, timeout: Duration, body: impl FnOnce(&SharedEvent) + Send) -> bool {
        let (_, [theirs, _], memory) = two_sides();
        let (done, is_done) = mpsc::channel();
        std::thread::scope(|scope| {
            let mutex = delay.is_zero().then(|| lock_for_good(&memory));
            scope.spawn(move || {
                body(&theirs);
                done.send(()).unwrap();
            });
            std::thread::sleep(delay);
            let mutex = mutex.unwrap_or_else(|| lock_for_good(&memory));
            let blocked = is_done.recv_timeout(timeout).is_err();
            mutex.release().unwrap();
            blocked && is_done.recv().is_ok()
        })
    }

    #[test]
    fn a_lock_that_is_never_released_blocks_a_set() {
        assert!(blocks(Duration::ZERO, Duration::from_millis(100), SharedEvent::set));
    }

    #[test]
    fn a_lock_that_is_never_released_blocks_a_limited_wait_that_has_begun() {
        let limit = Duration::from_secs(1);
        // Tried several times, because on a busy machine the wait may begin too late.
        let blocked = (0..5).any(|_| blocks(limit / 5, 2 * limit, |event| drop(event.raw.wait(Timeout::Val(limit)))));
        assert!(blocked);
    }

    /// If this fails, `raw_sync` now carries, and timeouts can be reconsidered.
    #[test]
    fn a_limit_that_reaches_into_the_next_second_is_none() {
        let ([event, _], ..) = two_sides();
        let limit = Duration::from_nanos(999_999_999);
        let ended_early = (0..3).any(|_| {
            let begun = Instant::now();
            event.raw.wait(Timeout::Val(limit)).is_err() && begun.elapsed() < limit
        });
        assert!(ended_early);
    }
}
