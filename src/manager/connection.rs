//! A process's manager: whether it is the hub, a member, or neither, and its calls.

#![forbid(unsafe_code)]

use super::address::Address;
use super::args::Args;
use super::auth::{self, Joined, Role};
use super::authkey::AuthKey;
use super::callback::Callback;
use super::callbacks::{Callbacks, DYNAMIC, Registered};
use super::error::ManagerError;
use super::handle::Handle;
use super::hub::{self, Hub, HubOptions};
use super::member::{Member, Place, Settings, Target, Unanswered};
use super::protocol::{FromHub, ToHub};
use super::registration::{Registering, Registration};
use super::typed::{Arguments, Item, Outcome, shallow, shallow_args};
use super::value::Value;
use crate::arena::Limits;
use crate::call::panic;
use crate::call::service::Method;
use crate::doorbell::{Deadline, Wait};
use crate::error::{CallError, CallName, Failure, Progress};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

/// How long a call may take, unless it is said otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest arguments and results, in bytes.
const MAX_PAYLOAD: u64 = 64 << 20;

/// Idle memory that each side of two connected processes keeps, in bytes.
const RETAINED: u64 = 4 << 20;

/// Calls of a process's own callbacks run on the thread that makes them: a callback that calls itself is to end before its stack does.
const MOST_NESTED: u32 = 64;

/// How long each attempt may take to find a hub again that has ended.
const ELECTION: Duration = Duration::from_secs(5);

/// How long to wait before another attempt.
const BREATH: Duration = Duration::from_millis(20);

/// A process's part in the exchange of callbacks at one address.
///
/// Made by [`new`](Self::new), it is connected to nothing; then it becomes the hub with [`start`](Self::start), a member of somebody else's with
/// [`connect`](Self::connect), or whichever comes first with [`start_or_connect`](Self::start_or_connect). Clones are the same manager.
/// When the last is dropped, the process leaves the hub, or ends it if it is its own.
///
/// May be used from many threads at once. See the [module](self) for an example.
#[derive(Clone)]
pub struct Manager {
    pub(super) shared: Arc<Shared>,
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
pub(super) struct Shared {
    pub(super) address: Address,
    key: AuthKey,
    options: HubOptions,
    timeout: Duration,
    wait: Wait,
    pub(super) callbacks: Arc<Callbacks>,
    /// The number of the next callback.
    pub(super) next_number: AtomicU32,
    member: ArcSwapOption<Member>,
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
        let shared = Shared {
            address: address.into(),
            key: authkey.clone(),
            options: HubOptions::new(),
            timeout: TIMEOUT,
            wait: Wait::default(),
            callbacks: Arc::default(),
            next_number: AtomicU32::new(1),
            member: ArcSwapOption::empty(),
            part: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same, with what it takes in and gives out if it becomes the hub.
    ///
    /// # Panics
    ///
    /// If the manager has been cloned.
    #[must_use]
    pub fn options(mut self, options: HubOptions) -> Self {
        self.unshared().options = options;
        self
    }

    /// The same, with the longest time that a call may take. Default: 60 s.
    ///
    /// # Panics
    ///
    /// If the manager has been cloned.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.unshared().timeout = timeout;
        self
    }

    /// The same, with how callers wait for answers and owners for calls. Default: [`Wait::Adaptive`].
    ///
    /// # Panics
    ///
    /// If the manager has been cloned.
    #[must_use]
    pub fn wait(mut self, wait: Wait) -> Self {
        self.unshared().wait = wait;
        self
    }

    fn unshared(&mut self) -> &mut Shared {
        Arc::get_mut(&mut self.shared).expect("a manager is set up before it is cloned")
    }

