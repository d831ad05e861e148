//! The hub's thread, which handles one event after the other.
//!
//! It trusts no peer and waits for none: messages to a slow peer wait in a queue of their own, and a peer that sends too much is read later.
//! Everything that a client has ends with its connection or its process, whichever ends first.

#![forbid(unsafe_code)]

mod admission;
mod introductions;
mod messages;
mod names;

use super::call_counts::CallCounts;
use super::connection::{ClientId, Connection, Gone};
use super::credits::Credits;
use super::ledger::Process;
use super::locks::{LockNotices, Locks};
use super::options::HubOptions;
use super::pairs::{Pairs, SealRequest};
use super::rates::Rates;
use super::registry::{Registry, Revoked};
use crate::auth::ClientRights;
use crate::authkey::AuthKey;
use crate::protocol::{FromHub, PairSide, Resolution};
use callgate_os::memfd;
use callgate_os::pidfd::Pidfd;
use callgate_os::poll::{PollSet, Waker};
use callgate_os::signals;
use callgate_os::sole_listener::SoleListener;
use callgate_transport::bounds::hub::{DEAF, MAX_MESSAGE, TURN};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

/// A command from the hub's own process to the thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Takes in this process as a client, which needs no proof of the key.
    TakeIn {
        socket: OwnedFd,
        role: ClientRights,
        reply: SyncSender<io::Result<()>>,
    },
    /// Memory of a pair has been sealed, or could not be.
    Sealed {
        unsealed: SealRequest,
        is_sealed: bool,
    },
    Stop,
}

/// The state of a hub.
pub(super) struct EventLoop {
    poll: PollSet,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    listening: SoleListener,
    key: AuthKey,
    options: HubOptions,
    connections: HashMap<ClientId, Connection>,
    /// Connections that have not yet proved that they know the key, with their deadlines: the oldest first.
    guests: VecDeque<(Instant, ClientId)>,
    clients: u32,
    credits: Credits,
    next: ClientId,
    registry: Registry,
    locks: Locks,
    pairs: Pairs,
    rates: Rates,
    call_counts: CallCounts,
    /// Answers for callers whose pair is not ready yet.
    resolving: Vec<Resolving>,
    /// Former clients whose memory counts until their processes end, by the client id under which their end is polled.
    departed: HashMap<ClientId, (Process, Pidfd)>,
    /// Clients whose end has been noticed and not yet handled.
    gone: Vec<ClientId>,
    /// The poll keys of resting connections and control sockets, until `next_hearing`.
    resting: Vec<u64>,
    next_hearing: Option<Instant>,
    /// Until when the hub accepts no connections.
    deaf_until: Option<Instant>,
    /// Barred processes, and until when.
    barred: HashMap<u32, Instant>,
    buffer: Vec<u8>,
    is_over: bool,
}

/// The answer to a caller that waits until its pair with the owner is ready.
struct Resolving {
    /// `None` if the owner has closed its control socket, because it may be about to end.
    pair: Option<u64>,
    caller: ClientId,
    owner: ClientId,
    seq: u64,
    name: String,
    to: Resolution,
    until: Instant,
}

/// The poll keys of descriptors: a number, and the kind of descriptor.
const WAKER: u64 = 0;
const LISTENER: u64 = 1 << KIND_BITS;
const RELEASES: u64 = 2 << KIND_BITS;
const KIND_BITS: u32 = 3;
/// A connection's socket.
const SOCKET: u64 = 1;
/// A client's process.
const PROCESS: u64 = 2;
/// The control sockets of a pair.
const CALLER: u64 = 3;
const OWNER: u64 = 4;

fn key(number: u64, kind: u64) -> u64 {
    number << KIND_BITS | kind
}

fn control_key(pair: u64, side: PairSide) -> u64 {
    key(pair, if side == PairSide::Caller { CALLER } else { OWNER })
}

impl EventLoop {
    pub(super) fn new(
        listening: SoleListener,
        authkey: AuthKey,
        options: HubOptions,
        (waker, sender): (Arc<Waker>, Sender<Command>),
        commands: Receiver<Command>,
    ) -> io::Result<Self> {
        let poll = PollSet::new()?;
        poll.add(&*waker, WAKER)?;
        poll.add(&listening.socket, LISTENER)?;
        let same = waker.clone();
        let sealer = move |unsealed| seal(unsealed, sender.clone(), same.clone());
        let pairs = Pairs::new(options.geometry(), options.memory_per_client, Box::new(sealer));
        if let Some(releases) = pairs.releases() {
            poll.add(releases, RELEASES)?;
        }
        Ok(Self {
            poll,
            waker,
            commands,
            listening,
            key: authkey,
            pairs,
            rates: Rates::default(),
            options,
            connections: HashMap::new(),
            guests: VecDeque::new(),
            clients: 0,
            credits: Credits::default(),
            next: 1,
            registry: Registry::default(),
            locks: Locks::default(),
            call_counts: CallCounts::default(),
            resolving: Vec::new(),
            departed: HashMap::new(),
            gone: Vec::new(),
            resting: Vec::new(),
            next_hearing: None,
            deaf_until: None,
            barred: HashMap::new(),
            buffer: vec![0; MAX_MESSAGE],
            is_over: false,
        })
    }

    /// Runs until the hub is stopped.
    pub(super) fn run(mut self) {
        signals::block();
        let mut ready = Vec::new();
        while !self.is_over {
            ready.clear();
            let next = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            // Some deadlines are too far off for epoll.
            let limit = next.map(|left| left.min(Duration::from_secs(3600)));
            if self.poll.wait(limit, &mut ready).is_err() {
                // The kernel documents no such failure. Clients find their connections closed.
                break;
            }
            for &key in &ready {
                self.handle(key);
                self.settle();
            }
            self.keep_time();
            self.settle();
        }
        self.say_goodbye();
    }

