//! The hub's thread: whatever happens, one event after the other.
//!
//! It trusts nothing that anybody says, and waits for nobody: what somebody does not take waits in a queue of its own, and who says too
//! much is listened to later. Everything that a client has goes with its connection, or with its process, whichever ends first.

#![forbid(unsafe_code)]

use super::call_counts::{CallCounts, CountRound};
use super::connection::{Admitted, ClientId, Connection, ConnectionState, Gone, List};
use super::credits::Credits;
use super::ledger::Process;
use super::locks::{LockNotices, Locks};
use super::options::HubOptions;
use super::pairs::{Heard, New, Pairs, Rates, SealRequest};
use super::registry::{RegisterOutcome, Registry, Revoked, Wish};
use crate::manager::address::Listening;
use crate::manager::auth::{self, AdmissionRefusal, Challenge, ClientRights, Ends};
use crate::manager::authkey::AuthKey;
use crate::manager::protocol::{FromHub, MAX_MESSAGE, Resolution, Side, ToHub};
use crate::sys::listener::{self, PeerCredentials};
use crate::sys::memfd;
use crate::sys::pidfd::{Identity, Pidfd};
use crate::sys::poll::{PollSet, Waker};
use crate::sys::socket::{self, Exposed, Received};
use crate::sys::toll::SPELL;
use crate::sys::{selfproc, signals};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

/// Connections that have not yet shown that they have the key. When there is one more, the oldest goes.
const MAX_GUESTS: usize = 64;

/// Connections of one process, which has no use for many: so it cannot have all names, locks and places.
const MAX_OF_PROCESS: usize = 12;

/// What is done at once for one connection before the others have their turn.
const TURN: usize = 16;

/// What is still done for a client whose process has ended, but whose socket somebody may have inherited.
const LAST: u32 = 1024;

/// Lists of names that one client may wait for.
const MAX_LISTS: usize = 16;

/// As much work as so many messages: to make memory and sockets for a pair; to make and send a message of a list of names.
const INTRODUCTION: u32 = 16;
const LIST: u32 = 16;

/// Bytes of a message that are as much work as another message.
const LONG: usize = 1024;

/// How long a process is kept out that has made its connection slow, and how many are.
const BARRED: Duration = Duration::from_secs(60);
const MOST_BARRED: usize = 1024;

/// How long nobody is accepted when there are no descriptors to be had.
const DEAF: Duration = Duration::from_millis(50);

/// How long two processes that are introduced may take to map what they are to share.
const READY_PATIENCE: Duration = Duration::from_secs(5);

/// Questions for callbacks that may wait for the same, for one client.
const MAX_RESOLVING: usize = 256;

