//! Sleeping on the doorbell's own word.

#![forbid(unsafe_code)]

use super::Sleeper;
use crate::layout::{AWAKE, BellLine, PARKED};
use callgate_os::futex::PrivateScope;
use callgate_os::futex::{Futex, wait_either};
use callgate_os::sync::Ordering::Relaxed;
use std::time::Duration;

/// The futex is the word `parked`. A wake between the last look and the sleep changes it, so the kernel's comparison fails and the waiter does
/// not sleep.
pub struct FutexSleeper;

impl Sleeper for FutexSleeper {
    fn sleep(&self, bell: &BellLine, dead: Option<&Futex<PrivateScope>>, left: Option<Duration>) {
        match dead {
            None => bell.parked.wait(PARKED, left),
            Some(dead) => wait_either((&bell.parked, PARKED), (dead, 0), left),
        };
    }

    fn wake(&self, bell: &BellLine) {
        bell.parked.wake_one();
    }

    fn can_rouse(&self) -> bool {
        true
    }

    fn rouse(&self, bell: &BellLine) {
        // Only a sleeper's word: it may have left meanwhile, and the reactor may listen.
        if bell.parked.word().compare_exchange(PARKED, AWAKE, Relaxed, Relaxed).is_ok() {
            bell.parked.wake_one();
        }
    }
}
