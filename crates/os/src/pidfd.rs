//! A process by descriptor: its number cannot come to mean another process; and what tells it from all others, for whoever looks.

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

/// A process, mostly a child of this one.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that `descriptor`, a pidfd, stands for.
    pub fn of(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Opens the child `pid`. `Ok(None)` if it has died and somebody else has already reaped it.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        match apart(|| pidfd_open(pid, PidfdFlags::empty())) {
            Ok(descriptor) => Ok(Some(Self(descriptor))),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stands for no process, in tests that have none.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of_nobody() -> Self {
        Self(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("a descriptor"))
    }

    /// Another descriptor of the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Sends SIGKILL. A process that has already gone is left in peace.
    ///
    /// # Errors
    ///
    /// If this process may not: it has given up the rights that it had when it started the other, or the other has changed its user. Then
    /// the other lives on.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How the child ended, and takes its entry from the process table; `None` while it lives.
    ///
    /// [`Exit::Unknown`] if somebody else reaped it first (SIGCHLD ignored, or a `waitpid(-1)` elsewhere in the program).
    pub fn reap(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// The same, and leaves the entry to whoever has started the process and waits for it. [`Exit::Unknown`] of one that is no child.
    pub fn look(&self) -> Option<Exit> {
        self.status(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Whether the process has ended, whoever may have its status.
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
                // Nothing is known of its status; whether it has ended, its descriptor says.
                Err(_) => return self.has_ended().then_some(Exit::Unknown),
            }
        }
    }
}

/// What tells a process from every other, and is the same for everybody who looks.
///
/// From Linux 6.9 on the inode number of its descriptors, which no other process ever has until the machine is restarted, in whatever pid namespace.
/// Before that its number and when it was started, which are the same within one pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity([u8; Identity::LEN]);

impl Identity {
    pub const LEN: usize = 24;

    /// This process.
    pub fn own() -> io::Result<Self> {
        let pid = std::process::id();
        let process = Pidfd::open(pid)?.ok_or(Errno::SRCH)?;
        Self::of(&process, pid)
    }

    /// That of `process`, whose number is `pid`; 0 if it lies outside of this process's pid namespace.
    ///
    /// # Errors
    ///
    /// If it has ended, or nothing tells it from others.
    pub fn of(process: &Pidfd, pid: u32) -> io::Result<Self> {
        if fstatfs(process)?.f_type as u64 == PIDFS {
            return Ok(Self::new(1, fstat(process)?.st_ino, 0));
        }
        let missing =
            || io::Error::other("before Linux 6.9 a process of another pid namespace cannot be told from others");
        let pid = Some(pid).filter(|pid| *pid != 0).ok_or_else(missing)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = started(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat makes no sense")))?;
        // Looked at afterwards: as long as the process lives, the number is its own.
        match poll::readable(process, Duration::ZERO)? {
            true => Err(Errno::SRCH.into()),
            false => Ok(Self::new(2, pid.into(), started)),
        }
    }

    /// Stands for no process, in tests that have none.
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

/// The kind of file system that pidfds are files of, since Linux 6.9: until then, all had one inode.
const PIDFS: u64 = 0x5049_4446;

/// When a process was started, in clock ticks since the machine was: the 22nd field of `/proc/<pid>/stat`. The second, a name in parentheses, may
/// hold anything.
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
