//! The handshake: what parent and child tell each other over the control socket before the first call.
//!
//! The parent sends a [`Hello`] with the descriptors of the segment and of the doorbells, if they have any; the child answers with an [`Answer`].
//! Both begin with magic and protocol version, which never move, so that any two versions can tell each other apart. The plan of the child's sandbox,
//! if it gets one, follows the greeting as a message of its own.

#![forbid(unsafe_code)]

use callgate_os::socket::{self, BlockingMode, Received};
use callgate_transport::bounds::{MAX_BODY, MAX_TEXT};
use callgate_transport::copy_buffer::decode_private;
use callgate_transport::encode::encode_to_vec;
use callgate_transport::layout::{MAGIC, PROTOCOL};
use rkyv::{Archive, Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The longest plan of a sandbox, in bytes.
pub const MAX_PLAN: usize = 64 << 10;

/// The parent's message.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Hello {
    /// The archive format of this build, see [`rkyv_format`].
    pub format: u64,
    /// The parent's build identity, and the offset of the service's entry in the executable; `None` for a separate executable.
    pub entry: Option<Entry>,
    /// The fingerprint of the service.
    pub fingerprint: u64,
    /// The numbers of its bridged traits, if the child is a separate executable.
    pub interfaces: Vec<u64>,
    /// The parent's pid, by which the child notices that the parent died before the child could ask to die with it.
    pub parent_pid: u32,
    /// The name for the child's main thread.
    pub name: String,
    /// How the worker waits, see [`wait_code`](callgate_transport::doorbell::wait_code).
    pub wait: u64,
    /// How a sleeping side is woken, see [`Signal::code`](callgate_transport::wake::Signal::code).
    pub signal: u8,
    /// The directory of its memory objects; empty if they come as descriptors.
    pub place: String,
    /// The longest payload, in bytes.
    pub max_payload: u64,
    /// How many bytes of memory it may keep idle.
    pub retained: u64,
    /// Whether the parent trusts it, and may read its payloads in place.
    pub trusted: bool,
    /// Whether a sandbox plan follows.
    pub sandboxed: bool,
}

/// What the parent has told a child.
#[derive(Debug)]
pub struct Greeting {
    pub hello: Hello,
    /// The descriptors, the segment's first.
    pub descriptors: Vec<OwnedFd>,
    /// The sandbox plan.
    pub plan: Option<Vec<u8>>,
}

/// The position of a service's entry in an executable of a known build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Entry {
    pub build: u64,
    pub offset: u64,
}

/// The child's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It serves; its pid. The body reports on its sandbox, if it has one.
    Ready { pid: u64 },
    /// It has another protocol version.
    Protocol { version: u64 },
    /// It has another archive format.
    Format { format: u64 },
    /// It is another build.
    Build { build: u64 },
    /// Its service has another fingerprint.
    Fingerprint { fingerprint: u64 },
    /// Its service has no bridged trait with this number.
    Interface { interface: u64 },
    /// It is a separate executable that called `init` instead of `serve`.
    NotServing,
    /// It could not map the segment: the system's error, or 0 if it does not know such segments.
    Segment { error: u64 },
    /// It is a separate executable that serves with one worker, and the segment is for several.
    OneWorker,
    /// A sandbox was requested, and it was built without.
    NoSandbox,
    /// It could not enter its sandbox: the code of the measure. The body says why.
    Unconfined { measure: u64 },
    /// This many threads ran already when it came to `init`; or, if only one did, something waited for descriptors. Sent before the greeting.
    TooLate { threads: u64 },
    /// It could not become a child, perhaps before the greeting. The body says why.
    Failed,
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
            Answer::Segment { error } => (7, error),
            Answer::OneWorker => (8, 0),
            Answer::NoSandbox => (9, 0),
            Answer::Unconfined { measure } => (10, measure),
            Answer::TooLate { threads } => (11, threads),
            Answer::Interface { interface } => (12, interface),
            Answer::Failed => (13, 0),
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
            7 => Answer::Segment { error: value },
            8 => Answer::OneWorker,
            9 => Answer::NoSandbox,
            10 => Answer::Unconfined { measure: value },
            11 => Answer::TooLate { threads: value },
            12 => Answer::Interface { interface: value },
            13 => Answer::Failed,
            _ => return None,
        })
    }

    /// Whether a body may follow.
    pub fn has_body(self) -> bool {
        matches!(self, Answer::Ready { .. } | Answer::Unconfined { .. } | Answer::Failed)
    }
}

