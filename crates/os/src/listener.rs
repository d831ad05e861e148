//! Named Unix sockets: bind, listen, connect, and the kernel's word on who is at the other end.
//!
//! Relies on `socket` to send and receive. Never blocks, and trusts nothing that the peer could have claimed itself.

use crate::descriptor::apart;
use crate::pidfd::{Identity, Pidfd};
use crate::socket::{self, Exposed};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, accept_with, getpeername,
    getsockname, socket_with,
};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The name that a socket is bound to.
#[derive(Clone, Copy, Debug)]
pub enum SocketName<'a> {
    /// A path in the file system.
    Path(&'a Path),
    /// A name in the abstract namespace, which vanishes with the socket.
    Abstract(&'a [u8]),
}

/// The longest name in bytes.
pub const MAX_NAME: usize = 107;

/// Connections that may wait to be accepted; the kernel may have a lower limit of its own.
const BACKLOG: i32 = 4096;

impl SocketName<'_> {
    fn address(self) -> io::Result<SocketAddrUnix> {
        Ok(match self {
            SocketName::Path(path) => SocketAddrUnix::new(path)?,
            SocketName::Abstract(name) => SocketAddrUnix::new_abstract_name(name)?,
        })
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(apart(|| socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None))?)
}

/// Creates a socket with this name. Nobody can connect before [`listen`]. `AddrInUse` if the name is taken.
pub fn bind(name: SocketName<'_>) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    rustix::net::bind(&socket, &name.address()?)?;
    Ok(socket)
}

