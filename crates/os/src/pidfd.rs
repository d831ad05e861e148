//! Processes by descriptor (pidfds), which never come to mean another process, and identities that every observer agrees on.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use crate::exit::Exit;
use crate::poll;
use rustix::fs::{fstat, fstatfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A process, usually a child of this one.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Wraps `descriptor`, which must be a pidfd.
    pub fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Opens the child `pid`. `Ok(None)` if it has died and something else has already reaped it.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        match apart(|| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(descriptor) => Ok(Some(Self(descriptor))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A stand-in that refers to no process, for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of_nobody() -> Self {
        Self(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("a descriptor"))
    }

    /// Another descriptor of the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Sends SIGKILL. Does nothing if the process is already gone.
    ///
    /// # Errors
    ///
    /// If this process may not: it has given up the rights that it had when it started the other one, or the other one has changed its user. The
    /// other process then lives on.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps the child and returns how it ended; `None` while it lives.
    ///
    /// [`Exit::Unknown`] if something else reaped it first (SIGCHLD ignored, or a `waitpid(-1)` elsewhere in the program).
    pub fn reap(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Like [`reap`](Self::reap), but leaves the status to the parent that waits for it. [`Exit::Unknown`] if the process is not a child of this one.
    pub fn look(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Whether the process has ended, whoever reaped it.
    pub fn has_ended(&self) -> bool {
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
                // The status is unknown, but the descriptor still says whether the process has ended.
                Err(_) => return self.has_ended().then_some(Exit::Unknown),
            }
        }
    }
}

/// Identifies a process: distinct from every other process, and the same for every observer.
///
/// From Linux 6.9 on it is the inode number of the process's pidfds, which no other process has until reboot, in any pid namespace. Before that it is
/// the process number and start time, which are the same only within one pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; Identity::LEN]);

impl Identity {
    pub const LEN: usize = 24;

    /// The identity of this process.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id();
        let process = Pidfd::open(pid)?.ok_or(Errno::SRCH)?;
        Self::of(&process, pid)
    }

    /// The identity of `process`, whose number is `pid`, or 0 if it lies outside this process's pid namespace.
    ///
    /// # Errors
    ///
    /// If the process has ended, or nothing tells it from others.
    pub fn of(process: &Pidfd, pid: u32) -> io::Result<Self> {
        if fstatfs(process)?.f_type as u64 == PIDFS {
            return Ok(Self::new(1, fstat(process)?.st_ino, 0));
        }
        let missing = || io::Error::other("before Linux 6.9, processes of another pid namespace cannot be told apart");
        let pid = Some(pid).filter(|pid| *pid != 0).ok_or_else(missing)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat cannot be parsed")))?;
        // Checked last: while the process lives, its number cannot belong to another.
        match poll::readable(process, Duration::ZERO)? {
            true => Err(Errno::SRCH.into()),
            false => Ok(Self::new(2, pid.into(), started)),
        }
    }

    /// A stand-in that identifies no process, for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of_nobody(number: u64) -> Self {
        Self::new(0, number, 0)
    }

    fn new(kind: u64, one: u64, other: u64) -> Self {
        let mut bytes = [0; Self::LEN];
        for (bytes, number) in bytes.chunks_exact_mut(8).zip([kind, one, other]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// Magic number of the file system that pidfds live on since Linux 6.9. Before, all pidfds shared one inode.
const PIDFS: u64 = 0x5049_4446;

/// The start time of a process in clock ticks since boot: field 22 of `/proc/<pid>/stat`. Field 2, a name in parentheses, may contain anything.
fn started(stat: &str) -> Option<u64> {
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

impl From<Pidfd> for OwnedFd {
    fn from(process: Pidfd) -> Self {
        process.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_others_and_is_the_same_for_all() {
        let own = Identity::own().unwrap();
        let again = Pidfd::open(std::process::id()).unwrap().unwrap();
        assert_eq!(Identity::of(&again, std::process::id()).unwrap(), own);
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Pidfd::open(other.id()).unwrap().unwrap();
        assert_ne!(Identity::of(&process, other.id()).unwrap(), own);
        process.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_start_is_found_behind_any_name() {
        let fields: Vec<_> = (4..22).map(|field| field.to_string()).collect();
        assert_eq!(started(&format!("1 (a) b) (c) S {} 4242 23", fields.join(" "))), Some(4242));
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(started(&own).is_some_and(|ticks| ticks > 0));
        assert_eq!([started(""), started("1 (a"), started("1 (a) S 1 2")], [None; 3]);
    }
}
