//! Which numbers descriptors have.
//!
//! The kernel gives out the lowest that is free. Where a program has closed 0, 1 or 2, that would be one of those: whoever then writes a line
//! to the standard output would write it into a socket of ours. So whatever opens a descriptor does it in [`apart`].
//! Never closes a descriptor that was opened elsewhere.

#![forbid(unsafe_code)]

use rustix::fd::AsRawFd;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::stdio::{stderr, stdin, stdout};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

/// The first number that is not one of the standard descriptors.
const FIRST: RawFd = 3;

/// Where a child has its own descriptors, if its limit allows: beyond those that programs choose by number.
const HIGH: u64 = 512;

/// Runs `open`, which opens descriptors, so that none of them becomes 0, 1 or 2: those that are closed are taken meanwhile, by what nobody
/// minds a line written to.
pub(crate) fn apart<T, E>(open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let _taken = Taken::now();
    open()
}

/// What keeps closed standard descriptors from being given out, to whichever threads hold a [`Taken`].
struct Places {
    holders: usize,
    null: Vec<OwnedFd>,
}

static PLACES: Mutex<Places> = Mutex::new(Places { holders: 0, null: Vec::new() });

/// Raised when places are taken and when they are free again: odd in between.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Keeps closed standard descriptors taken; `false` = there are none.
struct Taken(bool);

impl Taken {
    fn now() -> Self {
        // Of descriptors that are open because another thread keeps them taken, nothing follows. If nobody does so before and after the look,
        // nobody did meanwhile, or that has come and gone: then the number differs.
        let turn = TURN.load(SeqCst);
        if turn.is_multiple_of(2) && standard().into_iter().all(is_open) && TURN.load(SeqCst) == turn {
            return Self(false);
        }
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        if places.holders == 0 {
            TURN.fetch_add(1, SeqCst);
        }
        places.holders += 1;
        // Without a null device, or a number to be had, `open` has to do without.
        while !standard().into_iter().all(is_open) {
            match null() {
                Ok(null) if null.as_raw_fd() < FIRST => places.null.push(null),
                _ => break,
            }
        }
        Self(true)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.0 {
            return;
        }
        let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
        places.holders -= 1;
        if places.holders > 0 {
            return;
        }
        for null in places.null.drain(..) {
            // The program may have put something there meanwhile, which is its own: that is not closed on exec, as this is.
            if !fcntl_getfd(&null).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC)) {
                let _ = null.into_raw_fd();
            }
        }
        TURN.fetch_add(1, SeqCst);
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

fn standard() -> [BorrowedFd<'static>; 3] {
    [stdin(), stdout(), stderr()]
}

fn is_open(descriptor: BorrowedFd<'_>) -> bool {
    fcntl_getfd(descriptor).is_ok()
}

/// Opens the null device as each of 0, 1 and 2 that is closed, for good: in a child, before its program could open something there.
pub(crate) fn fill_standard() -> io::Result<()> {
    while !standard().into_iter().all(is_open) {
        let null = null()?;
        // Kept by nobody, as standard descriptors are. What it is executed with inherits them.
        rustix::io::fcntl_setfd(&null, FdFlags::empty())?;
        if null.as_raw_fd() < FIRST {
            let _ = null.into_raw_fd();
        }
    }
    Ok(())
}

/// The same as `descriptor`, with a number that no program would choose; the old number is free again.
pub(crate) fn raised(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match copied_high(&descriptor) {
        Ok(raised) => Ok(raised),
        // All that it could be are in use.
        Err(_) if descriptor.as_raw_fd() >= FIRST => Ok(descriptor),
        Err(error) => Err(error),
    }
}

/// A copy of `descriptor` with such a number, or with another beyond the standard ones if there is none.
pub(crate) fn copied_high(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(&descriptor, high() as RawFd).or_else(|_| fcntl_dupfd_cloexec(&descriptor, FIRST))?)
}

/// Where such numbers begin.
pub(crate) fn high() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 2).clamp(FIRST as u64, HIGH)
}

/// Has all descriptors from 3 on closed when this process executes a program.
pub(crate) fn close_on_exec() -> io::Result<()> {
    numbers()?.into_iter().for_each(super::selfproc::close_on_exec);
    Ok(())
}

/// A descriptor from 3 on, as it is in a program that has just begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The program was executed with it, or has opened it so that it is passed on.
    pub(crate) is_inheritable: bool,
    /// It waits for others.
    pub(crate) is_reactor: bool,
}

/// The descriptors from 3 on. Needs procfs.
pub(crate) fn found() -> io::Result<Vec<Found>> {
    // The directory itself is open no more, and so is not found.
    Ok(numbers()?.into_iter().filter_map(find).collect())
}

fn numbers() -> io::Result<Vec<RawFd>> {
    let open = apart(|| fs::read_dir("/proc/self/fd"))?.flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter(|&number| number >= FIRST).collect())
}

fn find(number: RawFd) -> Option<Found> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let is_reactor = ["anon_inode:[eventpoll]", "anon_inode:[io_uring]"].iter().any(|kind| target.as_os_str() == *kind);
    Some(Found { is_inheritable: flags & rustix::fs::OFlags::CLOEXEC.bits() == 0, is_reactor })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fault_32_copies_are_high_and_what_waits_for_others_is_known() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let copy = copied_high(&reader).unwrap();
        assert!(copy.as_raw_fd() as u64 >= high());
        let waits = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(find(waits.as_raw_fd()), Some(Found { is_inheritable: false, is_reactor: true }));
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
        assert_eq!(find(copy.as_raw_fd()), Some(Found { is_inheritable: true, is_reactor: false }));
    }
}
