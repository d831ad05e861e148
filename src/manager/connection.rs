//! A process's manager: whether it is the hub, a client, or neither, and its calls.

#![forbid(unsafe_code)]

use super::address::Address;
use super::args::Args;
use super::auth::{self, ClientRights, Joined};
use super::authkey::AuthKey;
use super::callbacks::{Callbacks, DYNAMIC, LocalCallback};
use super::client::{CallbackPlace, Client, ResolvedCallback, Settings, Unanswered};
use super::error::ManagerError;
use super::hub::{self, Hub, HubOptions};
use super::protocol::{FromHub, MAX_NAME, NameInfo, ToHub, check_name};
use super::typed::{Arguments, Item, Signature, TooDeep, shallow, shallow_args};
use super::value::Value;
use crate::arena::Limits;
use crate::bare::Bare;
use crate::call::nest::Within;
use crate::call::panic;
use crate::call::service::Method;
use crate::doorbell::{Deadline, Wait};
use crate::error::{CallError, CallName, CallbackError, Payload, Started, beginning};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// How long a call may take, unless it is said otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest arguments and results, in bytes.
const MAX_PAYLOAD: u64 = 64 << 20;

/// Idle memory that each side of two connected processes keeps, in bytes.
const RETAINED: u64 = 4 << 20;

/// How long each attempt may take to find a hub again that has ended.
const ELECTION: Duration = Duration::from_secs(5);

const IN_FORK: &str = "this process is a fork of the one that is connected; connect here";

/// How long to wait before another attempt.
const BREATH: Duration = Duration::from_millis(20);

/// A process's part in the exchange of callbacks at one address.
///
/// Made by [`new`](Self::new), it is connected to nothing; then it becomes the hub with [`start`](Self::start), a client of somebody else's with
/// [`connect`](Self::connect), or whichever comes first with [`start_or_connect`](Self::start_or_connect). Clones are the same manager.
/// When the last is dropped, the process leaves the hub, or ends it if it is its own.
///
/// A callback that has a clone of the manager it is registered with is a cycle: as long as it is registered, the manager is not dropped. The end of
/// its [`Registration`](super::Registration) breaks it; after [`Registration::keep`](super::Registration::keep), only [`disconnect`](Self::disconnect) leaves the hub.
///
/// A fork of a connected process is connected to nothing: its calls are errors until it connects itself, and its parent goes on undisturbed.
///
/// May be used from many threads at once. See the [module](crate::manager) for an example.
#[derive(Clone)]
pub struct Manager {
    pub(super) shared: Arc<ManagerInner>,
}

/// A registered name, see [`Manager::names`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Name {
    /// The name.
    pub name: String,
    /// The process that registered it.
    pub pid: u32,
    /// What it takes and returns: [`Signature::as_str`].
    pub signature: String,
    /// How often it has been called.
    pub calls: u64,
    /// How long a call has taken on average, in the process that carried it out.
    pub mean: Duration,
    /// How long all of them have taken.
    pub total: Duration,
}

/// What the clones of a manager have in common.
pub(super) struct ManagerInner {
    pub(super) address: Address,
    pub(super) key: AuthKey,
    options: HubOptions,
    timeout: Duration,
    wait: Wait,
    pub(super) callbacks: Arc<Callbacks>,
    /// The number of the next callback.
    pub(super) next_number: AtomicU32,
    client: ArcSwapOption<Client>,
    /// Held by who connects, which may take long.
    connecting: Mutex<()>,
    /// Held for moments only, and never while anything is waited for or dropped that is not this library's.
    part: Mutex<Part>,
}

/// What this process is.
#[derive(Default)]
struct Part {
    /// The hub, if it is this process's.
    hub: Option<Hub>,
    /// Whether it finds itself a hub again when that ends.
    elects: bool,
}

