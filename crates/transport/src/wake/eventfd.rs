//! Sleeping on an eventfd, and ringing it: the direction from child to parent.
//!
//! The two sides share one file description. Each can set its flags, read and fill its count, and add it to any number of epoll sets, all
//! of which every read or write must notify. So a parent must not write it, which can block, nor read it, which can
//! take long. The parent only listens, through an epoll set of its own that reports each ring once, and the child only rings. The other direction
//! uses the futex.

#![forbid(unsafe_code)]

use super::Sleeper;
use crate::layout::BellLine;
use callgate_os::close::Aside;
use callgate_os::eventfd;
use callgate_os::futex::Futex;
use callgate_os::futex::PrivateScope;
use callgate_os::poll::{PollSet, Waker};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The parent's end, at which callers sleep.
pub(crate) struct Listener {
    /// Closed by another thread: the child may have added it to many sets, which makes closing slow.
    ring: Arc<Aside>,
    /// An epoll set of the ring and of the alarm, which is rung when the child has ended. The child has no descriptor of the set.
    set: PollSet,
}

impl Listener {
    pub(crate) fn new(alarm: &Waker) -> io::Result<Self> {
        let (ring, set) = (Arc::new(Aside::from(eventfd::create()?)), PollSet::new()?);
        set.add_edge(&*ring, 0)?;
        set.add(alarm, 1)?;
        Ok(Self { ring, set })
    }

    pub(crate) fn ring(&self) -> Arc<Aside> {
        self.ring.clone()
    }
}

impl Sleeper for Listener {
    /// A ring ends one sleep, this or the next. A child that keeps ringing is handled as spurious wakes are.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<PrivateScope>>, left: Option<Duration>) {
        self.set.wait_for_one(left);
    }

    /// The caller's doorbell is the child's to ring.
    fn wake(&self, _: &BellLine) {}
}

/// The child's end, which rings.
pub(crate) struct Ringer(OwnedFd);

impl Ringer {
    pub(crate) fn new(ring: OwnedFd) -> Self {
        Self(ring)
    }
}

impl Sleeper for Ringer {
    /// The child never sleeps at a caller's doorbell.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<PrivateScope>>, _: Option<Duration>) {}

    fn wake(&self, _: &BellLine) {
        eventfd::ring(&self.0);
    }
}
