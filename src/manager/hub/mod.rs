//! The hub: where clients find each other.
//!
//! It is one thread of one process, which sleeps in epoll and never blocks. It introduces: calls do not pass through it. Here is how it is
//! started, joined and stopped; `event_loop` is the thread.

#![forbid(unsafe_code)]

mod call_counts;
mod connection;
mod credits;
mod event_loop;
mod ledger;
mod locks;
mod pairs;
mod registry;
#[cfg(all(test, not(loom)))]
mod tests;

use super::address::Address;
use super::auth::{self, Joined, Role};
use super::authkey::AuthKey;
use super::error::ManagerError;
use crate::call::pair;
use crate::doorbell::Deadline;
use crate::layout::Geometry;
use crate::sys::poll::Waker;
use crate::sys::{listener, socket};
use event_loop::{Command, EventLoop};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A connection's number at the hub; never used again.
type ClientId = u64;

/// What a hub takes in and gives out. The defaults suit most.
///
/// # Examples
///
/// ```
/// use callgate::manager::HubOptions;
/// use std::time::Duration;
///
/// let options = HubOptions::new().max_clients(16).handshake_timeout(Duration::from_secs(1));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a hub is started with them"]
pub struct HubOptions {
    handshake_timeout: Duration,
    max_clients: u32,
    memory_per_client: u64,
    lanes: u32,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            max_clients: MAX_CLIENTS,
            memory_per_client: 256 << 20,
            lanes: 48,
        }
    }
}

/// Clients that a hub can have.
const MAX_CLIENTS: u32 = 1024;

impl HubOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a process that has connected may take to show that it has the key: 1 millisecond to 1 hour. Default: 5 seconds.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many clients there may be at a time: 1 to 1,024, of which 12 of one process. Default: 1,024. Each takes two of the hub's descriptors, and each pair of a
    /// caller and an owner two more.
    pub fn max_clients(mut self, count: u32) -> Self {
        self.max_clients = count;
        self
    }

    /// How many bytes of shared memory may be made for what one client sends, to all others together: 1 MiB to 1 TiB, and at least four
    /// times what a connection of two processes begins with (252 KiB with 48 lanes). Default: 256 MiB. What it sends to one of the others must
    /// fit into half of what is not in use for the rest; memory is made when it is needed.
    pub fn memory_per_client(mut self, bytes: u64) -> Self {
        self.memory_per_client = bytes;
        self
    }

    /// How many calls from one process to another can be under way at a time: 1 to 64. Default: 48, so that callbacks that call each other may
    /// be nested 64 deep. Each takes a thread of the process that is called, from its first use on.
    pub fn lanes(mut self, count: u32) -> Self {
        self.lanes = count;
        self
    }

    fn check(&self) -> Result<(), ManagerError> {
        check("handshake_timeout", self.handshake_timeout, Duration::from_millis(1)..=Duration::from_secs(3600))?;
        check("max_clients", self.max_clients, 1..=MAX_CLIENTS)?;
        check("lanes", self.lanes, Geometry::LANES)?;
        let least = (4 * self.geometry().segment_len() as u64).max(1 << 20);
        check("memory_per_client", self.memory_per_client, least..=1 << 40)
    }

    fn geometry(&self) -> Geometry {
        pair::geometry(self.lanes)
    }
}

fn check<V: PartialOrd + std::fmt::Debug>(
    option: &'static str,
    value: V,
    range: RangeInclusive<V>,
) -> Result<(), ManagerError> {
    if range.contains(&value) {
        return Ok(());
    }
    let range = format!("{:?} to {:?}", range.start(), range.end());
    Err(ManagerError::Option { option, value: format!("{value:?}"), range })
}

/// A hub in this process. Dropped, it stops, and all clients are told.
#[derive(Debug)]
pub(crate) struct Hub {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    /// The process whose hub it is; in a fork of that there is no thread.
    process: u32,
}

impl Hub {
    /// Starts a hub at `address`.
    ///
    /// # Errors
    ///
    /// `InUse` if somebody listens there; other [`ManagerError`]s.
    pub(crate) fn start(address: &Address, key: &AuthKey, options: HubOptions) -> Result<Self, ManagerError> {
        Self::start_if_free(address, key, options)?
            .ok_or_else(|| ManagerError::InUse { address: address.to_string(), pid: address.listener() })
    }

    /// The same; `None` if somebody listens there.
    fn start_if_free(address: &Address, key: &AuthKey, options: HubOptions) -> Result<Option<Self>, ManagerError> {
        options.check()?;
        let key = key.clone().checked()?;
        let Some(listening) = address.listen()? else { return Ok(None) };
        let failed = |error| address.failed("starting the hub's thread", error);
        let waker = Arc::new(Waker::new().map_err(failed)?);
        let (commands, receiver) = mpsc::channel();
        let running =
            EventLoop::new(listening, key, options, (waker.clone(), commands.clone()), receiver).map_err(failed)?;
        let thread = std::thread::Builder::new().name("callgate-hub".into());
        let thread = thread.spawn(move || running.run()).map_err(failed)?;
        Ok(Some(Self { commands, waker, thread: Some(thread), process: std::process::id() }))
    }

    /// Makes this process a client of its own hub.
    ///
    /// # Errors
    ///
    /// If the hub has ended or takes no more clients, or there are no descriptors to be had.
    pub(crate) fn join(&self) -> io::Result<Joined> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the hub has ended");
        if self.process != std::process::id() {
            return Err(ended());
        }
        let (theirs, ours) = socket::pair()?;
        let hub = listener::peer_process(&ours)?;
        let (reply, taken_in) = mpsc::sync_channel(1);
        self.command(Command::TakeIn { socket: theirs, role: Role::Client, reply });
        taken_in.recv().map_err(|_| ended())??;
        Ok(Joined { socket: ours, hub_pid: self.process, hub })
    }

    /// Whether it still runs: a client may have ended it.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the hub. When this returns, nothing of it is left.
    pub(crate) fn stop(self) {
        drop(self);
    }

    fn command(&self, command: Command) {
        // One that has ended needs none.
        let _ = self.commands.send(command);
        self.waker.wake();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            return;
        }
        self.command(Command::Stop);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Joins the hub at `address` as a client, or becomes it: of many processes that do this at once, one.
///
/// # Errors
///
/// [`ManagerError`]; after `deadline` `TimedOut`.
pub(crate) fn start_or_join(
    address: &Address,
    key: &AuthKey,
    options: HubOptions,
    deadline: Deadline,
) -> Result<(Option<Hub>, Joined), ManagerError> {
    let begun = std::time::Instant::now();
    loop {
        match auth::join(address, key, Role::Client, deadline) {
            // Nobody yet, or one that is just going.
            Err(ManagerError::NobodyListens { .. } | ManagerError::Closed { .. }) => {}
            joined => return joined.map(|joined| (None, joined)),
        }
        if let Some(hub) = Hub::start_if_free(address, key, options.clone())? {
            let joined = hub.join().map_err(|error| address.failed("joining the hub of this process", error))?;
            return Ok((Some(hub), joined));
        }
        if deadline.has_passed() {
            let what = "somebody is about to listen, and does not";
            return Err(ManagerError::TimedOut { address: address.to_string(), waited: begun.elapsed(), what });
        }
        std::thread::sleep(AGAIN);
    }
}

/// How long to wait for whoever is about to listen, or about to go.
const AGAIN: Duration = Duration::from_millis(2);
