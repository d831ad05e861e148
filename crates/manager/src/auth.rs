//! The handshake between a client and the hub. Each proves, without revealing the key, that it knows the key, and that the two are the ends of
//! one connection.
//!
//! ```text
//! hub -> client    challenge   magic 8 | version 4 | 0 4 | nonce 32
//! client -> hub    answer      version 4 | role 4 | nonce 32 | ends 56 | mac 32
//!                              mac = HMAC-SHA256(key, CLIENT | role | hub's nonce | client's nonce | ends)
//! hub -> client    welcome     1 4 | 0 4 | mac 32
//!                              mac = HMAC-SHA256(key, HUB | role | client's nonce | hub's nonce | ends)
//!   or             refusal     2 4 | why 4
//! ends                         client 24 | hub 24 | label 8
//! ```
//!
//! All numbers are little-endian, all lengths fixed. The two codes begin differently, which defeats reflection; each side's nonce is new, which
//! defeats replay. No descriptor passes before the handshake is over. The kernel names the peer's user: only the same user, or root, is
//! accepted.
//!
//! The ends are the identities of both processes and the name of the client's socket, as the kernel tells each side about itself and its peer
//! (`SO_PEERCRED`, `SO_PEERPIDFD`). A process that relays between two is the peer of both, so their ends differ, and it cannot forge the codes.
//! A connected socket that was passed on is detected in the same way: the process that connected is not the one that answers. So all later
//! messages are between the two.
//!
//! Before Linux 6.9 an identity is a process number, which differs between pid namespaces: there hub and clients must share one.

#![forbid(unsafe_code)]

use super::address::Address;
use super::authkey::AuthKey;
use super::error::ManagerError;
use callgate_os::listener::{self, ConnectionEnds, PeerCredentials};
use callgate_os::pidfd::Pidfd;
use callgate_os::socket::{self, BlockingMode, Received};
use callgate_os::{poll, selfproc};
use callgate_transport::doorbell::Deadline;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The version of the protocol between hub and clients.
pub(super) const VERSION: u32 = 3;

const MAGIC: [u8; 8] = *b"callgatM";
const CLIENT: &[u8] = b"callgate manager 2: client";
const HUB: &[u8] = b"callgate manager 2: hub";

const NONCE: usize = 32;
pub(super) const CHALLENGE: usize = 16 + NONCE;
pub(super) const ANSWER: usize = 8 + NONCE + ConnectionEnds::LEN + 32;
const WELCOME: usize = 8 + 32;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientRights {
    /// Anything.
    Full,
    /// Call and lock, but not register or end the hub: the rights of a handle.
    CallerOnly,
}

impl ClientRights {
    fn code(self) -> u32 {
        match self {
            ClientRights::Full => 1,
            ClientRights::CallerOnly => 2,
        }
    }

    fn checked(code: u32) -> Option<Self> {
        [ClientRights::Full, ClientRights::CallerOnly].into_iter().find(|role| role.code() == code)
    }
}

/// Why a hub refuses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdmissionRefusal {
    Version,
    Key,
    TooMany,
    User,
    Relayed,
}

impl AdmissionRefusal {
    const ALL: [Self; 5] = [Self::Version, Self::Key, Self::TooMany, Self::User, Self::Relayed];

    fn code(self) -> u32 {
        self as u32 + 1
    }

    /// As it is sent.
    pub(super) fn message(self) -> [u8; 8] {
        let mut message = [0; 8];
        message[..4].copy_from_slice(&2u32.to_le_bytes());
        message[4..].copy_from_slice(&self.code().to_le_bytes());
        message
    }
}

/// Whether a process of user `theirs` may be talked to by one of user `ours`.
pub(super) fn may_talk(ours: u32, theirs: u32) -> bool {
    ours == theirs || theirs == 0
}

