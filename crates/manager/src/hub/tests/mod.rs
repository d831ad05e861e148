//! The hub as those see it who join it, and those who must not.

mod addresses;
mod admission;
mod locks;
mod misuse;
mod names;
mod pairs;
mod processes;

use super::*;
use crate::auth::{ANSWER, AdmissionRefusal, CHALLENGE, Challenge};
use crate::protocol::{Counters, FromHub, NameInfo, PairSide, Resolution, ToHub};
use crate::support::{self, Helper, TempDir, alone, eventually, helper, play, role, say, within};
use callgate_engine::control::{Control, Message};
use callgate_os::listener::{Connected, ConnectionEnds, SocketName};
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::pidfd::{Identity, Pidfd};
use callgate_os::socket::{BlockingMode, Exposed, Received};
use callgate_os::toll::{self, Credit};
use callgate_os::{memfd, poll};
use callgate_transport::backing::SealedMemfds;
use callgate_transport::bounds::hub::MAX_MESSAGE;
use callgate_transport::segment::Segment;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Instant;

/// What nothing here should take; against hangs only.
const LONG: Duration = Duration::from_secs(30);

fn secret() -> AuthKey {
    AuthKey::new("the key of these tests")
}

fn in_time() -> Deadline {
    Deadline::after(Some(LONG))
}

/// A hub in a directory of its own, which must be empty when it has stopped.
struct Scene {
    hub: Option<Hub>,
    address: Address,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(HubOptions::new())
    }

    fn with(options: HubOptions) -> Self {
        let directory = TempDir::new();
        // The hub makes the directory.
        let address = Address::from(&directory.file("run/hub"));
        let hub = Hub::start(&address, &secret(), options).expect("a hub");
        Self { hub: Some(hub), address, directory }
    }

    fn join(&self) -> Talk {
        self.join_as(ClientRights::Full)
    }

    fn join_as(&self, role: ClientRights) -> Talk {
        Talk::new(auth::join(&self.address, &secret(), role, in_time()).expect("a client"))
    }

    /// Connects, and says nothing.
    fn connect(&self) -> OwnedFd {
        connect(&self.address)
    }

    /// A new client is served.
    #[track_caller]
    fn serves(&self) {
        let client = self.join();
        assert_eq!(client.resolve("nobody's"), Resolution::None);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.hub.take());
        let left = files(&self.directory.path().join("run"));
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

/// An abstract address that no other process has.
fn own_address() -> Address {
    Address::from(support::address())
}

