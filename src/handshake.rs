//! The handshake: what parent and child tell each other before the first call, over the control socket.
//!
//! Layer 3. The parent sends a [`Hello`] with the descriptors of the segment and of the doorbells, if they have any; the child answers with an [`Answer`]. Both begin with
//! magic and protocol version, which never change their place, so that any two versions can tell each other apart.

#![forbid(unsafe_code)]

use crate::doorbell::Wait;
use crate::frame::{decode_private, encode_to_vec};
use crate::layout::{MAGIC, PROTOCOL};
use crate::sys::socket::{self, Blocking, Received};
use rkyv::{Archive, Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The longest message of a handshake, in bytes.
const MAX_LEN: usize = 4096;

/// What the parent says.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// How rkyv archives in this build, see [`rkyv_format`].
    pub(crate) format: u64,
    /// The parent's build identity, and where in the executable the service's entry is; `None` for a separate executable.
    pub(crate) entry: Option<Entry>,
    /// The fingerprint of the service.
    pub(crate) fingerprint: u64,
    /// The parent's process number, to notice that it died before the child could ask to die with it.
    pub(crate) parent_pid: u32,
    /// The name for the child's main thread.
    pub(crate) name: String,
    /// How the worker waits, see [`wait_code`].
    pub(crate) wait: u64,
    /// What a side that sleeps is woken by, see [`Signal::code`](crate::signal::Signal::code).
    pub(crate) signal: u8,
    /// Where its memory objects are; empty if they come as descriptors.
    pub(crate) place: String,
    /// The longest payload, in bytes.
    pub(crate) max_payload: u64,
    /// How much memory it may keep idle, in bytes.
    pub(crate) retained: u64,
    /// Whether its parent trusts it, and so may look at what it writes where that lies.
    pub(crate) trusted: bool,
}

/// Where a service is in an executable of a known build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) build: u64,
    pub(crate) offset: u64,
}

/// What the child says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It serves; its process number.
    Ready { pid: u64 },
    /// Its protocol version is another.
    Protocol { version: u64 },
    /// Its archives have another format.
    Format { format: u64 },
    /// It is another build.
    Build { build: u64 },
    /// Its service has another fingerprint.
    Fingerprint { fingerprint: u64 },
    /// It is a separate executable that called `init` instead of `serve`.
    NotServing,
    /// It could not map the segment.
    Segment,
    /// It is a separate executable that serves with one worker, and the segment is for several.
    OneWorker,
}

impl Answer {
    fn to_words(self) -> (u64, u64) {
        match self {
            Answer::Ready { pid } => (1, pid),
            Answer::Protocol { version } => (2, version),
            Answer::Format { format } => (3, format),
            Answer::Build { build } => (4, build),
            Answer::Fingerprint { fingerprint } => (5, fingerprint),
            Answer::NotServing => (6, 0),
            Answer::Segment => (7, 0),
            Answer::OneWorker => (8, 0),
        }
    }

    fn checked(kind: u64, value: u64) -> Option<Self> {
        Some(match kind {
            1 => Answer::Ready { pid: value },
            2 => Answer::Protocol { version: value },
            3 => Answer::Format { format: value },
            4 => Answer::Build { build: value },
            5 => Answer::Fingerprint { fingerprint: value },
            6 => Answer::NotServing,
            7 => Answer::Segment,
            8 => Answer::OneWorker,
            _ => return None,
        })
    }
}

/// How rkyv archives numbers in this build: byte order, alignment and pointer width, which features of rkyv change.
pub(crate) fn rkyv_format() -> u64 {
    type Number = <u64 as Archive>::Archived;
    let one: <u16 as Archive>::Archived = 1.into();
    let parts = [
        8,
        u64::from(one == u16::from_le_bytes([1, 0])),
        align_of::<Number>() as u64,
        size_of::<<usize as Archive>::Archived>() as u64,
    ];
    parts.into_iter().fold(0, |format, part| format << 8 | part)
}

/// A way of waiting as a number: how long to poll in nanoseconds, or one of the two largest numbers.
pub(crate) fn wait_code(wait: Wait) -> u64 {
    match wait {
        Wait::Adaptive => ADAPTIVE,
        Wait::Spin => SPIN,
        Wait::SpinFor(time) => u64::try_from(time.as_nanos()).map_or(SPIN, |nanos| nanos.min(SPIN)),
        Wait::Park => 0,
    }
}

/// The inverse of [`wait_code`].
pub(crate) fn wait_from_code(code: u64) -> Wait {
    match code {
        ADAPTIVE => Wait::Adaptive,
        SPIN => Wait::Spin,
        0 => Wait::Park,
        nanos => Wait::SpinFor(Duration::from_nanos(nanos)),
    }
}

const ADAPTIVE: u64 = u64::MAX;
const SPIN: u64 = u64::MAX - 1;

