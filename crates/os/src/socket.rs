//! Pairs of connected sockets that keep message boundaries and carry descriptors.

use crate::close;
use crate::descriptor::apart;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A pair of connected Unix sockets of type SEQPACKET, closed on exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(apart(|| socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None))?)
}

/// The inode number of `descriptor` if it is a socket; no other open socket has the same.
pub fn inode(descriptor: impl AsFd) -> Option<u64> {
    let status = fstat(descriptor).ok()?;
    FileType::from_raw_mode(status.st_mode).is_socket().then_some(status.st_ino)
}

/// The effective user and group of the process that created this pair of sockets, recorded by the kernel at that time.
pub fn maker(socket: impl AsFd) -> io::Result<(u32, u32)> {
    credentials(socket).map(|maker| (maker.uid, maker.gid))
}

/// The process at the other end of `socket`, with its effective user and group, recorded by the kernel when it called `listen`, `connect` or
/// `socketpair`. Not through rustix: a process outside this one's pid namespace has the number 0, which rustix's `Pid` cannot hold.
pub fn credentials(socket: impl AsFd) -> io::Result<libc::ucred> {
    option(socket, libc::SO_PEERCRED, libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX })
}

/// Types that the kernel writes and for which any bytes are a valid value.
pub(crate) trait KernelPlain: Copy {}
impl KernelPlain for libc::c_int {}
impl KernelPlain for libc::ucred {}

/// Reads an option of the socket. `value` is the initial content of the buffer that the kernel writes to.
pub(crate) fn option<T: KernelPlain>(socket: impl AsFd, option: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let (number, to) = (socket.as_fd().as_raw_fd(), (&raw mut value).cast());
    // SAFETY: a live descriptor, and room for `len` bytes of a type for which any bytes are valid.
    let failed = unsafe { libc::getsockopt(number, libc::SOL_SOCKET, option, to, &raw mut len) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Whether descriptors can be sent to this end. Since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Makes the kernel refuse descriptors sent to this end, so that the sender gets an error (Linux 6.16). Never having an untrusted peer's descriptor
/// is better than having to [`discard`] it. Connections to a listener inherit its refusal from the start.
pub fn refuse_descriptors(socket: impl AsFd) {
    let off: libc::c_int = 0;
    let (value, len) = (&raw const off, size_of_val(&off) as libc::socklen_t);
    // SAFETY: a live descriptor, and a value of the given length. Kernels without the option fail; descriptors are then discarded on arrival.
    unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value.cast(), len);
    }
}

/// Our end of a connection to an untrusted peer. Dropping it ends the connection soon, even if another process (forked but not yet executed) still
/// holds this end. The thread that drops it does not wait, because the peer can make that slow: a million epoll entries may have to be woken at the
/// other end, and descriptors that were sent but never received may be slow to close, see [`discard`].
#[derive(Debug)]
pub struct Exposed(Option<OwnedFd>);

impl From<OwnedFd> for Exposed {
    fn from(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }
}

impl AsFd for Exposed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("there until it is dropped").as_fd()
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        close::elsewhere(self.0.take(), true);
    }
}

/// The most descriptors that one of our messages carries.
pub const MOST: usize = 80;

/// The most descriptors that the kernel allows in one message (`SCM_MAX_FD`).
const MOST_EVER: usize = 253;

/// Sends one message with `rights`, at most [`MOST`] descriptors. Never blocks: a full socket is `WouldBlock`. A peer that is gone is `BrokenPipe`,
/// whether or not it had read everything sent before.
pub fn send(socket: impl AsFd, message: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !rights.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(rights)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        // The strictest sandbox denies `sendmsg`; a child in it has no descriptors to send.
        let sent = match rights.is_empty() {
            true => rustix::net::send(&socket, message, flags),
            false => sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, flags),
        };
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // Reported once if the peer ended with unread messages.
            Err(Errno::CONNRESET) => return Err(Errno::PIPE.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether [`send`] failed only because the peer has not read enough yet: the socket is full, or too many descriptors are in flight.
pub fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

/// The result of [`receive`].
#[derive(Debug)]
pub enum Received {
    /// A message: its length in bytes, and the descriptors that came with it.
    Message(usize, Vec<OwnedFd>),
    /// The other end is closed.
    Closed,
}

/// Whether [`receive`] waits for a message or returns `WouldBlock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockingMode {
    Yes,
    No,
}

