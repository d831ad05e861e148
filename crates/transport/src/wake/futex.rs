//! Sleeping on the doorbell's own word.

#![forbid(unsafe_code)]

use super::Sleeper;
use crate::layout::{BellLine, PARKED};
use callgate_os::futex::PrivateScope;
use callgate_os::futex::{Futex, wait_either};
use std::time::Duration;

/// The word that says "parked" is the futex: a wake between the last look and the sleep has changed it, and the kernel, which
/// compares, does not let the waiter sleep.
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
}
