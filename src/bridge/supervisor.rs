//! A bridge that outlives its children: a thread waits for each child's death, runs the hooks, and starts the next child.
//!
//! Calls go to the current child, and look at nothing else while it lives (`calls`). That module also decides, from what is known of the first
//! attempt, whether a call may run again in the next child. The thread is in `watching`.

#![forbid(unsafe_code)]

mod calls;
mod watching;

use super::child_spec::ChildSpec;
use super::restart::{Death, Event, Restart};
use crate::start_error::StartError;
use arc_swap::ArcSwap;
use callgate_engine::caller::{CallContext, Caller};
use callgate_engine::overdue::{Lateness, Tell};
use callgate_engine::service::{Method, Service};
use callgate_transport::error::{CallError, Exit};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// The reason given for killing a child when `restart` is called.
const ASKED: &str = "the bridge was told to restart";

/// How many events are kept while the hooks are busy.
const MOST_EVENTS: usize = 1000;

/// Starts a bridge's children.
trait Make: Send + Sync {
    /// Starts a child without its service. Gives up as soon as `is_wanted` says no.
    fn bring_up(&self, is_wanted: &dyn Fn() -> bool) -> Result<Arc<Caller>, StartError>;

    /// Has the child build its service. Kills a child that fails to, or does not begin `within` that time.
    fn construct(&self, child: &Caller, within: Duration) -> Result<(), StartError>;

    /// How long a child may take to come up.
    fn start_timeout(&self) -> Duration;
}

impl<T: Service> Make for ChildSpec<T> {
    fn bring_up(&self, is_wanted: &dyn Fn() -> bool) -> Result<Arc<Caller>, StartError> {
        ChildSpec::bring_up(self, is_wanted)
    }

    fn construct(&self, child: &Caller, within: Duration) -> Result<(), StartError> {
        ChildSpec::construct(self, child, within)
    }

    fn start_timeout(&self) -> Duration {
        self.start_timeout
    }
}

/// A user's function that is told what happens.
pub(super) enum Hook {
    Death(Box<dyn FnMut(&Death) + Send>),
    Event(Box<dyn FnMut(&Event) + Send>),
}

/// Replaces a bridge's children, and directs calls to the current one.
pub(super) struct Supervisor {
    service: &'static str,
    spec: Box<dyn Make>,
    /// `None` = deaths are reported, but no child is replaced.
    restart: Option<Restart>,
    current: ArcSwap<SupervisedChild>,
    /// The children that have been sent calls that want no result, since the last flush.
    sent_to: Mutex<Vec<SentOneWay>>,
    shared: Arc<SharedState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The state that the thread shares with callers, and the condition variable that announces its changes.
pub(super) struct SharedState {
    state: Mutex<SupervisorState>,
    changed: Condvar,
}

/// A child, and how many children came before it.
pub(super) struct SupervisedChild {
    pub(super) caller: Arc<Caller>,
    pub(super) generation: u64,
}

/// A child, and how many calls it has been sent that want no result, since it was last flushed.
#[derive(Clone)]
struct SentOneWay {
    child: Arc<SupervisedChild>,
    calls: u64,
}

impl SupervisedChild {
    fn is_over(&self) -> bool {
        self.caller.peer.peer_status.is_over()
    }

