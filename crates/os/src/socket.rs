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

/// The inode number of `descriptor` if it is a socket: what tells this very socket from every other.
pub fn inode(descriptor: impl AsFd) -> Option<u64> {
    let status = fstat(descriptor).ok()?;
    FileType::from_raw_mode(status.st_mode).is_socket().then_some(status.st_ino)
}

/// The effective user and group of the process that made this pair of sockets, as the kernel recorded them then.
pub fn maker(socket: impl AsFd) -> io::Result<(u32, u32)> {
    credentials(socket).map(|maker| (maker.uid, maker.gid))
}

/// The process at the other end of `socket`, its effective user and group, as the kernel recorded them when it listened, connected or made the
/// pair. Not through rustix: a process outside of this one's pid namespace has the number 0, which is no value of rustix's `Pid`.
pub fn credentials(socket: impl AsFd) -> io::Result<libc::ucred> {
    option(socket, libc::SO_PEERCRED, libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX })
}

/// Types of which any bytes are a value, as the kernel writes them.
pub(crate) trait KernelPlain: Copy {}
impl KernelPlain for libc::c_int {}
impl KernelPlain for libc::ucred {}

/// An option of the socket; `value` is what it is before the kernel writes it.
pub(crate) fn option<T: KernelPlain>(socket: impl AsFd, option: libc::c_int, mut value: T) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let (number, to) = (socket.as_fd().as_raw_fd(), (&raw mut value).cast());
    // SAFETY: a live descriptor, and room for as many bytes as `len` says, of a type of which any bytes are a value.
    let failed = unsafe { libc::getsockopt(number, libc::SOL_SOCKET, option, to, &raw mut len) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Since Linux 6.16: whether descriptors can be sent to this end.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Has the kernel refuse descriptors that are sent to this end, where it can (Linux 6.16): the sender gets an error. Better never to have
/// a stranger's descriptor, see [`discard`]. What a socket that is listened at refuses, all that connect to it refuse from the first.
pub fn refuse_descriptors(socket: impl AsFd) {
    let off: libc::c_int = 0;
    let (value, len) = (&raw const off, size_of_val(&off) as libc::socklen_t);
    // SAFETY: a live descriptor, and a value of the length given. Where the option is unknown, descriptors are discarded as they come.
    unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, value.cast(), len);
    }
}

/// This end of a conversation with a stranger. When it is dropped, the conversation ends soon, whoever else may have this end (a process that has
/// been forked and not yet executed), and nobody waits for that: to tell the other end may take as long as the stranger likes, who may have a
/// million entries of epoll sets wait there; so may closing the descriptors that he has sent and nobody has received, see [`discard`].
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

/// The most descriptors that one message of ours carries.
pub const MOST: usize = 80;

/// The most that the kernel lets one message carry.
const MOST_EVER: usize = 253;

/// Sends one message, with the descriptors given, at most [`MOST`]. Never blocks: a full socket is `WouldBlock`. A peer that is gone is
/// `BrokenPipe`, whether or not it had read what was sent to it before.
pub fn send(socket: impl AsFd, message: &[u8], rights: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !rights.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(rights)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        // What sends descriptors is denied in the strictest sandbox, whose child has none to send.
        let sent = match rights.is_empty() {
            true => rustix::net::send(&socket, message, flags),
            false => sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, flags),
        };
        match sent {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            // Said once, when the peer ended with messages unread.
            Err(Errno::CONNRESET) => return Err(Errno::PIPE.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What [`receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A message of so many bytes, and the descriptors that came with it.
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

/// Receives one message into `buffer`. A message that is longer than the buffer, or that brings more than one descriptor, is
/// an error, and the descriptors that it brought are discarded.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], blocking: BlockingMode) -> io::Result<Received> {
    // Room for all that can come: what has none is closed by the kernel, here and now. (So is what comes when this process may open no
    // more; from Linux 6.16 on, nothing comes.)
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_EVER))];
    match receive_into(&mut space, socket, buffer, blocking)? {
        Received::Message(_, descriptors) if descriptors.len() > 1 => {
            discard(descriptors);
            Err(misshapen())
        }
        received => Ok(received),
    }
}

/// Closes descriptors that a stranger has sent, on a thread of their own: it may take as long as the stranger likes (a socket that lingers,
/// a file on a file system of his). If there is no thread to be had, they stay open.
pub fn discard(descriptors: Vec<OwnedFd>) {
    close::elsewhere(descriptors, false);
}

/// The same for a message that may bring up to [`MOST`] descriptors.
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
            // The other end was closed with something unread. Said once, and before what it has sent is handed out.
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

/// A descriptor whose last owner waits for a minute when it closes it, unless the other end, which comes with it, has been closed. For tests that
/// run alone: a program that another test starts meanwhile would be the last owner.
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

    /// As on a kernel that lets descriptors through.
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
            // For its maker, it ends at once.
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
