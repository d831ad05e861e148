//! The atomics and futexes that everything else uses, so that loom can replace them, and tests trace what they access.
//!
//! Layer 0. Nothing else in the crate names `std::sync::atomic` for words that two sides of a protocol share.

#![forbid(unsafe_code)]

#[cfg(not(loom))]
pub(crate) use crate::sys::futex::{Futex, wait_either};
#[cfg(all(test, debug_assertions, not(loom)))]
pub(crate) use crate::trace::{AtomicU32, AtomicU64};
#[cfg(not(any(loom, all(test, debug_assertions))))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use model::{Futex, wait_either};

use std::ptr::NonNull;

/// Tells the processor that this is a polling loop.
#[inline(always)]
pub(crate) fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Plain bytes of shared memory are about to be read: noted for tests that trace that; otherwise nothing.
#[inline(always)]
pub(crate) fn will_read(_start: NonNull<u8>, _len: usize) {
    #[cfg(all(test, debug_assertions, not(loom)))]
    crate::trace::note(crate::trace::Kind::Read, _start.addr().get(), _len);
}

/// Plain bytes of shared memory are about to be written: noted for tests that trace that; otherwise nothing.
#[inline(always)]
pub(crate) fn will_write(_start: NonNull<u8>, _len: usize) {
    #[cfg(all(test, debug_assertions, not(loom)))]
    crate::trace::note(crate::trace::Kind::Write, _start.addr().get(), _len);
}

/// A futex as loom can model it: a word, and a queue that a waiter joins only while the word has the expected value.
#[cfg(loom)]
mod model {
    use super::{AtomicU32, Ordering};
    use crate::sys::futex::{Private, Scope, Shared, Woken};
    use std::marker::PhantomData;
    use std::time::Duration;

    #[derive(Debug)]
    pub(crate) struct Futex<S> {
        word: AtomicU32,
        queue: loom::sync::Mutex<()>,
        bell: loom::sync::Condvar,
        scope: PhantomData<S>,
    }

    impl<S: Scope> Futex<S> {
        pub(crate) fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                queue: loom::sync::Mutex::new(()),
                bell: loom::sync::Condvar::new(),
                scope: PhantomData,
            }
        }

        pub(crate) fn word(&self) -> &AtomicU32 {
            &self.word
        }

        /// As the kernel does it: comparing and queueing are one step to whoever wakes.
        pub(crate) fn wait(&self, expected: u32, _timeout: Option<Duration>) -> Woken {
            let queue = self.queue.lock().unwrap();
            if self.word.load(Ordering::Relaxed) == expected {
                drop(self.bell.wait(queue).unwrap());
            }
            Woken::MaybeReady
        }

        pub(crate) fn wake_one(&self) {
            self.wake();
        }

        pub(crate) fn wake(&self) {
            let _queue = self.queue.lock().unwrap();
            self.bell.notify_all();
        }
    }

    /// The models run without a watcher: only the shared word can wake.
    pub(crate) fn wait_either(
        shared: (&Futex<Shared>, u32),
        _private: (&Futex<Private>, u32),
        timeout: Option<Duration>,
    ) -> Woken {
        shared.0.wait(shared.1, timeout)
    }
}
