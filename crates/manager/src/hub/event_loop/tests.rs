//! The hub's work without its thread: each event is handed to it, so that nothing depends on how fast anybody is.

use super::*;
use crate::address::Address;
use crate::hub::credits::SharedCredit;
use crate::hub::registry::RegisterRequest;
use crate::support;
use callgate_os::socket::{self, BlockingMode, Received};
use callgate_os::toll::Credit;
use std::sync::mpsc;

fn started() -> EventLoop {
    let listening = Address::from(support::address()).listen().unwrap().expect("nobody listens there");
    let key = AuthKey::new("the key of these tests").checked().unwrap();
    let (commands, receiver) = mpsc::channel();
    let waker = Arc::new(Waker::new().unwrap());
    EventLoop::new(listening, key, HubOptions::new(), (waker, commands), receiver).unwrap()
}

/// A client of this process, and its end of the connection.
fn join(event_loop: &mut EventLoop) -> (ClientId, OwnedFd) {
    let (theirs, ours) = socket::pair().unwrap();
    event_loop.take_in(theirs, ClientRights::Full).unwrap();
    (event_loop.next - 1, ours)
}

/// One that has registered a name.
fn join_with(event_loop: &mut EventLoop, name: &str) -> (ClientId, OwnedFd) {
    let (owner, socket) = join(event_loop);
    let (name, signature) = (name.into(), "any".into());
    event_loop.register(
        1,
        RegisterRequest { owner, owner_pid: 0, name, number: 1, signature, expires: None, replace: false },
    );
    assert_eq!(told(&socket), Some(FromHub::Registered { seq: 1 }));
    (owner, socket)
}

/// What a client has been told and has not yet read. The descriptors that come with it are closed.
fn told(socket: &OwnedFd) -> Option<FromHub> {
    let mut buffer = vec![0; MAX_MESSAGE];
    match socket::receive_many(socket, &mut buffer, BlockingMode::No) {
        Ok(Received::Message(len, _)) => FromHub::decode(&buffer[..len]),
        _ => None,
    }
}

/// Row 43 of the faults: a question for names is a message to each owner, and costs as many.
#[test]
fn fault_43_who_asks_for_names_pays_for_asking_each_owner() {
    let mut event_loop = started();
    let owners: Vec<_> = (0..10).map(|number| join_with(&mut event_loop, &format!("{number}"))).collect();
    let (asker, _socket) = join(&mut event_loop);
    // Not that of this process, which pays for what the kernel takes long for, too.
    let credit = SharedCredit::new(Credit::new(100, 0).into());
    event_loop.connections.get_mut(&asker).unwrap().credit = credit.clone();
    event_loop.ask_for_names(asker, 1);
    event_loop.settle();
    assert!(owners.iter().all(|(_, socket)| told(socket) == Some(FromHub::Count { seq: 0 })));
    // Another question waits for the next round, and costs nothing yet.
    event_loop.ask_for_names(asker, 2);
    event_loop.settle();
    assert_eq!((0..).take_while(|_| credit.lock().take(1)).count(), 90);
}

/// Row 41 of the faults: an owner that takes no part in introductions keeps each caller waiting for as long as all others.
#[test]
fn fault_41_each_who_waits_for_an_owner_has_its_whole_time() {
    let mut event_loop = started();
    let (owner, of_owner) = join_with(&mut event_loop, "a");
    let callers = [1, 2].map(|_| join(&mut event_loop));
    for (caller, _) in &callers {
        event_loop.resolve(*caller, 1, "a");
        // It closes its end of the pair.
        assert!(matches!(told(&of_owner), Some(FromHub::Introduced { .. })));
        let pair = event_loop.pairs.find(*caller, owner).unwrap();
        event_loop.attend_control(pair, PairSide::Owner);
    }
    for refused in [[true, false], [false, true]] {
        event_loop.resolving[0].until = Instant::now();
        event_loop.keep_time();
        for ((_, socket), is_refused) in callers.iter().zip(refused) {
            let all = std::iter::from_fn(|| told(socket));
            assert_eq!(all.filter(|said| matches!(said, FromHub::Refused { seq: 1, .. })).count() == 1, is_refused);
        }
    }
    assert!(event_loop.resolving.is_empty());
}
