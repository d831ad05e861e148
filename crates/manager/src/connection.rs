//! `Manager`: a process's connection to a hub, as the hub itself or as a client.

#![forbid(unsafe_code)]

mod calls;
mod membership;

use super::address::Address;
use super::auth::{self, ClientRights};
use super::authkey::AuthKey;
use super::callbacks::Callbacks;
use super::client::{Client, Unanswered};
use super::error::ManagerError;
use super::hub::{Hub, HubOptions};
use super::protocol::{FromHub, NameInfo, ToHub, check_name};
use super::typed::Signature;
use arc_swap::ArcSwapOption;
use callgate_transport::doorbell::{Deadline, Wait};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::Duration;

/// The default time limit of a call.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The pause between two attempts.
const BREATH: Duration = Duration::from_millis(20);

/// A process's access to the hub at one address.
///
/// A [`new`](Self::new) manager is not connected. [`start`](Self::start) makes it the hub, [`connect`](Self::connect) a client of another process's
/// hub, and [`start_or_connect`](Self::start_or_connect) whichever is possible. Clones are the same manager. When the last one is dropped, the
/// process leaves the hub, or ends it if the hub is its own.
///
/// A callback that holds a clone of its own manager is a reference cycle: while it is registered, the manager is not dropped. The end of
/// its [`Registration`](super::Registration) breaks it; after [`Registration::keep`](super::Registration::keep), only [`disconnect`](Self::disconnect) leaves the hub.
///
/// A fork of a connected process is not connected: its calls fail until it connects itself. Its parent is not affected.
///
/// Can be used from many threads at once. See the [module](crate) for an example.
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
    /// The types of its arguments and result: [`Signature::as_str`].
    pub signature: String,
    /// How often it has been called.
    pub calls: u64,
    /// The mean duration of a call, measured in the owner.
    pub mean: Duration,
    /// The duration of all calls together.
    pub total: Duration,
}

/// The state that the clones of a manager share.
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
    /// Held while connecting, which may take long.
    connecting: Mutex<()>,
    /// Held only briefly: never while waiting, and never while a user's value is dropped.
    part: Mutex<Part>,
}

/// The role of this process.
#[derive(Default)]
struct Part {
    /// The hub, if this process runs it.
    hub: Option<Hub>,
    /// Whether it elects another hub when the current one ends.
    elects: bool,
}

impl Manager {
    /// A manager for `address` (a path, `@name`, or a name below the user's runtime directory: see [`Address`]), with the shared key.
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

    /// Sets the limits of the hub, for the case that this manager becomes it.
    ///
    /// # Panics
    ///
    /// If the manager has been used: cloned, connected, or registered with.
    #[must_use]
    pub fn options(mut self, options: HubOptions) -> Self {
        self.unshared().options = options;
        self
    }

