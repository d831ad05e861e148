//! One of the hub's connections: its peer, its send queue, and its credit.

#![forbid(unsafe_code)]

use super::credits::{self, SharedCredit};
use crate::auth::{Challenge, ClientRights};
use callgate_os::pidfd::{Identity, Pidfd};
use callgate_os::poll::{self, Interest};
use callgate_os::socket::{self, BlockingMode, Exposed, Received};
use callgate_os::toll::Toll;
use callgate_transport::bounds::hub::{MAX_QUEUED, MAX_QUEUED_INTRODUCTIONS, MAX_QUEUED_MESSAGES};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// A connection's number at the hub; never used again.
pub(super) type ClientId = u64;

/// A connection, authenticated or not.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Exposed,
    /// Its process number, from the kernel.
    pub(super) pid: u32,
    pub(super) state: ConnectionState,
    /// Its process's credit, once the process is known.
    pub(super) credit: SharedCredit,
    /// What sending to it and receiving from it costs.
    toll: Toll,
    /// The events that it is polled for, at first to be readable; `None` = not polled.
    pub(super) interest: Option<Interest>,
    /// Whether the hub neither reads from it nor polls it for a while.
    is_resting: bool,
    /// Whether the kernel refused a message in spite of room, or takes long for each: the next attempt comes after a rest.
    is_stalled: bool,
    queue: SendQueue,
}

#[derive(Debug)]
pub(super) enum ConnectionState {
    /// It has not yet proved that it knows the key.
    Unauthenticated(Challenge),
    Client(Admitted),
}

/// A client: a process that has proved that it knows the key.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) role: ClientRights,
    /// Reports its end, to the hub and to its peers.
    pub(super) process: Pidfd,
    pub(super) identity: Identity,
    /// Lists of names in the course of being sent to it.
    pub(super) lists: VecDeque<List>,
}

/// A partly sent list of names: the `seq` of its question, and the last name sent.
#[derive(Debug)]
pub(super) struct List {
    pub(super) seq: u64,
    pub(super) after: Option<Arc<str>>,
}

