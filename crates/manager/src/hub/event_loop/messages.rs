//! Reads and handles the messages of connections.
//!
//! Trusts none of them. A client that sends too much is read later; one that breaks the protocol is dropped.

#![forbid(unsafe_code)]

use super::{CALLER, EventLoop, KIND_BITS, OWNER, SOCKET, TURN, key};
use crate::auth::{self, ClientRights};
use crate::hub::connection::{ClientId, ConnectionState, Gone};
use crate::hub::registry::RegisterRequest;
use crate::protocol::{FromHub, PairSide, ToHub};
use callgate_os::socket::{self, Received};
use callgate_os::toll::SPELL;
use callgate_transport::bounds::hub::{LONG, MAX_LAST};
use std::io;
use std::time::{Duration, Instant};

impl EventLoop {
    /// Handles a connection that is readable or writable, or whose peer is gone.
    pub(super) fn attend(&mut self, id: ClientId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.flush() == Err(Gone) {
            return self.gone.push(id);
        }
        self.go_on_with_lists(id);
        for _ in 0..TURN {
            if !self.gone.is_empty() || !self.read_one(id) {
                break;
            }
        }
        self.renew_interest(id);
    }

    /// Handles the end of a client's process. Its last messages still count: a lock that it released is not abandoned.
    pub(super) fn read_last(&mut self, id: ClientId) {
        if self.departed.contains_key(&id) {
            return self.departed_ended(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.grant_last(MAX_LAST);
        }
        for _ in 0..MAX_LAST {
            if self.gone.contains(&id) || !self.read_one(id) {
                break;
            }
        }
        self.gone.push(id);
    }

    /// Gives resting connections and control sockets another turn.
    pub(super) fn attend_again(&mut self) {
        self.next_hearing = None;
        for key in std::mem::take(&mut self.resting) {
            let number = key >> KIND_BITS;
            match key & ((1 << KIND_BITS) - 1) {
                CALLER => self.listen_to_control(number, PairSide::Caller),
                OWNER => self.listen_to_control(number, PairSide::Owner),
                _ => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.wake();
                    }
                    self.attend(number);
                }
            }
        }
    }

    pub(super) fn rest(&mut self, key: u64) {
        self.resting.push(key);
        self.next_hearing.get_or_insert_with(|| Instant::now() + SPELL);
    }

    /// Reads and handles one message. `false` = no more now.
    fn read_one(&mut self, id: ClientId) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.is_resting() {
            return false;
        }
        if !connection.may_speak() {
            self.rest(key(id, SOCKET));
            return false;
        }
        let received = connection.receive(&mut self.buffer);
        match received {
            Ok(Received::Message(len, descriptors)) if descriptors.is_empty() => {
                connection.credit.lock().charge((len / LONG).try_into().unwrap_or(u32::MAX));
                self.handle_message(id, len);
            }
            Ok(Received::Message(_, descriptors)) => {
                // Only the hub sends descriptors.
                socket::discard(descriptors);
                self.gone.push(id);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(Received::Closed) | Err(_) => self.gone.push(id),
        }
        true
    }

    /// Handles the message in the first `len` bytes of the buffer.
    fn handle_message(&mut self, id: ClientId, len: usize) {
        let Some(connection) = self.connections.get(&id) else { return };
        match &connection.state {
            ConnectionState::Unauthenticated(_) => {
                let answer = self.buffer[..len.min(auth::ANSWER + 1)].to_vec();
                self.admit(id, &answer);
            }
            ConnectionState::Client(client) => match ToHub::decode(&self.buffer[..len]) {
                Some(message) if client.role == ClientRights::CallerOnly => self.handle_caller_message(id, message),
                Some(message) => self.handle_client_message(id, message),
                None => self.gone.push(id),
            },
        }
    }

    /// Handles a message of a client that may only call.
    fn handle_caller_message(&mut self, id: ClientId, message: ToHub) {
        match message {
            ToHub::Register { seq, .. } | ToHub::Shutdown { seq } => {
                let why = "a client that joined through a handle may only call: it can neither register callbacks nor shut the hub down".into();
                self.tell(id, FromHub::Refused { seq, why });
            }
            other => self.handle_client_message(id, other),
        }
    }

    fn handle_client_message(&mut self, id: ClientId, message: ToHub) {
        match message {
            ToHub::Register { seq, name, number, signature, expires_ms, replace } => {
                let owner_pid = self.connections.get(&id).map_or(0, |connection| connection.pid);
                let expires = expires_ms.map(Duration::from_millis);
                self.register(seq, RegisterRequest { owner: id, owner_pid, name, number, signature, expires, replace });
            }
            ToHub::Unregister { seq, number } => {
                self.registry.unregister(id, number);
                self.tell(id, FromHub::Done { seq });
            }
            ToHub::Resolve { seq, name } => self.resolve(id, seq, &name),
            ToHub::Names { seq } => self.ask_for_names(id, seq),
            ToHub::Counted { seq, counts, more } => {
                self.registry.counted(id, &counts);
                if !more {
                    self.call_counts.counted(id, seq);
                }
            }
            ToHub::Acquire { seq, name, permits_of_semaphore, deadline_ms } => {
                let limit = deadline_ms.map(Duration::from_millis);
                let told = self.locks.acquire(id, seq, &name, permits_of_semaphore, limit);
                self.tell_all(told);
            }
            ToHub::Cancel { seq } => {
                let told = self.locks.cancel(id, seq);
                self.tell_all(told);
            }
            ToHub::Release { grant } => match self.locks.release(id, grant) {
                Some(told) => self.tell_all(told),
                None => self.gone.push(id),
            },
            ToHub::Part { pair } if self.pairs.is_of(pair, id) => self.end_pair(pair),
            // The other side has ended the pair already.
            ToHub::Part { .. } => {}
            ToHub::Shutdown { .. } => self.is_over = true,
        }
    }
}
