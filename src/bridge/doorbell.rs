//! The descriptor that tells a loop of the user's own that pending calls may have results.
//!
//! It is this process's alone: no child can ring it, whatever it does to what it shares.

#![forbid(unsafe_code)]

use callgate_os::poll;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Wake, Waker};

/// A bridge's descriptor.
pub(super) struct Doorbell {
    bell: Arc<Bell>,
    /// What rings it, once somebody has asked for the descriptor.
    waker: Arc<OnceLock<Waker>>,
}

struct Bell(poll::Waker);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { bell: Arc::new(Bell(poll::Waker::new()?)), waker: Arc::default() }))
    }

    /// What rings it; nothing if nobody has the descriptor.
    pub(super) fn waker(&self) -> &Arc<OnceLock<Waker>> {
        &self.waker
    }

    /// Silences it.
    pub(super) fn clear(&self) {
        self.bell.0.clear();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.get_or_init(|| self.bell.clone().into());
        self.bell.0.as_fd()
    }
}