/// The peer is gone, or its send queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Connection {
    pub(super) fn new(socket: Exposed, pid: u32, state: ConnectionState) -> Self {
        Self {
            socket,
            pid,
            state,
            credit: credits::own(),
            toll: Toll::default(),
            interest: Some(Interest::Read),
            is_resting: false,
            is_stalled: false,
            queue: SendQueue::default(),
        }
    }

    pub(super) fn client(&self) -> Option<&Admitted> {
        match &self.state {
            ConnectionState::Client(client) => Some(client),
            ConnectionState::Unauthenticated(_) => None,
        }
    }

    pub(super) fn client_mut(&mut self) -> Option<&mut Admitted> {
        match &mut self.state {
            ConnectionState::Client(client) => Some(client),
            ConnectionState::Unauthenticated(_) => None,
        }
    }

    /// Queues a message behind those that wait, and sends as far as there is room.
    pub(super) fn send(&mut self, message: Vec<u8>, rights: Vec<OwnedFd>) -> Result<(), Gone> {
        self.queue.push(message, rights)?;
        // Behind others, it cannot be sent yet.
        if self.queue.messages.len() == 1 { self.flush() } else { Ok(()) }
    }

    /// Receives one message into `buffer`. Drops a peer whose messages take the kernel too long.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let received = self.toll.pay(|| socket::receive(&self.socket, buffer, BlockingMode::No));
        self.credit.lock().charge_time(self.toll.take());
        match (self.is_slow(), received) {
            (true, Ok(Received::Message(_, descriptors))) => {
                socket::discard(descriptors);
                Ok(Received::Closed)
            }
            (_, received) => received,
        }
    }

    /// Whether the peer has made its socket too slow to use.
    pub(super) fn is_slow(&self) -> bool {
        self.toll.is_exceeded()
    }

    /// Sends queued messages, as far as there is room.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        while let Some((message, rights)) = self.queue.messages.front() {
            // Sending to it has cost the other clients' time, so they come first for a while.
            if self.credit.lock().is_overdrawn() {
                self.is_stalled = true;
                return Ok(());
            }
            let rights: Vec<_> = rights.iter().map(AsFd::as_fd).collect();
            let sent = self.toll.pay(|| socket::send(&self.socket, message, &rights));
            self.credit.lock().charge_time(self.toll.take());
            match sent {
                _ if self.toll.is_exceeded() => return Err(Gone),
                Ok(()) => self.queue.pop(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Not the peer's fault: the kernel limits how many of this user's descriptors may be in flight.
                Err(error) if !rights.is_empty() && error.kind() != io::ErrorKind::BrokenPipe => {
                    self.is_stalled = true;
                    return Ok(());
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Charges it for another message. `false` if its credit is used up; then it rests.
    pub(super) fn may_speak(&mut self) -> bool {
        let may = self.credit.lock().take(1);
        self.is_resting |= !may;
        may
    }

    pub(super) fn is_resting(&self) -> bool {
        self.is_resting
    }

    /// Starts a rest if it has stalled. `true` if it did not rest before.
    pub(super) fn begins_to_rest(&mut self) -> bool {
        let stalled = std::mem::take(&mut self.is_stalled);
        let begins = stalled && !self.is_resting;
        self.is_resting |= stalled;
        begins
    }

    /// Makes it rest, whatever its credit.
    pub(super) fn pause(&mut self) {
        self.is_resting = true;
    }

    pub(super) fn wake(&mut self) {
        self.is_resting = false;
    }

    /// Permits this many more messages, whatever its process owes: it has ended, so no more will follow.
    pub(super) fn grant_last(&mut self, messages: u32) {
        self.is_resting = false;
        self.credit = credits::own_for(messages);
    }

    /// The events to poll it for.
    pub(super) fn wanted(&self) -> Option<Interest> {
        match (self.is_resting, self.is_flushed()) {
            (true, _) => None,
            (false, true) => Some(Interest::Read),
            (false, false) => Some(Interest::Both),
        }
    }

    /// Whether its process has ended or closed the connection, even if the hub has not handled that yet.
    pub(super) fn is_leaving(&self) -> bool {
        poll::is_hung_up(&self.socket) || self.client().is_none_or(|client| client.process.has_ended())
    }

    /// Whether its send queue has room for an introduction.
    pub(super) fn takes_introductions(&self) -> bool {
        self.queue.introductions < MAX_QUEUED_INTRODUCTIONS
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.queue.messages.is_empty()
    }
}

/// Messages that wait for room in a socket.
#[derive(Debug, Default)]
struct SendQueue {
    messages: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    bytes: usize,
    /// Messages that carry descriptors.
    introductions: usize,
}

impl SendQueue {
    fn push(&mut self, message: Vec<u8>, rights: Vec<OwnedFd>) -> Result<(), Gone> {
        if self.messages.len() >= MAX_QUEUED_MESSAGES || self.bytes + message.len() > MAX_QUEUED {
            return Err(Gone);
        }
        self.bytes += message.len();
        self.introductions += usize::from(!rights.is_empty());
        self.messages.push_back((message, rights));
        Ok(())
    }

    fn pop(&mut self) {
        let Some((message, rights)) = self.messages.pop_front() else { return };
        self.bytes -= message.len();
        self.introductions -= usize::from(!rights.is_empty());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_os::socket::{BlockingMode, Received};

    fn connection() -> (Connection, OwnedFd) {
        let (ours, theirs) = socket::pair().unwrap();
        (Connection::new(ours.into(), 0, ConnectionState::Unauthenticated(Challenge::new().unwrap())), theirs)
    }

    #[test]
    fn a_full_socket_keeps_the_order_and_is_given_up_at_last() {
        let (mut connection, theirs) = connection();
        let mut sent = 0u32;
        while connection.send([&sent.to_le_bytes()[..], &[7; 996]].concat(), Vec::new()).is_ok() {
            sent += 1;
        }
        assert!(connection.queue.bytes <= MAX_QUEUED && connection.queue.bytes > MAX_QUEUED - 1000);
        let mut buffer = [0; 1000];
        for expected in 0..sent {
            connection.flush().unwrap();
            let Received::Message(1000, _) = socket::receive(&theirs, &mut buffer, BlockingMode::No).unwrap() else {
                panic!("message {expected} is missing")
            };
            assert_eq!(buffer[..4], expected.to_le_bytes());
        }
        assert!(connection.is_flushed() && connection.queue.bytes == 0);
        // Many small ones are as bad as few large ones.
        let sent = (0..100_000).take_while(|_| connection.send(vec![1], Vec::new()).is_ok()).count();
        assert!(connection.queue.messages.len() == MAX_QUEUED_MESSAGES && sent < 100_000);
        drop(theirs);
        assert_eq!(connection.flush(), Err(Gone));
    }
}