/// The archive format of this build: byte order, alignment and pointer width, which rkyv's features change.
pub fn rkyv_format() -> u64 {
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

fn prefix() -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix[..8].copy_from_slice(&MAGIC.to_le_bytes());
    prefix[8..12].copy_from_slice(&PROTOCOL.to_le_bytes());
    prefix
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Splits a message into its version and the rest.
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
    /// Sends the parent's message with its descriptors, the segment's first.
    pub fn send(&self, socket: impl AsFd, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = encode_to_vec(self, MAX_TEXT).map_err(|_| invalid("a name too long for the handshake"))?;
        let message = [&prefix()[..], &body].concat();
        socket::send(socket, &message, descriptors)
    }

    /// Receives the parent's message with its descriptors, and the plan if one follows; `None` if the parent is gone, or has another protocol
    /// version, of which it has then been told.
    pub fn receive(socket: impl AsFd) -> io::Result<Option<Greeting>> {
        let mut buffer = [0; MAX_TEXT + 16];
        let Received::Message(len, descriptors) = socket::receive_many(&socket, &mut buffer, BlockingMode::Yes)? else {
            return Ok(None);
        };
        let (version, body) = split_prefix(&buffer[..len])?;
        if version != PROTOCOL {
            Answer::Protocol { version: PROTOCOL.into() }.send(socket, &[])?;
            return Ok(None);
        }
        let hello: Hello = decode_private(body).ok_or_else(|| invalid("a handshake message that cannot be read"))?;
        let plan = match hello.sandboxed {
            true => match receive_plan(socket)? {
                Some(plan) => Some(plan),
                None => return Ok(None),
            },
            false => None,
        };
        Ok(Some(Greeting { hello, descriptors, plan }))
    }
}

/// Sends a sandbox plan of at most [`MAX_PLAN`] bytes, which the greeting has announced.
pub fn send_plan(socket: impl AsFd, plan: &[u8]) -> io::Result<()> {
    socket::send(socket, &[&prefix()[..], plan].concat(), &[])
}

fn receive_plan(socket: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_PLAN + 16];
    let Received::Message(len, _) = socket::receive(socket, &mut buffer, BlockingMode::Yes)? else { return Ok(None) };
    let (_, plan) = split_prefix(&buffer[..len])?;
    Ok(Some(plan.to_vec()))
}

impl Answer {
    /// Sends the child's message. `body` is empty or detail for that kind, at most [`MAX_BODY`] bytes.
    pub fn send(self, socket: impl AsFd, body: &[u8]) -> io::Result<()> {
        let (kind, value) = self.to_words();
        let message = [&prefix()[..], &kind.to_le_bytes(), &value.to_le_bytes(), body].concat();
        socket::send(socket, &message, &[])
    }

