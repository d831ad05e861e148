//! The hub as those see it who join it, and those who must not.

#[path = "../../../tests/support/mod.rs"]
mod support;

use super::*;
use crate::control::{Control, Message};
use crate::manager::auth::{ANSWER, CHALLENGE, Challenge, Refusal};
use crate::manager::protocol::{Counters, FromHub, MAX_MESSAGE, NameInfo, Resolution, Side, ToHub};
use crate::objects::Sealed;
use crate::segment::Segment;
use crate::sys::listener::{Connected, Name};
use crate::sys::mapping::{Access, Mapping};
use crate::sys::socket::{Blocking, Received};
use crate::sys::{memfd, poll};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Instant;
use support::{Helper, TempDir, eventually, helper, play, role, say, within};

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
        self.join_as(Role::Member)
    }

    fn join_as(&self, role: Role) -> Talk {
        Talk::new(auth::join(&self.address, &secret(), role, in_time()).expect("a member"))
    }

    /// Connects, and says nothing.
    fn connect(&self) -> OwnedFd {
        connect(&self.address)
    }

    /// A new member is served.
    #[track_caller]
    fn serves(&self) {
        let member = self.join();
        assert_eq!(member.resolve("nobody's"), Resolution::None);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.hub.take());
        let left = files(&self.directory.path().join("run"));
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
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
        match socket::receive_many(&socket, &mut buffer, Blocking::No) {
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

/// A member in the hands of a test.
struct Talk {
    joined: Joined,
    seq: Cell<u64>,
}

/// What came with an introduction.
struct Introduction {
    pair: u64,
    side: Side,
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
    fn register_as(&self, number: u32, name: &str, expires_ms: Option<u64>, replace: bool) -> FromHub {
        let (seq, name, signature) = (self.next(), name.into(), format!("signature {number}"));
        self.say(&ToHub::Register { seq, name, number, signature, expires_ms, replace });
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
    fn introduction(&self) -> Introduction {
        let (message, descriptors) = self.hear_with();
        let FromHub::Introduced { pair, role, pid } = message else { panic!("{message:?}") };
        let mut descriptors = descriptors.into_iter();
        let segment = Segment::attach(&Sealed, &mut descriptors).expect("a segment");
        let (control, process) = (descriptors.next().expect("a socket"), descriptors.next().expect("a pidfd"));
        assert!(descriptors.next().is_none());
        Introduction { pair, side: role, pid, segment, control: Control::new(control), _process: process }
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

// ---- who is let in -------------------------------------------------------------------------------------------------

#[test]
fn members_join_and_know_the_hub() {
    within(60, "members_join_and_know_the_hub", || {
        let scene = Scene::new();
        let (of_hub, other) = (Talk::new(scene.hub.as_ref().unwrap().join().unwrap()), scene.join());
        for member in [&of_hub, &other] {
            assert_eq!(member.joined.hub_pid, std::process::id());
            assert!(!poll::readable(&member.joined.hub, Duration::ZERO).unwrap(), "the hub lives");
        }
        of_hub.register(1, "a");
        assert!(
            matches!(other.register_as(1, "a", None, false), FromHub::Taken { owner, .. } if owner == std::process::id())
        );
        let mode = fs::metadata(scene.directory.path().join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        drop(scene);
        assert_eq!((of_hub.hear(), other.hear()), (FromHub::Closing, FromHub::Closing));
        assert!(of_hub.is_out() && other.is_out());
    });
}

#[test]
fn who_has_another_key_or_none_is_not_let_in() {
    within(60, "who_has_another_key_or_none_is_not_let_in", || {
        let scene = Scene::new();
        let join = |key: AuthKey| auth::join(&scene.address, &key, Role::Member, in_time());
        let error = join(AuthKey::new("another key")).unwrap_err();
        assert!(matches!(error, ManagerError::WrongKey { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&scene.address.to_string()), "{error}");
        assert!(matches!(join(AuthKey::new("")), Err(ManagerError::Key { .. })));
        let hub = Hub::start(&Address::from("@callgate-no-key"), &AuthKey::new(""), HubOptions::new());
        assert!(matches!(hub, Err(ManagerError::Key { .. })));
        scene.serves();
    });
}

/// The answer of somebody who has the key, to a challenge that was received.
fn answer(challenge: &[u8]) -> Vec<u8> {
    let (role, own) = (1u32.to_le_bytes(), [7; 32]);
    let mac = secret().authenticate(&[b"callgate manager 1: member", &role, &challenge[16..], &own]);
    [&1u32.to_le_bytes()[..], &role, &own, &mac].concat()
}

#[test]
fn nothing_that_was_said_before_lets_anybody_in() {
    within(60, "nothing_that_was_said_before_lets_anybody_in", || {
        let scene = Scene::new();
        let refused = Some(Refusal::Key.message().to_vec());
        let said = |message: &dyn Fn(&[u8]) -> Vec<u8>| {
            let socket = scene.connect();
            let (challenge, _) = receive(&socket).unwrap();
            assert_eq!(challenge.len(), CHALLENGE);
            socket::send(&socket, &message(&challenge), &[]).unwrap();
            (receive(&socket).map(|(message, _)| message), socket)
        };
        // By hand, to see that it is the answers below that are wrong.
        let (welcome, member) = said(&answer);
        let welcome = welcome.unwrap();
        assert_eq!((welcome.len(), welcome[0]), (40, 1));
        // A recorded answer.
        let recorded = Cell::new(Vec::new());
        let (good, _) = said(&|challenge| {
            recorded.set(answer(challenge));
            answer(challenge)
        });
        assert_eq!(good.unwrap()[0], 1);
        let recorded = recorded.take();
        let (replayed, socket) = said(&|_| recorded.clone());
        assert_eq!(replayed, refused);
        assert!(is_closed(socket));
        // What the hub itself said: its code in the place of a member's, for its nonce in the place of a member's.
        let (reflected, _) =
            said(&|challenge| [&1u32.to_le_bytes()[..], &1u32.to_le_bytes(), &challenge[16..], &welcome[8..]].concat());
        assert_eq!(reflected, refused);
        // The challenge, sent back.
        let (reflected, _) = said(&|challenge| challenge.to_vec());
        assert_eq!(reflected, Some(Refusal::Version.message().to_vec()));
        // One bit of each byte.
        for at in 0..ANSWER {
            let (flipped, socket) = said(&|challenge| {
                let mut flipped = answer(challenge);
                flipped[at] ^= 0x10;
                flipped
            });
            let why = if at < 4 { Refusal::Version } else { Refusal::Key };
            assert_eq!(flipped, Some(why.message().to_vec()), "byte {at}");
            assert!(is_closed(socket));
        }
        for len in [0, 1, ANSWER - 1, ANSWER + 1] {
            let (cut, _) = said(&|challenge| [answer(challenge), vec![0]].concat()[..len].to_vec());
            assert!(cut.is_none_or(|message| message[0] == 2), "{len} bytes");
        }
        drop(member);
        scene.serves();
    });
}

/// A listener that is no hub, and goes with the test.
struct Impostor {
    socket: OwnedFd,
    /// Dropped to end the thread.
    goes_on: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    /// `talk` has each connection until it returns.
    fn new(address: &Address, mut talk: impl FnMut(OwnedFd) + Send + 'static) -> Self {
        let socket = listen(address);
        let theirs = socket.try_clone().unwrap();
        let (goes_on, ended) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                match listener::accept(&theirs).unwrap() {
                    Some(socket) => talk(socket),
                    None => drop(poll::readable(&theirs, LONG)),
                }
            }
        });
        Self { socket, goes_on: Some(goes_on), thread: Some(thread) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        drop(self.goes_on.take());
        listener::close_for_all(&self.socket);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking(), "the impostor saw something else");
    }
}

fn listen(address: &Address) -> OwnedFd {
    let name = address.to_string();
    let socket = listener::bind(Name::Abstract(&name.as_bytes()[1..])).unwrap();
    listener::listen(&socket).unwrap();
    socket
}

fn own_name(name: &str) -> Address {
    Address::abstract_name(format!("callgate-test-{}-{name}", std::process::id()))
}

#[test]
fn a_member_is_not_taken_in_by_who_has_not_the_key() {
    within(60, "a_member_is_not_taken_in_by_who_has_not_the_key", || {
        type Talk = fn(OwnedFd);
        let cases: [(&str, Talk); 8] = [
            ("reflects", |socket| {
                socket::send(&socket, &Challenge::new().unwrap().message(), &[]).unwrap();
                let (answer, _) = receive(&socket).unwrap();
                let welcome = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &answer[40..]].concat();
                socket::send(&socket, &welcome, &[]).unwrap();
                assert!(is_closed(socket));
            }),
            ("another key", |socket| {
                let challenge = Challenge::new().unwrap();
                socket::send(&socket, &challenge.message(), &[]).unwrap();
                let (answer, _) = receive(&socket).unwrap();
                assert_eq!(challenge.check(&AuthKey::new("another"), &answer), Err(Refusal::Key));
                let (_, mut welcome) = challenge.check(&secret(), &answer).unwrap();
                welcome[39] ^= 1;
                socket::send(&socket, &welcome, &[]).unwrap();
                assert!(is_closed(socket));
            }),
            ("says hello", |socket| socket::send(&socket, b"hello", &[]).unwrap()),
            ("says much", |socket| socket::send(&socket, &[7; 5000], &[]).unwrap()),
            ("closes", drop),
            ("other version", |socket| {
                let mut challenge = Challenge::new().unwrap().message();
                challenge[8] = 9;
                socket::send(&socket, &challenge, &[]).unwrap();
            }),
            ("descriptors", |socket| {
                let challenge = Challenge::new().unwrap().message();
                socket::send(&socket, &challenge, &[socket.as_fd()]).unwrap();
                assert!(is_closed(&socket) || !is_closed(&socket));
            }),
            ("refuses", |socket| socket::send(&socket, &Refusal::TooMany.message(), &[]).unwrap()),
        ];
        for (case, talk) in cases {
            let address = own_name(case);
            let impostor = Impostor::new(&address, talk);
            let error = auth::join(&address, &secret(), Role::Member, in_time()).unwrap_err();
            drop(impostor);
            let is_right = match case {
                "reflects" | "another key" => matches!(error, ManagerError::WrongKey { .. }),
                "closes" => matches!(error, ManagerError::Closed { .. }),
                "other version" => matches!(error, ManagerError::Version { ours: 1, theirs: 9, .. }),
                "refuses" => matches!(error, ManagerError::TooMany { .. }),
                _ => matches!(error, ManagerError::NotAHub { .. }),
            };
            assert!(is_right, "{case}: {error}");
        }
    });
}

#[test]
fn an_address_that_does_not_answer_is_given_up_in_time() {
    within(60, "an_address_that_does_not_answer_is_given_up_in_time", || {
        let soon = || Deadline::after(Some(Duration::from_millis(100)));
        let join = |address: &Address| auth::join(address, &secret(), Role::Member, soon());
        // Nobody there.
        let nobody = own_name("nobody");
        assert!(matches!(join(&nobody), Err(ManagerError::NobodyListens { .. })));
        let directory = TempDir::new();
        let nowhere = Address::from(&directory.file("not/there"));
        assert!(matches!(join(&nowhere), Err(ManagerError::NobodyListens { .. })));
        // Nobody accepts; somebody accepts and says nothing; somebody stops in the middle.
        let silent = own_name("silent");
        let _silent = listen(&silent);
        let begun = Instant::now();
        let is_timeout = |error: &ManagerError| matches!(error, ManagerError::TimedOut { .. });
        assert!(is_timeout(&join(&silent).unwrap_err()));
        assert!(begun.elapsed() >= Duration::from_millis(100));
        let elected = start_or_join(&silent, &secret(), HubOptions::new(), soon());
        assert!(is_timeout(&elected.map(|_| "joined").unwrap_err()));
        let halfway = own_name("halfway");
        let impostor = Impostor::new(&halfway, |socket| {
            socket::send(&socket, &Challenge::new().unwrap().message(), &[]).unwrap();
            assert!(receive(&socket).is_some() && is_closed(&socket));
        });
        assert!(is_timeout(&join(&halfway).unwrap_err()));
        drop(impostor);
        // There is no room for another connection.
        let full = own_name("full");
        let name = full.to_string();
        let name = Name::Abstract(&name.as_bytes()[1..]);
        let socket = listener::bind(name).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let mut waiting = Vec::new();
        while let Connected::Yes(socket) = listener::connect(name).unwrap() {
            waiting.push(socket);
        }
        assert!(is_timeout(&join(&full).unwrap_err()));
    });
}

#[test]
fn who_says_too_much_is_dropped() {
    within(60, "who_says_too_much_is_dropped", || {
        let scene = Scene::new();
        let guest = scene.connect();
        socket::send(&guest, &vec![7; MAX_MESSAGE + 1], &[]).unwrap();
        assert!(receive(&guest).is_some() && is_closed(&guest));
        let other = scene.join();
        for nonsense in [vec![7; MAX_MESSAGE + 1], vec![7; MAX_MESSAGE], vec![0xff; 100], vec![1]] {
            let member = scene.join();
            member.register(1, "a");
            socket::send(&member.joined.socket, &nonsense, &[]).unwrap();
            assert!(member.is_out(), "{} bytes", nonsense.len());
            assert_eq!(other.resolve("a"), Resolution::None, "what it had is gone");
        }
    });
}

#[test]
fn who_does_not_answer_is_dropped() {
    within(60, "who_does_not_answer_is_dropped", || {
        let scene = Scene::with(HubOptions::new().handshake_timeout(Duration::from_millis(100)));
        let begun = Instant::now();
        let (first, second) = (scene.connect(), scene.connect());
        for guest in [first, second] {
            assert!(receive(&guest).is_some() && is_closed(&guest));
        }
        assert!(begun.elapsed() >= Duration::from_millis(100));
        // Members may be silent as long as they like.
        let member = scene.join();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(member.resolve("a"), Resolution::None);
    });
}

#[test]
fn a_thousand_who_never_answer_keep_nobody_out() {
    within(120, "a_thousand_who_never_answer_keep_nobody_out", || {
        let scene = Scene::new();
        let member = scene.join();
        let mut guests = Vec::new();
        for count in 0..1000 {
            guests.push(scene.connect());
            if count % 100 == 0 {
                assert_eq!(member.resolve("a"), Resolution::None);
                scene.serves();
            }
            // This process has its limit of descriptors, too.
            if guests.len() > 200 {
                assert!(guests.drain(..100).all(|guest| receive(&guest).is_none_or(|_| is_closed(guest))));
            }
        }
        assert_eq!(member.resolve("a"), Resolution::None);
        scene.serves();
    });
}

#[test]
fn who_has_the_key_gets_in_through_a_crowd() {
    within(120, "who_has_the_key_gets_in_through_a_crowd", || {
        let scene = Scene::new();
        std::thread::scope(|scope| {
            let (stop, stopped) = mpsc::channel::<()>();
            let address = &scene.address;
            scope.spawn(move || {
                let mut crowd = VecDeque::new();
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    crowd.push_back(connect(address));
                    if crowd.len() > 100 {
                        crowd.pop_front();
                    }
                }
            });
            let join = || auth::join(&scene.address, &secret(), Role::Member, in_time());
            for _ in 0..20 {
                assert!(eventually(60, "somebody gets in", || match join() {
                    Ok(joined) => Talk::new(joined).resolve("nobody's") == Resolution::None,
                    Err(ManagerError::Closed { .. }) => false,
                    Err(error) => panic!("{error}"),
                }));
            }
            drop(stop);
        });
    });
}

#[test]
fn there_are_so_many_members_and_no_more() {
    within(60, "there_are_so_many_members_and_no_more", || {
        let scene = Scene::with(HubOptions::new().max_members(2));
        let (first, _second) = (scene.join(), Talk::new(scene.hub.as_ref().unwrap().join().unwrap()));
        let third = auth::join(&scene.address, &secret(), Role::Member, in_time());
        assert!(matches!(third, Err(ManagerError::TooMany { .. })));
        assert!(scene.hub.as_ref().unwrap().join().is_err());
        drop(first);
        let joined = || auth::join(&scene.address, &secret(), Role::Member, in_time());
        assert!(eventually(30, "there is room again", || joined().is_ok()));
    });
}

#[test]
fn options_out_of_range_start_no_hub() {
    within(60, "options_out_of_range_start_no_hub", || {
        let address = own_name("options");
        let new = HubOptions::new;
        for (option, options) in [
            ("handshake_timeout", new().handshake_timeout(Duration::ZERO)),
            ("max_members", new().max_members(0)),
            ("max_members", new().max_members(1025)),
            ("memory_per_member", new().memory_per_member(1)),
            ("lanes", new().lanes(65)),
        ] {
            match Hub::start(&address, &secret(), options) {
                Err(ManagerError::Option { option: named, .. }) => assert_eq!(named, option),
                other => panic!("{other:?}"),
            }
        }
    });
}

// ---- addresses -----------------------------------------------------------------------------------------------------

#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    within(60, "a_directory_that_others_can_write_to_is_refused", || {
        let directory = TempDir::new();
        let run = directory.path().join("run");
        fs::create_dir(&run).unwrap();
        let address = Address::from(&run.join("hub"));
        let squatted = |address: &Address| {
            let started = Hub::start(address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(address, &secret(), Role::Member, in_time()).map(drop);
            for tried in [started, joined] {
                match tried {
                    Err(ManagerError::Squatted { path, .. }) => assert_eq!(path, address_directory(address)),
                    other => panic!("{address}: {other:?}"),
                }
            }
        };
        for mode in [0o777, 0o770, 0o702, 0o720, 0o1777] {
            fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
            squatted(&address);
        }
        for mode in [0o700, 0o755] {
            fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
            Hub::start(&address, &secret(), HubOptions::new()).expect("a directory of one's own").stop();
        }
        // A link of one's own leads where it leads.
        let link = directory.path().join("link");
        symlink(&run, &link).unwrap();
        Hub::start(&Address::from(&link.join("hub")), &secret(), HubOptions::new()).unwrap().stop();
        if chown(&run, Some(65534), None).is_ok() {
            squatted(&address);
            chown(&run, Some(0), None).unwrap();
            std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
            squatted(&Address::from(&link.join("hub")));
        }
        let file = Address::from(&directory.file("file/hub"));
        fs::write(directory.file("file"), "").unwrap();
        squatted(&file);
        assert_eq!(files(&run), Vec::<String>::new());
    });
}

