//! Sleeping on an eventfd, and ringing it: the direction from child to parent.
//!
//! The two sides share one file description, so each can set its flags, read its count and fill it. A parent must therefore
//! neither read nor write it in a way that can block, whatever the flags say. It can read so (`RWF_NOWAIT`), but not write:
//! eventfds know no such write, and a poll before a plain one is a race. So the parent only listens and the child only rings;
//! the other direction stays with the futex.

#![forbid(unsafe_code)]

use super::Sleeper;
use crate::layout::BellLine;
use crate::sync::Futex;
use crate::sys::eventfd;
use crate::sys::futex::Private;
use crate::sys::poll::{Waker, readable_either};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The parent's end: sleeps until it is rung.
pub(super) struct Listener {
    ring: Arc<OwnedFd>,
    /// Rung when the child has ended. The child has no descriptor of it.
    alarm: Arc<Waker>,
}

impl Listener {
    pub(super) fn new(alarm: Arc<Waker>) -> io::Result<Self> {
        Ok(Self { ring: Arc::new(eventfd::create()?), alarm })
    }

    pub(super) fn ring(&self) -> Arc<OwnedFd> {
        self.ring.clone()
    }
}

impl Sleeper for Listener {
    /// What was rung is forgotten after the sleep, and looked for after that: a ring in between is either forgotten and seen,
    /// or ends the next sleep. A child that steals the count, or rings for ever, is one that rings too seldom or too often.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<Private>>, left: Option<Duration>) {
        readable_either(&*self.ring, &*self.alarm, left);
        self.forget();
    }

    /// The caller's doorbell is the child's to ring.
    fn wake(&self, _: &BellLine) {}

    fn forget(&self) {
        eventfd::drain(&*self.ring);
    }
}

/// The child's end: rings.
pub(super) struct Ringer(OwnedFd);

impl Ringer {
    pub(super) fn new(ring: OwnedFd) -> Self {
        Self(ring)
    }
}

impl Sleeper for Ringer {
    /// The child never sleeps at a caller's doorbell.
    fn sleep(&self, _: &BellLine, _: Option<&Futex<Private>>, _: Option<Duration>) {}

    fn wake(&self, _: &BellLine) {
        eventfd::ring(&self.0);
    }
}
