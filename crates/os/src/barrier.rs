//! A memory barrier for two sides of which one runs often and the other seldom: the seldom side pays for both (`membarrier`, Linux 4.16).
//!
//! ```text
//! often                          seldom
//! A1  store x                    B1  store y
//! A2  light()                    B2  heavy()
//! A3  load y                     B3  load x
//! ```
//!
//! Not both loads see the old value, as if both sides had a fence(SeqCst): `heavy` makes every CPU that runs a thread of a [registered](register) process
//! execute a full barrier, so A1 to A3 lie on the two sides of it or the CPU executed one when it switched to or from that thread. `light` keeps
//! the compiler from moving A3 before A1.

#![forbid(unsafe_code)]

#[cfg(not(loom))]
use rustix::thread::{MembarrierCommand, membarrier};

/// The side that runs often: no instruction at all.
#[inline(always)]
pub fn light() {
    #[cfg(not(loom))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(loom)]
    crate::sync::fence(crate::sync::Ordering::SeqCst);
}

/// The side that runs seldom: some microseconds. Returns whether the barrier took place.
#[cold]
pub fn heavy() -> bool {
    #[cfg(not(loom))]
    return membarrier(MembarrierCommand::GlobalExpedited).is_ok();
    #[cfg(loom)]
    {
        crate::sync::fence(crate::sync::Ordering::SeqCst);
        true
    }
}

/// Makes [`heavy`] in any process reach the threads of this one. Returns whether it does.
pub fn register() -> bool {
    #[cfg(not(loom))]
    return membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
    #[cfg(loom)]
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::{Arc, Barrier};

    /// With `light` alone on both sides, both loads see the old value within some thousand rounds on x86-64.
    #[test]
    fn two_sides_never_both_see_the_old_value() {
        assert!(register());
        let words = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0), Barrier::new(2)));
        let other = words.clone();
        let often = std::thread::spawn(move || {
            for _ in 0..20_000 {
                other.3.wait();
                other.0.store(1, Relaxed);
                light();
                other.2.store(other.1.load(Relaxed), Relaxed);
                other.3.wait();
            }
        });
        for round in 0..20_000 {
            let (x, y, seen, meet) = &*words;
            x.store(0, Relaxed);
            y.store(0, Relaxed);
            meet.wait();
            y.store(1, Relaxed);
            assert!(heavy());
            let sees_x = x.load(Relaxed);
            meet.wait();
            assert!(sees_x == 1 || seen.load(Relaxed) == 1, "round {round}");
        }
        often.join().unwrap();
    }
}