impl Manager {
    /// A manager for `address` (a path, `@name`, or a name below the user's runtime directory: see [`Address`]), with the key that all have.
    pub fn new(address: impl Into<Address>, authkey: &AuthKey) -> Self {
        let shared = ManagerInner {
            address: address.into(),
            key: authkey.clone(),
            options: HubOptions::new(),
            timeout: TIMEOUT,
            wait: Wait::default(),
            callbacks: Arc::default(),
            next_number: AtomicU32::new(1),
            client: ArcSwapOption::empty(),
            connecting: Mutex::new(()),
            part: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same, with what it takes in and gives out if it becomes the hub.
    ///
    /// # Panics
    ///
    /// If the manager has been used: cloned, connected, or registered with.
    #[must_use]
    pub fn options(mut self, options: HubOptions) -> Self {
        self.unshared().options = options;
        self
    }

    /// The same, with the longest time that a call may take. Default: 60 s. A call that waited for a process which then ended before the call had
    /// started is made again if the name is found elsewhere, and has the same time once more for that.
    ///
    /// # Panics
    ///
    /// If the manager has been used: cloned, connected, or registered with.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.unshared().timeout = timeout;
        self
    }

    /// The same, with how callers wait for answers and owners for calls. Default: [`Wait::Adaptive`].
    ///
    /// # Panics
    ///
    /// If the manager has been used: cloned, connected, or registered with.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.unshared().wait = wait;
        self
    }

    fn unshared(&mut self) -> &mut ManagerInner {
        Arc::get_mut(&mut self.shared).expect("a manager is set up before it is used")
    }

    /// Becomes the hub.
    ///
    /// # Errors
    ///
    /// [`ManagerError::InUse`] if there is one; if it could not be done within `timeout`, or this manager is connected already.
    pub fn start(&self, timeout: Duration) -> Result<(), ManagerError> {
        let shared = &self.shared;
        shared.begin(false, timeout, |shared, deadline| {
            let hub = loop {
                match Hub::start(&shared.address, &shared.key, shared.options.clone()) {
                    // One that has just ended takes a moment to be gone.
                    Err(ManagerError::InUse { .. }) if shared.is_going() && !deadline.has_passed() => {
                        thread::sleep(BREATH)
                    }
                    started => break started?,
                }
            };
            let joined = hub.join().map_err(|error| shared.failed("joining the hub of this process", error))?;
            Ok((Some(hub), joined))
        })
    }

