//! A client's side of its connection to the hub: its questions and their answers, and the pairs that it is introduced to.
//!
//! A thread reads what the hub says. Nothing of that is trusted further than it must be: what a hub can do is to introduce to the
//! wrong process, or to nobody.

#![forbid(unsafe_code)]

mod requests;
mod resolution;

use super::auth::Joined;
use super::callbacks::{CallbackHost, Callbacks};
use super::protocol::{Counters, FromHub, MAX_LIST, MAX_MESSAGE, Side, ToHub};
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
    /// Who has found that his types are those of the signature.
    agreed: OnceLock<TypeId>,
}

pub(super) enum CallbackPlace {
    /// In this process.
    Here,
    /// At the other side of a pair.
    There(Arc<Caller>),
}

impl ResolvedCallback {
    /// Whether calls go nowhere any more.
    fn is_over(&self) -> bool {
        matches!(&self.place, CallbackPlace::There(caller) if caller.peer.peer_status.is_over())
    }

    /// Whether an `A` for an `R` is what it takes and returns.
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
    /// There is no connection any more.
    Lost(String),
    /// Not in time.
    Late,
    /// It refused, and says why.
    Refused(String),
}

/// Where callbacks were found, by their names.
pub(super) type Targets = FxHashMap<Arc<str>, Arc<ResolvedCallback>>;

/// A connection to a hub.
pub(super) struct Client {
    joined: Joined,
    settings: Settings,
    callbacks: Arc<Callbacks>,
    state: Mutex<ClientState>,
    changed: Condvar,
    /// The thread that reads what the hub says.
    listener: OnceLock<ThreadId>,
    targets: ArcSwap<Targets>,
    generation: u32,
}

#[derive(Default)]
struct ClientState {
    /// The number of the next question.
    next: u64,
    /// Questions that have not been answered, with what has come of answers.
    questions: HashMap<u64, Vec<FromHub>>,
    callers: HashMap<u64, (Arc<Caller>, Arc<PairEndpoint>)>,
    /// Kept by those who serve them, for as long as there is anything to serve.
    owned: Vec<Weak<PairEndpoint>>,
    /// Why there is no connection any more.
    over: Option<String>,
    /// Nothing of it is left: what the hub said last has been carried out, and undone.
    has_ended: bool,
    /// What a thread is telling the hub, and whether there is one.
    untold: VecDeque<ToHub>,
    is_telling: bool,
}

/// The keys of what the thread waits for.
const SOCKET: u64 = 0;
const HUB: u64 = 1;

impl Client {
    /// Begins to listen to the hub. `ended` is called when there is no connection any more, on the thread that listened.
    ///
    /// # Errors
    ///
    /// If there is no thread to be had.
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
            // From 1: what is not waited for is asked under 0.
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
            // Whoever leaves waits for the end of this thread.
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

    /// Whether there is no connection any more.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().over.is_some()
    }

    pub(super) fn hub_pid(&self) -> u32 {
        self.joined.hub_pid
    }

    /// Leaves the hub. Pairs end with it: when this returns, no call arrives any more, unless it is called where the hub is listened to.
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

    /// Reads what the hub says until there is no connection any more; why.
    fn listen(self: &Arc<Self>, poll: &PollSet) -> String {
        let mut ready = Vec::new();
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            ready.clear();
            if let Err(error) = poll.wait(None, &mut ready) {
                return format!("waiting for the hub: {error}");
            }
            // What it said before it ended comes first.
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
                Err("the hub says what makes no sense".into())
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
            // Whoever asked has given up.
            return self.decline(&message);
        };
        said.push(message);
        drop(state);
        self.changed.notify_all();
    }

    fn introduced(
        self: &Arc<Self>,
        number: u64,
        side: Side,
        pid: u32,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), String> {
        let [segment, control, pidfd] = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok(three) => three,
            Err(others) => {
                socket::discard(others);
                return Err("the hub introduces without what it takes".into());
            }
        };
        let Settings { limits, wait } = self.settings;
        let introduction = Introduction { pid, pidfd, segment, control, limits, wait };
        // One that fails has closed its control socket, which the hub tells the other side.
        match side {
            Side::Caller => {
                if let Ok((caller, pair)) = pair::call(introduction) {
                    self.part();
                    self.state.lock().callers.insert(number, (caller, pair));
                }
            }
            Side::Owner => {
                let client = Arc::downgrade(self);
                let finished = move |number| {
                    if let Some(client) = client.upgrade() {
                        client.tell(&ToHub::Unregister { seq: 0, number });
                    }
                };
                // The pair must not be the last to have them: it may go on the watcher's thread, where no destructor of the program's may run.
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

    /// There is no connection any more: whoever waits is told, and every pair is over.
    fn end(&self, why: &str) {
        if self.is_in_fork() {
            // It is the connection of the process that this one was forked from.
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
