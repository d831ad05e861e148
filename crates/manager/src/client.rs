//! A client's connection to the hub: its requests and their answers, and the pairs that the hub introduces it to.
//!
//! A thread reads the hub's messages. The client trusts the hub as little as possible: a bad hub can introduce it to the wrong process, or to
//! none.

#![forbid(unsafe_code)]

mod requests;
mod resolution;

use super::auth::Joined;
use super::callbacks::{CallbackHost, Callbacks};
use super::protocol::{Counters, FromHub, PairSide, ToHub};
use super::typed::{Arguments, Item, Signature};
use arc_swap::ArcSwap;
use callgate_engine::caller::Caller;
use callgate_engine::pair::{self, Introduction, PairEndpoint};
use callgate_engine::service::Method;
use callgate_os::close;
use callgate_os::fork;
use callgate_os::poll::PollSet;
use callgate_os::socket::{self, BlockingMode, Received};
use callgate_transport::arena::Limits;
use callgate_transport::bounds::hub::{MAX_LIST, MAX_MESSAGE};
use callgate_transport::doorbell::Wait;
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, ThreadId};

/// How both ends of a pair are set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) limits: Limits,
    pub(super) wait: Wait,
}

/// Where a callback is.
pub(super) struct ResolvedCallback {
    pub(super) number: u32,
    pub(super) place: CallbackPlace,
    pub(super) signature: Signature,
    /// Its name, for errors.
    pub(super) method: &'static Method,
    /// The types of a caller that were found to match the signature.
    agreed: OnceLock<TypeId>,
}

pub(super) enum CallbackPlace {
    /// In this process.
    Here,
    /// At the other side of a pair.
    There(Arc<Caller>),
}

impl ResolvedCallback {
    /// Whether its pair has ended.
    fn is_over(&self) -> bool {
        matches!(&self.place, CallbackPlace::There(caller) if caller.peer.peer_status.is_over())
    }

    /// Whether it takes an `A` and returns an `R`.
    #[inline]
    pub(super) fn agrees<A: Arguments, R: Item>(&self) -> bool {
        let types = TypeId::of::<(A, R)>();
        self.agreed.get() == Some(&types) || self.agrees_slow::<A, R>(types)
    }

    #[cold]
    fn agrees_slow<A: Arguments, R: Item>(&self, types: TypeId) -> bool {
        let agrees = self.signature.agrees_with::<A, R>();
        if agrees {
            self.agreed.get_or_init(|| types);
        }
        agrees
    }
}

/// Why the hub gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// The connection has ended, for this reason.
    Lost(String),
    /// The hub did not answer in time.
    Late,
    /// The hub refused, for this reason.
    Refused(String),
}

/// The locations of callbacks, by name.
pub(super) type Targets = FxHashMap<Arc<str>, Arc<ResolvedCallback>>;

/// A connection to a hub.
pub(super) struct Client {
    joined: Joined,
    settings: Settings,
    callbacks: Arc<Callbacks>,
    state: Mutex<ClientState>,
    changed: Condvar,
    /// The thread that reads the hub's messages.
    listener: OnceLock<ThreadId>,
    targets: ArcSwap<Targets>,
    generation: u32,
}

#[derive(Default)]
struct ClientState {
    /// The number of the next request.
    next: u64,
    /// Unanswered requests, with the parts of their answers that have come.
    questions: HashMap<u64, Vec<FromHub>>,
    callers: HashMap<u64, (Arc<Caller>, Arc<PairEndpoint>)>,
    /// Their worker threads keep them alive, until the pair ends.
    owned: Vec<Weak<PairEndpoint>>,
    /// Why the connection has ended, once it has.
    over: Option<String>,
    /// Whether the listening thread has handled the hub's last message and ended every pair.
    has_ended: bool,
    /// Messages that a thread still has to send to the hub, and whether that thread runs.
    untold: VecDeque<ToHub>,
    is_telling: bool,
}

/// The poll keys of the listening thread.
const SOCKET: u64 = 0;
const HUB: u64 = 1;

