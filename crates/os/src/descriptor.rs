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

/// The first number that is not one of the standard descriptors.
const FIRST: RawFd = 3;

/// Where a child has its own descriptors, if its limit allows: beyond those that programs choose by number.
const HIGH: u64 = 512;

/// Runs `open`, which opens descriptors, so that none of them becomes 0, 1 or 2: those that are closed are the null device from then on.
///
/// For good: the program may put something of its own there at any moment, and no look before a close would be in time to see that.
pub fn apart<T, E>(open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // Without a null device or a free number, `open` has to do without.
    let _ = fill();
    open()
}

/// Opens the null device as each of 0, 1 and 2 that is closed: in a child, before its program could open something there. What it is executed
/// with inherits them.
pub(crate) fn fill_standard() -> io::Result<()> {
    let missing = standard().map(|descriptor| !is_open(descriptor));
    fill()?;
    let mut filled = standard().into_iter().zip(missing).filter(|(_, was_missing)| *was_missing);
    filled.try_for_each(|(descriptor, _)| Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?))
}

/// Nothing is done to a number once it is taken: another thread may have put something of the program's there.
fn fill() -> io::Result<()> {
    while !standard().into_iter().all(is_open) {
        let null = null()?;
        if null.as_raw_fd() >= FIRST {
            // Another thread was faster.
            break;
        }
        // Kept by nobody, as standard descriptors are. Closed on exec, as all that is opened here.
        let _ = null.into_raw_fd();
    }
    Ok(())
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

/// The same as `descriptor`, with a number that no program would choose; the old number is free again.
pub fn raised(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match copied_high(&descriptor) {
        Ok(raised) => Ok(raised),
        // All that it could be are in use.
        Err(_) if descriptor.as_raw_fd() >= FIRST => Ok(descriptor),
        Err(error) => Err(error),
    }
}

/// A copy of `descriptor` with such a number, or with another beyond the standard ones if there is none.
pub fn copied_high(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(&descriptor, high() as RawFd).or_else(|_| fcntl_dupfd_cloexec(&descriptor, FIRST))?)
}

/// Where such numbers begin.
pub fn high() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 2).clamp(FIRST as u64, HIGH)
}

/// Has all descriptors from 3 on closed when this process executes a program.
pub fn close_on_exec() -> io::Result<()> {
    numbers()?.into_iter().for_each(crate::selfproc::close_on_exec);
    Ok(())
}

/// Takes descriptor 0 away from the standard input: returns a private copy of it and puts `/dev/null` in its place. 1 and 2 are open
/// afterwards, too.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let copy = copied_high(stdin())?;
    fill_standard()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    Ok(copy)
}

/// A descriptor from 3 on, as it is in a program that has just begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InheritedDescriptor {
    /// The program was executed with it, or has opened it so that it is passed on.
    pub is_inheritable: bool,
    /// It waits for others.
    pub is_reactor: bool,
}

/// The descriptors from 3 on. Needs procfs.
pub fn found() -> io::Result<Vec<InheritedDescriptor>> {
    // The directory itself is open no more, and so is not found.
    Ok(numbers()?.into_iter().filter_map(find).collect())
}

fn numbers() -> io::Result<Vec<RawFd>> {
    let open = apart(|| fs::read_dir("/proc/self/fd"))?.flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(numbers.filter(|&number| number >= FIRST).collect())
}

fn find(number: RawFd) -> Option<InheritedDescriptor> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = u32::from_str_radix(flags.trim(), 8).ok()?;
    let target = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
    let is_reactor = ["anon_inode:[eventpoll]", "anon_inode:[io_uring]"].iter().any(|kind| target.as_os_str() == *kind);
    Some(InheritedDescriptor { is_inheritable: flags & rustix::fs::OFlags::CLOEXEC.bits() == 0, is_reactor })
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
        assert_eq!(find(waits.as_raw_fd()), Some(InheritedDescriptor { is_inheritable: false, is_reactor: true }));
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
        assert_eq!(find(copy.as_raw_fd()), Some(InheritedDescriptor { is_inheritable: true, is_reactor: false }));
    }
}
