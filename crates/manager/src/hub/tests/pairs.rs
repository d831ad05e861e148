//! Callers and owners that are introduced, and the memory between them.

use super::*;
use crate::hub::pairs;

/// A caller and an owner who have been introduced.
struct Introduced {
    scene: Scene,
    caller: Talk,
    owner: Talk,
    at_caller: ReceivedIntroduction,
    at_owner: ReceivedIntroduction,
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

/// What comes next, but for that the first segment is ready.
fn next(control: &Control) -> Option<(Message, Option<OwnedFd>)> {
    loop {
        assert!(poll::readable(control, LONG).unwrap(), "nothing came");
        match control.receive(BlockingMode::No).unwrap() {
            Some((Message::Sealed { segment: 0 }, None)) => {}
            other => return other,
        }
    }
}

/// The answer to a message. What is granted is said to be mapped.
#[track_caller]
fn say_and_hear(control: &Control, message: Message) -> Message {
    control.send(message, None).unwrap();
    let answer = next(control).expect("the pair is there").0;
    if let Message::Grant { segment } = answer {
        control.send(Message::Mapped { segment }, None).unwrap();
        assert_eq!(next(control).expect("the pair is there").0, Message::Sealed { segment });
    }
    answer
}

#[test]
fn a_caller_and_an_owner_are_introduced_once() {
    within(60, "a_caller_and_an_owner_are_introduced_once", || {
        let all = Introduced::with(HubOptions::new().concurrent_calls(3));
        let Introduced { at_caller, at_owner, caller, owner, .. } = &all;
        assert_eq!((at_caller.side, at_owner.side), (PairSide::Caller, PairSide::Owner));
        assert_eq!((at_caller.pair, at_caller.pid), (at_owner.pair, std::process::id()));
        // The same memory, of the geometry that was asked for.
        let geometry = at_owner.segment.geometry();
        assert_eq!((geometry.lanes, geometry.workers), (3, 3));
        let line = at_caller.segment.worker_line(2);
        line.bell.cpu.store(77, callgate_os::sync::Ordering::Relaxed);
        assert_eq!(at_owner.segment.worker_line(2).bell.cpu.load(callgate_os::sync::Ordering::Relaxed), 77);
        // Another callback of the same owner, the same pair; the other way round, another.
        owner.register(8, "b");
        let again = caller.resolve("b");
        assert!(matches!(again, Resolution::At { pair, number: 8, .. } if pair == at_caller.pair));
        caller.register(1, "c");
        owner.say(&ToHub::Resolve { seq: owner.next(), name: "c".into() });
        let (back, there) = (caller.introduction(), owner.introduction());
        assert!(back.pair == there.pair && back.pair != at_caller.pair);
        assert_eq!((back.side, there.side), (PairSide::Owner, PairSide::Caller));
    });
}

#[test]
fn memory_is_asked_for_and_given_back() {
    within(60, "memory_is_asked_for_and_given_back", || {
        const MIB: u64 = 1 << 20;
        let Introduced { scene, at_caller, at_owner, caller: _caller, owner: _owner } =
            Introduced::with(HubOptions::new().memory_per_client(8 * MIB));
        let (ours, theirs) = (&at_caller.control, &at_owner.control);
        ours.send(Message::Need { len: 3 * MIB }, None).unwrap();
        let (Message::Grant { segment }, Some(writable)) = next(ours).unwrap() else { panic!("it is granted") };
        let mapped = Mapping::new(&writable, 3 << 20, Protection::ReadWrite).unwrap();
        ours.send(Message::Mapped { segment }, None).unwrap();
        assert_eq!(next(ours).unwrap().0, Message::Sealed { segment });
        let (Message::Attach { segment: same }, Some(readable)) = next(theirs).unwrap() else {
            panic!("it is attached")
        };
        assert_eq!(segment, same);
        for object in [&writable, &readable] {
            assert_eq!(memfd::sealed_len(object).unwrap() as u64, 3 * MIB);
        }
        assert!(
            Mapping::new(&writable, 3 << 20, Protection::ReadWrite).is_err() && mapped.remove_for_test(4096).is_err()
        );
        assert!(Mapping::new(&readable, 3 << 20, Protection::ReadOnly).is_ok());
        assert!(Mapping::new(&readable, 3 << 20, Protection::ReadWrite).is_err(), "who only reads cannot write");
        // Each has a budget of its own, and half of that for one pair.
        let (len, budget, max) = (2 * MIB, 8 * MIB, 4 * MIB);
        assert_eq!(say_and_hear(ours, Message::Need { len }), Message::Exhausted { len, budget });
        assert_eq!(say_and_hear(ours, Message::Need { len: 5 * MIB }), Message::Deny { len: 5 * MIB, max });
        assert_eq!(say_and_hear(ours, Message::Need { len: u64::MAX }), Message::Deny { len: u64::MAX, max });
        let Message::Grant { segment: of_owner } = say_and_hear(theirs, Message::Need { len: max }) else {
            panic!("it is granted")
        };
        assert_ne!(of_owner, segment, "numbers are the pair's");
        assert_eq!(next(ours).unwrap().0, Message::Attach { segment: of_owner });
        // What is given back can be had again when nobody has it any more; the other is told.
        ours.send(Message::Detach { segment }, None).unwrap();
        assert_eq!(next(theirs).unwrap().0, Message::Detach { segment });
        let len = 3 * MIB;
        drop((writable, mapped));
        assert_eq!(say_and_hear(ours, Message::Need { len }), Message::Exhausted { len, budget });
        drop(readable);
        assert!(matches!(say_and_hear(ours, Message::Need { len }), Message::Grant { segment } if segment > of_owner));
        // The budget is of the client, not of the pair; what a pair had is free when it ends.
        drop((at_caller, at_owner));
        scene.serves();
    });
}

#[test]
fn one_budget_holds_for_all_pairs_of_a_client() {
    within(60, "one_budget_holds_for_all_pairs_of_a_client", || {
        let all = Introduced::with(HubOptions::new().memory_per_client(4 << 20));
        let (len, budget) = (3 << 19, 4 << 20);
        let other = all.scene.join();
        other.register(1, "b");
        all.caller.say(&ToHub::Resolve { seq: all.caller.next(), name: "b".into() });
        let (second, _at_other) = (all.caller.introduction(), other.introduction());
        assert!(matches!(say_and_hear(&all.at_caller.control, Message::Need { len }), Message::Grant { .. }));
        let exhausted = Message::Exhausted { len, budget };
        assert_eq!(say_and_hear(&second.control, Message::Need { len }), exhausted);
        // One that keeps all that it can get leaves the others some.
        assert!(matches!(say_and_hear(&second.control, Message::Need { len: 3 << 18 }), Message::Grant { .. }));
        drop((all.at_caller, all.at_owner));
        assert!(eventually(30, "what the first pair had is free", || {
            matches!(say_and_hear(&second.control, Message::Need { len: 1 << 19 }), Message::Grant { .. })
        }));
    });
}

#[test]
fn what_a_pair_begins_with_is_of_the_callers_budget() {
    within(60, "what_a_pair_begins_with_is_of_the_callers_budget", || {
        // 64 lanes: more than a MiB each.
        let address = own_address();
        let least =
            match Hub::start(&address, &secret(), HubOptions::new().concurrent_calls(64).memory_per_client(1 << 20)) {
                Err(ManagerError::Option { option: "memory_per_client", range, .. }) => {
                    range.split(' ').next().and_then(|least| least.parse().ok()).expect("a number")
                }
                other => panic!("{other:?}"),
            };
        let scene = Scene::with(HubOptions::new().concurrent_calls(64).memory_per_client(least));
        let caller = scene.join();
        let owners: Vec<_> = (0..5).map(|_| scene.join()).collect();
        for (number, owner) in owners.iter().enumerate() {
            owner.register(1, &format!("{number}"));
        }
        let mut introduced: Vec<_> = (0..4)
            .map(|number| {
                caller.say(&ToHub::Resolve { seq: caller.next(), name: format!("{number}") });
                let (here, there) = (caller.introduction(), owners[number].introduction());
                assert!(matches!(caller.hear(), FromHub::Resolved { .. }));
                (here, there)
            })
            .collect();
        caller.say(&ToHub::Resolve { seq: caller.next(), name: "4".into() });
        assert!(caller.refused().contains("its memory budget is used up"));
        // Its own: others can be introduced, and so can it when it has done with one.
        owners[0].say(&ToHub::Resolve { seq: owners[0].next(), name: "4".into() });
        assert!(matches!(owners[0].hear_with().0, FromHub::Introduced { .. }));
        let part = introduced.pop().expect("there are four").0.pair;
        caller.say(&ToHub::Part { pair: part });
        drop(owners[4].introduction());
        assert!(eventually(30, "what that began with is released", || {
            caller.say(&ToHub::Resolve { seq: caller.next(), name: "4".into() });
            matches!(caller.hear_with().0, FromHub::Introduced { .. })
        }));
    });
}

#[test]
fn one_side_has_so_many_segments_and_no_more() {
    within(60, "one_side_has_so_many_segments_and_no_more", || {
        let all = Introduced::with(HubOptions::new());
        let (ours, theirs) = (&all.at_caller.control, &all.at_owner.control);
        let need = Message::Need { len: 1 };
        let mut last = 0;
        for _ in 0..64 {
            let Message::Grant { segment } = say_and_hear(ours, need) else { panic!("it is granted") };
            last = segment;
            assert_eq!(next(theirs).unwrap().0, Message::Attach { segment });
        }
        assert!(matches!(say_and_hear(ours, need), Message::Exhausted { .. }));
        assert!(matches!(say_and_hear(theirs, need), Message::Grant { .. }), "the other has its own");
        assert!(matches!(next(ours).unwrap().0, Message::Attach { .. }));
        ours.send(Message::Detach { segment: last }, None).unwrap();
        assert!(matches!(say_and_hear(ours, need), Message::Grant { .. }));
    });
}

/// What a hub knows of pairs, without the hub's thread. Nothing is sealed.
struct PairBooks {
    pairs: pairs::Pairs,
    unsealed: mpsc::Receiver<pairs::SealRequest>,
}

/// Both ends of a pair of these books.
struct PairSides {
    pair: u64,
    caller: Control,
    owner: Control,
}

impl PairBooks {
    fn new() -> Self {
        let (sender, unsealed) = mpsc::channel();
        let sealer = Box::new(move |object| sender.send(object).is_ok());
        Self { pairs: pairs::Pairs::new(HubOptions::new().geometry(), 1 << 40, sealer), unsealed }
    }

