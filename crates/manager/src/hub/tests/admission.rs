//! Who is let in, and who is not.

use super::*;
use crate::auth::VERSION;

#[test]
fn clients_join_and_know_the_hub() {
    within(60, "clients_join_and_know_the_hub", || {
        let scene = Scene::new();
        let (of_hub, other) = (Talk::new(scene.hub.as_ref().unwrap().join().unwrap()), scene.join());
        for client in [&of_hub, &other] {
            assert_eq!(client.joined.hub_pid, std::process::id());
            assert!(!poll::readable(&client.joined.hub, Duration::ZERO).unwrap(), "the hub lives");
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
        let join = |key: AuthKey| auth::join(&scene.address, &key, ClientRights::Full, in_time());
        let error = join(AuthKey::new("another key")).unwrap_err();
        assert!(matches!(error, ManagerError::WrongKey { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&scene.address.to_string()), "{error}");
        assert!(matches!(join(AuthKey::new("")), Err(ManagerError::Key { .. })));
        let hub = Hub::start(&Address::from("@callgate-no-key"), &AuthKey::new(""), HubOptions::new());
        assert!(matches!(hub, Err(ManagerError::Key { .. })));
        scene.serves();
    });
}

/// The answer of somebody who has the key, to a challenge that was received through `socket`.
fn answer(socket: &OwnedFd, challenge: &[u8]) -> Vec<u8> {
    answer_of(&ends(socket), challenge)
}

fn answer_of(ends: &[u8], challenge: &[u8]) -> Vec<u8> {
    let (role, own) = (1u32.to_le_bytes(), [7; 32]);
    let mac = secret().authenticate(&[b"callgate manager 2: client", &role, &challenge[16..], &own, ends]);
    [&VERSION.to_le_bytes()[..], &role, &own, ends, &mac].concat()
}

/// Of a connection of this process to its own hub.
fn ends(socket: &OwnedFd) -> Vec<u8> {
    let own = Identity::own().unwrap();
    [&own.bytes()[..], own.bytes(), &listener::own_label(socket)].concat()
}

/// Who has the key and says of the ends what is not so has spoken to somebody else, or is somebody else.
#[test]
fn fault_44_who_speaks_of_other_ends_is_refused() {
    within(60, "fault_44_who_speaks_of_other_ends_is_refused", || {
        let scene = Scene::new();
        let other = Helper::at_work();
        let process = Pidfd::open(other.pid()).unwrap().unwrap();
        let theirs = *Identity::of(&process, other.pid()).unwrap().bytes();
        let another = scene.connect();
        for case in ["true", "client", "hub", "connection", "none"] {
            let socket = scene.connect();
            let (challenge, _) = receive(&socket).unwrap();
            let mut ends = ends(&socket);
            match case {
                "client" => ends[..24].copy_from_slice(&theirs),
                "hub" => ends[24..48].copy_from_slice(&theirs),
                "connection" => ends[48..].copy_from_slice(&listener::own_label(&another)),
                "none" => ends.fill(0),
                _ => {}
            }
            socket::send(&socket, &answer_of(&ends, &challenge), &[]).unwrap();
            let (said, _) = receive(&socket).unwrap();
            match case {
                "true" => assert_eq!((said.len(), said[0]), (40, 1)),
                _ => assert_eq!(said, AdmissionRefusal::Relayed.message(), "{case}"),
            }
        }
        scene.serves();
    });
}

/// A process with the key answers through a connection that another process has made and passed to it.
#[test]
fn fault_44_a_connection_that_was_passed_on_is_refused() {
    within(60, "fault_44_a_connection_that_was_passed_on_is_refused", || {
        let scene = Scene::new();
        let socket = scene.connect();
        let mut command = helper("hub::tests::processes::plays_a_role", "passed on");
        let mut helper = Helper::of(command.stdin(socket)).unwrap();
        assert_eq!(helper.hear("refused"), "5");
        scene.serves();
    });
}

/// What a helper process does with a connection to a hub that it has from another.
pub(super) fn answer_for_another() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let (challenge, _) = receive(&socket).unwrap();
    let hub = listener::peer_process(&socket).unwrap();
    let hub = Identity::of(&hub, listener::peer(&socket).unwrap().pid).unwrap();
    let ends = [&Identity::own().unwrap().bytes()[..], hub.bytes(), &listener::own_label(&socket)].concat();
    socket::send(&socket, &answer_of(&ends, &challenge), &[]).unwrap();
    let (said, _) = receive(&socket).unwrap();
    say("refused", said[4]);
}

/// The answer of the hub to what `message` makes of the socket and the challenge of another connection, and that connection.
fn said(scene: &Scene, message: &dyn Fn(&OwnedFd, &[u8]) -> Vec<u8>) -> (Option<Vec<u8>>, OwnedFd) {
    let socket = scene.connect();
    let (challenge, _) = receive(&socket).unwrap();
    assert_eq!(challenge.len(), CHALLENGE);
    socket::send(&socket, &message(&socket, &challenge), &[]).unwrap();
    (receive(&socket).map(|(message, _)| message), socket)
}

#[test]
fn nothing_that_was_said_before_lets_anybody_in() {
    within(60, "nothing_that_was_said_before_lets_anybody_in", || {
        let scene = Scene::new();
        let refused = Some(AdmissionRefusal::Key.message().to_vec());
        let said = |message: &dyn Fn(&OwnedFd, &[u8]) -> Vec<u8>| said(&scene, message);
        // By hand, to see that it is the answers below that are wrong.
        let (welcome, client) = said(&answer);
        let welcome = welcome.unwrap();
        assert_eq!((welcome.len(), welcome[0]), (40, 1));
        // A recorded answer.
        let recorded = Cell::new(Vec::new());
        let (good, _) = said(&|socket, challenge| {
            recorded.set(answer(socket, challenge));
            answer(socket, challenge)
        });
        assert_eq!(good.unwrap()[0], 1);
        let recorded = recorded.take();
        let (replayed, socket) = said(&|_, _| recorded.clone());
        assert_eq!(replayed, refused);
        assert!(is_closed(socket));
        // What the hub itself said: its code in the place of a client's, for its nonce in the place of a client's.
        let (reflected, _) = said(&|socket, challenge| {
            let (version, role) = (VERSION.to_le_bytes(), 1u32.to_le_bytes());
            [&version[..], &role, &challenge[16..], &ends(socket), &welcome[8..]].concat()
        });
        assert_eq!(reflected, refused);
        // The challenge, sent back.
        let (reflected, _) = said(&|_, challenge| challenge.to_vec());
        assert_eq!(reflected, Some(AdmissionRefusal::Version.message().to_vec()));
        // One bit of each byte.
        for at in 0..ANSWER {
            let (flipped, socket) = said(&|socket, challenge| {
                let mut flipped = answer(socket, challenge);
                flipped[at] ^= 0x10;
                flipped
            });
            let why = if at < 4 { AdmissionRefusal::Version } else { AdmissionRefusal::Key };
            assert_eq!(flipped, Some(why.message().to_vec()), "byte {at}");
            assert!(is_closed(socket));
        }
        for len in [0, 1, ANSWER - 1, ANSWER + 1] {
            let (cut, _) = said(&|socket, challenge| [answer(socket, challenge), vec![0]].concat()[..len].to_vec());
            assert!(cut.is_none_or(|message| message[0] == 2), "{len} bytes");
        }
        drop(client);
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
    fn new(address: &Address, mut talk: impl FnMut(Exposed) + Send + 'static) -> Self {
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
    let socket = listener::bind(SocketName::Abstract(&name.as_bytes()[1..])).unwrap();
    listener::listen(&socket).unwrap();
    socket
}

/// A case, and what an impostor does with a connection.
type Imposture = (&'static str, fn(Exposed));

/// Of those who have not the key, or are no hub.
const IMPOSTURES: [Imposture; 8] = [
    ("reflects", |socket| {
        socket::send(&socket, &Challenge::new().unwrap().message(), &[]).unwrap();
        let (answer, _) = receive(&socket).unwrap();
        let welcome = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &answer[ANSWER - 32..]].concat();
        socket::send(&socket, &welcome, &[]).unwrap();
        assert!(is_closed(socket));
    }),
    ("another key", |socket| {
        let challenge = Challenge::new().unwrap();
        socket::send(&socket, &challenge.message(), &[]).unwrap();
        let (answer, _) = receive(&socket).unwrap();
        let process = listener::peer_process(&socket).unwrap();
        let ends = ConnectionEnds::of_accepted(&socket, &process, std::process::id()).unwrap();
        assert_eq!(challenge.check(&AuthKey::new("another"), &ends, &answer), Err(AdmissionRefusal::Key));
        let (_, mut welcome) = challenge.check(&secret(), &ends, &answer).unwrap();
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
    ("refuses", |socket| socket::send(&socket, &AdmissionRefusal::TooMany.message(), &[]).unwrap()),
];

#[test]
fn a_client_is_not_taken_in_by_who_has_not_the_key() {
    within(60, "a_client_is_not_taken_in_by_who_has_not_the_key", || {
        for (case, talk) in IMPOSTURES {
            let address = own_address();
            let impostor = Impostor::new(&address, talk);
            // Who closes may be about to go: it is tried again, for as long as there is time.
            let (given, began) = (if case == "closes" { Duration::from_millis(300) } else { LONG }, Instant::now());
            let deadline = Deadline::after(Some(given));
            let error = auth::join(&address, &secret(), ClientRights::Full, deadline).unwrap_err();
            drop(impostor);
            assert_eq!(began.elapsed() >= given, case == "closes", "{case}: {:?}", began.elapsed());
            let is_right = match case {
                "reflects" | "another key" => matches!(error, ManagerError::WrongKey { .. }),
                "closes" => matches!(error, ManagerError::Closed { .. }),
                "other version" => matches!(error, ManagerError::Version { ours: VERSION, theirs: 9, .. }),
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
        let join = |address: &Address| auth::join(address, &secret(), ClientRights::Full, soon());
        // Nobody there.
        let nobody = own_address();
        assert!(matches!(join(&nobody), Err(ManagerError::NobodyListens { .. })));
        let directory = TempDir::new();
        let nowhere = Address::from(&directory.file("not/there"));
        assert!(matches!(join(&nowhere), Err(ManagerError::NobodyListens { .. })));
        // Nobody accepts; somebody accepts and says nothing; somebody stops in the middle.
        let silent = own_address();
        let _silent = listen(&silent);
        let begun = Instant::now();
        let is_timeout = |error: &ManagerError| matches!(error, ManagerError::TimedOut { .. });
        assert!(is_timeout(&join(&silent).unwrap_err()));
        assert!(begun.elapsed() >= Duration::from_millis(100));
        let elected = start_or_join(&silent, &secret(), HubOptions::new(), soon());
        assert!(is_timeout(&elected.map(|_| "joined").unwrap_err()));
        let halfway = own_address();
        let impostor = Impostor::new(&halfway, |socket| {
            socket::send(&socket, &Challenge::new().unwrap().message(), &[]).unwrap();
            assert!(receive(&socket).is_some() && is_closed(&socket));
        });
        assert!(is_timeout(&join(&halfway).unwrap_err()));
        drop(impostor);
        // There is no room for another connection.
        let full = own_address();
        let name = full.to_string();
        let name = SocketName::Abstract(&name.as_bytes()[1..]);
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
            let client = scene.join();
            client.register(1, "a");
            socket::send(&client.joined.socket, &nonsense, &[]).unwrap();
            assert!(client.is_out(), "{} bytes", nonsense.len());
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
        // Clients may be silent as long as they like.
        let client = scene.join();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(client.resolve("a"), Resolution::None);
    });
}

#[test]
fn a_thousand_who_never_answer_keep_nobody_out() {
    within(120, "a_thousand_who_never_answer_keep_nobody_out", || {
        let scene = Scene::new();
        let client = scene.join();
        let mut guests = Vec::new();
        for count in 0..1000 {
            guests.push(scene.connect());
            if count % 100 == 0 {
                assert_eq!(client.resolve("a"), Resolution::None);
                scene.serves();
            }
            // This process has its limit of descriptors, too.
            if guests.len() > 200 {
                assert!(guests.drain(..100).all(|guest| receive(&guest).is_none_or(|_| is_closed(guest))));
            }
        }
        assert_eq!(client.resolve("a"), Resolution::None);
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
            let join = || auth::join(&scene.address, &secret(), ClientRights::Full, in_time());
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
fn there_are_so_many_clients_and_no_more() {
    within(60, "there_are_so_many_clients_and_no_more", || {
        let scene = Scene::with(HubOptions::new().max_clients(2));
        let (first, _second) = (scene.join(), Talk::new(scene.hub.as_ref().unwrap().join().unwrap()));
        let third = auth::join(&scene.address, &secret(), ClientRights::Full, in_time());
        assert!(matches!(third, Err(ManagerError::TooMany { .. })));
        assert!(scene.hub.as_ref().unwrap().join().is_err());
        drop(first);
        let joined = || auth::join(&scene.address, &secret(), ClientRights::Full, in_time());
        assert!(eventually(30, "there is room again", || joined().is_ok()));
    });
}

#[test]
fn one_process_does_not_take_all_places() {
    within(60, "one_process_does_not_take_all_places", || {
        let scene = Scene::new();
        let mut clients: Vec<_> = (0..12).map(|_| scene.join()).collect();
        let join = || auth::join(&scene.address, &secret(), ClientRights::CallerOnly, in_time());
        assert!(matches!(join(), Err(ManagerError::TooMany { .. })));
        assert!(scene.hub.as_ref().unwrap().join().is_err());
        clients.pop();
        assert!(eventually(30, "there is room again", || join().is_ok()));
    });
}

#[test]
fn options_out_of_range_start_no_hub() {
    within(60, "options_out_of_range_start_no_hub", || {
        let address = own_address();
        let new = HubOptions::new;
        for (option, options) in [
            ("handshake_timeout", new().handshake_timeout(Duration::ZERO)),
            ("max_clients", new().max_clients(0)),
            ("max_clients", new().max_clients(1025)),
            ("memory_per_client", new().memory_per_client(1)),
            ("concurrent_calls", new().concurrent_calls(65)),
        ] {
            match Hub::start(&address, &secret(), options) {
                Err(ManagerError::Option { option: named, .. }) => assert_eq!(named, option),
                other => panic!("{other:?}"),
            }
        }
    });
}