    /// Becomes a client of the hub that there is.
    ///
    /// # Errors
    ///
    /// If there is none, if it has another key or is another user's, if it does not answer within `timeout`, or if this manager is connected
    /// already.
    pub fn connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.connect_as(ClientRights::Full, timeout)
    }

    /// As [`connect`](Self::connect), only to call, and to ask for names: the hub does not let this process register anything, nor end the hub.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect_to_call(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.connect_as(ClientRights::CallerOnly, timeout)
    }

    pub(super) fn connect_as(&self, role: ClientRights, timeout: Duration) -> Result<(), ManagerError> {
        self.shared.begin(false, timeout, |shared, deadline| {
            let joined = auth::join(&shared.address, &shared.key, role, deadline)?;
            Ok((None, joined))
        })
    }

    /// Becomes a client of the hub that there is, or the hub, if there is none: of many processes that do this at once, one. When the hub ends,
    /// all who came in this way do it again, and register again what they had registered.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn start_or_connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.shared.begin(true, timeout, ManagerInner::elect)
    }

    /// Whether there is a hub, as far as this process knows.
    pub fn is_connected(&self) -> bool {
        self.shared.current().is_some()
    }

    /// Whether this process is the hub.
    pub fn is_hub(&self) -> bool {
        self.shared.part.lock().hub.as_ref().is_some_and(Hub::is_running)
    }

    /// The process that is the hub.
    pub fn hub_pid(&self) -> Option<u32> {
        self.shared.current().map(|client| client.hub_pid())
    }

    /// Ends the hub, whichever process is it: every client loses its connection. Then this manager or another can
    /// [`start`](Self::start) one at the same address. Without a hub, does nothing.
    ///
    /// # Errors
    ///
    /// If the hub does not do it.
    pub fn shutdown(&self) -> Result<(), ManagerError> {
        let shared = &self.shared;
        let (hub, client) = {
            let mut part = shared.part.lock();
            part.elects = false;
            (part.hub.take(), shared.client.swap(None))
        };
        let Some(client) = client else { return Ok(()) };
        if let Some(hub) = hub {
            hub.stop();
            client.leave();
            return Ok(());
        }
        let deadline = Deadline::after(Some(shared.timeout));
        let asked = client.ask(|seq| ToHub::Shutdown { seq }, deadline);
        client.leave();
        match asked {
            Err(Unanswered::Lost(_)) | Ok(_) => Ok(()),
            Err(why) => Err(shared.unanswered("shutting the hub down", why)),
        }
    }

    /// Leaves the hub, or ends it if it is this process's. What is registered here is so no more, until this manager is connected again.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }

    // ---- calling ---------------------------------------------------------------------------------------------------

    /// Calls the callback `name`; `None` if nobody has registered it.
    ///
    /// # Errors
    ///
    /// [`CallError`]: `Callback` if the callback failed, `Mismatch` if it takes other arguments, `Gone` if its process ended, `NoHub`,
    /// `TimedOut`, and others.
    pub fn call(&self, name: &str, args: Args) -> Result<Option<Value>, CallError> {
        let args = shallow_args(args).map_err(|error| too_deep(name, error))?;
        // Always there: values carry no memory of their own to the callee.
        let mut args = Some(Bare(args));
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) => {
                let call = u64::from(target.number) | DYNAMIC;
                caller.call_by_word(method, call, &mut args, timeout).map(|Bare(value)| value)
            }
            CallbackPlace::Here => {
                let args = args.as_ref().map_or_else(Args::new, |Bare(args)| args.clone());
                self.call_here(target, method, args)
            }
        })
    }

    /// Calls the callback `name` with typed arguments, a tuple, for a typed result; `None` if nobody has registered it. If the callback has
    /// just these types, none is converted on the way.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); `Mismatch` too if the result is no `R`.
    pub fn call_as<R: Item>(&self, name: &str, args: impl Arguments) -> Result<Option<R>, CallError> {
        self.call_typed(name, args)
    }

    fn call_typed<A: Arguments, R: Item>(&self, name: &str, args: A) -> Result<Option<R>, CallError> {
        let mut args = Some(shallow(args).map_err(|error| too_deep(name, error))?);
        let mut dynamic: Option<Args> = None;
        self.reach(name, |target, method, timeout| match &target.place {
            CallbackPlace::There(caller) if args.is_some() && target.agrees::<A, R>() => {
                caller.call_by_word(method, target.number.into(), &mut args, timeout)
            }
            place => {
                let args = dynamic.get_or_insert_with(|| args.take().map_or_else(Args::new, A::into_args)).clone();
                let value = match place {
                    CallbackPlace::Here => self.call_here(target, method, args)?,
                    CallbackPlace::There(caller) => {
                        let call = u64::from(target.number) | DYNAMIC;
                        let Bare(value) = caller.call_by_word(method, call, &mut Some(Bare(args)), timeout)?;
                        value
                    }
                };
                R::from_value(value).map_err(|mismatch| CallError::Mismatch {
                    call: method.call_name(),
                    expected: mismatch.expected,
                    found: mismatch.found,
                })
            }
        })
    }

    /// Carries out a call of a callback of this very process.
    fn call_here(&self, target: &ResolvedCallback, method: &'static Method, args: Args) -> Result<Value, CallError> {
        let call = method.call_name();
        let _within = Within::new(call)?;
        let gone = || CallError::Gone { call, pid: std::process::id(), started: Started::No };
        let callbacks = &self.shared.callbacks;
        let registered = callbacks.get(target.number).ok_or_else(gone)?;
        let spent = || {
            callbacks.remove(target.number);
            self.shared.unregistered(target.number);
        };
        let run = || registered.run(spent, |answer, begin| answer.call_dynamic(args, begin));
        let result = panic::catch(run).map_err(|fault| CallError::Panicked { call, fault });
        // Its destructor may panic too.
        let _ = panic::catch(move || drop(registered));
        result?.map_err(|failure| match failure {
            CallbackError::Failed(message) => CallError::Callback { call, message },
            CallbackError::Mismatch { expected, found } => CallError::Mismatch { call, expected, found },
            CallbackError::Gone => gone(),
            CallbackError::TooDeep => CallError::TooDeep { call, what: Payload::Reply, limit: TooDeep.to_string() },
        })
    }

    /// Has `call` made of the callback `name`, wherever it is. If it is found to be there no more, looks for it anew.
    #[inline]
    fn reach<T>(
        &self,
        name: &str,
        mut call: impl FnMut(&ResolvedCallback, &'static Method, Option<Duration>) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        let client = self.shared.client.load();
        let Some(client) = client.as_ref() else {
            return Err(no_hub(name, "this process is connected to none".into()));
        };
        if let Some(target) = client.known().get(name) {
            match call(target, target.method, Some(self.shared.timeout)) {
                Ok(result) => return Ok(Some(result)),
                Err(error) if !is_moved(&error) => return Err(lost(client, name, target, error)),
                Err(_) => client.forget(name, target),
            }
        }
        self.reach_slow(client, name, call)
    }

    #[cold]
    fn reach_slow<T>(
        &self,
        client: &Arc<Client>,
        name: &str,
        mut call: impl FnMut(&ResolvedCallback, &'static Method, Option<Duration>) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        if client.is_in_fork() {
            return Err(refused(name, IN_FORK.into()));
        }
        let deadline = self.shared.deadline();
        let mut last = None;
        loop {
            let target = match client.resolve(name, method_named, deadline) {
                Ok(Some(target)) => target,
                Ok(None) => return Ok(None),
                Err(Unanswered::Lost(why)) => return Err(no_hub(name, why)),
                Err(Unanswered::Late) => {
                    return Err(last.unwrap_or_else(|| no_hub(name, "the hub does not answer".into())));
                }
                Err(Unanswered::Refused(why)) => return Err(refused(name, why)),
            };
            match call(&target, target.method, deadline.left()).map_err(as_gone) {
                Err(error @ CallError::Gone { started: Started::No, .. }) => {
                    client.forget(name, &target);
                    // Its process has ended, and the hub may not know it yet.
                    thread::sleep(BREATH.min(deadline.left().unwrap_or(BREATH)));
                    if deadline.has_passed() {
                        return Err(error);
                    }
                    last = Some(error);
                }
                Err(error @ CallError::Gone { .. }) => {
                    client.forget(name, &target);
                    return Err(error);
                }
                // What was left of the time is not what the call was given.
                Err(CallError::TimedOut { call, pid, awaited, started, .. }) => {
                    return Err(CallError::TimedOut { call, pid, timeout: self.shared.timeout, awaited, started });
                }
                Err(error) => return Err(lost(client, name, &target, error)),
                Ok(result) => return Ok(Some(result)),
            }
        }
    }

    // ---- looking ---------------------------------------------------------------------------------------------------

    /// What is registered, by whom, and how often it was called.
    ///
    /// # Errors
    ///
    /// If there is no hub, or it does not answer within a call's timeout.
    pub fn names(&self) -> Result<Vec<Name>, ManagerError> {
        let said = self.shared.ask("asking for the names", |seq| ToHub::Names { seq }, self.shared.deadline())?;
        let lists = said.into_iter().filter_map(|message| match message {
            FromHub::NamesAre { names, .. } => Some(names),
            _ => None,
        });
        Ok(lists.flatten().filter_map(Name::checked).collect())
    }
}