    /// A caller and an owner, by the numbers of their clients and processes.
    fn introduce(&mut self, caller: u64, owner: u64) -> PairSides {
        let [caller, owner] = [caller, owner].map(|number| (number, Identity::of_nobody(number)));
        let pairs::New { pair, owner: [_, owner], caller: [_, caller] } = self.pairs.introduce(caller, owner).unwrap();
        PairSides { pair, caller: Control::new(caller), owner: Control::new(owner) }
    }

    /// The caller says something.
    #[track_caller]
    fn say(&mut self, PairSides { pair, caller, .. }: &PairSides, message: Message) {
        caller.send(message, None).unwrap();
        let heard = self.pairs.read_one(*pair, PairSide::Caller, &mut Credit::new(64, 0));
        assert_eq!(heard, pairs::ControlRead::More);
    }

    /// The answer to a caller that needs a byte, if it comes at once, and the memory. The caller says that it has mapped it.
    #[track_caller]
    fn ask(&mut self, sides: &PairSides) -> Option<(Message, Option<OwnedFd>)> {
        self.say(sides, Message::Need { len: 1 });
        let answer = sides.caller.receive(BlockingMode::No).ok().flatten();
        if let Some((Message::Grant { segment }, _)) = answer {
            self.say(sides, Message::Mapped { segment });
            assert_eq!(self.pairs.sealed(self.unsealed.try_recv().unwrap()), pairs::ControlRead::More);
            assert_eq!(next(&sides.caller).unwrap().0, Message::Sealed { segment });
        }
        while sides.owner.receive(BlockingMode::No).is_ok() {}
        answer
    }

