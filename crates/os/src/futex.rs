//! Futexes: words that a thread can sleep on while they hold an expected value.
//!
//! The scope is part of the type. The kernel finds a [`SharedScope`] futex by its page, so it works between processes, and a [`PrivateScope`] futex
//! by its address, in this process only. The futexes of std and parking_lot are always private and must never lie in shared memory.

#![forbid(unsafe_code)]

/// A futex in memory that several processes map.
#[derive(Debug)]
pub struct SharedScope;

/// A futex that only this process can reach.
#[derive(Debug)]
pub struct PrivateScope;

/// Which processes can wait on a futex and wake it.
pub trait Scope {
    /// Whether the kernel may look the futex up by address alone.
    const PRIVATE: bool;
}

impl Scope for SharedScope {
    const PRIVATE: bool = false;
}

impl Scope for PrivateScope {
    const PRIVATE: bool = true;
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something woke the waiter, the word had changed, or the wake was spurious: look again.
    MaybeReady,
    /// The timeout has passed.
    DeadlinePassed,
}

#[cfg(loom)]
pub use model::{Futex, wait_either};
#[cfg(not(loom))]
pub use real::{Futex, wait_either};

/// A futex as loom can model it: a word, and a queue that a waiter joins only while the word has the expected value.
#[cfg(loom)]
mod model {
    use super::{PrivateScope, Scope, SharedScope, Woken};
    use crate::sync::{AtomicU32, Ordering};
    use std::marker::PhantomData;
    use std::time::Duration;

    #[derive(Debug)]
    pub struct Futex<S> {
        word: AtomicU32,
        queue: loom::sync::Mutex<()>,
        bell: loom::sync::Condvar,
        scope: PhantomData<S>,
    }

    impl<S: Scope> Futex<S> {
        pub fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                queue: loom::sync::Mutex::new(()),
                bell: loom::sync::Condvar::new(),
                scope: PhantomData,
            }
        }

        pub fn word(&self) -> &AtomicU32 {
            &self.word
        }

        /// Like the kernel, compares and queues in one step as far as a waker can tell.
        pub fn wait(&self, expected: u32, _timeout: Option<Duration>) -> Woken {
            let queue = self.queue.lock().unwrap();
            if self.word.load(Ordering::Relaxed) == expected {
                drop(self.bell.wait(queue).unwrap());
            }
            Woken::MaybeReady
        }

        pub fn wake_one(&self) {
            self.wake();
        }

        pub fn wake(&self) {
            let _queue = self.queue.lock().unwrap();
            self.bell.notify_all();
        }
    }

    /// The models run without a watcher, so only the shared word can wake.
    pub fn wait_either(
        shared: (&Futex<SharedScope>, u32),
        _private: (&Futex<PrivateScope>, u32),
        timeout: Option<Duration>,
    ) -> Woken {
        shared.0.wait(shared.1, timeout)
    }
}

#[cfg(not(loom))]
mod real {
    use super::{PrivateScope, Scope, SharedScope, Woken};
    use crate::sync::AtomicU32;
    use rustix::io::Errno;
    use rustix::thread::futex::{self, ClockId, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};
    use std::borrow::Borrow;
    use std::marker::PhantomData;
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    /// How long one sleep lasts on kernels without `futex_waitv` (before Linux 5.16); the private word is checked in between.
    const SLICE: Duration = Duration::from_millis(5);

    /// A word that a thread can wait on, with the same layout as the word alone.
    #[derive(Debug)]
    #[repr(transparent)]
    pub struct Futex<S> {
        word: AtomicU32,
        scope: PhantomData<S>,
    }

    impl<S: Scope> Futex<S> {
        pub const fn new(value: u32) -> Self {
            Self { word: AtomicU32::new(value), scope: PhantomData }
        }

        #[inline(always)]
        pub fn word(&self) -> &AtomicU32 {
            &self.word
        }