fn nonce() -> io::Result<[u8; NONCE]> {
    selfproc::random()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

// ---- the hub's side ------------------------------------------------------------------------------------------------

/// A challenge that waits for its answer.
#[derive(Debug)]
pub(super) struct Challenge {
    nonce: [u8; NONCE],
}

impl Challenge {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { nonce: nonce()? })
    }

    /// As it is sent.
    pub(super) fn message(&self) -> [u8; CHALLENGE] {
        let mut message = [0; CHALLENGE];
        message[..8].copy_from_slice(&MAGIC);
        message[8..12].copy_from_slice(&VERSION.to_le_bytes());
        message[16..].copy_from_slice(&self.nonce);
        message
    }

    /// Checks `answer`, which came from the peer in `ends`. Returns the client's rights and the welcome.
    ///
    /// # Errors
    ///
    /// The reason for the refusal.
    pub(super) fn check(
        &self,
        key: &AuthKey,
        ends: &ConnectionEnds,
        answer: &[u8],
    ) -> Result<(ClientRights, [u8; WELCOME]), AdmissionRefusal> {
        if answer.len() < 4 || number(answer, 0) != VERSION {
            return Err(AdmissionRefusal::Version);
        }
        let answer: &[u8; ANSWER] = answer.try_into().map_err(|_| AdmissionRefusal::Key)?;
        let (said, mac) = answer.split_at(ANSWER - 32);
        let (role, nonce, said_ends) = (&said[4..8], &said[8..8 + NONCE], &said[8 + NONCE..]);
        let known = ClientRights::checked(number(role, 0)).ok_or(AdmissionRefusal::Key)?;
        if !key.verify(&[CLIENT, role, &self.nonce, nonce, said_ends], mac) {
            return Err(AdmissionRefusal::Key);
        }
        // Said by somebody who has the key, and to another than this hub, or by another than who is there.
        if said_ends != ends.bytes() {
            return Err(AdmissionRefusal::Relayed);
        }
        let mut welcome = [0; WELCOME];
        welcome[..4].copy_from_slice(&1u32.to_le_bytes());
        welcome[8..].copy_from_slice(&key.authenticate(&[HUB, role, nonce, &self.nonce, ends.bytes()]));
        Ok((known, welcome))
    }
}

// ---- a client's side -----------------------------------------------------------------------------------------------

/// A connection to a hub that knows this process as a client.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The socket to the hub. Blocking, closed on exec.
    pub(crate) socket: OwnedFd,
    /// The hub's process number; 0 if it is outside this process's pid namespace.
    pub(crate) hub_pid: u32,
    /// The hub's pidfd, which reports its end.
    pub(crate) hub: Pidfd,
}

/// Joins the hub at `address`.
///
/// # Errors
///
/// [`ManagerError`]; after `deadline` `TimedOut`, whatever has been said until then, or `Closed` if every connection until then was closed.
pub(crate) fn join(
    address: &Address,
    key: &AuthKey,
    role: ClientRights,
    deadline: Deadline,
) -> Result<Joined, ManagerError> {
    let (key, begun) = (key.clone().checked()?, Instant::now());
    let mut rest = FIRST_REST;
    let mut closed = None;
    loop {
        match join_once(address, &key, role, deadline, begun) {
            Err(error @ ManagerError::Closed { .. }) if !deadline.has_passed() => {
                closed = Some(error);
                std::thread::sleep(rest.min(deadline.left().unwrap_or(rest)));
                rest = LAST_REST.min(2 * rest);
            }
            // Of the last attempt, which had hardly any time.
            Err(late @ ManagerError::TimedOut { .. }) => return Err(closed.unwrap_or(late)),
            joined => return joined,
        }
    }
}

/// How long to wait before it is tried again, and again: where very many connect and do not answer, a hub may have closed a connection before it
/// could be answered; and one that is going closes it too.
const FIRST_REST: Duration = Duration::from_millis(1);
const LAST_REST: Duration = Duration::from_millis(64);

fn join_once(
    address: &Address,
    key: &AuthKey,
    role: ClientRights,
    deadline: Deadline,
    begun: Instant,
) -> Result<Joined, ManagerError> {
    let socket = connect(address, deadline, begun)?;
    let PeerCredentials { pid, uid } =
        listener::peer(&socket).map_err(|error| address.failed("finding out which process listens", error))?;
    let (ours, _) = selfproc::effective_ids();
    let guest = Unauthenticated { address, socket, pid: Some(pid).filter(|pid| *pid != 0), deadline, begun };
    if !may_talk(ours, uid) {
        return Err(ManagerError::OtherUser { address: address.to_string(), pid: guest.pid, theirs: uid, ours });
    }
    let hub = listener::peer_process(&guest.socket).map_err(|error| address.failed("watching the hub", error))?;
    let ends = ConnectionEnds::of_connected(&guest.socket, &hub, pid);
    guest.authenticate(
        key,
        role,
        &ends.map_err(|error| address.failed("identifying both ends of the connection", error))?,
    )?;
    Ok(Joined { socket: guest.socket, hub_pid: pid, hub })
}

/// How long to wait before another look at whether there is room for a connection.
const FULL: Duration = Duration::from_millis(1);

fn connect(address: &Address, deadline: Deadline, begun: Instant) -> Result<OwnedFd, ManagerError> {
    loop {
        if let Some(socket) = address.connect()? {
            return Ok(socket);
        }
        if deadline.has_passed() {
            let what = "its queue of waiting connections is full";
            return Err(ManagerError::TimedOut { address: address.to_string(), waited: begun.elapsed(), what });
        }
        std::thread::sleep(FULL);
    }
}

