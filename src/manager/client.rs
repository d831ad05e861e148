//! A client's side of its connection to the hub: its questions and their answers, and the pairs that it is introduced to.
//!
//! Layer 5. A thread reads what the hub says. Nothing of that is trusted further than it must be: what a hub can do is to introduce to the
//! wrong process, or to nobody.

#![forbid(unsafe_code)]

use super::auth::Joined;
use super::callbacks::{CallbackHost, Callbacks};
use super::protocol::{Counters, FromHub, MAX_LIST, MAX_MESSAGE, Resolution, Side, ToHub};
use super::typed::{Arguments, Item, Signature};
use crate::arena::Limits;
use crate::call::caller::Caller;
use crate::call::pair::{self, Introduction, PairEndpoint};
use crate::call::service::Method;
use crate::doorbell::{Deadline, Wait};
use crate::sys::close;
use crate::sys::fork;
use crate::sys::limits::{self, Wanted};
use crate::sys::poll::PollSet;
use crate::sys::socket::{self, BlockingMode, Received};
use arc_swap::{ArcSwap, Guard};
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;
use std::any::TypeId;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

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

/// So many are remembered. Of more, all are looked for anew: who keeps making up names is not to carry them all along.
const MOST_TARGETS: usize = 1024;

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

/// How often the hub is asked anew that has named a pair which is over.
const ATTEMPTS: usize = 8;

/// How long to wait before another attempt to send to a hub that does not read.
const FULL: Duration = Duration::from_millis(1);

/// How long a hub may leave unread what it is told, before it is left.
const PATIENCE: Duration = Duration::from_secs(5);

