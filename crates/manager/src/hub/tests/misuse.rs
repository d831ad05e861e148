//! Clients that flood the hub, or do not listen.

use super::*;

#[test]
fn a_flood_keeps_nobody_from_being_served() {
    within(120, "a_flood_keeps_nobody_from_being_served", || {
        let (scene, begun) = (Scene::new(), Instant::now());
        let (mut flooder, other) = (Helper::at(&scene.address, "flood"), scene.join());
        flooder.hear("joined");
        let (mut served, until) = (0, Instant::now() + Duration::from_secs(2));
        while Instant::now() < until {
            assert_eq!(other.resolve("nobody's"), Resolution::None);
            served += 1;
        }
        assert!(served > 50, "served {served} times in {:?}", begun.elapsed());
        scene.serves();
    });
}

/// What a helper process does that floods a hub, until it is killed.
pub(super) fn flood(address: &Address) -> ! {
    let join = || Talk::new(auth::join(address, &secret(), ClientRights::Full, in_time()).unwrap());
    let (deaf, reader) = (join(), join());
    let question = ToHub::Resolve { seq: 1, name: "nobody's".into() };
    say("joined", std::process::id());
    // One that never reads, and is dropped for it; one that reads it all.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let message = question.encode().unwrap();
            let sent = || socket::send(&deaf.joined.socket, &message, &[]);
            while !sent().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {}
        });
        loop {
            (0..100).for_each(|_| reader.say(&question));
            (0..100).for_each(|_| drop(reader.hear()));
        }
    })
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

/// What one process can have had done by now, in messages, since `begun`.
fn credit_since(begun: Instant) -> usize {
    4096 + 256 * (begun.elapsed().as_millis() as usize / 10 + 1)
}

#[test]
fn lists_cost_who_asks_for_them() {
    within(60, "lists_cost_who_asks_for_them", || {
        let scene = Scene::new();
        let (client, other) = (scene.join(), scene.join());
        let begun = Instant::now();
        for number in 0..200 {
            let (seq, name, signature) = (client.next(), format!("name {number}"), "s".repeat(4000));
            client.say(&ToHub::Register { seq, name, number, signature, expires_ms: None, replace: false });
            assert_eq!(client.hear(), FromHub::Registered { seq });
        }
        let mut messages = 0;
        while begun.elapsed() < Duration::from_millis(1500) {
            messages += client.names(&[]).1;
            assert_eq!(other.resolve("nobody's"), Resolution::None);
        }
        assert!(messages * 16 <= credit_since(begun), "{messages} messages of lists in {:?}", begun.elapsed());
        assert!(messages > 17);
    });
}

#[test]
fn many_pairs_are_not_many_credits() {
    within(60, "many_pairs_are_not_many_credits", || {
        let scene = Scene::new();
        let (caller, other) = (scene.join(), scene.join());
        let owners: Vec<_> = (0..4).map(|_| scene.join()).collect();
        let begun = Instant::now();
        let mut controls = Vec::new();
        for (number, owner) in owners.iter().enumerate() {
            owner.register(1, &format!("{number}"));
            caller.say(&ToHub::Resolve { seq: caller.next(), name: format!("{number}") });
            controls.push((caller.introduction(), owner.introduction()));
            assert!(matches!(caller.hear(), FromHub::Resolved { .. }));
        }
        ask_for_too_much(&controls, begun);
        assert_eq!(other.resolve("nobody's"), Resolution::None);
    });
}

/// Has the callers of these pairs ask for memory as fast as they are answered. All together they must not get more answers than one process has
/// credit for.
fn ask_for_too_much(pairs: &[(ReceivedIntroduction, ReceivedIntroduction)], begun: Instant) {
    let (need, mut denied, mut asked) = (Message::Need { len: u64::MAX }, 0, 0);
    while begun.elapsed() < Duration::from_millis(1500) {
        for (at_caller, _) in pairs {
            // As many answers as their sockets hold: a full one ends its pair.
            if asked - denied < 100 {
                at_caller.control.send(need, None).unwrap();
                asked += 1;
            }
            while let Ok(answer) = at_caller.control.receive(BlockingMode::No) {
                assert!(matches!(answer, Some((Message::Deny { .. }, None))), "{answer:?}");
                denied += 1;
            }
        }
    }
    assert!(denied * 17 <= credit_since(begun), "{denied} answers in {:?}", begun.elapsed());
}

