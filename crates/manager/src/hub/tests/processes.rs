//! Hubs and clients that are killed, or of another user; and what takes a process of its own to see.

use super::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PLAYER: &str = "hub::tests::processes::plays_a_role";
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
        "client" => {
            let client = Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
            client.register(1, "of a helper");
            client.granted(client.acquire("a lock", None, None));
            say("joined", std::process::id());
            let _introduced = client.introduction();
            sleep()
        }
        "last words" => {
            let client = Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
            let (grant, _) = client.granted(client.acquire("a lock", None, None));
            say("joined", std::process::id());
            std::io::stdin().read_line(&mut String::new()).unwrap();
            // So much that the hub has it wait before it hears the last of it.
            (0..10_000).for_each(|_| client.say(&ToHub::Cancel { seq: 0 }));
            client.say(&ToHub::Release { grant });
            std::process::exit(0)
        }
        "stranger" => {
            say("answer", auth::join(&address, &secret(), ClientRights::Full, in_time()).map(drop).unwrap_err())
        }
        "passed on" => admission::answer_for_another(),
        "flood" => misuse::flood(&address),
        "waits" => sleep(),
        "descriptors" => descriptors_leave_nothing(),
        "few descriptors" => nobody_is_lost_for_want_of_descriptors(),
        other => panic!("{other}"),
    }
}

impl Helper {
    /// One that does nothing.
    pub(super) fn at_work() -> Self {
        Self::start(PLAYER, "waits")
    }

    pub(super) fn at(address: &Address, role: &str) -> Self {
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
        let client = Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
        assert_eq!(client.joined.hub_pid, pid);
        hub.kill();
        assert!(client.is_out());
        assert!(eventually(30, "its end is seen", || poll::readable(&client.joined.hub, Duration::ZERO).unwrap()));
        assert_eq!(files(&directory.path().join("run")).len(), 2, "the socket and the lock are still there");
        let joined = auth::join(&address, &secret(), ClientRights::Full, in_time());
        assert!(matches!(joined, Err(ManagerError::NobodyListens { .. })));
        let (hub, joined) = start_or_join(&address, &secret(), HubOptions::new(), in_time()).unwrap();
        assert!(hub.is_some() && joined.hub_pid == std::process::id());
        drop(hub);
        assert_eq!(files(&directory.path().join("run")), Vec::<String>::new());
    });
}

#[test]
fn what_a_killed_client_had_is_free() {
    within(60, "what_a_killed_client_had_is_free", || {
        let scene = Scene::new();
        let client = scene.join();
        let mut helper = Helper::at(&scene.address, "client");
        let pid: u32 = helper.hear("joined").parse().unwrap();
        let Resolution::At { owner, .. } = ({
            client.say(&ToHub::Resolve { seq: client.next(), name: "of a helper".into() });
            let introduced = client.introduction();
            assert_eq!((introduced.pid, introduced.side), (pid, PairSide::Caller));
            match client.hear() {
                FromHub::Resolved { to, .. } => (to, introduced).0,
                other => panic!("{other:?}"),
            }
        }) else {
            panic!("it is registered")
        };
        assert_eq!(owner, pid);
        let asked = client.acquire("a lock", None, None);
        helper.kill();
        assert!(client.granted(asked).1, "it was abandoned");
        assert_eq!(client.resolve("of a helper"), Resolution::None);
    });
}