        /// Sleeps while the word is `expected`, until woken or until `timeout` has passed; `None` waits without limit.
        pub fn wait(&self, expected: u32, timeout: Option<Duration>) -> Woken {
            let timeout = timeout.map(timespec);
            verdict(futex::wait(self.word.borrow(), Self::flags(), expected, timeout.as_ref()))
        }

        /// Wakes all threads that wait on the word.
        pub fn wake(&self) {
            // The only failure is a bad address, and this is the address of a live reference.
            let _ = futex::wake(self.word.borrow(), Self::flags(), i32::MAX as u32);
        }

        /// Wakes one thread that waits on the word. A peer can pile up many waiters, and waking each costs time.
        pub fn wake_one(&self) {
            let _ = futex::wake(self.word.borrow(), Self::flags(), 1);
        }

        fn flags() -> Flags {
            if S::PRIVATE { Flags::PRIVATE } else { Flags::empty() }
        }

        fn waiter(&self, expected: u32) -> Wait {
            let mut waiter = Wait::new();
            waiter.val = u64::from(expected);
            waiter.uaddr = WaitPtr::new(self.word.as_ptr().cast());
            waiter.flags = if S::PRIVATE { WaitFlags::SIZE_U32 | WaitFlags::PRIVATE } else { WaitFlags::SIZE_U32 };
            waiter
        }
    }

    /// Sleeps while the shared and the private word both hold their expected values.
    ///
    /// The private word is out of the peer's reach: even a peer that requeues the waiter away from the shared word cannot prevent a wake through the
    /// private one.
    pub fn wait_either(
        shared: (&Futex<SharedScope>, u32),
        private: (&Futex<PrivateScope>, u32),
        timeout: Option<Duration>,
    ) -> Woken {
        if has_waitv() { verdict(wait_vector(shared, private, timeout)) } else { wait_sliced(shared, private, timeout) }
    }

    /// Whether the kernel offers `futex_waitv`: it does not before Linux 5.16, or in a container whose filter does not know the call. Checked once,
    /// before the first sleep (`callgate doctor` does the same check).
    fn has_waitv() -> bool {
        static HAS_WAITV: OnceLock<bool> = OnceLock::new();
        *HAS_WAITV.get_or_init(|| {
            let nothing = futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic);
            !matches!(nothing, Err(Errno::NOSYS | Errno::PERM))
        })
    }

    fn wait_vector(
        shared: (&Futex<SharedScope>, u32),
        private: (&Futex<PrivateScope>, u32),
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        let waiters = [shared.0.waiter(shared.1), private.0.waiter(private.1)];
        // `futex_waitv` takes an absolute time.
        let until = timeout.map(|left| {
            let now = rustix::time::clock_gettime(ClockId::Monotonic);
            let nanos = now.tv_nsec as u64 + u64::from(left.subsec_nanos());
            let seconds = (now.tv_sec as u64).saturating_add(left.as_secs()).saturating_add(nanos / 1_000_000_000);
            Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: (nanos % 1_000_000_000) as _ }
        });
        futex::waitv(&waiters, WaitvFlags::empty(), until.as_ref(), ClockId::Monotonic).map(drop)
    }

    fn wait_sliced(
        shared: (&Futex<SharedScope>, u32),
        private: (&Futex<PrivateScope>, u32),
        timeout: Option<Duration>,
    ) -> Woken {
        // Relaxed: the waiter checks the word again, with the ordering that it needs.
        if private.0.word().load(Ordering::Relaxed) != private.1 {
            return Woken::MaybeReady;
        }
        match timeout {
            Some(left) if left <= SLICE => shared.0.wait(shared.1, Some(left)),
            _ => {
                shared.0.wait(shared.1, Some(SLICE));
                Woken::MaybeReady
            }
        }
    }

    fn verdict(result: Result<(), Errno>) -> Woken {
        match result {
            Err(Errno::TIMEDOUT) => Woken::DeadlinePassed,
            // Woken, word changed (EAGAIN), signal (EINTR): all mean "look again".
            _ => Woken::MaybeReady,
        }
    }

    fn timespec(left: Duration) -> Timespec {
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos() as _ }
    }
}