impl Name {
    /// What the hub says, who may not have looked at what it was told: `None` if name or signature has control characters, which would reach
    /// whatever shows them, a terminal perhaps.
    fn checked(info: NameInfo) -> Option<Self> {
        check_name(&info.name).ok()?;
        Some(Self {
            name: info.name,
            pid: info.owner,
            signature: Signature::checked(info.signature)?.as_str().into(),
            calls: info.calls,
            mean: Duration::from_nanos(info.nanoseconds / info.calls.max(1)),
            total: Duration::from_nanos(info.nanoseconds),
        })
    }
}

/// Whether a call came to nothing because its callback is no longer where it was.
fn is_moved(error: &CallError) -> bool {
    match error {
        CallError::Gone { started, .. } | CallError::Died { started, .. } | CallError::Stopped { started, .. } => {
            *started == Started::No
        }
        _ => false,
    }
}

/// The error of a call that is not made again. What broke the protocol is not called again either: the next call finds another way.
#[cold]
fn lost(client: &Client, name: &str, target: &Arc<ResolvedCallback>, error: CallError) -> CallError {
    if client.is_in_fork() {
        return refused(name, IN_FORK.into());
    }
    if matches!(error, CallError::Corrupt { .. }) {
        client.forget(name, target);
    }
    as_gone(error)
}