    /// Receives the child's message and its body; the message must be there already. `None` if the child is gone.
    ///
    /// # Errors
    ///
    /// `InvalidData` for what no healthy child sends.
    pub fn receive(socket: impl AsFd) -> io::Result<Option<(Self, Vec<u8>)>> {
        // Leaves room for the answer of another version, which may be longer.
        let mut buffer = [0; MAX_BODY + 32];
        let Received::Message(len, descriptors) = socket::receive(socket, &mut buffer, BlockingMode::No)? else {
            return Ok(None);
        };
        socket::discard(descriptors);
        let (version, rest) = split_prefix(&buffer[..len])?;
        if version != PROTOCOL {
            return Ok(Some((Answer::Protocol { version: version.into() }, Vec::new())));
        }
        let unknown = || invalid("a handshake answer of unknown kind");
        let (words, body) = rest.split_first_chunk::<16>().ok_or_else(unknown)?;
        let word = |at: usize| words[8 * at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let answer = Self::checked(word(0), word(1)).filter(|answer| body.is_empty() || answer.has_body());
        answer.map(|answer| Some((answer, body.to_vec()))).ok_or_else(unknown)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_transport::doorbell::{Wait, wait_code};

    fn hello() -> Hello {
        Hello {
            format: rkyv_format(),
            entry: Some(Entry { build: 1, offset: 2 }),
            fingerprint: 3,
            interfaces: vec![7, 8],
            parent_pid: 4,
            name: "counter".into(),
            wait: wait_code(Wait::Park),
            signal: 1,
            place: "/somewhere".into(),
            max_payload: 5,
            retained: 6,
            trusted: true,
            sandboxed: false,
        }
    }

    #[test]
    fn both_messages_arrive_as_sent() {
        let (parent, child) = socket::pair().unwrap();
        hello().send(&parent, &[parent.as_fd(); 65]).unwrap();
        let received = Hello::receive(&child).unwrap().unwrap();
        assert_eq!((received.hello, received.descriptors.len(), received.plan), (hello(), 65, None));
        for answer in [
            Answer::Ready { pid: 9 },
            Answer::Build { build: 8 },
            Answer::NotServing,
            Answer::Segment { error: 12 },
            Answer::OneWorker,
            Answer::NoSandbox,
            Answer::Unconfined { measure: 7 },
            Answer::TooLate { threads: 3 },
        ] {
            answer.send(&child, &[]).unwrap();
            assert_eq!(Answer::receive(&parent).unwrap(), Some((answer, vec![])));
        }
    }

    #[test]
    fn plans_and_what_comes_of_them_arrive_as_sent() {
        let (parent, child) = socket::pair().unwrap();
        let plan = vec![7; MAX_PLAN];
        Hello { sandboxed: true, ..hello() }.send(&parent, &[]).unwrap();
        send_plan(&parent, &plan).unwrap();
        assert_eq!(Hello::receive(&child).unwrap().unwrap().plan, Some(plan));
        for answer in [Answer::Ready { pid: 9 }, Answer::Unconfined { measure: 7 }, Answer::Failed] {
            answer.send(&child, &[8; MAX_BODY]).unwrap();
            assert_eq!(Answer::receive(&parent).unwrap(), Some((answer, vec![8; MAX_BODY])));
        }
        Answer::NotServing.send(&child, b"more").unwrap();
        assert_eq!(Answer::receive(&parent).unwrap_err().kind(), io::ErrorKind::InvalidData);
        Answer::Ready { pid: 9 }.send(&child, &[8; MAX_BODY + 1]).unwrap();
        assert!(Answer::receive(&parent).is_err());
    }

    /// The kernel reports what the child has not read before it hands out what the child has sent.
    #[test]
    fn the_answer_of_a_child_that_is_gone_and_has_not_read_everything_is_heard() {
        let (parent, child) = socket::pair().unwrap();
        hello().send(&parent, &[]).unwrap();
        Answer::NoSandbox.send(&child, &[]).unwrap();
        drop(child);
        assert_eq!(Answer::receive(&parent).unwrap(), Some((Answer::NoSandbox, vec![])));
        assert_eq!(Answer::receive(&parent).unwrap(), None);
    }

    #[test]
    fn another_version_is_told_apart_before_anything_else_is_read() {
        let (parent, child) = socket::pair().unwrap();
        let mut message = [&prefix()[..], b"anything"].concat();
        message[8] = 99;
        socket::send(&parent, &message, &[parent.as_fd()]).unwrap();
        assert!(Hello::receive(&child).unwrap().is_none());
        assert_eq!(Answer::receive(&parent).unwrap(), Some((Answer::Protocol { version: PROTOCOL.into() }, vec![])));
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
