//! Fuzz target: either side of the handshake reads a first message of any bytes.

#![forbid(unsafe_code)]

use super::input::{Input, mutate};
use super::types::Sample;
use callgate_engine::handshake::{Answer, Entry, Greeting, Hello, send_plan};
use callgate_os::socket;
use callgate_transport::doorbell::wait_from_code;
use callgate_transport::layout::{MAGIC, PROTOCOL};
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The longest message sent, in bytes; longer than either side reads.
const LONGEST: usize = 8192;

/// Sends the input as the first message of a handshake.
///
/// The first byte chooses the side that reads it. A later one chooses between an honest message, then mutated, and arbitrary bytes.
pub fn handshake(data: &[u8]) {
    let mut input = Input::new(data);
    match input.flag() {
        true => to_child(&mut input),
        false => to_parent(&mut input),
    }
}

fn to_child(input: &mut Input<'_>) {
    let (parent, child) = socket::pair().expect("a pair of sockets");
    let (rights, has_plan) = (input.below(4), input.flag());
    if input.flag() {
        let hello = Hello { sandboxed: has_plan, ..Hello::sample(input) };
        let plan: Vec<u8> = Sample::sample(input);
        let honest = sent(|socket| drop(hello.send(socket, &[])));
        let mut message = honest.clone();
        let is_honest = !mutate(&mut message, input) && !honest.is_empty();
        send(&parent, &message, rights);
        let received = told(&parent, &child, has_plan.then_some(&plan));
        let is_same = matches!(&received, Ok(Some(Greeting { hello: said, descriptors, plan: heard }))
            if *said == hello && descriptors.len() == rights && *heard == has_plan.then_some(plan));
        assert!(!is_honest || is_same, "{hello:?} became {received:?}");
        black_box(format!("{received:?}"));
    } else {
        let message = message(input);
        send(&parent, &message, rights);
        if let Ok(Some(Greeting { hello, plan, .. })) = told(&parent, &child, has_plan.then_some(&message)) {
            black_box((format!("{hello:?} {plan:?}"), wait_from_code(hello.wait)));
        }
    }
}

/// Sends the plan after the message, if there is one, and returns what the child reads. Shuts the socket down first, so that the child does not wait.
fn told(parent: &OwnedFd, child: &OwnedFd, plan: Option<&Vec<u8>>) -> io::Result<Option<Greeting>> {
    if let Some(plan) = plan {
        send_plan(parent, plan).expect("a socket with one message takes another");
    }
    rustix::net::shutdown(parent, rustix::net::Shutdown::Write).expect("a socket of this process");
    Hello::receive(child)
}

fn to_parent(input: &mut Input<'_>) {
    let (parent, child) = socket::pair().expect("a pair of sockets");
    let rights = input.below(4);
    if input.flag() {
        let answer = Answer::sample(input);
        let body: Vec<u8> = if answer.has_body() { Sample::sample(input) } else { Vec::new() };
        let mut message = sent(|socket| drop(answer.send(socket, &body)));
        let is_honest = !mutate(&mut message, input);
        send(&child, &message, rights);
        let received = Answer::receive(&parent);
        let is_same = matches!(&received, Ok(Some((said, with))) if *said == answer && *with == body);
        // An honest answer carries at most one descriptor.
        assert!(!is_honest || rights > 1 || is_same, "{answer:?} became {received:?}");
    } else {
        send(&child, &message(input), rights);
        black_box(Answer::receive(&parent).ok());
    }
}

/// Arbitrary bytes, sometimes after a valid beginning.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let begins_right = input.flag();
    let mut message = input.rest().to_vec();
    message.truncate(LONGEST);
    if begins_right {
        message.splice(0..0, [&MAGIC.to_le_bytes()[..], &PROTOCOL.to_le_bytes(), &[0; 4]].concat());
    }
    message
}

/// The bytes of the message that `send` sends.
fn sent(send: impl FnOnce(&OwnedFd)) -> Vec<u8> {
    let (from, to) = socket::pair().expect("a pair of sockets");
    send(&from);
    let mut buffer = vec![0; LONGEST];
    match socket::receive(&to, &mut buffer, socket::BlockingMode::No) {
        Ok(socket::Received::Message(len, _)) => buffer[..len].to_vec(),
        _ => Vec::new(),
    }
}

/// Sends one message with `rights` descriptors. An empty one becomes one byte, because a message without bytes reads as the end of the socket.
fn send(socket: &OwnedFd, message: &[u8], rights: usize) {
    let rights = vec![socket.as_fd(); rights];
    let message = if message.is_empty() { &[0][..] } else { message };
    socket::send(socket, message, &rights).expect("an empty socket takes a message");
}

impl Sample for Hello {
    fn sample(input: &mut Input<'_>) -> Self {
        Hello {
            format: input.odd_word(),
            entry: input.flag().then(|| Entry { build: input.odd_word(), offset: input.odd_word() }),
            fingerprint: input.odd_word(),
            interfaces: Sample::sample(input),
            parent_pid: input.odd_word() as u32,
            name: Sample::sample(input),
            wait: input.odd_word(),
            signal: input.byte(),
            place: Sample::sample(input),
            max_payload: input.odd_word(),
            retained: input.odd_word(),
            trusted: input.flag(),
            sandboxed: input.flag(),
        }
    }
}

impl Sample for Answer {
    fn sample(input: &mut Input<'_>) -> Self {
        let (kind, value) = (input.byte(), input.odd_word());
        match kind % 11 {
            0 => Answer::Ready { pid: value },
            1 => Answer::Protocol { version: value },
            2 => Answer::Format { format: value },
            3 => Answer::Build { build: value },
            4 => Answer::Fingerprint { fingerprint: value },
            5 => Answer::NotServing,
            6 => Answer::Segment { error: 12 },
            7 => Answer::NoSandbox,
            9 => Answer::Interface { interface: value },
            8 => Answer::Unconfined { measure: value },
            _ => Answer::OneWorker,
        }
    }
}

#[cfg(test)]
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let many: Vec<u8> = (0..80u8).map(|at| at.wrapping_mul(41)).collect();
    let mut seeds = vec![
        [&[1, 2, 1][..], &many[..30]].concat(),
        [&[1, 0, 1], &many[..]].concat(),
        [&[1, 1, 0, 1], &many[..]].concat(),
        [&[0, 1, 0, 1], &many[..16]].concat(),
    ];
    seeds.extend((0..10).map(|kind| vec![0, 0, 1, kind, 1, 2, 3]));
    seeds
}