fn files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).expect("a directory").flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn connect(address: &Address) -> OwnedFd {
    loop {
        if let Some(socket) = address.connect().expect("somebody listens") {
            return socket;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What comes next, `None` if the other end is closed.
fn receive(socket: impl AsFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut buffer, deadline) = (vec![0; MAX_MESSAGE], Instant::now() + LONG);
    loop {
        match socket::receive_many(&socket, &mut buffer, BlockingMode::No) {
            Ok(Received::Message(len, descriptors)) => return Some((buffer[..len].to_vec(), descriptors)),
            Ok(Received::Closed) => return None,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < deadline, "nothing came");
        poll::readable(&socket, Duration::from_secs(1)).unwrap();
    }
}

fn is_closed(socket: impl AsFd) -> bool {
    receive(socket).is_none()
}

/// A client in the hands of a test.
struct Talk {
    joined: Joined,
    seq: Cell<u64>,
}

/// What came with an introduction.
struct ReceivedIntroduction {
    pair: u64,
    side: PairSide,
    pid: u32,
    segment: Segment,
    control: Control,
    _process: OwnedFd,
}

impl Talk {
    fn new(joined: Joined) -> Self {
        Self { joined, seq: Cell::new(100) }
    }

    fn next(&self) -> u64 {
        self.seq.set(self.seq.get() + 1);
        self.seq.get()
    }

    #[track_caller]
    fn say(&self, message: &ToHub) {
        let deadline = Instant::now() + LONG;
        let bytes = message.encode().expect("a message that is not too long");
        while let Err(error) = socket::send(&self.joined.socket, &bytes, &[]) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{message:?}");
            assert!(Instant::now() < deadline, "the hub does not listen");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[track_caller]
    fn hear_with(&self) -> (FromHub, Vec<OwnedFd>) {
        let (message, descriptors) = receive(&self.joined.socket).expect("the hub is there");
        (FromHub::decode(&message).expect("a message"), descriptors)
    }

    #[track_caller]
    fn hear(&self) -> FromHub {
        let (message, descriptors) = self.hear_with();
        assert!(descriptors.is_empty(), "{message:?}");
        message
    }

    fn is_out(&self) -> bool {
        is_closed(&self.joined.socket)
    }

    #[track_caller]
    fn say_register(&self, number: u32, name: &str, expires_ms: Option<u64>, replace: bool) {
        let (seq, name, signature) = (self.next(), name.into(), format!("signature {number}"));
        self.say(&ToHub::Register { seq, name, number, signature, expires_ms, replace });
    }

    #[track_caller]
    fn register_as(&self, number: u32, name: &str, expires_ms: Option<u64>, replace: bool) -> FromHub {
        self.say_register(number, name, expires_ms, replace);
        self.hear()
    }

    #[track_caller]
    fn register(&self, number: u32, name: &str) {
        let registered = self.register_as(number, name, None, false);
        assert_eq!(registered, FromHub::Registered { seq: self.seq.get() });
    }

    #[track_caller]
    fn resolve(&self, name: &str) -> Resolution {
        let seq = self.next();
        self.say(&ToHub::Resolve { seq, name: name.into() });
        match self.hear() {
            FromHub::Resolved { seq: answered, to } if answered == seq => to,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn introduction(&self) -> ReceivedIntroduction {
        let (message, descriptors) = self.hear_with();
        let FromHub::Introduced { pair, role, pid } = message else { panic!("{message:?}") };
        let mut descriptors = descriptors.into_iter();
        let segment = Segment::attach(&SealedMemfds, &mut descriptors).expect("a segment");
        let (control, process) = (descriptors.next().expect("a socket"), descriptors.next().expect("a pidfd"));
        assert!(descriptors.next().is_none());
        let control = Control::new(control);
        // The other side may have ended it already.
        let _ = control.send(Message::Mapped { segment: 0 }, None);
        ReceivedIntroduction { pair, side: role, pid, segment, control, _process: process }
    }

    /// Whether there is no such callback. Of one that there is, the owner does not answer.
    #[track_caller]
    fn finds_nobody(&self, name: &str) -> bool {
        self.say(&ToHub::Resolve { seq: self.next(), name: name.into() });
        loop {
            match self.hear_with().0 {
                FromHub::Resolved { to, .. } => return to == Resolution::None,
                FromHub::Refused { .. } => return false,
                FromHub::Introduced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Makes a pair with the owner of a callback: this side of it, that of the owner, and where the callback is.
    #[track_caller]
    fn pair_with(&self, owner: &Talk, name: &str) -> (ReceivedIntroduction, ReceivedIntroduction, Resolution) {
        self.say(&ToHub::Resolve { seq: self.next(), name: name.into() });
        let (here, there) = (self.introduction(), owner.introduction());
        match self.hear() {
            FromHub::Resolved { seq, to } if seq == self.seq.get() => (here, there, to),
            other => panic!("{other:?}"),
        }
    }

    fn acquire(&self, name: &str, permits: Option<u32>, deadline_ms: Option<u64>) -> u64 {
        let seq = self.next();
        let (name, permits_of_semaphore) = (name.into(), permits);
        self.say(&ToHub::Acquire { seq, name, permits_of_semaphore, deadline_ms });
        seq
    }

    /// The grant, and whether it was abandoned before.
    #[track_caller]
    fn granted(&self, asked: u64) -> (u64, bool) {
        match self.hear() {
            FromHub::Granted { seq, grant, abandoned } if seq == asked => (grant, abandoned),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(&self) -> String {
        match self.hear() {
            FromHub::Refused { seq, why } if seq == self.seq.get() => why,
            other => panic!("{other:?}"),
        }
    }

    /// All names, in how many messages.
    fn names(&self, of_own: &[Counters]) -> (Vec<NameInfo>, usize) {
        self.say(&ToHub::Names { seq: self.next() });
        let (mut all, mut messages) = (Vec::new(), 0);
        loop {
            match self.hear() {
                FromHub::Count { seq } => self.say(&ToHub::Counted { seq, counts: of_own.to_vec(), more: false }),
                FromHub::NamesAre { seq, names, more } if seq == self.seq.get() => {
                    (all, messages) = ([all, names].concat(), messages + 1);
                    if !more {
                        return (all, messages);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