/// Row 43 of the faults: whoever connects often has no more of the hub's time than who connects once.
#[test]
fn fault_43_many_connections_are_not_many_credits() {
    within(60, "fault_43_many_connections_are_not_many_credits", || {
        let scene = Scene::new();
        let owner = scene.join();
        owner.register(1, "a");
        let begun = Instant::now();
        let callers: Vec<_> = (0..10).map(|_| scene.join()).collect();
        let pairs: Vec<_> = callers.iter().map(|caller| caller.pair_with(&owner, "a")).collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(here, there, _)| (here, there)).collect();
        ask_for_too_much(&pairs, begun);
        assert_eq!(owner.resolve("nobody's"), Resolution::None);
    });
}

#[test]
fn introductions_to_one_who_does_not_listen_are_refused() {
    within(120, "introductions_to_one_who_does_not_listen_are_refused", || {
        let scene = Scene::new();
        let (caller, deaf, other) = (scene.join(), scene.join(), scene.join());
        deaf.register(1, "a");
        other.register(1, "b");
        let refusal = (0..3000).find_map(|_| {
            caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
            let introduced = match caller.hear_with().0 {
                FromHub::Introduced { pair, .. } => pair,
                FromHub::Refused { why, .. } => return Some(why),
                other => panic!("{other:?}"),
            };
            caller.say(&ToHub::Part { pair: introduced });
            assert!(caller.refused().contains("did not complete its introduction"));
            None
        });
        let refusal = refusal.expect("the hub keeps thousands of descriptors for one who does not listen");
        assert!(refusal.contains("does not read the messages that wait for it"), "{refusal}");
        // Others are introduced, and so is this one again when it listens: it is still there.
        assert!(matches!(caller.pair_with(&other, "b").2, Resolution::At { .. }));
        let mut buffer = vec![0; MAX_MESSAGE];
        assert!(eventually(30, "there is room again", || {
            while socket::receive_many(&deaf.joined.socket, &mut buffer, BlockingMode::No).is_ok() {}
            caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
            matches!(caller.hear_with().0, FromHub::Introduced { .. })
        }));
    });
}

/// A client makes its control socket of a pair slow: the pair is over, and so is its connection, and others go on.
#[test]
fn fault_40_a_slow_side_of_a_pair_costs_the_client_its_place() {
    within(120, "fault_40_a_slow_side_of_a_pair_costs_the_client_its_place", || {
        let scene = Scene::new();
        let (owner, slow, other) = (scene.join(), scene.join(), scene.join());
        owner.register(1, "a");
        slow.say(&ToHub::Resolve { seq: slow.next(), name: "a".into() });
        let (theirs, ours) = (owner.introduction(), slow.introduction());
        assert!(matches!(slow.hear(), FromHub::Resolved { .. }));
        let _burden = toll::burden(&ours.control, 300_000);
        // The owner asks for memory and maps it, of which the hub tells the other side, until the pair is over.
        let need = Message::Need { len: 1 << 16 };
        let _ = theirs.control.send(need, None);
        while let Ok(Some((message, _))) = theirs.control.receive(BlockingMode::Yes) {
            let answer = match message {
                Message::Sealed { segment: 0 } => continue,
                Message::Grant { segment } => Message::Mapped { segment },
                _ => need,
            };
            let _ = theirs.control.send(answer, None);
        }
        assert!(slow.is_out());
        assert_eq!(other.resolve("nobody's"), Resolution::None);
        assert!(matches!(owner.register_as(2, "b", None, false), FromHub::Registered { .. }));
    });
}
