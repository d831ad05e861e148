//! The hub's work without its thread: each event is handed to it, so that nothing depends on how fast anybody is.

use super::*;
use crate::manager::address::Address;
use crate::sys::socket::Blocking;
use crate::sys::toll::Credit;
use std::sync::mpsc;

fn running(name: &str) -> Running {
    let address = Address::abstract_name(format!("callgate-test-{}-{name}", std::process::id()));
    let listening = address.listen().unwrap().expect("nobody listens there");
    let key = AuthKey::new("the key of these tests").checked().unwrap();
    let (commands, receiver) = mpsc::channel();
    let waker = Arc::new(Waker::new().unwrap());
    Running::new(listening, key, HubOptions::new(), (waker, commands), receiver).unwrap()
}

/// A member of this process, and its end of the connection.
fn join(running: &mut Running) -> (MemberId, OwnedFd) {
    let (theirs, ours) = socket::pair().unwrap();
    running.take_in(theirs, Role::Member).unwrap();
    (running.next - 1, ours)
}

/// What a member has been told and has not yet read.
fn told(socket: &OwnedFd) -> Option<FromHub> {
    let mut buffer = vec![0; MAX_MESSAGE];
    match socket::receive(socket, &mut buffer, Blocking::No) {
        Ok(Received::Message(len, _)) => FromHub::decode(&buffer[..len]),
        _ => None,
    }
}

/// Row 43 of the faults: a question for names is a message to each owner, and costs as many.
#[test]
fn fault_43_who_asks_for_names_pays_for_asking_each_owner() {
    let mut running = running("names");
    let owners: Vec<_> = (0..10).map(|_| join(&mut running)).collect();
    for (number, (owner, socket)) in owners.iter().enumerate() {
        let (name, signature) = (format!("{number}"), "any".into());
        let wish = Wish { owner: *owner, owner_pid: 0, name, number: 1, signature, expires: None, replace: false };
        running.register(1, wish);
        assert_eq!(told(socket), Some(FromHub::Registered { seq: 1 }));
    }
    let (asker, _socket) = join(&mut running);
    *running.connections[&asker].credit.lock() = Credit::new(100, 0);
    running.ask_for_names(asker, 1);
    running.settle();
    assert!(owners.iter().all(|(_, socket)| told(socket) == Some(FromHub::Count { seq: 0 })));
    // Another question waits for the next round, and costs nothing yet.
    running.ask_for_names(asker, 2);
    running.settle();
    let credit = running.connections[&asker].credit.clone();
    assert_eq!((0..).take_while(|_| credit.lock().take(1)).count(), 90);
}