/// A process that is connected, and not yet a client.
struct Unauthenticated<'a> {
    address: &'a Address,
    socket: OwnedFd,
    pid: Option<u32>,
    deadline: Deadline,
    begun: Instant,
}

impl Unauthenticated<'_> {
    fn authenticate(&self, key: &AuthKey, role: ClientRights, ends: &ConnectionEnds) -> Result<(), ManagerError> {
        let challenge: [u8; CHALLENGE] = self.receive("it sent no challenge")?;
        if challenge[..8] != MAGIC {
            return Err(self.is_no_hub("it sent an invalid message"));
        }
        let theirs = number(&challenge, 8);
        if theirs != VERSION {
            return Err(ManagerError::Version { address: self.address.to_string(), ours: VERSION, theirs });
        }
        let failed = |error| self.address.failed("getting random numbers", error);
        let (hubs, own, role) = (&challenge[16..], nonce().map_err(failed)?, role.code().to_le_bytes());
        let mut answer = [0; ANSWER];
        answer[..4].copy_from_slice(&VERSION.to_le_bytes());
        answer[4..8].copy_from_slice(&role);
        answer[8..8 + NONCE].copy_from_slice(&own);
        answer[8 + NONCE..ANSWER - 32].copy_from_slice(ends.bytes());
        answer[ANSWER - 32..].copy_from_slice(&key.authenticate(&[CLIENT, &role, hubs, &own, ends.bytes()]));
        match socket::send(&self.socket, &answer, &[]) {
            // What it said before it closed may still be read.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(self.failed("answering", error)),
            _ => {}
        }
        let welcome: [u8; WELCOME] = self.receive("the hub neither accepted nor refused this process")?;
        let is_welcome = number(&welcome, 0) == 1 && key.verify(&[HUB, &role, &own, hubs, ends.bytes()], &welcome[8..]);
        if is_welcome { Ok(()) } else { Err(self.wrong_key()) }
    }

    /// A message of `N` bytes. A refusal, which may come instead of any, is an error.
    fn receive<const N: usize>(&self, what: &'static str) -> Result<[u8; N], ManagerError> {
        let mut buffer = [0; 128];
        let len = loop {
            match socket::receive(&self.socket, &mut buffer, BlockingMode::No) {
                Ok(Received::Closed) => return Err(ManagerError::Closed { address: self.address.to_string() }),
                Ok(Received::Message(len, descriptors)) => {
                    let brings_some = !descriptors.is_empty();
                    socket::discard(descriptors);
                    if brings_some {
                        return Err(self.is_no_hub("it sent descriptors before it proved that it has the key"));
                    }
                    break len;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(what)?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(self.is_no_hub("it sent a message that is too long"));
                }
                Err(error) => return Err(self.failed("receiving", error)),
            }
        };
        if len == 8 && number(&buffer, 0) == 2 {
            return Err(self.refused(number(&buffer, 4)));
        }
        let message = buffer[..len].try_into();
        message.map_err(|_| self.is_no_hub("it sent an invalid message"))
    }

    /// Waits until there is something to receive.
    fn wait(&self, what: &'static str) -> Result<(), ManagerError> {
        let left = self.deadline.left();
        if left.is_some_and(|left| left.is_zero()) {
            let waited = self.begun.elapsed();
            return Err(ManagerError::TimedOut { address: self.address.to_string(), waited, what });
        }
        let slice = left.unwrap_or(Duration::MAX).min(Duration::from_secs(3600));
        poll::readable(&self.socket, slice).map(drop).map_err(|error| self.failed("waiting", error))
    }

    fn refused(&self, code: u32) -> ManagerError {
        let (address, pid) = (self.address.to_string(), self.pid);
        match AdmissionRefusal::ALL.into_iter().find(|why| why.code() == code) {
            Some(AdmissionRefusal::Key) => self.wrong_key(),
            Some(AdmissionRefusal::Relayed) => ManagerError::Relayed { address, pid },
            Some(AdmissionRefusal::TooMany) => ManagerError::TooMany { address },
            Some(AdmissionRefusal::User) => self.is_no_hub("it accepts only processes of its own user and of root"),
            Some(AdmissionRefusal::Version) => ManagerError::NotAHub {
                address,
                pid,
                why: format!("it does not speak version {VERSION} of the protocol, which this process speaks"),
            },
            None => self.is_no_hub("it refused this process for a reason unknown to this version"),
        }
    }

    fn wrong_key(&self) -> ManagerError {
        ManagerError::WrongKey { address: self.address.to_string(), pid: self.pid }
    }

    fn is_no_hub(&self, why: &str) -> ManagerError {
        ManagerError::NotAHub { address: self.address.to_string(), pid: self.pid, why: why.into() }
    }

    fn failed(&self, what: &str, error: io::Error) -> ManagerError {
        self.address.failed(what, error)
    }
}
