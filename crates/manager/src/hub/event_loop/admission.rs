//! Admission: guests, which must prove that they know the key, and clients, from their admission until their last resource is released.
//!
//! Relies on what the kernel says about a connection's peer, and on nothing that the peer says before it has proved that it knows the key.

#![forbid(unsafe_code)]

use super::{DEAF, EventLoop, PROCESS, SOCKET, TURN, key};
use crate::auth::{self, AdmissionRefusal, Challenge, ClientRights};
use crate::hub::connection::{Admitted, ClientId, Connection, ConnectionState};
use crate::hub::ledger::Process;
use callgate_os::listener::{self, ConnectionEnds, PeerCredentials};
use callgate_os::pidfd::{Identity, Pidfd};
use callgate_os::selfproc;
use callgate_os::socket::{self, Exposed};
use callgate_transport::bounds::hub::{BARRED, MAX_BARRED, MAX_GUESTS, MAX_OF_PROCESS};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

impl EventLoop {
    pub(super) fn accept(&mut self) {
        for _ in 0..TURN {
            match listener::accept(&self.listening.socket) {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(_) => {
                    // Waiting connections stay in the backlog until there are descriptors again.
                    self.poll.remove(&self.listening.socket);
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            }
        }
    }

    /// Challenges a new connection to prove that it knows the key. Drops it if resources are lacking.
    fn greet(&mut self, socket: Exposed) {
        let (Ok(PeerCredentials { pid, uid }), Ok(challenge)) = (listener::peer(&socket), Challenge::new()) else {
            return;
        };
        if self.barred.get(&pid).is_some_and(|until| *until > Instant::now()) {
            return;
        }
        if !auth::may_talk(selfproc::effective_ids().0, uid) {
            let _ = socket::send(&socket, &AdmissionRefusal::User.message(), &[]);
            return;
        }
        if self.guests.len() >= MAX_GUESTS {
            self.gone.extend(self.guests.pop_front().map(|(_, oldest)| oldest));
        }
        let message = challenge.message().to_vec();
        if let Ok(guest) = self.add(Connection::new(socket, pid, ConnectionState::Unauthenticated(challenge))) {
            self.guests.push_back((Instant::now() + self.options.handshake_timeout, guest));
            self.send(guest, message, Vec::new());
        }
    }

    fn add(&mut self, connection: Connection) -> io::Result<ClientId> {
        let id = self.next;
        self.next += 1;
        self.poll.add(&connection.socket, key(id, SOCKET))?;
        self.connections.insert(id, connection);
        Ok(id)
    }

    pub(super) fn take_in(&mut self, socket: OwnedFd, role: ClientRights) -> io::Result<()> {
        socket::refuse_descriptors(&socket);
        let socket = Exposed::from(socket);
        let (peer, process) = (listener::peer(&socket)?, listener::peer_process(&socket)?);
        if !self.has_room_for(peer.pid) {
            return Err(io::Error::other("the hub accepts no more clients, or no more connections of this process"));
        }
        let identity = Identity::of(&process, peer.pid)?;
        let client = ConnectionState::Client(Admitted { role, process, identity, lists: VecDeque::new() });
        let id = self.add(Connection::new(socket, peer.pid, client))?;
        self.watch(id).inspect_err(|_| self.drop_unwatched(id))
    }

    /// Whether there may be another client, and another of process `pid`.
    fn has_room_for(&self, pid: u32) -> bool {
        let is_of_it = |other: &&Connection| other.pid == pid && other.client().is_some();
        // Processes of other pid namespaces all have the number 0.
        let of_it = if pid == 0 { 0 } else { self.connections.values().filter(is_of_it).count() };
        self.clients < self.options.max_clients && of_it < MAX_OF_PROCESS
    }

    /// Counts and watches a new client's process, whose other connections have the same credit.
    fn watch(&mut self, id: ClientId) -> io::Result<()> {
        let connection = self.connections.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        let client = connection.client().ok_or(io::ErrorKind::NotFound)?;
        self.poll.add(&client.process, key(id, PROCESS))?;
        connection.credit = self.credits.of(client.identity);
        self.clients += 1;
        Ok(())
    }

    /// Admits a connection that answers the challenge correctly. Tells others the reason and drops them.
    pub(super) fn admit(&mut self, id: ClientId, answer: &[u8]) {
        let Some(Connection { state: ConnectionState::Unauthenticated(challenge), pid, socket, .. }) =
            self.connections.get(&id)
        else {
            return;
        };
        let process = listener::peer_process(socket);
        let process = process.and_then(|process| Ok((Identity::of(&process, *pid)?, process)));
        let known = process.and_then(|(identity, process)| {
            ConnectionEnds::of_accepted(socket, &process, *pid).map(|ends| (identity, process, ends))
        });
        let Ok((identity, process, ends)) = known else { return self.gone.push(id) };
        let admitted = match challenge.check(&self.key, &ends, answer) {
            Ok(_) if !self.has_room_for(*pid) => Err(AdmissionRefusal::TooMany),
            checked => checked,
        };
        let (role, welcome) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.send(id, refusal.message().to_vec(), Vec::new());
                return self.gone.push(id);
            }
        };
        self.guests.retain(|(_, guest)| *guest != id);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.state = ConnectionState::Client(Admitted { role, process, identity, lists: VecDeque::new() });
        match self.watch(id) {
            Ok(()) => self.send(id, welcome.to_vec(), Vec::new()),
            Err(_) => self.drop_unwatched(id),
        }
    }

    /// Drops a client that is not counted, so not to be counted off.
    fn drop_unwatched(&mut self, id: ClientId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poll.remove(&connection.socket);
        }
    }

    /// Drops a connection and everything that belongs to it.
    pub(super) fn forget(&mut self, id: ClientId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if connection.is_slow() {
            self.bar(connection.pid);
        }
        // Another process may share the socket, and closing it here would leave it in the poll set.
        self.poll.remove(&connection.socket);
        let ConnectionState::Client(client) = connection.state else {
            return self.guests.retain(|(_, guest)| *guest != id);
        };
        self.clients -= 1;
        self.registry.client_gone(id);
        self.call_counts.client_gone(id);
        self.resolving.retain(|resolving| resolving.caller != id);
        self.pairs.of(id).into_iter().for_each(|pair| self.end_pair(pair));
        let never: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.owner == id).collect();
        never.into_iter().for_each(|resolving| self.never_ready(resolving));
        let told = self.locks.client_gone(id);
        self.tell_all(told);
        self.keep_or_drop(id, client.identity, client.process);
    }

    /// Keeps polling for the end of a former client, if memory counts until then and nothing else polls for it.
    fn keep_or_drop(&mut self, id: ClientId, identity: Process, process: Pidfd) {
        let is_waited_for = self.departed.values().any(|(other, _)| *other == identity);
        if is_waited_for || !self.pairs.awaits_end_of(identity) {
            return self.poll.remove(&process);
        }
        self.departed.insert(id, (identity, process));
    }

    /// The end of a process that was a client. Others need not be waited for any more if that was all that they had memory with.
    pub(super) fn departed_ended(&mut self, id: ClientId) {
        let Some((ended, _)) = self.departed.get(&id) else { return };
        self.pairs.process_ended(*ended);
        for (_, (_, process)) in self.departed.extract_if(|_, (process, _)| !self.pairs.awaits_end_of(*process)) {
            self.poll.remove(&process);
        }
    }

    /// Bars a process for a while, if its number is known.
    pub(super) fn bar(&mut self, pid: u32) {
        let now = Instant::now();
        self.barred.retain(|_, until| *until > now);
        if pid != 0 && self.barred.len() < MAX_BARRED {
            self.barred.insert(pid, now + BARRED);
        }
    }
}