/// Allows others to connect. Where the kernel can enforce it, they cannot send descriptors.
pub fn listen(socket: impl AsFd) -> io::Result<()> {
    socket::refuse_descriptors(&socket);
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// Stops new connections, even if another process (forked but not yet executed) still holds the descriptor.
pub fn close_for_all(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// Accepts the next connection; `None` if none is waiting.
pub fn accept(listener: impl AsFd) -> io::Result<Option<Exposed>> {
    loop {
        match apart(|| accept_with(&listener, SocketFlags::CLOEXEC)) {
            Ok(socket) => return Ok(Some(socket.into())),
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The result of [`connect`].
#[derive(Debug)]
pub enum Connected {
    /// Somebody listens and will see this connection.
    Yes(OwnedFd),
    /// Nobody listens there, or the name does not exist.
    Nobody,
    /// The queue of connections waiting to be accepted is full.
    Full,
}

/// Connects to the listener at `name`, from a socket with a name of its own, see [`own_label`].
pub fn connect(name: SocketName<'_>) -> io::Result<Connected> {
    let socket = new_socket()?;
    // The kernel picks the name. Without one, only the connection's label is missing.
    let _ = rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed());
    let address = name.address()?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::CONNREFUSED | Errno::NOENT) => return Ok(Connected::Nobody),
            Err(Errno::AGAIN) => return Ok(Connected::Full),
            Err(error) => return Err(error.into()),
        }
    }
    // From now on, each call says whether it may block.
    ioctl_fionbio(&socket, false)?;
    Ok(Connected::Yes(socket))
}

/// A short name of a socket, unique in the network namespace while the socket is open. Zeros if the socket has no name or a longer one.
pub type Label = [u8; 8];

/// The label of this socket, which has [connected](connect).
pub fn own_label(socket: impl AsFd) -> Label {
    getsockname(socket).map_or(Label::default(), label)
}

/// The label of the socket that connected to this one.
pub fn peer_label(socket: impl AsFd) -> Label {
    getpeername(socket).ok().flatten().map_or(Label::default(), label)
}

fn label(address: SocketAddrAny) -> Label {
    let address = SocketAddrUnix::try_from(address).ok();
    let name = address.as_ref().and_then(SocketAddrUnix::abstract_name).unwrap_or_default();
    let mut label = Label::default();
    if name.len() < label.len() {
        label[0] = name.len() as u8;
        label[1..=name.len()].copy_from_slice(name);
    }
    label
}

/// Both ends of a connection, as one of them knows them: the identities of the processes and the [`Label`] of the socket that connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnds([u8; ConnectionEnds::LEN]);

impl ConnectionEnds {
    pub const LEN: usize = 2 * Identity::LEN + size_of::<Label>();

    fn new(connected: Identity, listening: Identity, label: Label) -> Self {
        let mut ends = [0; Self::LEN];
        ends[..Identity::LEN].copy_from_slice(connected.bytes());
        ends[Identity::LEN..2 * Identity::LEN].copy_from_slice(listening.bytes());
        ends[2 * Identity::LEN..].copy_from_slice(&label);
        Self(ends)
    }

    /// Of a connection that this process has accepted, from `process`, whose number is `pid`.
    pub fn of_accepted(socket: impl AsFd, process: &Pidfd, pid: u32) -> io::Result<Self> {
        Ok(Self::new(Identity::of(process, pid)?, Identity::own()?, peer_label(socket)))
    }

    /// Of a connection that this process has made to `listening`, whose number is `pid`.
    pub fn of_connected(socket: impl AsFd, listening: &Pidfd, pid: u32) -> io::Result<Self> {
        Ok(Self::new(Identity::own()?, Identity::of(listening, pid)?, own_label(socket)))
    }

    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// The process that connected or listens, as the kernel recorded it at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// 0 if the process lies outside this process's pid namespace.
    pub pid: u32,
    /// The effective user.
    pub uid: u32,
}

/// The process at the other end of `socket`.
pub fn peer(socket: impl AsFd) -> io::Result<PeerCredentials> {
    let peer = socket::credentials(socket)?;
    Ok(PeerCredentials { pid: u32::try_from(peer.pid).unwrap_or(0), uid: peer.uid })
}

/// A pidfd of the process at the other end of `socket`. Before Linux 6.5 it is opened by number, which may already mean another process if the
/// original has ended.
pub fn peer_process(socket: impl AsFd) -> io::Result<Pidfd> {
    match apart(|| socket::option::<libc::c_int>(&socket, libc::SO_PEERPIDFD, -1)) {
        Ok(number) if number >= 0 => {
            // SAFETY: the kernel opened it just now for this `getsockopt` call, so nothing else owns it.
            Ok(Pidfd::of(unsafe { OwnedFd::from_raw_fd(number) }))
        }
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(error),
        _ => Pidfd::open(peer(socket)?.pid)?.ok_or_else(|| Errno::SRCH.into()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::poll;
    use std::time::Duration;

    #[test]
    fn both_ends_know_who_the_other_is() {
        let name = format!("callgate-test-{}-listener", std::process::id());
        let name = SocketName::Abstract(name.as_bytes());
        assert!(matches!(connect(name).unwrap(), Connected::Nobody));
        let listener = bind(name).unwrap();
        assert!(matches!(connect(name).unwrap(), Connected::Nobody), "before it listens");
        assert_eq!(bind(name).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        listen(&listener).unwrap();
        let Connected::Yes(theirs) = connect(name).unwrap() else { panic!("somebody listens") };
        let ours = accept(&listener).unwrap().expect("somebody has connected");
        assert!(accept(&listener).unwrap().is_none());
        let this = PeerCredentials { pid: std::process::id(), uid: rustix::process::geteuid().as_raw() };
        for end in [ours.as_fd(), theirs.as_fd()] {
            assert_eq!(peer(end).unwrap(), this);
            let process = peer_process(end).unwrap();
            assert!(!poll::readable(&process, Duration::ZERO).unwrap(), "this process lives");
        }
        assert_eq!(own_label(&theirs), peer_label(&ours));
        assert_ne!(own_label(&theirs), Label::default());
        let Connected::Yes(another) = connect(name).unwrap() else { panic!("somebody listens") };
        assert_ne!(own_label(&theirs), own_label(&another));
        drop(accept(&listener).unwrap());
        close_for_all(&listener);
        assert!(matches!(connect(name).unwrap(), Connected::Nobody));
    }
}
