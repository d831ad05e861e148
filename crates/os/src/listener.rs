//! Unix sockets with a name: bound, listened at, connected to; and who is at the other end, as the kernel says.
//!
//! Relies on `socket` for what is said through them. Never blocks, and trusts nothing that the other end could have said itself.

use crate::descriptor::apart;
use crate::pidfd::Pidfd;
use crate::socket::{self, Exposed};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, accept_with, getpeername,
    getsockname, socket_with,
};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

/// What a socket is bound to.
#[derive(Clone, Copy, Debug)]
pub enum SocketName<'a> {
    /// A place in the file system.
    Path(&'a Path),
    /// A name that the kernel forgets with the socket.
    Abstract(&'a [u8]),
}

/// The longest name, in bytes.
pub const MAX_NAME: usize = 107;

/// Connections that wait to be accepted; the kernel may have a lower limit of its own.
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

/// A socket of this name, to which nobody can connect before [`listen`]. `AddrInUse` if there is one already.
pub fn bind(name: SocketName<'_>) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    rustix::net::bind(&socket, &name.address()?)?;
    Ok(socket)
}

/// Lets others connect. They cannot send descriptors, where the kernel can be told so.
pub fn listen(socket: impl AsFd) -> io::Result<()> {
    socket::refuse_descriptors(&socket);
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// Lets nobody connect any more, whoever else may have the descriptor: a process that has been forked and not yet executed.
pub fn close_for_all(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
}

/// The next that has connected; `None` if nobody has.
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

/// What [`connect`] found.
#[derive(Debug)]
pub enum Connected {
    /// Somebody listens, and will find this connection.
    Yes(OwnedFd),
    /// Nobody listens there, or nothing is there.
    Nobody,
    /// So many wait to be accepted that there is no room for another now.
    Full,
}

/// Connects to whoever listens at `name`, by a socket that has a name of its own, see [`own_label`].
pub fn connect(name: SocketName<'_>) -> io::Result<Connected> {
    let socket = new_socket()?;
    // The kernel makes one up. Without it, there is less to tell this connection by.
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
    // Whoever uses it says at each step whether to wait.
    ioctl_fionbio(&socket, false)?;
    Ok(Connected::Yes(socket))
}

/// A short name of a socket, which no other in the network namespace has at the time; of none, or a longer one, zeros.
pub type Label = [u8; 8];

/// That of this socket, which has [connected](connect).
pub fn own_label(socket: impl AsFd) -> Label {
    getsockname(socket).map_or(Label::default(), label)
}

/// That of the socket which has connected to this one.
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

/// Who connected, or who listens, as the kernel recorded it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// 0 if it lies outside of this process's pid namespace.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
}

/// The process at the other end of `socket`.
pub fn peer(socket: impl AsFd) -> io::Result<PeerCredentials> {
    let peer = socket::credentials(socket)?;
    Ok(PeerCredentials { pid: u32::try_from(peer.pid).unwrap_or(0), uid: peer.uid })
}

/// That process by descriptor. Before Linux 6.5 by its number, which since then may have come to mean another process if the one that
/// connected is gone.
pub fn peer_process(socket: impl AsFd) -> io::Result<Pidfd> {
    match apart(|| socket::option::<libc::c_int>(&socket, libc::SO_PEERPIDFD, -1)) {
        Ok(number) if number >= 0 => {
            // SAFETY: the kernel has just opened it for the caller of `getsockopt`, which is this function alone.
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
