//! A process by descriptor: its number cannot come to mean another process.

#![forbid(unsafe_code)]

use super::descriptor::apart;
use crate::error::Exit;
use crate::sys::poll;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A process, mostly a child of this one.
#[derive(Debug)]
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that `descriptor`, a pidfd, stands for.
    pub(crate) fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Opens the child `pid`. `Ok(None)` if it has died and somebody else has already reaped it.
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        match apart(|| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(descriptor) => Ok(Some(Self(descriptor))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stands for no process, in tests that have none.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_nobody() -> Self {
        Self(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("a descriptor"))
    }

    /// Sends SIGKILL. A process that has already gone is left in peace.
    ///
    /// # Errors
    ///
    /// If this process may not: it has given up the rights that it had when it started the other, or the other has changed its user. Then
    /// the other lives on.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How the child ended, and takes its entry from the process table; `None` while it lives.
    ///
    /// [`Exit::Unknown`] if somebody else reaped it first (SIGCHLD ignored, or a `waitpid(-1)` elsewhere in the program).
    pub(crate) fn reap(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// The same, and leaves the entry to whoever has started the process and waits for it. [`Exit::Unknown`] of one that is no child.
    pub(crate) fn look(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Whether the process has ended, whoever may have its status.
    fn has_ended(&self) -> bool {
        poll::readable(&self.0, Duration::ZERO).unwrap_or(true)
    }

    fn status(&self, options: WaitIdOptions) -> Option<Exit> {
        loop {
            match waitid(WaitId::PidFd(self.0.as_fd()), options) {
                Ok(None) => return None,
                Ok(Some(status)) => {
                    let code = status.exit_status().map(Exit::Code);
                    let signal = status.terminating_signal().map(Exit::Signal);
                    return Some(code.or(signal).unwrap_or(Exit::Unknown));
                }
                Err(Errno::INTR) => {}
                // Nothing is known of its status; whether it has ended, its descriptor says.
                Err(_) => return self.has_ended().then_some(Exit::Unknown),
            }
        }
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
