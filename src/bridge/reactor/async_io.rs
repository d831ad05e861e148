//! The driver of the crate `async-io`, which always runs: on a thread of its own if on no other.

#![forbid(unsafe_code)]

use super::listener::{Ring, listen};
use ::async_io::Async;
use callgate_engine::caller::Caller;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// There is one such driver in a process.
const NUMBER: u64 = 0;

/// Has the driver wake tasks.
pub(super) fn attend(caller: &Arc<Caller>) {
    listen::<Async<OwnedFd>>(caller, NUMBER);
}

impl Ring for Async<OwnedFd> {
    fn new(ring: OwnedFd) -> io::Result<Self> {
        Async::new_nonblocking(ring)
    }

    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(context))?;
        // This driver goes on reporting a descriptor that stays readable. Others report each ring, whether or not it is read.
        let mut count = [0; 8];
        match rustix::io::read(self, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
