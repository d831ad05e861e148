//! The hub, through which clients find each other.
//!
//! The hub is one thread of one process, which sleeps in epoll and never blocks. It only introduces clients; calls do not pass through it. This
//! file starts, joins and stops it; `event_loop` is the thread.

#![forbid(unsafe_code)]

mod call_counts;
mod connection;
mod credits;
mod event_loop;
mod ledger;
mod locks;
mod options;
mod pairs;
mod rates;
mod registry;
#[cfg(all(test, not(loom)))]
mod tests;

use super::address::Address;
use super::auth::{self, ClientRights, Joined};
use super::authkey::AuthKey;
use super::error::ManagerError;
use callgate_os::poll::Waker;
use callgate_os::{listener, socket};
use callgate_transport::doorbell::Deadline;
use event_loop::{Command, EventLoop};
pub use options::HubOptions;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A hub in this process. Dropping it stops the hub, which tells all clients.
#[derive(Debug)]
pub(crate) struct Hub {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    /// The process that runs it. A fork of that process has no such thread.
    process: u32,
}

impl Hub {
    /// Starts a hub at `address`.
    ///
    /// # Errors
    ///
    /// `InUse` if another process listens there; other [`ManagerError`]s.
    pub(crate) fn start(address: &Address, key: &AuthKey, options: HubOptions) -> Result<Self, ManagerError> {
        Self::start_if_free(address, key, options)?
            .ok_or_else(|| ManagerError::InUse { address: address.to_string(), pid: address.listener() })
    }

    /// As [`start`](Self::start), but `None` if another process listens there.
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
    /// If the hub has ended or takes no more clients, or if no descriptor is available.
    pub(crate) fn join(&self) -> io::Result<Joined> {
        let ended = || io::Error::new(io::ErrorKind::BrokenPipe, "the hub has ended");
        if self.process != std::process::id() {
            return Err(ended());
        }
        let (theirs, ours) = socket::pair()?;
        let hub = listener::peer_process(&ours)?;
        let (reply, taken_in) = mpsc::sync_channel(1);
        self.command(Command::TakeIn { socket: theirs, role: ClientRights::Full, reply });
        taken_in.recv().map_err(|_| ended())??;
        Ok(Joined { socket: ours, hub_pid: self.process, hub })
    }

    /// Whether it still runs. A client may have ended it.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the hub and waits for its thread.
    pub(crate) fn stop(self) {
        drop(self);
    }

    fn command(&self, command: Command) {
        // A hub that has ended needs no commands.
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

/// Joins the hub at `address` as a client, or becomes the hub. Of many processes that do this at once, exactly one becomes it.
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
    let mut phase = ElectionPhase::Join;
    loop {
        phase = match phase {
            ElectionPhase::Join => match auth::join(address, key, ClientRights::Full, deadline) {
                Err(error) if is_vacant(&error) => ElectionPhase::Start,
                joined => return joined.map(|joined| (None, joined)),
            },
            ElectionPhase::Start => match Hub::start_if_free(address, key, options.clone())? {
                Some(hub) => {
                    let joined =
                        hub.join().map_err(|error| address.failed("joining the hub of this process", error))?;
                    return Ok((Some(hub), joined));
                }
                None => ElectionPhase::Wait,
            },
            ElectionPhase::Wait if deadline.has_passed() => {
                let what = "another process has taken the address but does not listen";
                return Err(ManagerError::TimedOut { address: address.to_string(), waited: begun.elapsed(), what });
            }
            ElectionPhase::Wait => {
                std::thread::sleep(AGAIN);
                ElectionPhase::Join
            }
        };
    }
}

/// A step of an election. Each process goes round until it has a hub, its own or another's, or its time is over.
///
/// | phase | outcome | next |
/// |---|---|---|
/// | Join | a hub takes this process in | done: a client |
/// | Join | nobody listens, or the hub is closing | Start |
/// | Join | any other error | done: that error |
/// | Start | the address was free | done: the hub |
/// | Start | another process has the lock or the name | Wait |
/// | Wait | there is time left | Join |
/// | Wait | there is none | done: `TimedOut` |
enum ElectionPhase {
    Join,
    Start,
    Wait,
}

/// Whether an attempt to join found no hub, or one that is closing.
fn is_vacant(error: &ManagerError) -> bool {
    matches!(error, ManagerError::NobodyListens { .. } | ManagerError::Closed { .. })
}

/// The pause before another attempt, for a process that is about to listen or about to end.
const AGAIN: Duration = Duration::from_millis(2);
