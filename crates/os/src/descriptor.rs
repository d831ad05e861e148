//! Keeps our descriptors off the numbers 0, 1 and 2, and high where a child gets them.
//!
//! The kernel assigns the lowest free number. If a program has closed 0, 1 or 2, a socket of ours could get that number, and the program's next line
//! to standard output would go into the socket. So everything that opens a descriptor does so in [`apart`].
//! Never closes a descriptor that was opened elsewhere.

#![forbid(unsafe_code)]

use rustix::fd::AsRawFd;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use rustix::stdio::{stderr, stdin, stdout};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

/// The first number beyond the standard descriptors.
const FIRST: RawFd = 3;

/// Where a child's own descriptors begin, if its limit allows: beyond the numbers that programs choose themselves.
const HIGH: u64 = 512;

/// Runs `open`, which opens descriptors, so that none of them becomes 0, 1 or 2: closed standard descriptors are first opened as the null device.
///
/// They stay open for good. The program may put a file of its own there at any moment, and no check before a close could rule that out.
pub fn apart<T, E>(open: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // Without a null device or a free number, `open` runs unprotected.
    let _ = fill();
    open()
}

/// Opens each closed one of 0, 1 and 2 as the null device, in a child, before its program could open something there. Programs that it executes
/// inherit them.
pub(crate) fn fill_standard() -> io::Result<()> {
    let missing = standard().map(|descriptor| !is_open(descriptor));
    fill()?;
    let mut filled = standard().into_iter().zip(missing).filter(|(_, was_missing)| *was_missing);
    filled.try_for_each(|(descriptor, _)| Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?))
}

/// Opens the null device until 0, 1 and 2 are taken. Never touches a number afterwards: another thread may have put one of the program's files there.
fn fill() -> io::Result<()> {
    while !standard().into_iter().all(is_open) {
        let null = null()?;
        if null.as_raw_fd() >= FIRST {
            // Another thread filled the gap first.
            break;
        }
        // Nobody owns it, as with all standard descriptors. It is closed on exec, like everything opened here.
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

/// Moves `descriptor` to a number from [`high`] on, which no program chooses, and frees the old number.
pub fn raised(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match copied_high(&descriptor) {
        Ok(raised) => Ok(raised),
        // No higher number is free.
        Err(_) if descriptor.as_raw_fd() >= FIRST => Ok(descriptor),
        Err(error) => Err(error),
    }
}

/// Copies `descriptor` to a number from [`high`] on; if none is free, to any number from 3 on.
pub fn copied_high(descriptor: impl AsFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(&descriptor, high() as RawFd).or_else(|_| fcntl_dupfd_cloexec(&descriptor, FIRST))?)
}

/// Where high numbers begin: [`HIGH`], or half the limit of open files if that is lower.
pub fn high() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 2).clamp(FIRST as u64, HIGH)
}

/// Marks all descriptors from 3 on as closed on exec.
pub fn close_on_exec() -> io::Result<()> {
    numbers()?.into_iter().for_each(crate::selfproc::close_on_exec);
    Ok(())
}

/// Takes standard input away: returns a private copy of descriptor 0 and puts `/dev/null` in its place. Descriptors 1 and 2 are open afterwards, too.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let copy = copied_high(stdin())?;
    fill_standard()?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    Ok(copy)
}

/// A descriptor from 3 on, as found in a program that has just started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InheritedDescriptor {
    /// The program inherited it, or opened it without close-on-exec.
    pub is_inheritable: bool,
    /// It waits for other descriptors (epoll or io_uring).
    pub is_reactor: bool,
}

/// Lists the descriptors from 3 on. Needs procfs.
pub fn found() -> io::Result<Vec<InheritedDescriptor>> {
    // The directory itself is closed by now, so `find` skips it.
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
