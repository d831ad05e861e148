//! Introductions: resolves a callback for a caller, makes its pair with the owner, and serves that pair's control sockets.
//!
//! A caller is answered when the pair is ready or has failed. Calls do not pass through here.

#![forbid(unsafe_code)]

use super::{EventLoop, Resolving, TURN, control_key};
use crate::hub::connection::{ClientId, Connection};
use crate::hub::ledger::Process;
use crate::hub::pairs::{ControlRead, New, SealRequest};
use crate::protocol::{FromHub, PairSide, Resolution};
use callgate_os::listener;
use callgate_transport::bounds::hub::{INTRODUCTION, MAX_RESOLVING, READY_TIMEOUT};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

impl EventLoop {
    pub(super) fn resolve(&mut self, caller: ClientId, seq: u64, name: &str) {
        let to = match self.registry.find(name) {
            None => Resolution::None,
            Some(found) if found.owner == caller => Resolution::Itself { number: found.number },
            Some(found) => {
                let (owner, number, signature) = (found.owner, found.number, found.signature.clone());
                let owner_pid = found.owner_pid;
                let pair = self.pairs.find(caller, owner).map_or_else(|| self.introduce(caller, owner), Ok);
                match pair {
                    Ok(pair) if self.pairs.is_ready(pair) => {
                        Resolution::At { pair, number, signature, owner: owner_pid }
                    }
                    Ok(pair) => {
                        let to = Resolution::At { pair, number, signature, owner: owner_pid };
                        return self.resolve_later((caller, owner), seq, (name, to), pair);
                    }
                    Err(_) if self.is_leaving(owner) => Resolution::None,
                    Err(error) => {
                        let why = format!("the hub cannot introduce this process to process {owner_pid}: {error}");
                        return self.tell(caller, FromHub::Refused { seq, why });
                    }
                }
            }
        };
        self.tell(caller, FromHub::Resolved { seq, to });
    }

    /// Answers when the pair is ready.
    fn resolve_later(
        &mut self,
        (caller, owner): (ClientId, ClientId),
        seq: u64,
        (name, to): (&str, Resolution),
        pair: u64,
    ) {
        if self.resolving.iter().filter(|resolving| resolving.caller == caller).count() >= MAX_RESOLVING {
            let why = format!("this process waits for {MAX_RESOLVING} callbacks to be found, which is the limit");
            return self.tell(caller, FromHub::Refused { seq, why });
        }
        let until = Instant::now() + READY_TIMEOUT;
        self.resolving.push(Resolving { pair: Some(pair), caller, owner, seq, name: name.into(), to, until });
    }

