//! Tells a fork from the process that created something.
//!
//! A fork has its parent's memory, including shared segments, but not its threads: it must leave what belongs to the parent alone.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between the first process of this program and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that differs between a process and its forks. Only `fork` counts; a bare `clone` goes unnoticed.
#[inline(always)]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Starts counting forks.
pub fn count_forks() {
    static REGISTERED: Once = Once::new();
    extern "C" fn in_fork() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    REGISTERED.call_once(|| {
        // SAFETY: the handler only changes an atomic, which is allowed in the fork of a multithreaded program. Registering fails only without memory;
        // forks then go unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(in_fork)) };
    });
}