/// The same error, in words that are about callbacks.
fn as_gone(error: CallError) -> CallError {
    match error {
        CallError::Died { call, pid, started, .. } | CallError::Stopped { call, pid, started } => {
            CallError::Gone { call, pid, started }
        }
        other => other,
    }
}

fn too_deep(name: &str, why: TooDeep) -> CallError {
    CallError::TooDeep { call: name_of(name), what: Payload::Request, limit: why.to_string() }
}

fn refused(name: &str, why: String) -> CallError {
    CallError::Refused { call: name_of(name), why }
}

fn no_hub(name: &str, why: String) -> CallError {
    CallError::NoHub { call: name_of(name), why }
}

fn name_of(name: &str) -> CallName {
    method_named(name).call_name()
}

/// What stands for the callback `name` in errors.
fn method_named(name: &str) -> &'static Method {
    static METHODS: Methods = Methods(OnceLock::new());
    METHODS.of(name, MOST_METHODS)
}

/// So many names are remembered for errors, as many as a hub has at a time. Names of later callbacks are not in errors.
const MOST_METHODS: usize = 1 << 16;

/// What stands for callbacks in errors, which have no memory of their own: made once for each name, and for good.
struct Methods(OnceLock<Mutex<HashMap<&'static str, &'static Method>>>);

impl Methods {
    fn of(&self, name: &str, most: usize) -> &'static Method {
        static ANY: Method = Method { service: "", name: "(a callback)", index: 0, interface: None, idempotent: false };
        // No callback's name is longer, but somebody may call such a one.
        let name = beginning(name, MAX_NAME);
        let mut methods = self.0.get_or_init(Mutex::default).lock();
        if let Some(method) = methods.get(name) {
            return method;
        }
        if methods.len() >= most {
            return &ANY;
        }
        let name: &'static str = Box::leak(name.into());
        let method: &'static Method = Box::leak(Box::new(Method { name, ..ANY }));
        methods.insert(name, method);
        method
    }
}

impl ManagerInner {
    /// Connects within `timeout`, in a way that `connect` knows.
    fn begin(
        self: &Arc<Self>,
        elects: bool,
        timeout: Duration,
        connect: impl FnOnce(&Self, Deadline) -> Result<(Option<Hub>, Joined), ManagerError>,
    ) -> Result<(), ManagerError> {
        let begun = Instant::now();
        let deadline = Deadline::after(Some(timeout));
        let late = |what| ManagerError::TimedOut { address: self.address.to_string(), waited: begun.elapsed(), what };
        let one_at_a_time = match deadline.instant() {
            Some(until) => self.connecting.try_lock_until(until),
            None => Some(self.connecting.lock()),
        };
        let Some(_one_at_a_time) = one_at_a_time else {
            return Err(late("this process is looking for a hub already"));
        };
        if self.current().is_some() {
            return Err(ManagerError::Connected { address: self.address.to_string() });
        }
        self.end_own();
        let (hub, joined) = connect(self, deadline).map_err(|error| match error {
            ManagerError::TimedOut { what, .. } => late(what),
            other => other,
        })?;
        self.adopt(hub, joined, deadline, |part| {
            part.elects = elects;
            true
        })
    }

    /// Ends the hub that this process still has, if its clients have ended it.
    fn end_own(&self) {
        let hub = self.part.lock().hub.take();
        drop(hub);
    }

    fn elect(&self, deadline: Deadline) -> Result<(Option<Hub>, Joined), ManagerError> {
        hub::start_or_join(&self.address, &self.key, self.options.clone(), deadline)
    }

