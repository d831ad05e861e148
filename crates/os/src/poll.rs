//! Waiting for descriptors: epoll sets for the watcher and for callers' event loops, `poll` with a timeout for the rest.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The events that a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It is readable.
    Read,
    /// It is readable or writable.
    Both,
}

/// An epoll set: descriptors waited for together, each under its own key.
#[derive(Debug)]
pub struct PollSet(OwnedFd);

impl PollSet {
    pub fn new() -> io::Result<Self> {
        Ok(Self(apart(|| epoll::create(CreateFlags::CLOEXEC))?))
    }

    /// Reports `descriptor` as `key` for as long as it is readable or its other end is gone.
    pub fn add(&self, descriptor: impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(key), EventFlags::IN)?)
    }

    /// Reports `descriptor` as `key` once for each write to it.
    pub fn add_edge(&self, descriptor: impl AsFd, key: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(key), EventFlags::IN | EventFlags::ET)?)
    }

    /// From now on reports `descriptor`, which is already in the set, as `key` when `interest` says so or its other end is gone.
    pub fn change(&self, descriptor: impl AsFd, key: u64, interest: Interest) -> io::Result<()> {
        let flags = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Both => EventFlags::IN | EventFlags::OUT,
        };
        Ok(epoll::modify(&self.0, descriptor, EventData::new_u64(key), flags)?)
    }

    pub fn remove(&self, descriptor: impl AsFd) {
        let _ = epoll::delete(&self.0, descriptor);
    }

    /// Waits until something is ready, at most `limit` if given, and appends the ready keys.
    pub fn wait(&self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        self.wait_for(limit.map(timespec).as_ref(), ready)
    }

    /// Appends the ready keys without waiting.
    pub fn ready_now(&self, ready: &mut Vec<u64>) -> io::Result<()> {
        self.wait_for(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }), ready)
    }

    /// Waits until something is ready, at most `limit` if given; may return early. It consumes the reports of edge-triggered descriptors.
    pub fn wait_for_one(&self, limit: Option<Duration>) {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 2];
        let _ = epoll::wait(&self.0, &mut events, limit.map(timespec).as_ref());
    }

    fn wait_for(&self, timeout: Option<&Timespec>, ready: &mut Vec<u64>) -> io::Result<()> {
        // One for each of a bridge's lanes, and one for its alarm.
        let mut events = Vec::with_capacity(65);
        match epoll::wait(&self.0, spare_capacity(&mut events), timeout) {
            Ok(_) => ready.extend(events.iter().map(|event: &epoll::Event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Wakes threads that wait in a [`PollSet`]. Not shared with any other process.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Self> {
        Ok(Self(apart(|| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))?))
    }

    pub fn wake(&self) {
        // The only failure is a full counter, and then the thread is being woken anyway.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }

    /// Resets the waker.
    pub fn clear(&self) {
        let _ = read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for PollSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits at most `timeout` until `descriptor` is readable, and returns whether it is.
pub fn readable(descriptor: impl AsFd, timeout: Duration) -> io::Result<bool> {
    match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timespec(timeout))) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether `descriptor` can be written to now.
pub fn is_writable(descriptor: impl AsFd) -> bool {
    is_now(descriptor, PollFlags::OUT)
}

/// Whether the other end of `socket` will send nothing more because it was closed or shut down.
pub fn is_hung_up(socket: impl AsFd) -> bool {
    is_now(socket, PollFlags::RDHUP)
}

/// Whether `descriptor` is in this state. If the kernel does not say, it is not.
fn is_now(descriptor: impl AsFd, state: PollFlags) -> bool {
    loop {
        match poll(&mut [PollFd::new(&descriptor, state)], Some(&timespec(Duration::ZERO))) {
            Ok(count) => return count > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}