    fn exit(&self) -> Exit {
        self.caller.peer.peer_status.exit().unwrap_or(Exit::Unknown)
    }
}

#[derive(Default)]
struct SupervisorState {
    phase: Phase,
    /// The child that is building its service.
    rising: Option<Arc<Caller>>,
    /// A child that waits to take over. While a thread starts one, `spare_rises` is set.
    spare: Option<Arc<Caller>>,
    spare_rises: bool,
    /// `restart` has asked for another child.
    wants_another: bool,
    /// How many starts have failed, and why the last one did, while no child serves.
    failures: u64,
    last_failure: Option<String>,
    /// Events that the hooks have yet to see.
    events: VecDeque<Event>,
    /// The supervisor's thread, once it runs.
    thread: Option<ThreadId>,
    /// The supervisor's thread has ended, or is about to.
    is_done: bool,
}

/// | from | to | who | when |
/// |---|---|---|---|
/// | Open | GivenUp | the thread | the current child has died, and the policy allows no more restarts |
/// | GivenUp | Open | the thread | `restart` wants another child |
/// | any | Stopped | the caller that stops the bridge | before anything else |
#[derive(Default)]
enum Phase {
    /// A child serves, or another will.
    #[default]
    Open,
    /// There will be no other child, for this reason.
    GivenUp(String),
    Stopped,
}

impl SharedState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new() })
    }

    /// What to do about calls that time out.
    pub(super) fn lateness(self: &Arc<Self>, restart: Option<&Restart>, hooks: &[Hook]) -> Lateness {
        let kill_after = restart.and_then(|restart| restart.kill_after);
        let is_heard = hooks.iter().any(|hook| matches!(hook, Hook::Event(_)));
        let shared = self.clone();
        let tell = is_heard.then(|| -> Tell { Arc::new(move |error| shared.note(error)) });
        Lateness { kill_after, tell }
    }

    /// Queues the event for a call that has timed out.
    fn note(&self, error: &CallError) {
        if let &CallError::TimedOut { call, pid, timeout, started, .. } = error {
            let mut state = self.state.lock();
            if state.events.len() < MOST_EVENTS {
                state.events.push_back(Event::TimedOut { call, pid, timeout, started });
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Wakes all waiters, so that they check again.
    fn ring(&self) {
        // Under the lock: a thread about to wait has either seen the change or gets the wake-up.
        drop(self.state.lock());
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Stopped)
    }
}

impl Supervisor {
    /// Takes over a bridge whose first child serves.
    pub(super) fn start<T: Service>(
        spec: ChildSpec<T>,
        first: Arc<Caller>,
        restart: Option<Restart>,
        hooks: Vec<Hook>,
        shared: Arc<SharedState>,
    ) -> io::Result<Arc<Self>> {
        let supervisor = Arc::new(Self {
            service: T::NAME,
            spec: Box::new(spec),
            restart,
            sent_to: Mutex::new(Vec::new()),
            current: ArcSwap::from_pointee(SupervisedChild { caller: first, generation: 0 }),
            shared,
            thread: Mutex::new(None),
        });
        let of_thread = supervisor.clone();
        let thread = thread::Builder::new().name("callgate-restart".into());
        let thread = thread.spawn(move || of_thread.run(hooks))?;
        *supervisor.thread.lock() = Some(thread);
        Ok(supervisor)
    }

    /// The child that receives calls; it may have died.
    pub(super) fn current(&self) -> Arc<SupervisedChild> {
        self.current.load_full()
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Stops the current child as a bridge without a supervisor does, and starts no other.
    pub(super) fn stop(&self, drop: &'static Method, grace: Duration) -> Result<Exit, CallError> {
        self.end(grace, |child| child.stop(drop, grace))
    }

    /// Kills the current child, and starts no other.
    pub(super) fn kill(&self) -> Exit {
        self.end(Duration::from_secs(1), Caller::kill)
    }

    /// Tells the current child to stop, without waiting for it or for the thread, and starts no other.
    pub(super) fn let_go(&self, drop: &'static Method, grace: Duration, patience: Duration) {
        let child = self.current();
        if !child.caller.peer.is_in_fork() {
            self.forbid_others().iter().for_each(|other| other.discard());
        }
        self.current().caller.let_go(drop, grace, patience);
    }

    /// Ends the current child with `end`, then waits up to `grace` for the thread.
    fn end<R>(&self, grace: Duration, end: impl FnOnce(&Caller) -> R) -> R {
        let child = self.current();
        if child.caller.peer.is_in_fork() {
            return end(&child.caller);
        }
        drop(child);
        for other in self.forbid_others() {
            other.kill();
        }
        // From here on it stays the current child.
        let ended = end(&self.current().caller);
        self.join(grace);
        ended
    }

    /// Forbids any further child. Returns the children other than the current one, which are no longer needed.
    fn forbid_others(&self) -> Vec<Arc<Caller>> {
        let mut state = self.shared.state.lock();
        state.phase = Phase::Stopped;
        let others = [state.spare.take(), state.rising.take()];
        drop(state);
        self.shared.changed.notify_all();
        others.into_iter().flatten().collect()
    }

    /// Waits until the thread has ended, unless this is that thread: a hook may be what stops the bridge.
    fn join(&self, grace: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.thread().id() == thread::current().id() {
            return;
        }
        let until = Instant::now() + grace;
        let mut state = self.shared.state.lock();
        while !state.is_done || state.spare_rises {
            if self.shared.changed.wait_until(&mut state, until).timed_out() {
                // The thread is starting a child, and will kill it.
                return;
            }
        }
        drop(state);
        let _ = thread.join();
    }

    // ---- another child at once -------------------------------------------------------------------------------------

    /// Kills the current child and any that is starting, and waits until another serves or its start fails. Does not wait when a hook calls it,
    /// because the thread waits for the hook.
    pub(super) fn restart(&self, method: &'static Method) -> Result<(), CallError> {
        let context = &CallContext::new(method, None);
        let child = self.current();
        if child.caller.peer.is_in_fork() {
            return Err(child.caller.in_fork_slow(context));
        }
        let mut state = self.shared.state.lock();
        if self.restart.is_none() {
            return Err(no_restart(method));
        }
        if matches!(state.phase, Phase::Stopped) {
            return Err(self.down_in(state, &child, context));
        }
        state.wants_another = true;
        let (child, rising, failures) = (self.current(), state.rising.clone(), state.failures);
        let is_hook = state.thread == Some(thread::current().id());
        drop(state);
        self.shared.changed.notify_all();
        child.caller.put_down(ASKED);
        rising.iter().for_each(|rising| rising.put_down(ASKED));
        let mut state = self.shared.state.lock();
        while !is_hook && self.current().generation == child.generation {
            let is_decided = match state.phase {
                Phase::Stopped => true,
                _ => !state.wants_another && state.failures > failures,
            };
            if is_decided {
                return Err(self.down_in(state, &child, context));
            }
            self.shared.changed.wait(&mut state);
        }
        Ok(())
    }
}

/// The error of `restart` on a bridge that does not keep what it needs to start another child.
pub(super) fn no_restart(method: &'static Method) -> CallError {
    let why = "the bridge was started without Builder::restart, so its child cannot be replaced; stop the bridge and start another".into();
    CallError::Refused { call: method.call_name(), why }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("service", &self.service).finish_non_exhaustive()
    }
}
