//! The floor of descriptors: eight bytes there and back through eventfds or pipes. Both sides sleep in `read`.

#![forbid(unsafe_code)]

use crate::child::{BenchChild, ChildRole};
use crate::interleave::Subject;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{convert, io};

/// The kind of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Two eventfds.
    EventFd,
    /// Two pipes.
    Pipe,
}

/// Passes eight bytes between two processes.
#[derive(Debug)]
pub struct Relay {
    there: OwnedFd,
    back: OwnedFd,
    child: BenchChild,
}

impl Relay {
    /// Starts the other process, on `cpu`.
    pub fn start(through: Through, cpu: usize) -> io::Result<Self> {
        let ((stdin, there), (back, stdout)) = (ends(through)?, ends(through)?);
        let child = BenchChild::start(ChildRole::Relay, &[cpu], stdin.into(), stdout.into())?;
        let mut relay = Self { there, back, child };
        relay.round_trip()?;
        Ok(relay)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Sends the bytes and waits until they come back.
    ///
    /// # Errors
    ///
    /// If the child has closed its pipe. With eventfds nothing reports the child's end, and this never returns.
    #[inline]
    pub fn round_trip(&mut self) -> io::Result<()> {
        put(self.there.as_fd(), &1u64.to_ne_bytes())?;
        take(self.back.as_fd()).map(drop)
    }

    /// Turns this into a subject.
    pub fn subject(mut self, name: &str) -> Subject {
        let pid = self.pid();
        Subject::new(name, move || Ok(self.round_trip()?)).answered_by(Some(pid))
    }
}

/// A pair of ends: one side reads from the first, the other writes to the second.
fn ends(through: Through) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(match through {
        Through::Pipe => pipe_with(PipeFlags::CLOEXEC)?,
        Through::EventFd => {
            let end = eventfd(0, EventfdFlags::CLOEXEC)?;
            (end.try_clone()?, end)
        }
    })
}

/// The child's side.
pub(super) fn answer() -> io::Result<convert::Infallible> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (stdin, stdout) = (stdin.as_fd(), stdout.as_fd());
    loop {
        let bytes = take(stdin)?;
        put(stdout, &bytes)?;
    }
}

#[inline]
fn put(to: BorrowedFd<'_>, bytes: &[u8; 8]) -> io::Result<()> {
    loop {
        match write(to, bytes) {
            Ok(8) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads eight bytes. They are written in one piece, and so arrive in one piece.
#[inline]
fn take(from: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut bytes = [0; 8];
    loop {
        match read(from, &mut bytes) {
            Ok(8) => return Ok(bytes),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
