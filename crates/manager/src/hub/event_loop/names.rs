//! Registration of names, and the lists of all names that clients ask for.
//!
//! A list is sent one message at a time, as its client reads it. A client that does not read delays no other.

#![forbid(unsafe_code)]

use super::{EventLoop, SOCKET, TURN, key};
use crate::hub::call_counts::CountRound;
use crate::hub::connection::{ClientId, Connection, List};
use crate::hub::registry::{RegisterOutcome, RegisterRequest, Revoked};
use crate::protocol::FromHub;
use callgate_transport::bounds::hub::{LIST, MAX_LISTS};
use std::time::Instant;

impl EventLoop {
    pub(super) fn register(&mut self, seq: u64, mut request: RegisterRequest) {
        let owner = request.owner;
        // A name ends with its owner, even if the hub has not handled that end yet.
        request.replace =
            request.replace || self.registry.find(&request.name).is_some_and(|found| self.is_leaving(found.owner));
        let answer = match self.registry.register(request) {
            RegisterOutcome::Yes { revoked } => {
                if let Some(Revoked { owner, number }) = revoked {
                    self.tell(owner, FromHub::Revoked { number });
                }
                FromHub::Registered { seq }
            }
            RegisterOutcome::Taken { owner_pid } => FromHub::Taken { seq, owner: owner_pid },
            RegisterOutcome::Refused(why) => FromHub::Refused { seq, why },
        };
        self.tell(owner, answer);
    }

    pub(super) fn ask_for_names(&mut self, id: ClientId, seq: u64) {
        let sending = self.connections.get(&id).and_then(Connection::client).map_or(0, |client| client.lists.len());
        if sending + self.call_counts.asked_by(id) >= MAX_LISTS {
            let why = format!("this process waits for {MAX_LISTS} lists of names, which is the limit");
            return self.tell(id, FromHub::Refused { seq, why });
        }
        self.call_counts.ask(id, seq, Instant::now());
    }

    /// Answers the questions for names whose round is over, and starts a round for the others, at the expense of the client that needs it.
    pub(super) fn answer_names(&mut self) {
        while self.call_counts.is_busy() {
            let now = Instant::now();
            let due = self.call_counts.due(now);
            for (id, seq) in due {
                let client = self.connections.get_mut(&id).and_then(Connection::client_mut);
                if let Some(client) = client {
                    client.lists.push_back(List { seq, after: None });
                }
                self.go_on_with_lists(id);
            }
            // An owner that has not read earlier messages is not asked.
            let hears = |owner: &ClientId| self.connections.get(owner).is_some_and(Connection::is_flushed);
            let begun = self.call_counts.begin(self.registry.owners().filter(hears), now);
            let Some(CountRound { number, asker, owners }) = begun else { return };
            if let Some(connection) = self.connections.get_mut(&asker) {
                connection.credit.lock().charge(owners.len().try_into().unwrap_or(u32::MAX));
            }
            owners.into_iter().for_each(|owner| self.tell(owner, FromHub::Count { seq: number }));
        }
    }

    /// Sends as much of a client's lists as its socket and its credit allow.
    pub(super) fn go_on_with_lists(&mut self, id: ClientId) {
        for _ in 0..TURN {
            if !self.has_list_to_send(id) {
                return;
            }
            if !self.connections.get_mut(&id).is_some_and(|connection| connection.credit.lock().take(LIST)) {
                break;
            }
            self.go_on_with_list(id);
        }
        if self.has_list_to_send(id) {
            self.connections.get_mut(&id).map(Connection::pause);
            self.rest(key(id, SOCKET));
            self.renew_interest(id);
        }
    }

    fn has_list_to_send(&self, id: ClientId) -> bool {
        let connection = self.connections.get(&id).filter(|found| found.is_flushed() && !found.is_resting());
        connection.and_then(Connection::client).is_some_and(|client| !client.lists.is_empty())
    }

    fn go_on_with_list(&mut self, id: ClientId) {
        let Some(client) = self.connections.get_mut(&id).and_then(Connection::client_mut) else { return };
        let Some(List { seq, after }) = client.lists.pop_front() else { return };
        let (names, last) = self.registry.list(after.as_ref());
        let more = last.is_some();
        if more {
            client.lists.push_front(List { seq, after: last });
        }
        self.tell(id, FromHub::NamesAre { seq, names, more });
    }
}