fn prefix() -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix[..8].copy_from_slice(&MAGIC.to_le_bytes());
    prefix[8..12].copy_from_slice(&PROTOCOL.to_le_bytes());
    prefix
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The version in front of a message; the rest after it.
fn split_prefix(message: &[u8]) -> io::Result<(u32, &[u8])> {
    let (head, rest) = message.split_first_chunk::<16>().ok_or_else(|| invalid("a handshake message too short"))?;
    let (magic, version) = head.split_at(8);
    if magic != MAGIC.to_le_bytes() {
        return Err(invalid("a handshake message that is not callgate's"));
    }
    let version = version.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    Ok((version, rest))
}

impl Hello {
    /// Sends the parent's message, with the descriptors that it is about: the segment's first.
    pub(crate) fn send(&self, socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = encode_to_vec(self, MAX_LEN).map_err(|_| invalid("a name too long for the handshake"))?;
        let message = [&prefix()[..], &body].concat();
        socket::send(socket, &message, descriptors)
    }

    /// Receives the parent's message and its descriptors, the segment's first; `None` when the parent is gone, or has another protocol
    /// version, which it has then been told.
    pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<(Self, Vec<OwnedFd>)>> {
        let mut buffer = [0; MAX_LEN + 16];
        let Received::Message(len, descriptors) = socket::receive_many(&socket, &mut buffer, Blocking::Yes)? else {
            return Ok(None);
        };
        let (version, body) = split_prefix(&buffer[..len])?;
        if version != PROTOCOL {
            Answer::Protocol { version: PROTOCOL.into() }.send(socket)?;
            return Ok(None);
        }
        let hello = decode_private(body).ok_or_else(|| invalid("a handshake message that cannot be read"))?;
        Ok(Some((hello, descriptors)))
    }
}

impl Answer {
    /// Sends the child's message.
    pub(crate) fn send(self, socket: impl AsFd) -> io::Result<()> {
        let (kind, value) = self.to_words();
        let message = [&prefix()[..], &kind.to_le_bytes(), &value.to_le_bytes()].concat();
        socket::send(socket, &message, &[])
    }

    /// Receives the child's message, which must be there already; `None` when the child is gone.
    ///
    /// # Errors
    ///
    /// `InvalidData` for what no healthy child sends.
    pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Self>> {
        // Room for the answer of another version too, which may be longer.
        let mut buffer = [0; MAX_LEN + 16];
        let Received::Message(len, descriptors) = socket::receive(socket, &mut buffer, Blocking::No)? else {
            return Ok(None);
        };
        socket::discard(descriptors);
        let (version, body) = split_prefix(&buffer[..len])?;
        if version != PROTOCOL {
            return Ok(Some(Answer::Protocol { version: version.into() }));
        }
        let word = |at: usize| body.get(8 * at..8 * at + 8).and_then(|bytes| bytes.first_chunk().copied());
        let words = word(0).zip(word(1)).filter(|_| body.len() == 16);
        let answer = words.and_then(|(kind, value)| Self::checked(u64::from_le_bytes(kind), u64::from_le_bytes(value)));
        answer.map(Some).ok_or_else(|| invalid("a handshake answer of unknown kind"))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            format: rkyv_format(),
            entry: Some(Entry { build: 1, offset: 2 }),
            fingerprint: 3,
            parent_pid: 4,
            name: "counter".into(),
            wait: wait_code(Wait::Park),
            signal: 1,
            place: "/somewhere".into(),
            max_payload: 5,
            retained: 6,
            trusted: true,
        }
    }

    #[test]
    fn both_messages_arrive_as_sent() {
        let (parent, child) = socket::pair().unwrap();
        hello().send(&parent, &[parent.as_fd(); 65]).unwrap();
        let (received, descriptors) = Hello::receive(&child).unwrap().unwrap();
        assert_eq!((received, descriptors.len()), (hello(), 65));
        for answer in [
            Answer::Ready { pid: 9 },
            Answer::Build { build: 8 },
            Answer::NotServing,
            Answer::Segment,
            Answer::OneWorker,
        ] {
            answer.send(&child).unwrap();
            assert_eq!(Answer::receive(&parent).unwrap(), Some(answer));
        }
    }

    #[test]
    fn another_version_is_told_apart_before_anything_else_is_read() {
        let (parent, child) = socket::pair().unwrap();
        let mut message = [&prefix()[..], b"anything"].concat();
        message[8] = 99;
        socket::send(&parent, &message, &[parent.as_fd()]).unwrap();
        assert!(Hello::receive(&child).unwrap().is_none());
        assert_eq!(Answer::receive(&parent).unwrap(), Some(Answer::Protocol { version: PROTOCOL.into() }));
    }

    #[test]
    fn what_no_healthy_child_says_is_refused() {
        let (parent, child) = socket::pair().unwrap();
        for message in [&[0u8; 32][..], b"callgate", &[prefix(), [9; 16]].concat(), &prefix()] {
            socket::send(&child, message, &[]).unwrap();
            assert_eq!(Answer::receive(&parent).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