    pub(super) fn sealed(&mut self, unsealed: SealRequest, is_sealed: bool) {
        let pair = unsealed.pair;
        match if is_sealed { self.pairs.sealed(unsealed) } else { ControlRead::End } {
            ControlRead::End => self.end_pair(pair),
            ControlRead::Ready => {
                let ready: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.pair == Some(pair)).collect();
                for Resolving { caller, seq, to, .. } in ready {
                    self.tell(caller, FromHub::Resolved { seq, to });
                }
            }
            _ => {}
        }
    }

    /// Makes a pair and sends it to both clients, to the owner first.
    fn introduce(&mut self, caller: ClientId, owner: ClientId) -> io::Result<u64> {
        let (caller_pid, caller_identity, caller_process) = self.process(caller)?;
        let (owner_pid, owner_identity, owner_process) = self.process(owner)?;
        for (client, pid) in [(owner, owner_pid), (caller, caller_pid)] {
            if !self.connections.get(&client).is_some_and(Connection::takes_introductions) {
                return Err(io::Error::other(format!("process {pid} does not read the messages that wait for it")));
            }
        }
        self.rates.take(caller_pid, owner, Instant::now()).map_err(io::Error::other)?;
        let New { pair, owner: [segment, control], caller: [same_segment, other_control] } =
            self.pairs.introduce((caller, caller_identity), (owner, owner_identity))?;
        for side in [PairSide::Caller, PairSide::Owner] {
            let added = self.pairs.control(pair, side).map(|control| self.poll.add(control, control_key(pair, side)));
            if let Some(Err(error)) = added {
                self.end_pair(pair);
                return Err(error);
            }
        }
        if let Some(connection) = self.connections.get_mut(&caller) {
            connection.credit.lock().charge(INTRODUCTION);
        }
        let introduced = |role, pid| FromHub::Introduced { pair, role, pid };
        self.tell_with(owner, introduced(PairSide::Owner, caller_pid), vec![segment, control, caller_process]);
        self.tell_with(
            caller,
            introduced(PairSide::Caller, owner_pid),
            vec![same_segment, other_control, owner_process],
        );
        Ok(pair)
    }

    /// A client's process, with a pidfd for its peers to see it end.
    fn process(&self, id: ClientId) -> io::Result<(u32, Process, OwnedFd)> {
        let connection = self.connections.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let client = connection.client().ok_or(io::ErrorKind::NotFound)?;
        // A separate pidfd, where the kernel gives one: a peer that makes it slow does not slow the hub's.
        let own = listener::peer_process(&connection.socket).ok().map(OwnedFd::from);
        let own = own.map_or_else(|| client.process.as_fd().try_clone_to_owned(), Ok)?;
        Ok((connection.pid, client.identity, own))
    }

    pub(super) fn end_pair(&mut self, pair: u64) {
        for side in [PairSide::Caller, PairSide::Owner] {
            if let Some(control) = self.pairs.control(pair, side) {
                self.poll.remove(control);
            }
            // A client that makes one of its sockets slow would do it again.
            if let Some(client) = self.pairs.slow_client(pair, side) {
                self.bar(self.connections.get(&client).map_or(0, |connection| connection.pid));
                self.gone.push(client);
            }
        }
        self.pairs.end(pair);
        let never: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.pair == Some(pair)).collect();
        never.into_iter().for_each(|resolving| self.never_ready(resolving));
    }

    /// Tells a caller that its pair with the owner has failed. If the owner is leaving, its name counts as unregistered, even if the hub has not
    /// handled the end of its connection yet.
    pub(super) fn never_ready(&mut self, Resolving { caller, owner, seq, name, to, .. }: Resolving) {
        if self.is_leaving(owner) {
            // Another process may have replaced the callback before the owner left.
            let is_anothers = self.registry.find(&name).is_some_and(|found| found.owner != owner);
            if is_anothers {
                return self.resolve(caller, seq, &name);
            }
            return self.tell(caller, FromHub::Resolved { seq, to: Resolution::None });
        }
        let owner = if let Resolution::At { owner, .. } = to { owner } else { 0 };
        let why = format!("process {owner} did not complete its introduction to this process");
        self.tell(caller, FromHub::Refused { seq, why });
    }

    /// Whether a client has left or ended, even if the hub has not handled that yet.
    pub(super) fn is_leaving(&self, client: ClientId) -> bool {
        self.connections.get(&client).is_none_or(Connection::is_leaving)
    }

    /// Handles what one side of a pair has sent on its control socket, or that it has closed it.
    pub(super) fn attend_control(&mut self, pair: u64, side: PairSide) {
        for _ in 0..TURN {
            let client = self.pairs.client(pair, side);
            let Some(connection) = client.and_then(|client| self.connections.get_mut(&client)) else { return };
            let heard = self.pairs.read_one(pair, side, &mut connection.credit.lock());
            match heard {
                ControlRead::More | ControlRead::Ready => self.charge_other(pair, side),
                ControlRead::Nothing => return,
                ControlRead::End => {
                    let resolving = self.resolving.iter_mut().filter(|resolving| resolving.pair == Some(pair));
                    // The owner may be about to end: the answer waits until that is known.
                    resolving.filter(|_| side == PairSide::Owner).for_each(|resolving| resolving.pair = None);
                    return self.end_pair(pair);
                }
                ControlRead::TooMuch => {
                    if let Some(control) = self.pairs.control(pair, side) {
                        self.poll.remove(control);
                    }
                    return self.rest(control_key(pair, side));
                }
            }
        }
    }

    /// Charges the other side for the time that sending to it has cost.
    fn charge_other(&mut self, pair: u64, side: PairSide) {
        let Some((other, cost)) = self.pairs.take_cost_of_other(pair, side) else { return };
        if let Some(connection) = self.connections.get_mut(&other) {
            connection.credit.lock().charge_time(cost);
        }
    }

    pub(super) fn listen_to_control(&mut self, pair: u64, side: PairSide) {
        let added = self.pairs.control(pair, side).map(|control| self.poll.add(control, control_key(pair, side)));
        if let Some(Err(_)) = added {
            self.end_pair(pair);
        }
    }
}
