//! The floor of awaited calls: an eventfd there, work, and an eventfd back that an epoll set reports, as an event loop would have it.
//!
//! The value in the first eventfd says for how many nanoseconds the child works. The child sleeps in `read`, this side in `epoll_wait`.

#![forbid(unsafe_code)]

use crate::child::{BenchChild, ChildRole};
use crate::interleave::Subject;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{convert, hint, io};

/// Has another process work, and waits for it with epoll.
#[derive(Debug)]
pub struct RawEvents {
    there: OwnedFd,
    back: OwnedFd,
    epoll: OwnedFd,
    child: BenchChild,
}

impl RawEvents {
    /// Starts the other process, on `cpu`.
    pub fn start(cpu: usize) -> io::Result<Self> {
        let [there, back] = [eventfd(0, EventfdFlags::CLOEXEC)?, eventfd(0, EventfdFlags::CLOEXEC)?];
        let (stdin, stdout) = (there.try_clone()?.into(), back.try_clone()?.into());
        let child = BenchChild::start(ChildRole::Event, &[cpu], stdin, stdout)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &back, EventData::new_u64(0), EventFlags::IN)?;
        let mut event_loop = Self { there, back, epoll, child };
        event_loop.round_trip(Duration::from_nanos(1))?;
        Ok(event_loop)
    }

    /// The other process.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Has the child work for that long, at least for a nanosecond, and waits until it says that it has. Nothing reports the child's end.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn round_trip(&mut self, work: Duration) -> io::Result<()> {
        put(self.there.as_fd(), work.as_nanos().max(1) as u64)?;
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        loop {
            match epoll::wait(&self.epoll, &mut events, None) {
                Ok((ready, _)) if !ready.is_empty() => return take(self.back.as_fd()).map(drop),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Turns this into a subject.
    pub fn subject(mut self, name: &str, work: Duration) -> Subject {
        let pid = self.pid();
        Subject::new(name, move || Ok(self.round_trip(work)?)).answered_by(Some(pid))
    }
}

/// The child's side.
pub(super) fn answer() -> io::Result<convert::Infallible> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    loop {
        let work = Duration::from_nanos(take(stdin.as_fd())?);
        let begin = Instant::now();
        while begin.elapsed() < work {
            hint::spin_loop();
        }
        put(stdout.as_fd(), 1)?;
    }
}

fn put(to: BorrowedFd<'_>, value: u64) -> io::Result<()> {
    // An eventfd takes all eight bytes or none.
    while let Err(error) = write(to, &value.to_ne_bytes()) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    Ok(())
}

fn take(from: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = [0; 8];
    while let Err(error) = read(from, &mut bytes) {
        if error != Errno::INTR {
            return Err(error.into());
        }
    }
    Ok(u64::from_ne_bytes(bytes))
}