/// What the hub's own process has the thread do.
#[derive(Debug)]
pub(super) enum Command {
    /// Takes in a client that needs to show nothing: it is this process.
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

/// All that a hub is.
pub(super) struct EventLoop {
    poll: PollSet,
    waker: Arc<Waker>,
    commands: Receiver<Command>,
    listening: Listening,
    key: AuthKey,
    options: HubOptions,
    connections: HashMap<ClientId, Connection>,
    /// Those who have not shown that they have the key, and until when they may: the oldest first.
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
    /// Processes that were clients and of which memory counts until they end, by the client whose key they are waited for with.
    departed: HashMap<ClientId, (Process, Pidfd)>,
    /// Whose end has been noticed, and not yet dealt with.
    gone: Vec<ClientId>,
    /// The keys of those who are not listened to, or spoken to, until then.
    resting: Vec<u64>,
    next_hearing: Option<Instant>,
    /// Until when nobody is accepted.
    deaf_until: Option<Instant>,
    /// Processes that are kept out, and until when.
    barred: HashMap<u32, Instant>,
    buffer: Vec<u8>,
    is_over: bool,
}

/// A caller that is to be told where a callback is, when its pair with the owner is ready.
struct Resolving {
    /// `None` if the owner has closed its end of it: it may be about to end.
    pair: Option<u64>,
    caller: ClientId,
    owner: ClientId,
    seq: u64,
    name: String,
    to: Resolution,
    until: Instant,
}

/// The keys of the descriptors that are waited for: a number, and what of it.
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

fn control_key(pair: u64, side: Side) -> u64 {
    key(pair, if side == Side::Caller { CALLER } else { OWNER })
}

impl EventLoop {
    pub(super) fn new(
        listening: Listening,
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

    /// Until the hub is stopped.
    pub(super) fn run(mut self) {
        signals::block();
        let mut ready = Vec::new();
        while !self.is_over {
            ready.clear();
            let next = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            // Some deadlines lie farther off than the kernel can be told.
            let limit = next.map(|left| left.min(Duration::from_secs(3600)));
            if self.poll.wait(limit, &mut ready).is_err() {
                // Not a state that the kernel documents. Clients find their connections closed.
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
            PROCESS => self.hear_last(number),
            CALLER => self.attend_control(number, Side::Caller),
            OWNER => self.attend_control(number, Side::Owner),
            _ if ready == LISTENER => self.accept(),
            _ if ready == RELEASES => {
                let to_end = self.pairs.released();
                to_end.into_iter().for_each(|pair| self.end_pair(pair));
            }
            _ => self.obey(),
        }
    }

    /// Does what the hub's own process wants.
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

    /// Deals with everything that has followed from an event.
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

    // ---- connections -----------------------------------------------------------------------------------------------

    fn accept(&mut self) {
        for _ in 0..TURN {
            match listener::accept(&self.listening.socket) {
                Ok(Some(socket)) => self.greet(socket),
                Ok(None) => return,
                Err(_) => {
                    // Who waits to be accepted is still there when there are descriptors again.
                    self.poll.remove(&self.listening.socket);
                    self.deaf_until = Some(Instant::now() + DEAF);
                    return;
                }
            }
        }
    }

    /// Challenges whoever has connected to show that it has the key. One for whom there is nothing to be had is not let in.
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

    fn take_in(&mut self, socket: OwnedFd, role: ClientRights) -> io::Result<()> {
        socket::refuse_descriptors(&socket);
        let socket = Exposed::from(socket);
        let (peer, process) = (listener::peer(&socket)?, listener::peer_process(&socket)?);
        if !self.has_room_for(peer.pid) {
            return Err(io::Error::other("the hub takes no more clients, or no more of this process"));
        }
        let identity = Identity::of(&process, peer.pid)?;
        let client = ConnectionState::Client(Admitted { role, process, identity, lists: VecDeque::new() });
        let id = self.add(Connection::new(socket, peer.pid, client))?;
        self.watch(id).inspect_err(|_| self.drop_unwatched(id))
    }

    /// Whether there may be another client, and another of process `pid`.
    fn has_room_for(&self, pid: u32) -> bool {
        let is_of_it = |other: &&Connection| other.pid == pid && other.client().is_some();
        // Those of other pid namespaces are all 0.
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

    /// Admits a connection that answers the challenge rightly. Others are told why not, and go.
    fn admit(&mut self, id: ClientId, answer: &[u8]) {
        let Some(Connection { state: ConnectionState::Unauthenticated(challenge), pid, socket, .. }) =
            self.connections.get(&id)
        else {
            return;
        };
        let process = listener::peer_process(socket);
        let process = process.and_then(|process| Ok((Identity::of(&process, *pid)?, process)));
        let known = process.and_then(|(identity, process)| {
            Ends::of_accepted(socket, &process, *pid).map(|ends| (identity, process, ends))
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

    /// Everything that was a connection's goes with it.
    fn forget(&mut self, id: ClientId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if connection.is_slow() {
            self.bar(connection.pid);
        }
        // Others may have the same, so that closing it does not take it out.
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

    /// Goes on waiting for the end of a process that is no client any more, if memory counts until then and nothing else waits for it.
    fn keep_or_drop(&mut self, id: ClientId, identity: Process, process: Pidfd) {
        let is_waited_for = self.departed.values().any(|(other, _)| *other == identity);
        if is_waited_for || !self.pairs.awaits_end_of(identity) {
            return self.poll.remove(&process);
        }
        self.departed.insert(id, (identity, process));
    }

    /// The end of a process that was a client. Others need not be waited for any more if that was all that they had memory with.
    fn departed_ended(&mut self, id: ClientId) {
        let Some((ended, _)) = self.departed.get(&id) else { return };
        self.pairs.process_ended(*ended);
        for (_, (_, process)) in self.departed.extract_if(|_, (process, _)| !self.pairs.awaits_end_of(*process)) {
            self.poll.remove(&process);
        }
    }

    /// Keeps a process out for a while, if it can be told from others.
    fn bar(&mut self, pid: u32) {
        let now = Instant::now();
        self.barred.retain(|_, until| *until > now);
        if pid != 0 && self.barred.len() < MOST_BARRED {
            self.barred.insert(pid, now + BARRED);
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
            // Nothing that the hub says is as long: names and lists have their limits.
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

    /// Has a connection waited for as it is to be now.
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

    // ---- listening -------------------------------------------------------------------------------------------------

    /// A connection can be read, or written, or its other end is gone.
    fn attend(&mut self, id: ClientId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.flush() == Err(Gone) {
            return self.gone.push(id);
        }
        self.go_on_with_lists(id);
        for _ in 0..TURN {
            if !self.gone.is_empty() || !self.hear(id) {
                break;
            }
        }
        self.renew_interest(id);
    }

    /// A client's process has ended. What it had said before that counts: a lock that it gave back is not abandoned.
    fn hear_last(&mut self, id: ClientId) {
        if self.departed.contains_key(&id) {
            return self.departed_ended(id);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.hear_out(LAST);
        }
        for _ in 0..LAST {
            if self.gone.contains(&id) || !self.hear(id) {
                break;
            }
        }
        self.gone.push(id);
    }

    /// Those who had said too much, or could be sent nothing, have another turn.
    fn attend_again(&mut self) {
        self.next_hearing = None;
        for key in std::mem::take(&mut self.resting) {
            let number = key >> KIND_BITS;
            match key & ((1 << KIND_BITS) - 1) {
                CALLER => self.listen_to_control(number, Side::Caller),
                OWNER => self.listen_to_control(number, Side::Owner),
                _ => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.wake();
                    }
                    self.attend(number);
                }
            }
        }
    }

    fn rest(&mut self, key: u64) {
        self.resting.push(key);
        self.next_hearing.get_or_insert_with(|| Instant::now() + SPELL);
    }

    /// Reads a message and does what it says. `false` = not another one now.
    fn hear(&mut self, id: ClientId) -> bool {
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
                // Nobody but the hub supplies any.
                socket::discard(descriptors);
                self.gone.push(id);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(Received::Closed) | Err(_) => self.gone.push(id),
        }
        true
    }

    /// Does what the first `len` bytes of the buffer say.
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

    /// The same for who may only call.
    fn handle_caller_message(&mut self, id: ClientId, message: ToHub) {
        match message {
            ToHub::Register { seq, .. } | ToHub::Shutdown { seq } => {
                let why = "who has joined through a handle may call, and neither register nor end the hub".into();
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
                self.register(seq, Wish { owner: id, owner_pid, name, number, signature, expires, replace });
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
            // It has ended already, by the other side.
            ToHub::Part { .. } => {}
            ToHub::Shutdown { .. } => self.is_over = true,
        }
    }

    // ---- names -----------------------------------------------------------------------------------------------------

    fn register(&mut self, seq: u64, mut wish: Wish) {
        let owner = wish.owner;
        // A name goes with its owner, whose end need not have been dealt with.
        wish.replace = wish.replace || self.registry.find(&wish.name).is_some_and(|found| self.is_leaving(found.owner));
        let answer = match self.registry.register(wish) {
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

    fn resolve(&mut self, caller: ClientId, seq: u64, name: &str) {
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

    /// Answers when the two can talk.
    fn resolve_later(
        &mut self,
        (caller, owner): (ClientId, ClientId),
        seq: u64,
        (name, to): (&str, Resolution),
        pair: u64,
    ) {
        if self.resolving.iter().filter(|resolving| resolving.caller == caller).count() >= MAX_RESOLVING {
            let why = format!("this process waits for {MAX_RESOLVING} callbacks to be found, and may for no more");
            return self.tell(caller, FromHub::Refused { seq, why });
        }
        let until = Instant::now() + READY_PATIENCE;
        self.resolving.push(Resolving { pair: Some(pair), caller, owner, seq, name: name.into(), to, until });
    }

    fn sealed(&mut self, unsealed: SealRequest, is_sealed: bool) {
        let pair = unsealed.pair;
        match if is_sealed { self.pairs.sealed(unsealed) } else { Heard::End } {
            Heard::End => self.end_pair(pair),
            Heard::Ready => {
                let ready: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.pair == Some(pair)).collect();
                for Resolving { caller, seq, to, .. } in ready {
                    self.tell(caller, FromHub::Resolved { seq, to });
                }
            }
            _ => {}
        }
    }

    fn ask_for_names(&mut self, id: ClientId, seq: u64) {
        let sending = self.connections.get(&id).and_then(Connection::client).map_or(0, |client| client.lists.len());
        if sending + self.call_counts.asked_by(id) >= MAX_LISTS {
            let why = format!("this process waits for {MAX_LISTS} lists of names, and may for no more");
            return self.tell(id, FromHub::Refused { seq, why });
        }
        self.call_counts.ask(id, seq, Instant::now());
    }

    /// Answers those whose questions for names can be answered, and asks owners for the others. Whose question makes that necessary pays for it.
    fn answer_names(&mut self) {
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
            // Who does not take what was said to it before is not asked, nor waited for.
            let hears = |owner: &ClientId| self.connections.get(owner).is_some_and(Connection::is_flushed);
            let begun = self.call_counts.begin(self.registry.owners().filter(hears), now);
            let Some(CountRound { number, asker, owners }) = begun else { return };
            if let Some(connection) = self.connections.get_mut(&asker) {
                connection.credit.lock().charge(owners.len().try_into().unwrap_or(u32::MAX));
            }
            owners.into_iter().for_each(|owner| self.tell(owner, FromHub::Count { seq: number }));
        }
    }

    /// Sends of lists as much as the socket takes, and the client may have now.
    fn go_on_with_lists(&mut self, id: ClientId) {
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

    // ---- pairs -----------------------------------------------------------------------------------------------------

    /// Makes a pair, and passes it to both, to the owner first.
    fn introduce(&mut self, caller: ClientId, owner: ClientId) -> io::Result<u64> {
        let (caller_pid, caller_identity, caller_process) = self.process(caller)?;
        let (owner_pid, owner_identity, owner_process) = self.process(owner)?;
        for (client, pid) in [(owner, owner_pid), (caller, caller_pid)] {
            if !self.connections.get(&client).is_some_and(Connection::takes_introductions) {
                return Err(io::Error::other(format!("process {pid} does not take what waits for it")));
            }
        }
        self.rates.take(caller_pid, owner, Instant::now()).map_err(io::Error::other)?;
        let New { pair, owner: [segment, control], caller: [same_segment, other_control] } =
            self.pairs.introduce((caller, caller_identity), (owner, owner_identity))?;
        for side in [Side::Caller, Side::Owner] {
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
        self.tell_with(owner, introduced(Side::Owner, caller_pid), vec![segment, control, caller_process]);
        self.tell_with(caller, introduced(Side::Caller, owner_pid), vec![same_segment, other_control, owner_process]);
        Ok(pair)
    }

    /// A client's process, for others to see it end.
    fn process(&self, id: ClientId) -> io::Result<(u32, Process, OwnedFd)> {
        let connection = self.connections.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let client = connection.client().ok_or(io::ErrorKind::NotFound)?;
        // Where the kernel gives one, a descriptor of its own: what is done to that does not make the hub's slow.
        let own = listener::peer_process(&connection.socket).ok().map(OwnedFd::from);
        let own = own.map_or_else(|| client.process.as_fd().try_clone_to_owned(), Ok)?;
        Ok((connection.pid, client.identity, own))
    }

    fn end_pair(&mut self, pair: u64) {
        for side in [Side::Caller, Side::Owner] {
            if let Some(control) = self.pairs.control(pair, side) {
                self.poll.remove(control);
            }
            // Whoever makes one of its sockets slow would do it to the next.
            if let Some(client) = self.pairs.slow_client(pair, side) {
                self.bar(self.connections.get(&client).map_or(0, |connection| connection.pid));
                self.gone.push(client);
            }
        }
        self.pairs.end(pair);
        let never: Vec<_> = self.resolving.extract_if(.., |resolving| resolving.pair == Some(pair)).collect();
        never.into_iter().for_each(|resolving| self.never_ready(resolving));
    }

    /// A caller is told that its pair with the owner does not come to be. What a process has registered goes with it: a caller may be heard of
    /// the owner's end before the owner's own connection is.
    fn never_ready(&mut self, Resolving { caller, owner, seq, name, to, .. }: Resolving) {
        if self.is_leaving(owner) {
            // Another process may have replaced it before it left.
            let is_anothers = self.registry.find(&name).is_some_and(|found| found.owner != owner);
            if is_anothers {
                return self.resolve(caller, seq, &name);
            }
            return self.tell(caller, FromHub::Resolved { seq, to: Resolution::None });
        }
        let owner = if let Resolution::At { owner, .. } = to { owner } else { 0 };
        let why = format!("process {owner} has not taken part in the introduction of this process to it");
        self.tell(caller, FromHub::Refused { seq, why });
    }

    /// Whether a client has left, or has ended without that having been dealt with.
    fn is_leaving(&self, client: ClientId) -> bool {
        self.connections.get(&client).is_none_or(Connection::is_leaving)
    }

    /// One side of a pair wants memory, gives some back, or has closed its control socket.
    fn attend_control(&mut self, pair: u64, side: Side) {
        for _ in 0..TURN {
            let client = self.pairs.client(pair, side);
            let Some(connection) = client.and_then(|client| self.connections.get_mut(&client)) else { return };
            let heard = self.pairs.hear(pair, side, &mut connection.credit.lock());
            match heard {
                Heard::More | Heard::Ready => self.charge_other(pair, side),
                Heard::Nothing => return,
                Heard::End => {
                    let resolving = self.resolving.iter_mut().filter(|resolving| resolving.pair == Some(pair));
                    // Whether it is about to end itself is known soon.
                    resolving.filter(|_| side == Side::Owner).for_each(|resolving| resolving.pair = None);
                    return self.end_pair(pair);
                }
                Heard::TooMuch => {
                    if let Some(control) = self.pairs.control(pair, side) {
                        self.poll.remove(control);
                    }
                    return self.rest(control_key(pair, side));
                }
            }
        }
    }

    /// What telling the other side has cost is that side's.
    fn charge_other(&mut self, pair: u64, side: Side) {
        let Some((other, cost)) = self.pairs.take_cost_of_other(pair, side) else { return };
        if let Some(connection) = self.connections.get_mut(&other) {
            connection.credit.lock().charge_time(cost);
        }
    }

    fn listen_to_control(&mut self, pair: u64, side: Side) {
        let added = self.pairs.control(pair, side).map(|control| self.poll.add(control, control_key(pair, side)));
        if let Some(Err(_)) = added {
            self.end_pair(pair);
        }
    }
}

/// Seals memory on a thread of its own, because a process that makes holes there meanwhile keeps that waiting. `false` if there is none to be had.
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
