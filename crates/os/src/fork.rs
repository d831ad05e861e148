//! Whether this process is a fork of the one that made something.
//!
//! A fork has the parent's memory, shared segments too, but not its threads: what belongs to the parent must be left alone.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many forks lie between the first process of this program and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// A number that differs between a process and its forks (those made by `fork`, that is; a bare `clone` is not seen).
#[inline(always)]
pub fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has forks counted from now on.
pub fn count_forks() {
    static REGISTERED: Once = Once::new();
    extern "C" fn in_fork() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    REGISTERED.call_once(|| {
        // SAFETY: the handler only changes an atomic, which is allowed in a fork of a program with threads. It fails only for
        // lack of memory, and then forks are not told apart.
        unsafe { libc::pthread_atfork(None, None, Some(in_fork)) };
    });
}