/// Receives one message into `buffer`. A message that is longer than the buffer or carries more than one descriptor is an error, and its descriptors
/// are discarded.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], blocking: BlockingMode) -> io::Result<Received> {
    // Room for every descriptor that a message can carry: the kernel closes those without room on this thread. (It does so too once this process has
    // reached its limit of open files; from Linux 6.16 on, no descriptor arrives at all.)
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_EVER))];
    match receive_into(&mut space, socket, buffer, blocking)? {
        Received::Message(_, descriptors) if descriptors.len() > 1 => {
            discard(descriptors);
            Err(misshapen())
        }
        received => Ok(received),
    }
}

/// Closes descriptors from an untrusted peer on another thread. Closing takes as long as the peer likes (a lingering socket, a file on the peer's
/// file system). If no thread can be started, they stay open.
pub fn discard(descriptors: Vec<OwnedFd>) {
    close::elsewhere(descriptors, false);
}

/// Like [`receive`], for a message that may carry up to [`MOST`] descriptors.
pub fn receive_many(socket: impl AsFd, buffer: &mut [u8], blocking: BlockingMode) -> io::Result<Received> {
    receive_into(&mut [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))], socket, buffer, blocking)
}

fn receive_into(
    space: &mut [MaybeUninit<u8>],
    socket: impl AsFd,
    buffer: &mut [u8],
    blocking: BlockingMode,
) -> io::Result<Received> {
    let mut ancillary = RecvAncillaryBuffer::new(space);
    let wait = if blocking == BlockingMode::Yes { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let received = loop {
        let flags = RecvFlags::CMSG_CLOEXEC | wait;
        match apart(|| recvmsg(&socket, &mut [IoSliceMut::new(&mut *buffer)], &mut ancillary, flags)) {
            Ok(received) => break received,
            Err(Errno::INTR) => {}
            // The other end was closed with unread messages. Reported once, before what it sent is delivered.
            Err(Errno::CONNRESET) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let descriptors: Vec<OwnedFd> = ancillary.drain().flat_map(rights).collect();
    if received.bytes == 0 {
        discard(descriptors);
        return Ok(Received::Closed);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        discard(descriptors);
        return Err(misshapen());
    }
    Ok(Received::Message(received.bytes, descriptors))
}

fn misshapen() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a control message of the wrong shape")
}

fn rights(message: RecvAncillaryMessage<'_>) -> Vec<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    }
}

/// A descriptor whose last close blocks for a minute, unless the returned other end was closed first. Only for tests that run alone: a program
/// started meanwhile by another test would inherit it and hold it last.
#[cfg(all(any(test, feature = "testkit"), not(loom)))]
pub fn slow_to_close() -> (OwnedFd, std::net::TcpStream) {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let slow = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (unread, _) = listener.accept().expect("the same connection");
    slow.set_nonblocking(true).expect("as asked");
    while (&slow).write(&[0; 1 << 16]).is_ok() {}
    rustix::net::sockopt::set_socket_linger(&slow, Some(std::time::Duration::from_secs(60))).expect("as asked");
    (slow.into(), unread)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::support::alone;
    use std::time::{Duration, Instant};

    /// As on a kernel that lets descriptors through (before Linux 6.16).
    #[test]
    fn fault_08_what_nobody_has_received_keeps_nobody_waiting() {
        alone("socket::tests::fault_08_what_nobody_has_received_keeps_nobody_waiting", 60, || {
            let (slow, unread) = slow_to_close();
            let (ours, theirs) = pair().unwrap();
            send(&theirs, b"first", &[]).unwrap();
            send(&theirs, b"second", &[slow.as_fd()]).unwrap();
            drop(slow);
            let (ours, begun) = (Exposed::from(ours), Instant::now());
            drop(ours);
            assert!(begun.elapsed() < Duration::from_secs(30), "closed while somebody waits");
            // To the peer, the connection ends at once.
            while send(&theirs, b"third", &[]).is_ok() {
                assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(unread);
        });
    }

    #[test]
    fn who_shares_an_end_does_not_keep_it_open() {
        let (ours, theirs) = pair().unwrap();
        let _fork = ours.try_clone().unwrap();
        drop(Exposed::from(ours));
        assert!(matches!(receive(&theirs, &mut [0; 8], BlockingMode::Yes), Ok(Received::Closed)));
    }
}