    /// Registers at a hub what this process has, and makes the connection this process's if `accept` does not object at last. Called by who holds
    /// `connecting`.
    fn adopt(
        self: &Arc<Self>,
        hub: Option<Hub>,
        joined: Joined,
        deadline: Deadline,
        accept: impl FnOnce(&mut Part) -> bool,
    ) -> Result<(), ManagerError> {
        let limits = Limits { max_payload: MAX_PAYLOAD, retained: RETAINED };
        let settings = Settings { limits, wait: self.wait };
        let shared = Arc::downgrade(self);
        let ended = move |client: &Arc<Client>| Self::find_another(&shared, client);
        let client = Client::start(joined, settings, self.callbacks.clone(), ended)
            .map_err(|error| self.failed("starting the thread that listens to the hub", error))?;
        let callbacks = self.callbacks.all();
        let known = self.register_all(&client, &callbacks, deadline);
        let adopted = known.is_ok() && {
            let mut part = self.part.lock();
            let is_wanted = accept(&mut part);
            if is_wanted {
                part.hub = hub;
                self.client.store(Some(client.clone()));
            }
            is_wanted
        };
        if adopted {
            // Those that were unregistered meanwhile: the hub that was told was the last one.
            let is_gone = |registered: &&Arc<LocalCallback>| self.callbacks.get(registered.number).is_none();
            callbacks.iter().filter(is_gone).for_each(|registered| self.unregistered(registered.number));
        } else {
            client.leave();
        }
        self.callbacks.discard(callbacks);
        known
    }

    fn register_all(
        &self,
        client: &Client,
        callbacks: &[Arc<LocalCallback>],
        deadline: Deadline,
    ) -> Result<(), ManagerError> {
        for registered in callbacks {
            match client.ask(|seq| registered.as_message(seq, false), deadline) {
                Ok(said) if matches!(said[..], [FromHub::Registered { .. }]) => {}
                // Somebody else has the name now.
                Ok(_) | Err(Unanswered::Refused(_)) => self.callbacks.revoke(registered.number),
                // This hub has ended too, or does not answer. The next is told of all of them.
                Err(why) => return Err(self.unanswered("registering again what was registered", why)),
            }
        }
        Ok(())
    }

    /// The hub of `client` has ended: finds another one, if this process does that, for as long as somebody has the manager.
    fn find_another(manager: &Weak<Self>, client: &Arc<Client>) {
        while let Some(shared) = manager.upgrade() {
            if shared.has_another(client) {
                return;
            }
            drop(shared);
            thread::sleep(BREATH);
        }
    }