    fn handle(&mut self, ready: u64) {
        let number = ready >> KIND_BITS;
        match ready & ((1 << KIND_BITS) - 1) {
            SOCKET => self.attend(number),
            PROCESS => self.read_last(number),
            CALLER => self.attend_control(number, PairSide::Caller),
            OWNER => self.attend_control(number, PairSide::Owner),
            _ if ready == LISTENER => self.accept(),
            _ if ready == RELEASES => {
                let to_end = self.pairs.released();
                to_end.into_iter().for_each(|pair| self.end_pair(pair));
            }
            _ => self.obey(),
        }
    }

    /// Carries out the commands of the hub's own process.
    fn obey(&mut self) {
        self.waker.clear();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Stop => self.is_over = true,
                Command::Sealed { unsealed, is_sealed } => self.sealed(unsealed, is_sealed),
                Command::TakeIn { socket, role, reply } => {
                    let _ = reply.send(self.take_in(socket, role));
                }
            }
        }
    }

    /// Handles the consequences of an event.
    fn settle(&mut self) {
        loop {
            self.answer_names();
            let Some(client) = self.gone.pop() else { return };
            self.forget(client);
        }
    }

    fn say_goodbye(&mut self) {
        let clients: Vec<_> = self.connections.iter().filter(|(_, found)| found.client().is_some()).collect();
        let clients: Vec<_> = clients.into_iter().map(|(id, _)| *id).collect();
        clients.into_iter().for_each(|client| self.tell(client, FromHub::Closing));
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    fn next_deadline(&self) -> Option<Instant> {
        let guest = self.guests.front().map(|(until, _)| *until);
        let others = [self.registry.next_deadline(), self.locks.next_deadline(), self.call_counts.next_deadline()];
        let resolving = self.resolving.iter().map(|resolving| resolving.until).min();
        let own = [guest, self.next_hearing, self.deaf_until, self.pairs.next_deadline(), resolving];
        others.into_iter().chain(own).flatten().min()
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        while let Some((until, guest)) = self.guests.front().copied()
            && until <= now
        {
            self.guests.pop_front();
            self.gone.push(guest);
        }
        for Revoked { owner, number } in self.registry.expire(now) {
            self.tell(owner, FromHub::Revoked { number });
        }
        let told = self.locks.expire(now);
        self.tell_all(told);
        let mut to_end = Vec::new();
        if self.pairs.next_deadline().is_some_and(|at| at <= now) {
            to_end = self.pairs.answer_waiting();
        }
        let late: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.until <= now).collect();
        to_end.extend(late.iter().filter_map(|resolving| resolving.pair));
        to_end.into_iter().for_each(|pair| self.end_pair(pair));
        late.into_iter().for_each(|resolving| self.never_ready(resolving));
        if self.next_hearing.is_some_and(|at| at <= now) {
            self.attend_again();
        }
        if self.deaf_until.is_some_and(|at| at <= now) {
            self.deaf_until = self.poll.add(&self.listening.socket, LISTENER).is_err().then(|| now + DEAF);
        }
    }

    // ---- speaking --------------------------------------------------------------------------------------------------

    fn tell(&mut self, id: ClientId, message: FromHub) {
        self.tell_with(id, message, Vec::new());
    }

    fn tell_all(&mut self, told: LockNotices) {
        told.into_iter().for_each(|(client, message)| self.tell(client, message));
    }

    fn tell_with(&mut self, id: ClientId, message: FromHub, rights: Vec<OwnedFd>) {
        match message.encode() {
            Some(bytes) => self.send(id, bytes, rights),
            // No message of the hub is this long: names and lists have their limits.
            None => self.gone.push(id),
        }
    }

    fn send(&mut self, id: ClientId, message: Vec<u8>, rights: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.send(message, rights) == Err(Gone) {
            self.gone.push(id);
        }
        self.renew_interest(id);
    }

    /// Updates the events that a connection is polled for.
    fn renew_interest(&mut self, id: ClientId) {
        if self.connections.get_mut(&id).is_some_and(Connection::begins_to_rest) {
            self.rest(key(id, SOCKET));
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let wanted = connection.wanted();
        if wanted == connection.interest {
            return;
        }
        let (socket, key) = (&connection.socket, key(id, SOCKET));
        let renewed = match (connection.interest, wanted) {
            (_, None) => {
                self.poll.remove(socket);
                Ok(())
            }
            (None, Some(wanted)) => self.poll.add(socket, key).and_then(|()| self.poll.change(socket, key, wanted)),
            (Some(_), Some(wanted)) => self.poll.change(socket, key, wanted),
        };
        connection.interest = wanted;
        if renewed.is_err() {
            self.gone.push(id);
        }
    }
}

/// Seals memory on a separate thread, because a process can delay that by making holes in it. `false` if no thread can be started.
fn seal(unsealed: SealRequest, commands: Sender<Command>, waker: Arc<Waker>) -> bool {
    let thread = std::thread::Builder::new().name("callgate-seal".into());
    let spawned = thread.spawn(move || {
        let is_sealed = memfd::seal(&unsealed.object).is_ok();
        let _ = commands.send(Command::Sealed { unsealed, is_sealed });
        waker.wake();
    });
    spawned.is_ok()
}

#[cfg(all(test, not(loom)))]
mod tests;
