//! Who has which name, until when, and how often it was called.

use super::*;

#[test]
fn a_name_goes_with_its_client() {
    within(60, "a_name_goes_with_its_client", || {
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
        assert!(eventually(30, "b is free", || second.finds_nobody("b")));
        second.register(2, "b");
    });
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
fn a_client_has_so_many_names_and_no_more() {
    within(120, "a_client_has_so_many_names_and_no_more", || {
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
        let (owner, handle) = (scene.join(), scene.join_as(ClientRights::CallerOnly));
        owner.register(1, "a");
        assert!(matches!(handle.register_as(1, "b", None, false), FromHub::Refused { .. }));
        assert!(matches!(handle.register_as(1, "a", None, true), FromHub::Refused { .. }));
        handle.say(&ToHub::Shutdown { seq: handle.next() });
        handle.refused();
        assert_eq!(owner.resolve("b"), Resolution::None);
        let (_here, _there, to) = handle.pair_with(&owner, "a");
        assert!(matches!(to, Resolution::At { number: 1, .. }));
        assert_eq!(handle.granted(handle.acquire("lock", None, None)), (0, false));
        // A client can end the hub.
        owner.say(&ToHub::Shutdown { seq: owner.next() });
        assert_eq!((owner.hear(), handle.hear()), (FromHub::Closing, FromHub::Closing));
        let hub = scene.hub.as_ref().unwrap();
        assert!(eventually(30, "the hub has ended", || !hub.is_running()));
        assert!(hub.join().is_err());
    });
}