impl Client {
    /// Starts the listening thread, which calls `ended` when the connection has ended.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(super) fn start(
        joined: Joined,
        settings: Settings,
        callbacks: Arc<Callbacks>,
        ended: impl FnOnce(&Arc<Self>) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        fork::count_forks();
        let client = Arc::new(Self {
            joined,
            settings,
            callbacks,
            // From 1: requests whose answer nobody waits for have number 0.
            state: Mutex::new(ClientState { next: 1, ..ClientState::default() }),
            changed: Condvar::new(),
            listener: OnceLock::new(),
            targets: ArcSwap::default(),
            generation: fork::generation(),
        });
        let poll = PollSet::new()?;
        poll.add(&client.joined.socket, SOCKET)?;
        poll.add(client.joined.hub.as_fd(), HUB)?;
        let listening = client.clone();
        thread::Builder::new().name("callgate-client".into()).spawn(move || {
            listening.listener.get_or_init(|| thread::current().id());
            // `leave` waits for the end of this thread, so a panic must not skip it.
            let why = catch_unwind(AssertUnwindSafe(|| listening.listen(&poll)));
            let why = why.unwrap_or_else(|_| "the thread that listens to the hub panicked".into());
            listening.end(&why);
            listening.state.lock().has_ended = true;
            listening.changed.notify_all();
            ended(&listening);
        })?;
        Ok(client)
    }

    /// Whether this process is a fork of the one that is connected.
    #[inline]
    pub(super) fn is_in_fork(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over.is_some()
    }

    pub(super) fn hub_pid(&self) -> u32 {
        self.joined.hub_pid
    }

    /// Leaves the hub and ends all pairs. When this returns no more calls arrive, unless it was called on the listening thread.
    pub(super) fn leave(&self) {
        self.end("this process has left the hub");
        if self.is_in_fork() || self.listener.get() == Some(&thread::current().id()) {
            return;
        }
        let mut state = self.state.lock();
        while !state.has_ended {
            self.changed.wait(&mut state);
        }
    }

    /// Reads the hub's messages until the connection ends. Returns why it ended.
    fn listen(self: &Arc<Self>, poll: &PollSet) -> String {
        let mut ready = Vec::new();
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            ready.clear();
            if let Err(error) = poll.wait(None, &mut ready) {
                return format!("waiting for the hub: {error}");
            }
            // Messages that it sent before it ended come first.
            let said = if ready.contains(&SOCKET) { self.read(&mut buffer) } else { Ok(()) };
            if let Err(why) = said {
                return why;
            }
            if ready.contains(&HUB) && !ready.contains(&SOCKET) {
                return "the hub has ended".into();
            }
        }
    }

    fn read(self: &Arc<Self>, buffer: &mut [u8]) -> Result<(), String> {
        let (len, descriptors) = match socket::receive_many(&self.joined.socket, buffer, BlockingMode::No) {
            Ok(Received::Message(len, descriptors)) => (len, descriptors),
            Ok(Received::Closed) => return Err("the hub has closed the connection".into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(format!("listening to the hub: {error}")),
        };
        match FromHub::decode(&buffer[..len]) {
            Some(message) => self.handle_message(message, descriptors),
            None => {
                socket::discard(descriptors);
                Err("the hub sent an invalid message".into())
            }
        }
    }

    fn handle_message(self: &Arc<Self>, message: FromHub, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        match message {
            FromHub::Introduced { pair, role, pid } => return self.introduced(pair, role, pid, descriptors),
            FromHub::Count { seq } => self.count(seq),
            FromHub::Revoked { number } => self.callbacks.revoke(number),
            FromHub::Closing => return Err("the hub was shut down".into()),
            FromHub::Registered { seq }
            | FromHub::Done { seq }
            | FromHub::Taken { seq, .. }
            | FromHub::Resolved { seq, .. }
            | FromHub::NamesAre { seq, .. }
            | FromHub::NotGranted { seq }
            | FromHub::Granted { seq, .. }
            | FromHub::Refused { seq, .. } => self.answered(seq, message),
        }
        socket::discard(descriptors);
        Ok(())
    }

    fn answered(&self, seq: u64, message: FromHub) {
        let mut state = self.state.lock();
        let Some(said) = state.questions.get_mut(&seq) else {
            drop(state);
            // The request has timed out.
            return self.decline(&message);
        };
        said.push(message);
        drop(state);
        self.changed.notify_all();
    }

    fn introduced(
        self: &Arc<Self>,
        number: u64,
        side: PairSide,
        pid: u32,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let [segment, control, pidfd] = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok(three) => three,
            Err(others) => {
                socket::discard(others);
                return Err("the hub sent an introduction without its three descriptors".into());
            }
        };
        let Settings { limits, wait } = self.settings;
        let introduction = Introduction { pid, pidfd, segment, control, limits, wait };
        // A failure has closed the control socket; the hub tells the other side.
        match side {
            PairSide::Caller => {
                if let Ok((caller, pair)) = pair::call(introduction) {
                    self.part();
                    self.state.lock().callers.insert(number, (caller, pair));
                }
            }
            PairSide::Owner => {
                let client = Arc::downgrade(self);
                let finished = move |number| {
                    if let Some(client) = client.upgrade() {
                        client.tell(&ToHub::Unregister { seq: 0, number });
                    }
                };
                // The pair must not hold the last reference: the watcher's thread may drop it, and must run no user's destructor.
                let callbacks = Arc::downgrade(&self.callbacks);
                let hosts = move || {
                    Some(CallbackHost { callbacks: callbacks.upgrade()?, finished: finished.clone(), kept: None })
                };
                if let Ok(pair) = pair::serve(introduction, hosts) {
                    let mut state = self.state.lock();
                    state.owned.retain(|pair| pair.strong_count() > 0);
                    state.owned.push(Arc::downgrade(&pair));
                }
            }
        }
        Ok(())
    }

    /// Tells the hub how often each callback was called.
    fn count(&self, seq: u64) {
        let counts = self.callbacks.counters();
        let mut parts = counts.chunks(MAX_LIST / Counters::WEIGHT).peekable();
        if parts.peek().is_none() {
            self.tell(&ToHub::Counted { seq, counts: Vec::new(), more: false });
        }
        while let Some(part) = parts.next() {
            self.tell(&ToHub::Counted { seq, counts: part.to_vec(), more: parts.peek().is_some() });
        }
    }

    /// Marks the connection as ended, wakes all waiters, and ends every pair.
    fn end(&self, why: &str) {
        if self.is_in_fork() {
            // The connection belongs to the process that this one was forked from.
            return;
        }
        let mut state = self.state.lock();
        if state.over.is_none() {
            state.over = Some(why.into());
        }
        let callers = std::mem::take(&mut state.callers);
        let owned = std::mem::take(&mut state.owned);
        drop(state);
        self.changed.notify_all();
        close::shut_down(&self.joined.socket);
        let owned = owned.iter().filter_map(Weak::upgrade);
        callers.into_values().map(|(_, pair)| pair).chain(owned).for_each(|pair| pair.over(None));
        self.targets.store(Arc::default());
    }
}