fn address_directory(address: &Address) -> std::path::PathBuf {
    Path::new(&address.to_string()).parent().unwrap().into()
}

#[test]
fn what_is_no_socket_is_left_alone() {
    within(60, "what_is_no_socket_is_left_alone", || {
        let directory = TempDir::new();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(directory.file("file"), "precious").unwrap();
        fs::create_dir(directory.file("directory")).unwrap();
        symlink(directory.file("file"), directory.file("link")).unwrap();
        for name in ["file", "directory", "link"] {
            let address = Address::from(&directory.file(name));
            let started = Hub::start(&address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(&address, &secret(), Role::Member, in_time()).map(drop);
            let elected = start_or_join(&address, &secret(), HubOptions::new(), in_time()).map(drop);
            for tried in [started, joined, elected] {
                assert!(matches!(tried, Err(ManagerError::NotASocket { .. })), "{name}: {tried:?}");
            }
        }
        assert_eq!(fs::read_to_string(directory.file("file")).unwrap(), "precious");
        let mut left = files(directory.path());
        left.sort();
        assert_eq!(left, ["directory", "file", "link"]);
    });
}

#[test]
fn malformed_addresses_are_refused_when_they_are_used() {
    within(60, "malformed_addresses_are_refused_when_they_are_used", || {
        let (long, path) = ("n".repeat(108), format!("/{}", "n".repeat(107)));
        for text in ["", "@", "a\0b", "@a\0b", &format!("@{long}"), &path] {
            let address = Address::from(text);
            let started = Hub::start(&address, &secret(), HubOptions::new()).map(drop);
            let joined = auth::join(&address, &secret(), Role::Member, in_time()).map(drop);
            for tried in [started, joined] {
                assert!(matches!(tried, Err(ManagerError::Address { .. })), "{text:?}: {tried:?}");
            }
        }
        let directory = TempDir::new();
        let deep = Address::from(&directory.file("not/there/hub"));
        assert!(matches!(Hub::start(&deep, &secret(), HubOptions::new()), Err(ManagerError::System { .. })));
    });
}

#[test]
fn an_address_has_one_hub_at_a_time() {
    within(60, "an_address_has_one_hub_at_a_time", || {
        let directory = TempDir::new();
        for address in [Address::from(&directory.file("run/hub")), own_name("one-hub")] {
            for round in 0..50 {
                let hub = Hub::start(&address, &secret(), HubOptions::new())
                    .unwrap_or_else(|error| panic!("round {round}: {error}"));
                let second = Hub::start(&address, &secret(), HubOptions::new());
                let pid = std::process::id();
                assert!(matches!(second, Err(ManagerError::InUse { pid: Some(found), .. }) if found == pid));
                let member = Talk::new(auth::join(&address, &secret(), Role::Member, in_time()).unwrap());
                assert!(hub.is_running());
                hub.stop();
                assert_eq!(member.hear(), FromHub::Closing);
                assert!(member.is_out());
            }
        }
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

#[test]
fn another_programs_socket_is_not_taken_away() {
    within(60, "another_programs_socket_is_not_taken_away", || {
        let directory = TempDir::new();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let address = Address::from(&directory.file("stream"));
        let stream = std::os::unix::net::UnixListener::bind(directory.file("stream")).unwrap();
        let started = Hub::start(&address, &secret(), HubOptions::new());
        assert!(matches!(started, Err(ManagerError::InUse { .. })));
        assert!(std::os::unix::net::UnixStream::connect(directory.file("stream")).is_ok());
        assert!(matches!(auth::join(&address, &secret(), Role::Member, in_time()), Err(ManagerError::System { .. })));
        drop(stream);
        // Nobody listens any more: it makes way.
        Hub::start(&address, &secret(), HubOptions::new()).unwrap().stop();
        assert_eq!(files(directory.path()), Vec::<String>::new());
    });
}

#[test]
fn of_many_at_once_one_becomes_the_hub() {
    within(120, "of_many_at_once_one_becomes_the_hub", || {
        let directory = TempDir::new();
        for address in [Address::from(&directory.file("run/hub")), own_name("elected")] {
            for _ in 0..5 {
                let elected: Vec<_> = std::thread::scope(|scope| {
                    let one = || {
                        start_or_join(&address, &secret(), HubOptions::new(), in_time()).expect("a hub, or a way to it")
                    };
                    let threads: Vec<_> = (0..20).map(|_| scope.spawn(one)).collect();
                    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
                });
                assert_eq!(elected.iter().filter(|(hub, _)| hub.is_some()).count(), 1);
                // All have joined the same.
                let (hubs, members): (Vec<_>, Vec<_>) = elected.into_iter().unzip();
                let members: Vec<_> = members.into_iter().map(Talk::new).collect();
                members[0].register(1, "a");
                let found = |member: &Talk| member.register_as(1, "a", None, false);
                assert!(members[1..].iter().all(|member| matches!(found(member), FromHub::Taken { .. })));
                drop(hubs);
                assert!(members.iter().all(|member| member.hear() == FromHub::Closing));
            }
        }
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

// ---- other processes -----------------------------------------------------------------------------------------------

const PLAYER: &str = "manager::hub::tests::plays_a_role";
const ADDRESS: &str = "CALLGATE_TEST_HUB";

/// What helper processes do; nothing else.
#[test]
fn plays_a_role() {
    let Some(role) = role() else { return };
    let address = std::env::var(ADDRESS).map(|text| Address::from(&text)).unwrap_or(Address::from(""));
    let sleep = || -> ! {
        loop {
            std::thread::sleep(LONG);
        }
    };
    match role.as_str() {
        "hub" => {
            let _hub = Hub::start(&address, &secret(), HubOptions::new()).unwrap();
            say("started", std::process::id());
            sleep()
        }
        "member" => {
            let member = Talk::new(auth::join(&address, &secret(), Role::Member, in_time()).unwrap());
            member.register(1, "of a helper");
            member.granted(member.acquire("a lock", None, None));
            say("joined", std::process::id());
            sleep()
        }
        "stranger" => say("answer", auth::join(&address, &secret(), Role::Member, in_time()).map(drop).unwrap_err()),
        "descriptors" => descriptors_leave_nothing(),
        "few descriptors" => nobody_is_lost_for_want_of_descriptors(),
        other => panic!("{other}"),
    }
}

impl Helper {
    fn at(address: &Address, role: &str) -> Self {
        Self::of(helper(PLAYER, role).env(ADDRESS, address.to_string())).expect("the helper starts")
    }
}

#[test]
fn what_a_killed_hub_leaves_is_no_hindrance() {
    within(60, "what_a_killed_hub_leaves_is_no_hindrance", || {
        let directory = TempDir::new();
        let address = Address::from(&directory.file("run/hub"));
        let mut hub = Helper::at(&address, "hub");
        let pid: u32 = hub.hear("started").parse().unwrap();
        let in_use = Hub::start(&address, &secret(), HubOptions::new());
        assert!(matches!(in_use, Err(ManagerError::InUse { pid: Some(found), .. }) if found == pid));
        let member = Talk::new(auth::join(&address, &secret(), Role::Member, in_time()).unwrap());
        assert_eq!(member.joined.hub_pid, pid);
        hub.kill();
        assert!(member.is_out());
        assert!(eventually(30, "its end is seen", || poll::readable(&member.joined.hub, Duration::ZERO).unwrap()));
        assert_eq!(files(&directory.path().join("run")).len(), 2, "the socket and the lock are still there");
        let joined = auth::join(&address, &secret(), Role::Member, in_time());
        assert!(matches!(joined, Err(ManagerError::NobodyListens { .. })));
        let (hub, joined) = start_or_join(&address, &secret(), HubOptions::new(), in_time()).unwrap();
        assert!(hub.is_some() && joined.hub_pid == std::process::id());
        drop(hub);
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

#[test]
fn what_a_killed_member_had_is_free() {
    within(60, "what_a_killed_member_had_is_free", || {
        let scene = Scene::new();
        let member = scene.join();
        let mut helper = Helper::at(&scene.address, "member");
        let pid: u32 = helper.hear("joined").parse().unwrap();
        let Resolution::At { owner, .. } = ({
            member.say(&ToHub::Resolve { seq: member.next(), name: "of a helper".into() });
            let introduced = member.introduction();
            assert_eq!((introduced.pid, introduced.side), (pid, Side::Caller));
            match member.hear() {
                FromHub::Resolved { to, .. } => (to, introduced).0,
                other => panic!("{other:?}"),
            }
        }) else {
            panic!("it is registered")
        };
        assert_eq!(owner, pid);
        let asked = member.acquire("a lock", None, None);
        helper.kill();
        assert!(member.granted(asked).1, "it was abandoned");
        assert_eq!(member.resolve("of a helper"), Resolution::None);
    });
}

#[test]
fn another_users_processes_are_not_talked_to() {
    within(60, "another_users_processes_are_not_talked_to", || {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (ours, theirs) = (own_name("root's"), own_name("nobody's"));
        let hub = Hub::start(&ours, &secret(), HubOptions::new()).unwrap();
        let as_nobody = |address: &Address, role: &str| {
            let mut command = helper(PLAYER, role);
            command.env(ADDRESS, address.to_string()).current_dir("/").uid(65534).gid(65534);
            Helper::of(&mut command).ok()
        };
        // If that user may execute the tests at all.
        let Some(mut stranger) = as_nobody(&ours, "stranger") else { return };
        let answer = stranger.hear("answer");
        assert!(answer.contains("own user and root only"), "{answer}");
        let mut their_hub = as_nobody(&theirs, "hub").unwrap();
        let pid = their_hub.hear("started");
        match auth::join(&theirs, &secret(), Role::Member, in_time()) {
            Err(ManagerError::OtherUser { pid: Some(found), theirs: 65534, ours: 0, .. }) => {
                assert_eq!(found.to_string(), pid);
            }
            other => panic!("{other:?}"),
        }
        hub.stop();
    });
}

#[test]
fn descriptors_sent_to_the_hub_leave_nothing() {
    within(60, "descriptors_sent_to_the_hub_leave_nothing", || play(PLAYER, "descriptors"));
}

/// In a process of its own, which counts its descriptors.
fn descriptors_leave_nothing() {
    let scene = Scene::new();
    let other = scene.join();
    let count = || support::open_descriptors(std::process::id()).len();
    let before = count();
    for _ in 0..10 {
        let (pipe, _) = io::pipe().unwrap();
        let pipe = OwnedFd::from(pipe);
        let many = vec![pipe.as_fd(); 80];
        let guest = scene.connect();
        let member = scene.join();
        member.register(1, "a");
        let caller = {
            other.say(&ToHub::Resolve { seq: other.next(), name: "a".into() });
            let introduced = (other.introduction(), member.introduction());
            other.hear();
            introduced
        };
        // A kernel that refuses them says so; another lets them through, and the hub does not.
        let message = ToHub::Names { seq: 1 }.encode().unwrap();
        let sent = [
            socket::send(&guest, &[0; ANSWER], &many),
            socket::send(&member.joined.socket, &message, &many),
            caller.0.control.send(Message::Need { len: 4096 }, Some(pipe.as_fd())),
        ];
        if sent.iter().all(Result::is_ok) {
            assert!(receive(&guest).is_some() && is_closed(&guest) && member.is_out());
        }
        // What makes no sense ends the pair in any case.
        let _ = caller.0.control.send(Message::Lack, None);
        assert!(caller.1.control.receive(Blocking::Yes).unwrap().is_none());
    }
    assert!(eventually(30, "all descriptors are closed", || count() == before), "{before} and {}", count());
}

#[test]
fn without_descriptors_who_is_in_stays_in() {
    within(60, "without_descriptors_who_is_in_stays_in", || play(PLAYER, "few descriptors"));
}

/// In a process of its own, of whose descriptors none is left.
fn nobody_is_lost_for_want_of_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let scene = Scene::new();
    let (caller, owner) = (scene.join(), scene.join());
    owner.register(1, "a");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut guests = Vec::new();
    // Each takes one here, and one at the hub when that accepts it.
    while let Ok(Some(guest)) = scene.address.connect() {
        guests.push(guest);
    }
    assert!(!guests.is_empty());
    // What needs no descriptor goes on; what does is refused.
    for _ in 0..3 {
        assert_eq!(owner.resolve("nobody's"), Resolution::None);
        caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
        assert!(caller.refused().contains("cannot introduce"));
        std::thread::sleep(DEAF_TWICE);
    }
    drop(guests);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    scene.serves();
    assert!(matches!(caller.resolve_only("a"), Resolution::At { .. }));
}

/// While the hub tries again to accept those who wait.
const DEAF_TWICE: Duration = Duration::from_millis(100);

// ---- names ---------------------------------------------------------------------------------------------------------

#[test]
fn a_name_goes_with_its_member() {
    within(60, "a_name_goes_with_its_member", || {
        let scene = Scene::new();
        let (first, second) = (scene.join(), scene.join());
        first.register(1, "a");
        first.register(2, "b");
        assert_eq!(first.resolve("a"), Resolution::Itself { number: 1 });
        assert!(matches!(second.register_as(1, "a", None, false), FromHub::Taken { .. }));
        first.say(&ToHub::Unregister { seq: first.next(), number: 1 });
        assert_eq!(first.hear(), FromHub::Done { seq: first.seq.get() });
        second.register(1, "a");
        drop(first);
        assert!(eventually(30, "b is free", || second.resolve_only("b") == Resolution::None));
        second.register(2, "b");
    });
}

impl Talk {
    /// As `resolve`, whether this makes a pair or not.
    fn resolve_only(&self, name: &str) -> Resolution {
        self.say(&ToHub::Resolve { seq: self.next(), name: name.into() });
        loop {
            match self.hear_with().0 {
                FromHub::Resolved { seq, to } if seq == self.seq.get() => return to,
                FromHub::Introduced { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_name_is_replaced_only_if_that_is_asked_for() {
    within(60, "a_name_is_replaced_only_if_that_is_asked_for", || {
        let scene = Scene::new();
        let (first, second) = (scene.join(), scene.join());
        first.register(7, "a");
        assert_eq!(second.register_as(8, "a", None, true), FromHub::Registered { seq: second.seq.get() });
        assert_eq!(first.hear(), FromHub::Revoked { number: 7 });
        assert_eq!(second.resolve("a"), Resolution::Itself { number: 8 });
        // The number is free again, and the name can be taken back.
        assert_eq!(first.register_as(7, "a", None, true), FromHub::Registered { seq: first.seq.get() });
        assert_eq!(second.hear(), FromHub::Revoked { number: 8 });
        assert!(matches!(first.register_as(7, "c", None, false), FromHub::Refused { .. }));
        assert!(matches!(first.register_as(8, "", None, false), FromHub::Refused { .. }));
    });
}

#[test]
fn a_registration_ends_when_it_is_to() {
    within(60, "a_registration_ends_when_it_is_to", || {
        let scene = Scene::new();
        let (owner, other) = (scene.join(), scene.join());
        owner.register_as(1, "long", Some(3_600_000), false);
        let begun = Instant::now();
        owner.register_as(2, "short", Some(50), false);
        assert_eq!(owner.hear(), FromHub::Revoked { number: 2 });
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert_eq!(other.resolve("short"), Resolution::None);
        other.register(1, "short");
    });
}

#[test]
fn a_member_has_so_many_names_and_no_more() {
    within(120, "a_member_has_so_many_names_and_no_more", || {
        let scene = Scene::new();
        let (owner, other) = (scene.join(), scene.join());
        for number in 0..4096 {
            owner.register(number, &format!("name {number:04} {}", "n".repeat(100)));
        }
        assert!(matches!(owner.register_as(4096, "one more", None, false), FromHub::Refused { .. }));
        other.register(0, "one more");
        // They come in several messages, in their order, also when the socket is full meanwhile.
        let counts: Vec<_> = (0..1000).map(|number| Counters { number, calls: 2, nanoseconds: 3 }).collect();
        let (names, messages) = owner.names_of(&counts, &other);
        assert_eq!(names.len(), 4097);
        assert!(names.is_sorted_by_key(|info| &info.name) && messages > 5);
        let counted = names.iter().filter(|info| (info.calls, info.nanoseconds) == (2, 3)).count();
        assert_eq!(counted, 1000);
        assert!(names.iter().all(|info| info.owner == std::process::id() && info.signature.starts_with("signature")));
    });
}

impl Talk {
    /// The names, as `asker` is told, while this one counts.
    fn names_of(&self, counts: &[Counters], asker: &Talk) -> (Vec<NameInfo>, usize) {
        std::thread::scope(|scope| {
            let socket = asker.joined.socket.try_clone().unwrap();
            let (hub, hub_pid) = (listener::peer_process(&socket).unwrap(), asker.joined.hub_pid);
            let asker = Talk::new(Joined { socket, hub_pid, hub });
            let names = scope.spawn(move || asker.names(&[]));
            let FromHub::Count { seq } = self.hear() else { panic!("it is asked") };
            // In pieces, as a list that is too long for one message comes.
            let mut pieces = counts.chunks(300).peekable();
            while let Some(piece) = pieces.next() {
                let (counts, more) = (piece.to_vec(), pieces.peek().is_some());
                self.say(&ToHub::Counted { seq, counts, more });
            }
            names.join().unwrap()
        })
    }
}

#[test]
fn an_owner_that_does_not_count_is_not_waited_for() {
    within(60, "an_owner_that_does_not_count_is_not_waited_for", || {
        let scene = Scene::new();
        let (silent, asker) = (scene.join(), scene.join());
        assert_eq!(asker.names(&[]), (vec![], 1), "there are none");
        silent.register(1, "a");
        let begun = Instant::now();
        let (names, _) = asker.names(&[]);
        assert!(begun.elapsed() >= Duration::from_millis(500));
        assert_eq!((names.len(), names[0].calls), (1, 0));
        // One that answers later is known by what it said then.
        let FromHub::Count { seq } = silent.hear() else { panic!("it was asked") };
        let counts = vec![Counters { number: 1, calls: 5, nanoseconds: 6 }];
        silent.say(&ToHub::Counted { seq, counts, more: false });
        let (names, _) = asker.names(&[]);
        assert_eq!((names[0].calls, names[0].nanoseconds), (5, 6));
        // Many questions at once are as many answers, and then a refusal.
        (0..17).for_each(|seq| asker.say(&ToHub::Names { seq }));
        assert!(matches!(asker.hear(), FromHub::Refused { seq: 16, .. }));
        let mut answered: Vec<_> = (0..16)
            .map(|_| match asker.hear() {
                FromHub::NamesAre { seq, more: false, .. } => seq,
                other => panic!("{other:?}"),
            })
            .collect();
        answered.sort();
        assert!(answered.into_iter().eq(0..16));
    });
}

#[test]
fn who_may_only_call_cannot_register() {
    within(60, "who_may_only_call_cannot_register", || {
        let scene = Scene::new();
        let (owner, handle) = (scene.join(), scene.join_as(Role::CallerOnly));
        owner.register(1, "a");
        assert!(matches!(handle.register_as(1, "b", None, false), FromHub::Refused { .. }));
        assert!(matches!(handle.register_as(1, "a", None, true), FromHub::Refused { .. }));
        handle.say(&ToHub::Shutdown { seq: handle.next() });
        handle.refused();
        assert_eq!(owner.resolve("b"), Resolution::None);
        assert!(matches!(handle.resolve_only("a"), Resolution::At { number: 1, .. }));
        assert_eq!(handle.granted(handle.acquire("lock", None, None)), (0, false));
        // A member can end the hub.
        owner.introduction();
        owner.say(&ToHub::Shutdown { seq: owner.next() });
        assert_eq!((owner.hear(), handle.hear()), (FromHub::Closing, FromHub::Closing));
        let hub = scene.hub.as_ref().unwrap();
        assert!(eventually(30, "the hub has ended", || !hub.is_running()));
        assert!(hub.join().is_err());
    });
}

// ---- locks ---------------------------------------------------------------------------------------------------------

#[test]
fn locks_pass_from_one_to_the_next() {
    within(60, "locks_pass_from_one_to_the_next", || {
        let scene = Scene::new();
        let (first, second, third) = (scene.join(), scene.join(), scene.join());
        let (grant, abandoned) = first.granted(first.acquire("a", None, None));
        assert!(!abandoned);
        let waiting = second.acquire("a", Some(1), None);
        // In vain, at once and after a while; and given up.
        for limit in [0, 50] {
            let asked = third.acquire("a", None, Some(limit));
            assert_eq!(third.hear(), FromHub::NotGranted { seq: asked });
        }
        let asked = third.acquire("a", None, None);
        third.say(&ToHub::Cancel { seq: asked });
        assert_eq!(third.hear(), FromHub::NotGranted { seq: asked });
        let asked = third.acquire("a", None, Some(3_600_000));
        first.say(&ToHub::Release { grant });
        assert!(!second.granted(waiting).1);
        // Who closes the connection with the lock in hand has abandoned it.
        drop(second);
        let (grant, abandoned) = third.granted(asked);
        assert!(abandoned);
        third.say(&ToHub::Release { grant });
        assert!(!first.granted(first.acquire("a", None, Some(0))).1);
        // What was not granted cannot be released.
        third.say(&ToHub::Release { grant: 12345 });
        assert!(third.is_out());
    });
}

#[test]
fn semaphores_let_so_many_in() {
    within(60, "semaphores_let_so_many_in", || {
        let scene = Scene::new();
        let (first, second) = (scene.join(), scene.join());
        let grants: Vec<_> = (0..3).map(|_| first.granted(first.acquire("s", Some(3), None)).0).collect();
        let asked = second.acquire("s", Some(3), Some(0));
        assert_eq!(second.hear(), FromHub::NotGranted { seq: asked });
        second.acquire("s", Some(2), None);
        assert!(second.refused().contains('3'));
        second.acquire("s", None, None);
        second.refused();
        second.acquire("s", Some(0), None);
        second.refused();
        let asked = second.acquire("s", Some(3), None);
        first.say(&ToHub::Release { grant: grants[1] });
        assert!(!second.granted(asked).1);
        drop(first);
        let told = [(); 2].map(|()| second.granted(second.acquire("s", Some(3), None)).1);
        assert_eq!(told, [true, true], "of both permits that were abandoned");
    });
}

// ---- who does not behave -------------------------------------------------------------------------------------------

#[test]
fn a_flood_keeps_nobody_from_being_served() {
    within(120, "a_flood_keeps_nobody_from_being_served", || {
        let scene = Scene::new();
        let (flooder, reader, other) = (scene.join(), scene.join(), scene.join());
        let until = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            // One that never reads, and is dropped for it; one that reads it all.
            scope.spawn(|| {
                let message = ToHub::Resolve { seq: 1, name: "nobody's".into() }.encode().unwrap();
                while Instant::now() < until {
                    match socket::send(&flooder.joined.socket, &message, &[]) {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
                        _ => {}
                    }
                }
            });
            scope.spawn(move || {
                while Instant::now() < until {
                    (0..100).for_each(|_| reader.say(&ToHub::Resolve { seq: 1, name: "nobody's".into() }));
                    (0..100).for_each(|_| drop(reader.hear()));
                }
            });
            let mut served = 0;
            while Instant::now() < until {
                assert_eq!(other.resolve("nobody's"), Resolution::None);
                served += 1;
            }
            assert!(served > 50, "served {served} times in 2 s");
        });
        scene.serves();
    });
}

#[test]
fn who_takes_nothing_is_dropped_and_others_are_not() {
    within(120, "who_takes_nothing_is_dropped_and_others_are_not", || {
        let scene = Scene::new();
        let (deaf, other) = (scene.join(), scene.join());
        deaf.register(1, "of the deaf");
        let asked = other.acquire("a", None, None);
        other.granted(asked);
        // Each question has an answer, which it does not take; some fit into its socket, some wait at the hub.
        let message = ToHub::Acquire { seq: 1, name: "a".into(), permits_of_semaphore: None, deadline_ms: Some(0) };
        let bytes = message.encode().unwrap();
        assert!(eventually(60, "it is dropped", || {
            loop {
                match socket::send(&deaf.joined.socket, &bytes, &[]) {
                    Ok(()) => {}
                    Err(error) => return error.kind() == io::ErrorKind::BrokenPipe,
                }
            }
        }));
        assert_eq!(other.resolve("of the deaf"), Resolution::None);
        scene.serves();
    });
}

// ---- pairs ---------------------------------------------------------------------------------------------------------

/// A caller and an owner who have been introduced.
struct Introduced {
    scene: Scene,
    caller: Talk,
    owner: Talk,
    at_caller: Introduction,
    at_owner: Introduction,
}

impl Introduced {
    fn with(options: HubOptions) -> Self {
        let scene = Scene::with(options);
        let (caller, owner) = (scene.join(), scene.join());
        owner.register(7, "a");
        caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
        let at_owner = owner.introduction();
        let at_caller = caller.introduction();
        let to = Resolution::At {
            pair: at_caller.pair,
            number: 7,
            signature: "signature 7".into(),
            owner: std::process::id(),
        };
        assert_eq!(caller.hear(), FromHub::Resolved { seq: caller.seq.get(), to });
        Self { scene, caller, owner, at_caller, at_owner }
    }
}

fn next(control: &Control) -> Option<(Message, Option<OwnedFd>)> {
    assert!(poll::readable(control, LONG).unwrap(), "nothing came");
    control.receive(Blocking::No).unwrap()
}

#[track_caller]
fn say_and_hear(control: &Control, message: Message) -> Message {
    control.send(message, None).unwrap();
    next(control).expect("the pair is there").0
}

#[test]
fn a_caller_and_an_owner_are_introduced_once() {
    within(60, "a_caller_and_an_owner_are_introduced_once", || {
        let all = Introduced::with(HubOptions::new().lanes(3));
        let Introduced { at_caller, at_owner, caller, owner, .. } = &all;
        assert_eq!((at_caller.side, at_owner.side), (Side::Caller, Side::Owner));
        assert_eq!((at_caller.pair, at_caller.pid), (at_owner.pair, std::process::id()));
        // The same memory, of the geometry that was asked for.
        let geometry = at_owner.segment.geometry();
        assert_eq!((geometry.lanes, geometry.workers), (3, 3));
        let line = at_caller.segment.worker_line(2);
        line.bell.cpu.store(77, crate::sync::Ordering::Relaxed);
        assert_eq!(at_owner.segment.worker_line(2).bell.cpu.load(crate::sync::Ordering::Relaxed), 77);
        // Another callback of the same owner, the same pair; the other way round, another.
        owner.register(8, "b");
        let again = caller.resolve("b");
        assert!(matches!(again, Resolution::At { pair, number: 8, .. } if pair == at_caller.pair));
        caller.register(1, "c");
        owner.say(&ToHub::Resolve { seq: owner.next(), name: "c".into() });
        let (back, there) = (caller.introduction(), owner.introduction());
        assert!(back.pair == there.pair && back.pair != at_caller.pair);
        assert_eq!((back.side, there.side), (Side::Owner, Side::Caller));
    });
}

#[test]
fn memory_is_asked_for_and_given_back() {
    within(60, "memory_is_asked_for_and_given_back", || {
        const MIB: u64 = 1 << 20;
        let Introduced { scene, at_caller, at_owner, caller: _caller, owner: _owner } =
            Introduced::with(HubOptions::new().memory_per_member(4 * MIB));
        let (ours, theirs) = (&at_caller.control, &at_owner.control);
        ours.send(Message::Need { len: 3 * MIB }, None).unwrap();
        let (Message::Grant { segment }, Some(writable)) = next(ours).unwrap() else { panic!("it is granted") };
        let (Message::Attach { segment: same }, Some(readable)) = next(theirs).unwrap() else {
            panic!("it is attached")
        };
        assert_eq!(segment, same);
        for object in [&writable, &readable] {
            assert_eq!(memfd::sealed_len(object).unwrap() as u64, 3 * MIB);
        }
        assert!(Mapping::new(&writable, 3 << 20, Access::ReadWrite).is_ok());
        assert!(Mapping::new(&readable, 3 << 20, Access::ReadOnly).is_ok());
        assert!(Mapping::new(&readable, 3 << 20, Access::ReadWrite).is_err(), "who only reads cannot write");
        // Each has a budget of its own.
        let (len, budget) = (2 * MIB, 4 * MIB);
        assert_eq!(say_and_hear(ours, Message::Need { len }), Message::Exhausted { len, budget });
        assert_eq!(say_and_hear(ours, Message::Need { len: 5 * MIB }), Message::Deny { len: 5 * MIB, max: budget });
        assert_eq!(say_and_hear(ours, Message::Need { len: u64::MAX }), Message::Deny { len: u64::MAX, max: budget });
        let Message::Grant { segment: of_owner } = say_and_hear(theirs, Message::Need { len: budget }) else {
            panic!("it is granted")
        };
        assert_ne!(of_owner, segment, "numbers are the pair's");
        assert_eq!(next(ours).unwrap().0, Message::Attach { segment: of_owner });
        // What is given back can be had again; the other is told.
        ours.send(Message::Detach { segment }, None).unwrap();
        assert_eq!(next(theirs).unwrap().0, Message::Detach { segment });
        assert!(
            matches!(say_and_hear(ours, Message::Need { len: budget }), Message::Grant { segment } if segment > of_owner)
        );
        // The budget is of the member, not of the pair; what a pair had is free when it ends.
        drop((at_caller, at_owner));
        scene.serves();
    });
}

#[test]
fn one_budget_holds_for_all_pairs_of_a_member() {
    within(60, "one_budget_holds_for_all_pairs_of_a_member", || {
        let all = Introduced::with(HubOptions::new().memory_per_member(1 << 20));
        let (len, budget) = (1 << 20, 1 << 20);
        let other = all.scene.join();
        other.register(1, "b");
        all.caller.say(&ToHub::Resolve { seq: all.caller.next(), name: "b".into() });
        let (second, _at_other) = (all.caller.introduction(), other.introduction());
        assert!(matches!(say_and_hear(&all.at_caller.control, Message::Need { len }), Message::Grant { .. }));
        let exhausted = Message::Exhausted { len, budget };
        assert_eq!(say_and_hear(&second.control, Message::Need { len }), exhausted);
        drop(all.at_caller);
        assert!(eventually(30, "what the first pair had is free", || {
            matches!(say_and_hear(&second.control, Message::Need { len }), Message::Grant { .. })
        }));
    });
}

#[test]
fn a_pair_ends_for_both_sides() {
    within(60, "a_pair_ends_for_both_sides", || {
        type End = fn(&mut Option<Talk>, Introduction);
        let ends: [(&str, End); 6] = [
            ("its socket closes", |_, at| drop(at)),
            ("it leaves the hub", |member, _at| drop(member.take())),
            ("it is done", |member, at| member.as_ref().unwrap().say(&ToHub::Part { pair: at.pair })),
            ("it says what only the hub says", |_, at| at.control.send(Message::Grant { segment: 1 }, None).unwrap()),
            ("it gives back what it has not", |_, at| at.control.send(Message::Detach { segment: 1 }, None).unwrap()),
            ("it wants nothing", |_, at| at.control.send(Message::Need { len: 0 }, None).unwrap()),
        ];
        for (case, end) in ends {
            for side in [Side::Caller, Side::Owner] {
                let Introduced { scene, caller, owner, at_caller, at_owner } = Introduced::with(HubOptions::new());
                let first = at_caller.pair;
                let (mut caller, mut owner) = (Some(caller), Some(owner));
                let left = match side {
                    Side::Caller => {
                        end(&mut caller, at_caller);
                        at_owner.control
                    }
                    Side::Owner => {
                        end(&mut owner, at_owner);
                        at_caller.control
                    }
                };
                assert!(next(&left).is_none(), "{case}, {side:?}");
                // They can be introduced again.
                if let (Some(caller), Some(owner)) = (&caller, &owner) {
                    caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
                    assert!(caller.introduction().pair != first && owner.introduction().pair != first);
                }
                scene.serves();
            }
        }
    });
}

#[test]
fn a_control_socket_that_is_full_ends_the_pair() {
    within(60, "a_control_socket_that_is_full_ends_the_pair", || {
        let Introduced { scene, at_caller, at_owner, caller: _caller, owner: _owner } =
            Introduced::with(HubOptions::new());
        // It asks and does not listen; what it asks for is given back to the last.
        assert!(eventually(30, "the pair ends", || {
            loop {
                match at_caller.control.send(Message::Need { len: u64::MAX }, None) {
                    Ok(()) => {}
                    Err(error) => return error.kind() == io::ErrorKind::BrokenPipe,
                }
            }
        }));
        assert!(next(&at_owner.control).is_none());
        scene.serves();
    });
}

#[test]
fn one_who_is_not_of_a_pair_cannot_end_it() {
    within(60, "one_who_is_not_of_a_pair_cannot_end_it", || {
        let all = Introduced::with(HubOptions::new());
        let stranger = all.scene.join();
        stranger.say(&ToHub::Part { pair: all.at_caller.pair });
        assert_eq!(stranger.resolve("nobody's"), Resolution::None);
        assert!(matches!(say_and_hear(&all.at_caller.control, Message::Need { len: 4096 }), Message::Grant { .. }));
    });
}