/// Runs `body` while the hub in a process of its own stands still: what `body` does is there at once when it looks again.
#[track_caller]
fn while_stopped(hub: &Helper, body: impl FnOnce()) {
    let pid = Pid::from_raw(hub.pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    assert!(eventually(30, "the hub stands still", || support::is_stopped(hub.pid())));
    body();
    kill(pid, Signal::SIGCONT).unwrap();
}

/// A caller sees that an owner ends, and ends its side of their pair, before the hub has looked at the owner's: there is no such callback any
/// more, and nobody has refused anything.
#[test]
fn an_owner_that_leaves_while_it_is_introduced_is_nobody() {
    within(60, "an_owner_that_leaves_while_it_is_introduced_is_nobody", || {
        let address = own_address();
        let mut hub = Helper::at(&address, "hub");
        hub.hear("started");
        let join = || Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
        let caller = join();
        let asks = || {
            caller.say(&ToHub::Resolve { seq: caller.next(), name: "of a helper".into() });
            caller.hear_with().1
        };
        let resolved = || matches!(caller.hear(), FromHub::Resolved { to: Resolution::None, .. });

        let mut killed = Helper::at(&address, "client");
        killed.hear("joined");
        let own_side = asks();
        while_stopped(&hub, || {
            drop(own_side);
            killed.kill();
        });
        assert!(resolved());

        let leaves = join();
        leaves.register(1, "of a helper");
        let own_side = asks();
        while_stopped(&hub, || drop((own_side, leaves)));
        assert!(resolved());
    });
}

/// A name is free when its owner has ended, though the hub has not looked at that yet.
#[test]
fn the_name_of_an_owner_that_has_ended_is_not_taken() {
    within(60, "the_name_of_an_owner_that_has_ended_is_not_taken", || {
        let address = own_address();
        let mut hub = Helper::at(&address, "hub");
        hub.hear("started");
        let next = Talk::new(auth::join(&address, &secret(), ClientRights::Full, in_time()).unwrap());
        let mut killed = Helper::at(&address, "client");
        killed.hear("joined");
        while_stopped(&hub, || {
            next.say_register(7, "of a helper", None, false);
            killed.kill();
        });
        assert!(matches!(next.hear(), FromHub::Registered { .. }));
    });
}

/// An owner whose name another process has replaced leaves while a caller is introduced to it: the caller finds the other.
#[test]
fn a_caller_of_an_owner_that_was_replaced_finds_its_successor() {
    within(60, "a_caller_of_an_owner_that_was_replaced_finds_its_successor", || {
        let scene = Scene::new();
        let (caller, old, new) = (scene.join(), scene.join(), scene.join());
        old.register(1, "a");
        caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
        let _own_side = caller.hear_with();
        assert!(matches!(new.register_as(1, "a", None, true), FromHub::Registered { .. }));
        drop(old);
        let (here, there) = (caller.introduction(), new.introduction());
        assert_eq!(here.pair, there.pair);
        assert!(matches!(caller.hear(), FromHub::Resolved { to: Resolution::At { number: 1, .. }, .. }));
    });
}

#[test]
fn what_a_client_said_last_counts() {
    within(60, "what_a_client_said_last_counts", || {
        let scene = Scene::new();
        let client = scene.join();
        for _ in 0..5 {
            let (reader, writer) = std::io::pipe().unwrap();
            let mut command = helper(PLAYER, "last words");
            let mut helper = Helper::of(command.env(ADDRESS, scene.address.to_string()).stdin(reader)).unwrap();
            helper.hear("joined");
            let asked = client.acquire("a lock", None, None);
            // Its input ends: it gives the lock back, and ends.
            drop(writer);
            let (grant, abandoned) = client.granted(asked);
            assert!(!abandoned);
            client.say(&ToHub::Release { grant });
        }
    });
}

#[test]
fn another_users_processes_are_not_talked_to() {
    within(60, "another_users_processes_are_not_talked_to", || {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (ours, theirs) = (own_address(), own_address());
        let hub = Hub::start(&ours, &secret(), HubOptions::new()).unwrap();
        let as_nobody = |address: &Address, role: &str| {
            let mut command = helper(PLAYER, role);
            command.env(ADDRESS, address.to_string()).current_dir("/").uid(65534).gid(65534);
            Helper::of(&mut command).ok()
        };
        // If that user may execute the tests at all.
        let Some(mut stranger) = as_nobody(&ours, "stranger") else { return };
        let answer = stranger.hear("answer");
        assert!(answer.contains("own user and of root"), "{answer}");
        let mut their_hub = as_nobody(&theirs, "hub").unwrap();
        let pid = their_hub.hear("started");
        match auth::join(&theirs, &secret(), ClientRights::Full, in_time()) {
            Err(ManagerError::OtherUser { pid: Some(found), theirs: 65534, ours: 0, .. }) => {
                assert_eq!(found.to_string(), pid);
            }
            other => panic!("{other:?}"),
        }
        hub.stop();
    });
}

#[test]
fn fault_08_descriptors_sent_to_the_hub_leave_nothing() {
    within(60, "fault_08_descriptors_sent_to_the_hub_leave_nothing", || play(PLAYER, "descriptors"));
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
        let client = scene.join();
        client.register(1, "a");
        let caller = {
            other.say(&ToHub::Resolve { seq: other.next(), name: "a".into() });
            let introduced = (other.introduction(), client.introduction());
            other.hear();
            introduced
        };
        // A kernel that refuses them says so; another lets them through, and the hub does not.
        let message = ToHub::Names { seq: 1 }.encode().unwrap();
        let sent = [
            socket::send(&guest, &[0; ANSWER], &many),
            socket::send(&client.joined.socket, &message, &many),
            caller.0.control.send(Message::Need { len: 4096 }, Some(pipe.as_fd())),
        ];
        if sent.iter().all(Result::is_ok) {
            assert!(receive(&guest).is_some() && is_closed(&guest) && client.is_out());
        }
        // What makes no sense ends the pair in any case.
        let _ = caller.0.control.send(Message::Lack { error: 0, limit: 0 }, None);
        while let Some((said, _)) = caller.1.control.receive(BlockingMode::Yes).unwrap() {
            assert_eq!(said, Message::Sealed { segment: 0 });
        }
    }
    assert!(eventually(30, "all descriptors are closed", || count() == before), "{before} and {}", count());
}

#[test]
fn fault_08_descriptors_that_come_before_the_hub_looks_keep_nobody_waiting() {
    const TEST: &str = "hub::tests::processes::fault_08_descriptors_that_come_before_the_hub_looks_keep_nobody_waiting";
    alone(TEST, 120, || {
        let scene = Scene::new();
        let other = scene.join();
        for _ in 0..50 {
            let (slow, other_end) = socket::slow_to_close();
            let guest = scene.connect();
            // The hub gives up at the first, and has not looked at the second; where the kernel can be told so, that is never sent.
            let _ = socket::send(&guest, b"garbage!", &[]);
            let sent = socket::send(&guest, b"garbage!", &[slow.as_fd()]);
            // Without that end, it is closed at once.
            let _other_end = sent.is_ok().then_some(other_end);
            drop(slow);
            assert_eq!(other.resolve("nobody's"), Resolution::None);
        }
        scene.serves();
    });
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
    assert!(matches!(caller.pair_with(&owner, "a").2, Resolution::At { .. }));
}

/// While the hub tries again to accept those who wait.
const DEAF_TWICE: Duration = Duration::from_millis(100);