    /// Looks for another hub if one is needed in the place of that of `client`. Whether none is needed any more.
    fn has_another(self: &Arc<Self>, client: &Arc<Client>) -> bool {
        // Who has it may be about to make this `client` the one that counts.
        let _one_at_a_time = self.connecting.lock();
        let is_needed = |part: &mut Part| {
            part.elects && self.client.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, client))
        };
        if !is_needed(&mut self.part.lock()) {
            return true;
        }
        self.end_own();
        let Ok((hub, joined)) = self.elect(Deadline::after(Some(ELECTION))) else { return false };
        // Whoever disconnected meanwhile did not wait for this.
        let adopted = self.adopt(hub, joined, self.deadline(), is_needed);
        adopted.is_ok() && self.current().is_some()
    }

    /// The connection of this very process, if it has one that is not over.
    pub(super) fn current(&self) -> Option<Arc<Client>> {
        self.client.load_full().filter(|client| !client.is_in_fork() && !client.is_over())
    }

    /// Whether nobody listens at the address though somebody still has its lock.
    fn is_going(&self) -> bool {
        matches!(self.address.connect(), Err(ManagerError::NobodyListens { .. }))
    }

    fn disconnect(&self) {
        let (hub, client) = {
            let mut part = self.part.lock();
            part.elects = false;
            (part.hub.take(), self.client.swap(None))
        };
        if let Some(client) = client {
            client.leave();
        }
        drop(hub);
    }

    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(Some(self.timeout))
    }

    /// Asks the hub, if there is one.
    pub(super) fn ask(
        &self,
        what: &str,
        question: impl FnOnce(u64) -> ToHub,
        deadline: Deadline,
    ) -> Result<Vec<FromHub>, ManagerError> {
        self.client(what)?.ask(question, deadline).map_err(|why| self.unanswered(what, why))
    }

    /// The connection to the hub, to ask for `what`.
    pub(super) fn client(&self, what: &str) -> Result<Arc<Client>, ManagerError> {
        let lost = || self.unanswered(what, Unanswered::Lost("this process is connected to none".into()));
        self.client.load_full().ok_or_else(lost)
    }

    /// The connection to the hub, if there is one; it may be over.
    pub(super) fn connected(&self) -> Option<Arc<Client>> {
        self.client.load_full()
    }

    /// Tells the hub, if there is one.
    pub(super) fn tell(&self, message: &ToHub) {
        if let Some(client) = self.client.load_full() {
            client.tell(message);
        }
    }

    /// A callback is registered no more.
    pub(super) fn unregistered(&self, number: u32) {
        self.tell(&ToHub::Unregister { seq: 0, number });
    }

    pub(super) fn unanswered(&self, what: &str, why: Unanswered) -> ManagerError {
        let address = self.address.to_string();
        match why {
            Unanswered::Lost(why) => ManagerError::NoHub { address, why },
            Unanswered::Late => ManagerError::NoHub { address, why: format!("no answer in time to {what}") },
            Unanswered::Refused(why) => ManagerError::Refused { address, what: what.into(), why },
        }
    }

    fn failed(&self, what: &str, error: std::io::Error) -> ManagerError {
        ManagerError::System { address: self.address.to_string(), what: what.into(), error }
    }
}