    #[track_caller]
    fn is_granted(&mut self, sides: &PairSides) -> bool {
        matches!(self.ask(sides), Some((Message::Grant { .. }, _)))
    }
}

/// Each costs who reads it a mapping.
#[test]
fn one_client_reads_so_many_segments_and_no_more() {
    within(120, "one_client_reads_so_many_segments_and_no_more", || {
        let mut books = PairBooks::new();
        let mut all = Vec::new();
        for caller in 0..64 {
            let sides = books.introduce(caller + 2, 1);
            assert!((0..64).all(|_| books.is_granted(&sides)));
            all.push(sides);
        }
        let another = books.introduce(100, 1);
        assert!(matches!(books.ask(&another), Some((Message::Exhausted { .. }, None))));
        books.pairs.end(all[0].pair);
        books.pairs.released();
        assert!(books.is_granted(&another));
        all.iter().chain([&another]).for_each(|sides| books.pairs.end(sides.pair));
        assert!(books.pairs.of(1).is_empty());
    });
}

/// Row 39 of the faults: what one process gives back and keeps does not use up what the other side may have of others.
#[test]
fn fault_39_segments_that_one_keeps_leave_others_theirs() {
    within(120, "fault_39_segments_that_one_keeps_leave_others_theirs", || {
        let mut books = PairBooks::new();
        let (hostile, mut kept) = (books.introduce(1, 2), Vec::new());
        for _ in 0..5000 {
            let Some((Message::Grant { segment }, Some(object))) = books.ask(&hostile) else { break };
            kept.push(Mapping::new(&object, 1, Protection::ReadWrite).unwrap());
            drop(object);
            books.say(&hostile, Message::Detach { segment });
        }
        books.pairs.released();
        assert!((1..=512).contains(&kept.len()), "{}", kept.len());
        let [one, other] = [1, 2].map(Identity::of_nobody);
        assert!(books.pairs.introduce((11, one), (2, other)).is_err(), "another connection does not help");
        // Either side talks to others; and the two may again when nothing is kept.
        for (caller, owner) in [(3, 2), (1, 4)] {
            let others = books.introduce(caller, owner);
            assert!(books.is_granted(&others), "{caller} and {owner}");
        }
        books.pairs.end(hostile.pair);
        kept.clear();
        books.pairs.released();
        let again = books.introduce(1, 2);
        assert!(books.is_granted(&again));
    });
}

#[test]
fn a_pair_ends_for_both_sides() {
    within(60, "a_pair_ends_for_both_sides", || {
        type End = fn(&mut Option<Talk>, ReceivedIntroduction);
        let ends: [(&str, End); 6] = [
            ("its socket closes", |_, at| drop(at)),
            ("it leaves the hub", |client, _at| drop(client.take())),
            ("it is done", |client, at| client.as_ref().unwrap().say(&ToHub::Part { pair: at.pair })),
            ("it says what only the hub says", |_, at| at.control.send(Message::Grant { segment: 1 }, None).unwrap()),
            ("it gives back what it has not", |_, at| at.control.send(Message::Detach { segment: 1 }, None).unwrap()),
            ("it wants nothing", |_, at| at.control.send(Message::Need { len: 0 }, None).unwrap()),
        ];
        for (case, end) in ends {
            for side in [PairSide::Caller, PairSide::Owner] {
                let Introduced { scene, caller, owner, at_caller, at_owner } = Introduced::with(HubOptions::new());
                let first = at_caller.pair;
                let (mut caller, mut owner) = (Some(caller), Some(owner));
                let left = match side {
                    PairSide::Caller => {
                        end(&mut caller, at_caller);
                        at_owner.control
                    }
                    PairSide::Owner => {
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

/// Row 39 of the faults: whoever joins, leaves and joins again gets no more than one process may have, and keeps no more of an honest one's.
#[test]
fn fault_39_what_a_process_keeps_counts_however_often_it_joins() {
    within(120, "fault_39_what_a_process_keeps_counts_however_often_it_joins", || {
        const BUDGET: u64 = 8 << 20;
        let (sender, unsealed) = mpsc::channel();
        let sealer = Box::new(move |object| sender.send(object).is_ok());
        let mut pairs = pairs::Pairs::new(HubOptions::new().geometry(), BUDGET, sealer);
        let (mut kept, mut granted, hostile) = (Vec::new(), 0, Identity::of_nobody(1));
        for round in 0..1000 {
            // It talks to many.
            let clients = ((10 + 2 * round, hostile), (11 + 2 * round, Identity::of_nobody(20 + round % 7)));
            let Ok(pairs::New { pair, caller: [segment, control], .. }) = pairs.introduce(clients.0, clients.1) else {
                continue;
            };
            kept.push(segment);
            let control = Control::new(control);
            control.send(Message::Need { len: 1 << 20 }, None).unwrap();
            pairs.read_one(pair, PairSide::Caller, &mut Credit::new(64, 0));
            if let Ok(Some((Message::Grant { .. }, Some(object)))) = control.receive(BlockingMode::No) {
                granted += 1 << 20;
                kept.push(object);
            }
            pairs.end(pair);
        }
        let sizes = kept.iter().map(|object| memfd::sealed_len(object).unwrap() as u64);
        assert!(granted > 0 && sizes.sum::<u64>() <= BUDGET, "{granted} bytes of {BUDGET}");
        // Others are served, also those that it has talked to, and it is again when it has let go.
        let [reader, fresh, honest] = [90, 91, 20].map(Identity::of_nobody);
        let need = |pairs: &mut pairs::Pairs, writer| {
            let made = pairs.introduce((5000, writer), (5001, reader)).ok()?;
            let control = Control::new(made.caller.into_iter().nth(1)?);
            control.send(Message::Need { len: 1 << 20 }, None).unwrap();
            pairs.read_one(made.pair, PairSide::Caller, &mut Credit::new(64, 0));
            let answer = control.receive(BlockingMode::No).ok().flatten();
            pairs.end(made.pair);
            answer.filter(|(answer, _)| matches!(answer, Message::Grant { .. })).map(drop)
        };
        assert!(
            need(&mut pairs, hostile).is_none()
                && need(&mut pairs, fresh).is_some()
                && need(&mut pairs, honest).is_some()
        );
        drop((kept, unsealed));
        pairs.released();
        assert!(need(&mut pairs, hostile).is_some());
    });
}

/// Row 41 of the faults: neither side makes holes in what the two share, nor is a caller told of an owner before that is so.
#[test]
fn fault_41_what_a_pair_shares_is_sealed_before_it_is_used() {
    within(60, "fault_41_what_a_pair_shares_is_sealed_before_it_is_used", || {
        let scene = Scene::new();
        let (caller, owner) = (scene.join(), scene.join());
        owner.register(1, "a");
        caller.say(&ToHub::Resolve { seq: caller.next(), name: "a".into() });
        let (_here, (_, mut there)) = (caller.introduction(), owner.hear_with());
        // As long as the owner does not say that it has mapped the memory, the caller hears nothing; and in the end that nothing comes of it.
        assert!(!poll::readable(&caller.joined.socket, Duration::from_millis(300)).unwrap());
        let object = there.remove(0);
        assert!(Mapping::new(&object, memfd::sealed_len(&object).unwrap(), Protection::ReadWrite).is_ok());
        assert!(caller.refused().contains("did not complete its introduction"));
        drop(there);
        let (_here, there, to) = caller.pair_with(&owner, "a");
        assert!(matches!(to, Resolution::At { .. }));
        assert!(there.segment.is_sealed_for_test());
        scene.serves();
    });
}

/// Row 41 of the faults: an owner that has not heard that the memory is sealed is not had to look at it.
#[test]
fn fault_41_no_lane_begins_before_what_a_pair_shares_is_sealed() {
    within(60, "fault_41_no_lane_begins_before_what_a_pair_shares_is_sealed", || {
        for (mapped, is_sealed) in [(0, false), (1, false), (2, false), (2, true)] {
            let mut books = PairBooks::new();
            let PairSides { pair, caller, owner } = books.introduce(1, 2);
            for (side, control) in [(PairSide::Caller, &caller), (PairSide::Owner, &owner)].into_iter().take(mapped) {
                control.send(Message::Mapped { segment: 0 }, None).unwrap();
                assert_eq!(books.pairs.read_one(pair, side, &mut Credit::new(64, 0)), pairs::ControlRead::More);
            }
            if is_sealed {
                let ready = books.pairs.sealed(books.unsealed.try_recv().unwrap());
                assert_eq!((ready, owner.receive(BlockingMode::No).is_ok()), (pairs::ControlRead::Ready, true));
            }
            caller.send(Message::Begin { lane: 0 }, None).unwrap();
            let heard = books.pairs.read_one(pair, PairSide::Caller, &mut Credit::new(64, 0));
            assert_eq!(heard == pairs::ControlRead::More, is_sealed, "{mapped} have mapped it");
            assert_eq!(owner.receive(BlockingMode::No).is_ok(), is_sealed, "{mapped} have mapped it");
        }
    });
}