    /// Sets the time limit of a call. Default: 60 s. If the owner ends before a call has started and another process has the name, the call is
    /// made again, with the whole time limit once more.
    ///
    /// # Panics
    ///
    /// If the manager has been used: cloned, connected, or registered with.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.unshared().timeout = timeout;
        self
    }

    /// Sets how callers wait for replies and owners for calls. Default: [`Wait::Adaptive`].
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
    /// [`ManagerError::InUse`] if there is a hub already. Fails also if the hub does not start within `timeout`, or if this manager is connected
    /// already.
    pub fn start(&self, timeout: Duration) -> Result<(), ManagerError> {
        let shared = &self.shared;
        shared.begin(false, timeout, |shared, deadline| {
            let hub = loop {
                match Hub::start(&shared.address, &shared.key, shared.options.clone()) {
                    // A hub that has just ended takes a moment to release the address.
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

    /// Becomes a client of an existing hub.
    ///
    /// # Errors
    ///
    /// If there is no hub, if it has another key or runs as another user, if it does not answer within `timeout`, or if this manager is connected
    /// already.
    pub fn connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.connect_as(ClientRights::Full, timeout)
    }

    /// Connects as [`connect`](Self::connect) does, but only to call and to list names: the hub refuses registrations and a shutdown by this client.
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

    /// Connects to the hub, or becomes the hub if there is none. Of many processes that do this at once, exactly one becomes it. When the hub
    /// ends, its clients that used this method elect another one and register their callbacks there.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn start_or_connect(&self, timeout: Duration) -> Result<(), ManagerError> {
        self.shared.begin(true, timeout, ManagerInner::elect)
    }

    /// Whether this process is connected to a hub, as far as it knows.
    pub fn is_connected(&self) -> bool {
        self.shared.current().is_some()
    }

    /// Whether this process is the hub.
    pub fn is_hub(&self) -> bool {
        self.shared.part.lock().hub.as_ref().is_some_and(Hub::is_running)
    }

    /// The process number of the hub.
    pub fn hub_pid(&self) -> Option<u32> {
        self.shared.current().map(|client| client.hub_pid())
    }

    /// Ends the hub, whichever process runs it: every client loses its connection. Then this manager or another can
    /// [`start`](Self::start) a hub at the same address. Without a hub, does nothing.
    ///
    /// # Errors
    ///
    /// If the hub refuses, or does not answer within a call's time limit.
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

    /// Leaves the hub, or ends it if this process runs it. Callbacks registered here are unreachable until this manager connects again.
    pub fn disconnect(&self) {
        self.shared.disconnect();
    }

    /// The registered names, their owners, and how often they were called.
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
    /// Checks what the hub relays: it may pass names on unchecked. `None` if the name or the signature has control characters, which could
    /// reach a terminal.
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

impl ManagerInner {
    /// This process's own connection, if it has one that is not over.
    pub(super) fn current(&self) -> Option<Arc<Client>> {
        self.client.load_full().filter(|client| !client.is_in_fork() && !client.is_over())
    }

    /// Whether a hub is about to end: nobody listens at the address, though its lock may still be held.
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
        let lost = || self.unanswered(what, Unanswered::Lost("this process is not connected to a hub".into()));
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

    /// Tells the hub that the callback `number` is no longer registered.
    pub(super) fn unregistered(&self, number: u32) {
        self.tell(&ToHub::Unregister { seq: 0, number });
    }

    pub(super) fn unanswered(&self, what: &str, why: Unanswered) -> ManagerError {
        let address = self.address.to_string();
        match why {
            Unanswered::Lost(why) => ManagerError::NoHub { address, why },
            Unanswered::Late => ManagerError::NoHub { address, why: format!("{what} got no answer in time") },
            Unanswered::Refused(why) => ManagerError::Refused { address, what: what.into(), why },
        }
    }

    fn failed(&self, what: &str, error: std::io::Error) -> ManagerError {
        ManagerError::System { address: self.address.to_string(), what: what.into(), error }
    }
}

impl Drop for ManagerInner {
    fn drop(&mut self) {
        // In a fork the connection belongs to another process, and the threads that held the locks do not exist.
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
    use crate::args::Args;
    use crate::auth::Joined;
    use crate::call_errors::CallError;
    use crate::protocol::Resolution;
    use callgate_os::listener;
    use callgate_os::socket::{self, BlockingMode, Received};
    use callgate_transport::bounds::hub::MAX_MESSAGE;
    use callgate_transport::error::Started;
    use std::sync::mpsc;
    use std::time::Instant;

    /// Against hangs only.
    const LONG: Duration = Duration::from_secs(30);

    /// A connection to a fake hub, which replies to each message with `answer`.
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
    fn names_with_terminal_controls_are_left_out() {
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

    /// As happens if an election moved this process to another hub, where another process has the name.
    #[test]
    fn a_registration_that_was_undone_before_it_was_done_is_an_error() {
        let manager = connected(false, |said| match said {
            ToHub::Register { seq, number, .. } => vec![FromHub::Revoked { number }, FromHub::Registered { seq }],
            _ => vec![],
        });
        let undone = manager.named("name").replace(true).register_fn(|| ()).expect_err("it is not registered");
        assert!(undone.to_string().contains("another process has taken the name in the meantime"), "{undone}");
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
    fn a_lock_request_that_timed_out_is_cancelled() {
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
}
