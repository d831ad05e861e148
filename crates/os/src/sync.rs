//! The atomics that the rest of callgate uses, so that loom can replace them and tests can trace their accesses.
//!
//! No other file names `std::sync::atomic` for words that the two sides of a protocol share.

#![forbid(unsafe_code)]

#[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
pub use crate::trace::{AtomicU32, AtomicU64};
#[cfg(not(any(loom, all(any(test, feature = "testkit"), debug_assertions))))]
pub use std::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub use std::sync::atomic::{Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use std::ptr::NonNull;

/// Tells the processor that this is a polling loop.
#[inline(always)]
pub fn spin_hint() {
    #[cfg(not(loom))]
    std::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// Announces a read of plain bytes of shared memory. Does nothing unless a test traces it.
#[inline(always)]
pub fn will_read(_start: NonNull<u8>, _len: usize) {
    #[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
    crate::trace::note(crate::trace::AccessKind::Read, _start.addr().get(), _len);
}

/// Announces a write of plain bytes of shared memory. Does nothing unless a test traces it.
#[inline(always)]
pub fn will_write(_start: NonNull<u8>, _len: usize) {
    #[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
    crate::trace::note(crate::trace::AccessKind::Write, _start.addr().get(), _len);
}