impl Drop for ManagerInner {
    fn drop(&mut self) {
        // In a fork the connection is another process's, and whoever held the locks is not there.
        if self.client.load().as_ref().is_none_or(|client| !client.is_in_fork()) {
            self.disconnect();
        }
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("address", &self.shared.address).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::manager::protocol::{MAX_MESSAGE, Resolution};
    use crate::sys::listener;
    use crate::sys::socket::{self, BlockingMode, Received};
    use std::sync::mpsc;

    /// Against hangs only.
    const LONG: Duration = Duration::from_secs(30);

    /// A connection to a hub in the hands of a test, which says `answer` to what it is told.
    fn joined(answer: impl Fn(ToHub) -> Vec<FromHub> + Send + 'static) -> Joined {
        let (theirs, ours) = socket::pair().expect("a pair");
        let hub = listener::peer_process(&ours).expect("a process");
        thread::spawn(move || {
            let mut buffer = vec![0; MAX_MESSAGE];
            while let Ok(Received::Message(len, _)) = socket::receive_many(&theirs, &mut buffer, BlockingMode::Yes) {
                let said = ToHub::decode(&buffer[..len]).expect("what a client says");
                for message in answer(said) {
                    let _ = socket::send(&theirs, &message.encode().expect("short enough"), &[]);
                }
            }
        });
        Joined { socket: ours, hub_pid: 0, hub }
    }

    /// Connected to such a hub; no other can be found at its address.
    fn connected(elects: bool, answer: impl Fn(ToHub) -> Vec<FromHub> + Send + 'static) -> Manager {
        let manager = Manager::new("", &AuthKey::new("a key")).timeout(Duration::from_millis(200));
        let begun = manager.shared.begin(elects, LONG, |_, _| Ok((None, joined(answer))));
        begun.expect("a connection");
        manager
    }

    #[test]
    fn a_callback_that_is_gone_for_good_is_said_to_be_gone() {
        let manager = connected(false, |said| match said {
            ToHub::Resolve { seq, .. } => vec![FromHub::Resolved { seq, to: Resolution::Itself { number: 7 } }],
            _ => vec![],
        });
        let gone = manager.call("nobody's", Args::new()).expect_err("it is not here");
        assert!(matches!(gone, CallError::Gone { started: Started::No, .. }), "{gone}");
    }

    #[test]
    fn names_that_a_terminal_would_obey_are_not_shown() {
        let named = |name: &str, signature: &str| {
            let (name, signature) = (name.into(), signature.into());
            NameInfo { name, signature, owner: 1, calls: 2, nanoseconds: 6 }
        };
        let manager = connected(false, move |said| match said {
            ToHub::Names { seq } => {
                let names =
                    vec![named("\x1b]0;a\x07", "any"), named("b", "\x1b[2J"), named("c", "any"), named("d", "")];
                vec![FromHub::NamesAre { seq, names, more: false }]
            }
            _ => vec![],
        });
        let names = manager.names().expect("names");
        assert_eq!(names.iter().map(|name| &*name.name).collect::<Vec<_>>(), ["c"]);
        assert_eq!((names[0].calls, names[0].mean), (2, Duration::from_nanos(3)));
    }

    /// As it is if it was told of another hub meanwhile, where somebody else has the name.
    #[test]
    fn a_registration_that_was_undone_before_it_was_done_is_an_error() {
        let manager = connected(false, |said| match said {
            ToHub::Register { seq, number, .. } => vec![FromHub::Revoked { number }, FromHub::Registered { seq }],
            _ => vec![],
        });
        let undone = manager.named("name").replace(true).register_fn(|| ()).expect_err("it is not registered");
        assert!(undone.to_string().contains("another process has taken the name meanwhile"), "{undone}");
    }

    #[test]
    fn a_registration_that_was_spent_before_it_was_done_is_none() {
        let manager = connected(false, |said| match said {
            ToHub::Register { seq, number, .. } => {
                thread::sleep(Duration::from_millis(2));
                vec![FromHub::Revoked { number }, FromHub::Registered { seq }]
            }
            _ => vec![],
        });
        let short = manager.named("name").expires_in(Duration::from_millis(1)).register_fn(|| ()).expect("its time");
        assert!(!short.is_registered());
    }

    #[test]
    fn who_waits_for_a_lock_no_longer_says_so() {
        let (heard, hears) = mpsc::channel();
        let manager = connected(false, move |said| {
            heard.send(said).expect("a listener");
            vec![]
        });
        let late = manager.lock("lock", Duration::ZERO).expect_err("the hub says nothing");
        assert!(matches!(late, ManagerError::NoHub { .. }), "{late}");
        let ToHub::Acquire { seq: asked, .. } = hears.recv().expect("a question") else {
            panic!("a lock is asked for")
        };
        assert_eq!(hears.recv_timeout(LONG), Ok(ToHub::Cancel { seq: asked }));
    }

    #[test]
    fn only_the_connection_that_counted_is_succeeded() {
        let manager = connected(true, |said| match said {
            ToHub::Register { seq, .. } => vec![FromHub::Registered { seq }],
            _ => vec![FromHub::Closing],
        });
        let shared = &manager.shared;
        let _registration = manager.register_fn("name", || ()).expect("a free name");
        let before = Arc::weak_count(shared);
        shared.tell(&ToHub::Cancel { seq: 0 });
        let until = Instant::now() + LONG;
        while manager.is_connected() {
            assert!(Instant::now() < until, "it is told that the hub ends");
            thread::sleep(BREATH);
        }
        for _ in 0..3 {
            let _one_at_a_time = shared.connecting.lock();
            let failed = shared.adopt(None, joined(|_| vec![FromHub::Closing]), shared.deadline(), |_| true);
            failed.expect_err("the hub ends");
        }
        // Each thread that looks for another hub has the manager.
        while Arc::weak_count(shared) > before {
            assert!(Instant::now() < until, "{} instead of {before}", Arc::weak_count(shared));
            thread::sleep(BREATH);
        }
        manager.disconnect();
    }

    #[test]
    fn so_many_names_are_remembered_and_no_more() {
        let methods = Methods(OnceLock::new());
        for round in 0..2 {
            for number in 0..10 {
                let name = format!("name {number}");
                assert_eq!(methods.of(&name, 10).name, name, "{round}");
            }
            assert_eq!(methods.of("another", 10).name, "(a callback)");
        }
        let long = "é".repeat(1 << 20);
        assert_eq!(Methods(OnceLock::new()).of(&long, 10).name, "é".repeat(127));
    }
}
