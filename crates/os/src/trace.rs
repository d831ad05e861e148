//! Records which words of memory a piece of code reads and writes, for the tests that count cache lines.
//!
//! Only in unoptimised tests: `crate::sync` then exports these atomics, which record each access of a traced thread. Plain bytes of shared memory are
//! recorded where they are copied, through `sync::will_read` and `sync::will_write`. Release builds contain none of this, so that `.ci/instructions`
//! counts what users run.

#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessKind {
    Read,
    Write,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedAccess {
    pub kind: AccessKind,
    pub address: usize,
    pub len: usize,
}

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static LOG: RefCell<Vec<TracedAccess>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` and also returns its accesses on this thread, in order.
pub fn trace<R>(work: impl FnOnce() -> R) -> (R, Vec<TracedAccess>) {
    assert!(!IS_ON.replace(true), "a trace within a trace");
    let result = work();
    IS_ON.set(false);
    (result, LOG.take())
}

/// Records an access, if this thread is being traced.
pub fn note(kind: AccessKind, address: usize, len: usize) {
    if IS_ON.get() && len > 0 {
        LOG.with_borrow_mut(|log| log.push(TracedAccess { kind, address, len }));
    }
}

/// An atomic with the methods that the library uses. Add any further method here, recording its accesses.
macro_rules! traced {
    ($name:ident, $word:ty) => {
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name(std::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $word) -> Self {
                Self(std::sync::atomic::$name::new(value))
            }

            fn note(&self, kind: AccessKind) {
                note(kind, self.0.as_ptr().addr(), size_of::<$word>());
            }

            pub fn load(&self, ordering: Ordering) -> $word {
                self.note(AccessKind::Read);
                self.0.load(ordering)
            }

            pub fn store(&self, value: $word, ordering: Ordering) {
                self.note(AccessKind::Write);
                self.0.store(value, ordering);
            }

            pub fn compare_exchange(
                &self,
                current: $word,
                new: $word,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$word, $word> {
                self.note(AccessKind::Read);
                self.note(AccessKind::Write);
                self.0.compare_exchange(current, new, success, failure)
            }

            pub fn fetch_add(&self, value: $word, ordering: Ordering) -> $word {
                self.note(AccessKind::Read);
                self.note(AccessKind::Write);
                self.0.fetch_add(value, ordering)
            }

            pub fn fetch_sub(&self, value: $word, ordering: Ordering) -> $word {
                self.note(AccessKind::Read);
                self.note(AccessKind::Write);
                self.0.fetch_sub(value, ordering)
            }
        }
    };
}

traced!(AtomicU32, u32);
traced!(AtomicU64, u64);

impl AtomicU32 {
    pub fn swap(&self, value: u32, ordering: Ordering) -> u32 {
        self.note(AccessKind::Read);
        self.note(AccessKind::Write);
        self.0.swap(value, ordering)
    }

    pub fn fetch_max(&self, value: u32, ordering: Ordering) -> u32 {
        self.note(AccessKind::Read);
        self.note(AccessKind::Write);
        self.0.fetch_max(value, ordering)
    }

    pub fn as_ptr(&self) -> *mut u32 {
        self.0.as_ptr()
    }
}

impl AtomicU64 {}

/// For the kernel, whose accesses are not recorded: no test counts the lines of a call that sleeps or wakes.
impl Borrow<std::sync::atomic::AtomicU32> for AtomicU32 {
    fn borrow(&self) -> &std::sync::atomic::AtomicU32 {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_a_traced_thread_accesses_is_noted_and_nothing_else() {
        let (narrow, wide) = (AtomicU32::new(1), AtomicU64::new(2));
        let outside = || narrow.store(5, Relaxed);
        outside();
        let (value, log) = trace(|| {
            wide.store(7, Relaxed);
            std::thread::scope(|scope| {
                scope.spawn(outside);
            });
            narrow.fetch_max(9, Relaxed);
            wide.load(Relaxed)
        });
        outside();
        let at = |kind, address, len| TracedAccess { kind, address, len };
        let (narrow, wide) = (narrow.as_ptr().addr(), wide.0.as_ptr().addr());
        let expected = [
            at(AccessKind::Write, wide, 8),
            at(AccessKind::Read, narrow, 4),
            at(AccessKind::Write, narrow, 4),
            at(AccessKind::Read, wide, 8),
        ];
        assert_eq!((value, &log[..]), (7, &expected[..]));
        assert_eq!(trace(|| ()).1, []);
    }
}