    /// Becomes the hub.
    ///
    /// # Errors
    ///
    /// [`ManagerError::InUse`] if there is one; if it could not be done within `timeout`, or this manager is connected already.
    pub fn start(&self, timeout: Duration) -> Result<(), ManagerError> {
        let shared = &self.shared;
        let begun = Deadline::after(Some(timeout));
        shared.begin(false, |shared| {
            let hub = loop {
                match Hub::start(&shared.address, &shared.key, shared.options.clone()) {
                    // One that has just ended takes a moment to be gone.
                    Err(ManagerError::InUse { .. }) if shared.is_going() && !begun.has_passed() => {
                        thread::sleep(BREATH)
                    }
                    started => break started?,
                }
            };
            let joined = hub.join().map_err(|error| shared.failed("joining the hub of this process", error))?;
            Ok((Some(hub), joined))
        })
    }

    /// Becomes a member of the hub that there is.
    ///
    /// # Errors
    ///
    /// If there is none, if it has another key or is another user's, if it does not answer within `timeout`, or if this manager is connected
    /// already.
    pub fn connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.connect_as(Role::Member, timeout)
    }

    /// As [`connect`](Self::connect), only to call, and to ask for names: the hub does not let this process register anything, nor end the hub.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect_to_call(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.connect_as(Role::CallerOnly, timeout)
    }

    pub(super) fn connect_as(&self, role: Role, timeout: Duration) -> Result<(), ManagerError> {
        let deadline = Deadline::after(Some(timeout));
        self.shared.begin(false, |shared| {
            let joined = auth::join(&shared.address, &shared.key, role, deadline)?;
            Ok((None, joined))
        })
    }

    /// Becomes a member of the hub that there is, or the hub, if there is none: of many processes that do this at once, one. When the hub ends,
    /// all who came in this way do it again, and register again what they had registered.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn start_or_connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        let deadline = Deadline::after(Some(timeout));
        self.shared.begin(true, |shared| shared.elect(deadline))
    }

    /// What another process needs to call what is registered here: the address, and where the key is. Never the key.
    pub fn handle(&self) -> Handle {
        Handle::of(&self.shared.address, self.shared.key.reference())
    }

    /// Whether there is a hub, as far as this process knows.
    pub fn is_connected(&self) -> bool {
        self.shared.member.load().as_ref().is_some_and(|member| !member.is_over())
    }

    /// Whether this process is the hub.
    pub fn is_hub(&self) -> bool {
        self.shared.part.lock().hub.as_ref().is_some_and(Hub::is_running)
    }

    /// The process that is the hub.
    pub fn hub_pid(&self) -> Option<u32> {
        self.shared.member.load().as_ref().filter(|member| !member.is_over()).map(|member| member.hub_pid())
    }

    /// Ends the hub, whichever process is it: every member loses its connection. Then this manager or another can
    /// [`start`](Self::start) one at the same address. Without a hub, does nothing.
    ///
    /// # Errors
    ///
    /// If the hub does not do it.
    pub fn shutdown(&self) -> Result<(), ManagerError> {
        let shared = &self.shared;
        let (hub, member) = {
            let mut part = shared.part.lock();
            part.elects = false;
            (part.hub.take(), shared.member.swap(None))
        };
        let Some(member) = member else { return Ok(()) };
        if let Some(hub) = hub {
            hub.stop();
            member.leave();
            return Ok(());
        }
        let deadline = Deadline::after(Some(shared.timeout));
        let asked = member.ask(|seq| ToHub::Shutdown { seq }, deadline);
        member.leave();
        match asked {
            Err(Unanswered::Lost(_)) | Ok(_) => Ok(()),
            Err(why) => Err(shared.unanswered("shutting the hub down", why)),
        }
    }

    /// Leaves the hub, or ends it if it is this process's. What is registered here is so no more, until this manager is connected again.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }

    // ---- registering -----------------------------------------------------------------------------------------------

    /// Registers `callback` under `name`, with whatever arguments it is called with. Until the [`Registration`] is dropped, calls of that
    /// name run it in this process, on threads of their own, several at once.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Taken`] if another process has the name; if there is no hub, or it refuses the name.
    pub fn register<F, O>(&self, name: &str, callback: F) -> Result<Registration, ManagerError>
    where
        F: Fn(Args) -> O + Send + Sync + 'static,
        O: Outcome + 'static,
    {
        self.named(name).register(callback)
    }

    /// As [`register`](Self::register), a callback with types: it takes and returns [`Item`]s.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_fn<A, O, F>(&self, name: &str, callback: F) -> Result<Registration, ManagerError>
    where
        A: Arguments,
        O: Outcome + 'static,
        F: Callback<A, O>,
    {
        self.named(name).register_fn(callback)
    }

    /// What is to be registered under `name`, with limits.
    pub fn named(&self, name: &str) -> Registering {
        Registering::new(self.clone(), name)
    }

    // ---- calling ---------------------------------------------------------------------------------------------------

    /// Calls the callback `name`; `None` if nobody has registered it.
    ///
    /// # Errors
    ///
    /// [`CallError`]: `Callback` if the callback failed, `Mismatch` if it takes other arguments, `Gone` if its process ended, `NoHub`,
    /// `TimedOut`, and others.
    pub fn call(&self, name: &str, args: Args) -> Result<Option<Value>, CallError> {
        let args = shallow_args(args).map_err(|error| refused(name, error.to_string()))?;
        // Always there: values carry no memory of their own to the callee.
        let mut args = Some(args);
        self.reach(name, |target, method| match &target.place {
            Place::There(caller) => {
                let call = u64::from(target.number) | DYNAMIC;
                caller.call_by_word::<_, Value>(method, call, &mut args, Some(self.shared.timeout))
            }
            Place::Here => self.call_here(target, method, args.clone().unwrap_or_default()),
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
        let mut args = Some(shallow(args).map_err(|error| refused(name, error.to_string()))?);
        let mut dynamic: Option<Args> = None;
        self.reach(name, |target, method| match &target.place {
            Place::There(caller) if args.is_some() && target.agrees::<A, R>() => {
                caller.call_by_word(method, target.number.into(), &mut args, Some(self.shared.timeout))
            }
            place => {
                let args = dynamic.get_or_insert_with(|| args.take().map_or_else(Args::new, A::into_args)).clone();
                let value = match place {
                    Place::Here => self.call_here(target, method, args)?,
                    Place::There(caller) => {
                        let call = u64::from(target.number) | DYNAMIC;
                        caller.call_by_word(method, call, &mut Some(args), Some(self.shared.timeout))?
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
    fn call_here(&self, target: &Target, method: &'static Method, args: Args) -> Result<Value, CallError> {
        let call = method.call_name();
        let Some(_deeper) = Deeper::within(MOST_NESTED) else {
            let why = format!("calls within this process are nested more than {MOST_NESTED} deep");
            return Err(CallError::Refused { call, why });
        };
        let run = || self.shared.callbacks.with(target.number, |answer| answer.call_dynamic(args));
        let run = panic::catch(run).map_err(|fault| CallError::Panicked { call, fault })?;
        let result = run.and_then(|(result, _kept, is_last)| {
            if is_last {
                self.shared.unregistered(target.number);
            }
            result
        });
        result.map_err(|failure| match failure {
            Failure::Failed(message) => CallError::Callback { call, message },
            Failure::Mismatch { expected, found } => CallError::Mismatch { call, expected, found },
            Failure::Gone => CallError::Gone { call, pid: std::process::id(), progress: Progress::NotStarted },
        })
    }

    /// Has `call` made of the callback `name`, wherever it is. If it is found to be there no more, looks for it anew.
    #[inline]
    fn reach<T>(
        &self,
        name: &str,
        mut call: impl FnMut(&Target, &'static Method) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        let member = self.shared.member.load();
        let Some(member) = member.as_ref() else {
            return Err(no_hub(name, "this process is connected to none".into()));
        };
        if let Some(target) = member.known().get(name) {
            match call(target, target.method) {
                Ok(result) => return Ok(Some(result)),
                Err(error) if !is_moved(&error) => return Err(lost(member, name, target, error)),
                Err(_) => member.forget(name, target),
            }
        }
        self.reach_slow(member, name, call)
    }

    #[cold]
    fn reach_slow<T>(
        &self,
        member: &Arc<Member>,
        name: &str,
        mut call: impl FnMut(&Target, &'static Method) -> Result<T, CallError>,
    ) -> Result<Option<T>, CallError> {
        if member.is_in_fork() {
            return Err(refused(name, "this process is a fork of the one that is connected; connect here".into()));
        }
        let deadline = Deadline::after(Some(self.shared.timeout));
        loop {
            let target = match member.resolve(name, method_named, deadline) {
                Ok(Some(target)) => target,
                Ok(None) => return Ok(None),
                Err(Unanswered::Lost(why)) => return Err(no_hub(name, why)),
                Err(Unanswered::Late) => return Err(no_hub(name, "the hub does not answer".into())),
                Err(Unanswered::Refused(why)) => return Err(refused(name, why)),
            };
            match call(&target, target.method).map_err(as_gone) {
                Err(error @ CallError::Gone { .. }) => {
                    member.forget(name, &target);
                    // Its process has ended, and the hub may not know it yet.
                    if !matches!(error, CallError::Gone { progress: Progress::NotStarted, .. }) || deadline.has_passed()
                    {
                        return Err(error);
                    }
                    thread::sleep(BREATH);
                }
                Err(error) => return Err(lost(member, name, &target, error)),
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
        let name = |info: super::protocol::NameInfo| Name {
            name: info.name,
            pid: info.owner,
            signature: info.signature,
            calls: info.calls,
            mean: Duration::from_nanos(info.nanoseconds / info.calls.max(1)),
            total: Duration::from_nanos(info.nanoseconds),
        };
        Ok(lists.flatten().map(name).collect())
    }
}

/// One more call that this thread carries out within another, as long as it lives.
struct Deeper;

thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });

impl Deeper {
    /// `None` if that would be more than `most`.
    fn within(most: u32) -> Option<Self> {
        let depth = DEPTH.get();
        (depth < most).then(|| {
            DEPTH.set(depth + 1);
            Self
        })
    }
}

impl Drop for Deeper {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Whether a call came to nothing because its callback is no longer where it was.
fn is_moved(error: &CallError) -> bool {
    match error {
        CallError::Gone { progress, .. } | CallError::Died { progress, .. } | CallError::Stopped { progress, .. } => {
            *progress == Progress::NotStarted
        }
        _ => false,
    }
}

/// The error of a call that is not made again. What broke the protocol is not called again either: the next call finds another way.
#[cold]
fn lost(member: &Member, name: &str, target: &Arc<Target>, error: CallError) -> CallError {
    if matches!(error, CallError::Corrupt { .. }) {
        member.forget(name, target);
    }
    as_gone(error)
}

/// The same error, in words that are about callbacks.
fn as_gone(error: CallError) -> CallError {
    match error {
        CallError::Died { call, pid, progress, .. } | CallError::Stopped { call, pid, progress } => {
            CallError::Gone { call, pid, progress }
        }
        other => other,
    }
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

/// What stands for the callback `name` in errors. Made once for each name, and for good.
fn method_named(name: &str) -> &'static Method {
    static METHODS: OnceLock<Mutex<HashMap<&'static str, &'static Method>>> = OnceLock::new();
    let mut methods = METHODS.get_or_init(Mutex::default).lock();
    match methods.get(name) {
        Some(method) => method,
        None => {
            let name: &'static str = Box::leak(name.into());
            let method = Method { service: "", name, index: 0, interface: None, idempotent: false };
            let method: &'static Method = Box::leak(Box::new(method));
            methods.insert(name, method);
            method
        }
    }
}

impl Shared {
    /// Connects, in a way that `connect` knows.
    fn begin(
        self: &Arc<Self>,
        elects: bool,
        connect: impl FnOnce(&Self) -> Result<(Option<Hub>, Joined), ManagerError>,
    ) -> Result<(), ManagerError> {
        let mut part = self.part.lock();
        if self.member.load().as_ref().is_some_and(|member| !member.is_over()) {
            return Err(ManagerError::Connected { address: self.address.to_string() });
        }
        part.hub = None;
        let (hub, joined) = connect(self)?;
        self.adopt(&mut part, hub, joined)?;
        part.elects = elects;
        Ok(())
    }

    fn elect(&self, deadline: Deadline) -> Result<(Option<Hub>, Joined), ManagerError> {
        hub::start_or_join(&self.address, &self.key, self.options.clone(), deadline)
    }

    /// Makes the connection this process's, and registers there what it has.
    fn adopt(self: &Arc<Self>, part: &mut Part, hub: Option<Hub>, joined: Joined) -> Result<(), ManagerError> {
        let limits = Limits { max_payload: MAX_PAYLOAD, retained: RETAINED };
        let settings = Settings { limits, wait: self.wait };
        let shared = Arc::downgrade(self);
        let ended = move |_: &Arc<Member>| {
            Self::find_another(&shared);
        };
        let member = Member::start(joined, settings, self.callbacks.clone(), ended)
            .map_err(|error| self.failed("starting the thread that listens to the hub", error))?;
        let deadline = self.deadline();
        let callbacks = self.callbacks.all();
        for registered in &callbacks {
            match member.ask(|seq| registered.as_message(seq, false), deadline) {
                Ok(said) if matches!(said[..], [FromHub::Registered { .. }]) => {}
                // Somebody else has the name now.
                Ok(_) | Err(Unanswered::Refused(_)) => drop(self.callbacks.remove(registered.number)),
                // This hub has ended too. The next is told of all of them.
                Err(why) => {
                    member.leave();
                    return Err(self.unanswered("registering again what was registered", why));
                }
            }
        }
        part.hub = hub;
        self.member.store(Some(member));
        // Those that were unregistered meanwhile: the hub that was told was the last one.
        let is_gone = |registered: &&Arc<Registered>| self.callbacks.get(registered.number).is_none();
        callbacks.iter().filter(is_gone).for_each(|registered| self.unregistered(registered.number));
        Ok(())
    }

    /// The hub has ended: finds another one, if this process does that, for as long as somebody has the manager.
    fn find_another(manager: &Weak<Self>) {
        while let Some(shared) = manager.upgrade() {
            if shared.has_another() {
                return;
            }
            drop(shared);
            thread::sleep(BREATH);
        }
    }

    /// Looks for another hub if one is needed. Whether none is needed any more.
    fn has_another(self: &Arc<Self>) -> bool {
        let mut part = self.part.lock();
        let is_needed = part.elects && self.member.load().as_ref().is_none_or(|member| member.is_over());
        if !is_needed {
            return true;
        }
        // What is left of an own one.
        part.hub = None;
        let elected = self.elect(Deadline::after(Some(ELECTION)));
        elected.is_ok_and(|(hub, joined)| self.adopt(&mut part, hub, joined).is_ok())
    }

    /// Whether nobody listens at the address though somebody still has its lock.
    fn is_going(&self) -> bool {
        matches!(self.address.connect(), Err(ManagerError::NobodyListens { .. }))
    }

    fn disconnect(&self) {
        let (hub, member) = {
            let mut part = self.part.lock();
            part.elects = false;
            (part.hub.take(), self.member.swap(None))
        };
        if let Some(member) = member {
            member.leave();
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
        self.member(what)?.ask(question, deadline).map_err(|why| self.unanswered(what, why))
    }

    /// The connection to the hub, to ask for `what`.
    pub(super) fn member(&self, what: &str) -> Result<Arc<Member>, ManagerError> {
        let lost = || self.unanswered(what, Unanswered::Lost("this process is connected to none".into()));
        self.member.load_full().ok_or_else(lost)
    }

    /// Tells the hub, if there is one.
    pub(super) fn tell(&self, message: &ToHub) {
        if let Some(member) = self.member.load_full() {
            member.tell(message);
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

impl Drop for Shared {
    fn drop(&mut self) {
        // In a fork the connection is another process's, and whoever held the locks is not there.
        if self.member.load().as_ref().is_none_or(|member| !member.is_in_fork()) {
            self.disconnect();
        }
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("address", &self.shared.address).finish_non_exhaustive()
    }
}
