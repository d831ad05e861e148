//! The one ring of a bridge: an eventfd that the child rings for lanes at which no thread of the parent sleeps.
//!
//! The parent's reactor has it in its epoll set, edge-triggered. The parent neither reads nor writes it, for the reasons in `eventfd.rs`.

#![forbid(unsafe_code)]

use super::Sleeper;
use crate::layout::BellLine;
use callgate_os::eventfd;
use callgate_os::futex::Futex;
use callgate_os::futex::PrivateScope;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The child's end of a lane's doorbell: wakes a sleeping thread of the parent in the backend's way, and the reactor by the ring.
pub(crate) struct WithRing {
    pub(crate) ring: Arc<OwnedFd>,
    pub(crate) sleeper: Arc<dyn Sleeper>,
}

impl Sleeper for WithRing {
    /// The child never sleeps at a caller's doorbell.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<PrivateScope>>, _: Option<Duration>) {}

    fn wake(&self, bell: &BellLine) {
        self.sleeper.wake(bell);
    }

    fn ring(&self) {
        eventfd::ring(&*self.ring);
    }
}
