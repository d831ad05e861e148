//! The driver of the tokio runtime that polls the task.

#![forbid(unsafe_code)]

use super::listener::{Ring, listen};
use callgate_engine::caller::Caller;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{coop::unconstrained, try_id};

/// Has the runtime's driver wake its tasks. `false` = there is no runtime here, or none that is sure to be driven: a current-thread runtime is driven
/// while it polls a task that was spawned on it, but a thread may have entered it and drive something else.
pub(super) fn attend(caller: &Arc<Caller>) -> bool {
    let Ok(handle) = Handle::try_current() else { return false };
    if handle.runtime_flavor() == RuntimeFlavor::CurrentThread && try_id().is_none() {
        return false;
    }
    let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(handle.id());
    listen::<AsyncFd<OwnedFd>>(caller, number);
    true
}

impl Ring for AsyncFd<OwnedFd> {
    fn new(ring: OwnedFd) -> io::Result<Self> {
        // A runtime without I/O panics. The successor of this function is younger than the versions of tokio that are allowed here.
        #[allow(deprecated)]
        std::panic::catch_unwind(|| AsyncFd::with_interest(ring, Interest::READABLE))
            .unwrap_or_else(|_| Err(io::ErrorKind::Unsupported.into()))
    }

    /// The descriptor is never read: each ring is an edge, which the driver reports although it is readable already.
    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What a task may do before others have their turn is none of this waker's business.
        let look = std::future::poll_fn(|_| {
            Poll::Ready(self.poll_read_ready(context).map_ok(|mut ready| ready.clear_ready()))
        });
        ready!(pin!(unconstrained(look)).poll(&mut Context::from_waker(Waker::noop())))
    }
}