const IN_FORK: &str = "this process is a fork of the one that is connected";

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

    // ---- questions -------------------------------------------------------------------------------------------------

    /// Asks the hub; the answer, which may be several messages.
    pub(super) fn ask(
        &self,
        question: impl FnOnce(u64) -> ToHub,
        deadline: Deadline,
    ) -> Result<Vec<FromHub>, Unanswered> {
        if self.is_in_fork() {
            return Err(Unanswered::Lost(IN_FORK.into()));
        }
        let seq = {
            let mut state = self.state.lock();
            if let Some(why) = &state.over {
                return Err(Unanswered::Lost(why.clone()));
            }
            let seq = state.next;
            state.next += 1;
            state.questions.insert(seq, Vec::new());
            seq
        };
        let sent = self.send(&question(seq), deadline);
        let answer = sent.and_then(|()| self.answer(seq, deadline));
        let unread = self.state.lock().questions.remove(&seq);
        for message in unread.into_iter().flatten() {
            self.decline(&message);
        }
        match answer?.as_slice() {
            [FromHub::Refused { why, .. }] => Err(Unanswered::Refused(why.clone())),
            answer => Ok(answer.to_vec()),
        }
    }

    fn answer(&self, seq: u64, deadline: Deadline) -> Result<Vec<FromHub>, Unanswered> {
        let mut state = self.state.lock();
        loop {
            let is_whole = |said: &&mut Vec<FromHub>| match said.last() {
                Some(FromHub::NamesAre { more, .. }) => !more,
                last => last.is_some(),
            };
            if let Some(said) = state.questions.get_mut(&seq).filter(is_whole) {
                return Ok(std::mem::take(said));
            }
            if let Some(why) = &state.over {
                return Err(Unanswered::Lost(why.clone()));
            }
            match deadline.instant() {
                None => self.changed.wait(&mut state),
                Some(_) if deadline.has_passed() => return Err(Unanswered::Late),
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
            }
        }
    }

    /// Tells the hub something that it does not answer, or whose answer nobody needs.
    pub(super) fn tell(&self, message: &ToHub) {
        // Without a hub there is nobody to be told. One that does not read would believe for ever what is no longer so: that a lock is held, say;
        // when the connection ends, it undoes all of that.
        if let Err(Unanswered::Late) = self.send(message, Deadline::after(Some(PATIENCE))) {
            self.end("the hub did not read what this process told it");
        }
    }

    /// The same for somebody who is not to wait, as who drops something: what the hub does not read at once, a thread goes on telling it.
    pub(super) fn tell_in_passing(self: &Arc<Self>, message: ToHub) {
        if !matches!(self.send(&message, Deadline::now()), Err(Unanswered::Late)) {
            return;
        }
        let mut state = self.state.lock();
        state.untold.push_back(message);
        if std::mem::replace(&mut state.is_telling, true) {
            return;
        }
        drop(state);
        let client = self.clone();
        let telling = thread::Builder::new().name("callgate-tell".into()).spawn(move || client.tell_the_rest());
        if let Err(error) = telling {
            let limit = limits::behind(&error, Wanted::Task);
            self.end(&format!(
                "starting the thread that goes on telling the hub what it did not read at once{limit}: {error}"
            ));
        }
    }

    fn tell_the_rest(&self) {
        loop {
            let mut state = self.state.lock();
            let Some(message) = state.untold.pop_front() else {
                state.is_telling = false;
                return;
            };
            drop(state);
            self.tell(&message);
        }
    }

    /// What the hub says comes too late for who asked.
    fn decline(&self, message: &FromHub) {
        if let FromHub::Granted { grant, .. } = message {
            self.tell(&ToHub::Release { grant: *grant });
        }
    }

    fn send(&self, message: &ToHub, deadline: Deadline) -> Result<(), Unanswered> {
        // A fork has the same socket: what it said would be taken for the other's word.
        if self.is_in_fork() {
            return Err(Unanswered::Lost(IN_FORK.into()));
        }
        let bytes = message.encode().ok_or_else(|| Unanswered::Refused("it is too long for a message".into()))?;
        loop {
            match socket::send(&self.joined.socket, &bytes, &[]) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(Unanswered::Lost(format!("the hub cannot be asked: {error}")));
                }
                Err(_) if deadline.has_passed() => return Err(Unanswered::Late),
                Err(_) => thread::sleep(FULL),
            }
        }
    }

    // ---- targets ---------------------------------------------------------------------------------------------------

    /// Where callbacks are, as far as this process knows. What is forgotten meanwhile lives as long as what is returned.
    #[inline]
    pub(super) fn known(&self) -> Guard<Arc<Targets>> {
        self.targets.load()
    }

    /// Where the callback `name` is; `None` if nobody has registered it.
    pub(super) fn resolve(
        &self,
        name: &str,
        method: fn(&str) -> &'static Method,
        deadline: Deadline,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        for _ in 0..ATTEMPTS {
            let answer = self.ask(|seq| ToHub::Resolve { seq, name: name.into() }, deadline)?;
            let Some(FromHub::Resolved { to, .. }) = answer.into_iter().next() else {
                return Err(Unanswered::Refused("the hub answers what was not asked".into()));
            };
            if let Resolution::At { pair, .. } = to
                && !self.has(pair)
            {
                // It is over, and the hub did not know.
                self.tell(&ToHub::Part { pair });
                continue;
            }
            return self.found(name, to, method);
        }
        Err(Unanswered::Refused("this process cannot connect to the one that has registered it".into()))
    }

    /// Whether this side of a pair is there, and not over.
    fn has(&self, pair: u64) -> bool {
        self.state.lock().callers.get(&pair).is_some_and(|(_, pair)| !pair.is_over())
    }

    /// Notes where the hub says that the callback `name` is.
    fn found(
        &self,
        name: &str,
        to: Resolution,
        method: fn(&str) -> &'static Method,
    ) -> Result<Option<Arc<ResolvedCallback>>, Unanswered> {
        let senseless = || Unanswered::Refused("the hub answers what makes no sense".into());
        let target = |number, place, signature| ResolvedCallback {
            number,
            place,
            signature,
            method: method(name),
            agreed: OnceLock::new(),
        };
        let target = match to {
            Resolution::None => return Ok(None),
            Resolution::Itself { number } => {
                let registered = self.callbacks.get(number);
                let signature = registered.map_or_else(Signature::any, |registered| registered.signature());
                target(number, CallbackPlace::Here, signature)
            }
            Resolution::At { pair, number, signature, .. } => {
                let caller = self.state.lock().callers.get(&pair).map(|(caller, _)| caller.clone());
                let (Some(caller), Some(signature)) = (caller, Signature::checked(signature)) else {
                    return Err(senseless());
                };
                target(number, CallbackPlace::There(caller), signature)
            }
        };
        let (name, target) = (Arc::<str>::from(name), Arc::new(target));
        self.targets.rcu(|targets| {
            let mut targets = if targets.len() < MOST_TARGETS { Targets::clone(targets) } else { Targets::default() };
            targets.insert(name.clone(), target.clone());
            targets
        });
        Ok(Some(target))
    }

    /// Forgets where `name` was found, if it was there, and all that is where no calls go any more.
    pub(super) fn forget(&self, name: &str, target: &Arc<ResolvedCallback>) {
        self.targets.rcu(|targets| {
            let mut targets = Targets::clone(targets);
            targets.retain(|known, at| !(at.is_over() || &**known == name && Arc::ptr_eq(at, target)));
            targets
        });
        self.part();
    }

    /// Lets go of pairs that are over. The hub is told: asked for the same owner again, it would name a pair that it does not know to be over.
    fn part(&self) {
        let is_over = |_: &u64, (_, pair): &mut (Arc<Caller>, Arc<PairEndpoint>)| pair.is_over();
        let over: Vec<_> = self.state.lock().callers.extract_if(is_over).collect();
        for (pair, _) in over {
            self.tell(&ToHub::Part { pair });
        }
    }

    // ---- what the hub says -----------------------------------------------------------------------------------------

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
