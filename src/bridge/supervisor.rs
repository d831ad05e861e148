//! A bridge that outlives its children: a thread waits for the death of each, tells who wants to know, and starts the next.
//!
//! Calls go to the current child, and look at nothing else while it lives. Whether one may run again in the next child is decided here,
//! by what is known of the first attempt.

#![forbid(unsafe_code)]

use super::child_spec::ChildSpec;
use super::restart::{Death, Event, History, Restart};
use crate::call::caller::{CallContext, Caller};
use crate::call::overdue::{Lateness, Tell};
use crate::call::service::{Method, Service};
use crate::doorbell::Deadline;
use crate::error::{CallError, Exit, Payload, StartError, Started};
use crate::peer_status::Cause;
use crate::reply::Reply;
use crate::request::Request;
use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// How often a call is made that has started each time before: once it has killed so many children, it may be what kills them.
const ATTEMPTS: u32 = 3;

/// How long a spare child may take to begin to build its service. One that does not is hung, and another is started.
const SPARE_PATIENCE: Duration = Duration::from_secs(1);

/// Why a child is killed when `restart` is called.
const ASKED: &str = "the bridge was told to restart";

/// How many events are kept for hooks that are at others.
const MOST_EVENTS: usize = 1000;

/// What makes a bridge's children.
trait Make: Send + Sync {
    /// A child without its service, unless it is no longer wanted meanwhile.
    fn bring_up(&self, is_wanted: &dyn Fn() -> bool) -> Result<Arc<Caller>, StartError>;

    /// Has the child build its service. One that does not, or does not begin `within` that time, is killed.
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

/// Who is told of what happens.
pub(super) enum Hook {
    Death(Box<dyn FnMut(&Death) + Send>),
    Event(Box<dyn FnMut(&Event) + Send>),
}

/// What a bridge's children have in common.
pub(super) struct Supervisor {
    service: &'static str,
    spec: Box<dyn Make>,
    /// `None` = deaths are only told of.
    restart: Option<Restart>,
    current: ArcSwap<SupervisedChild>,
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where the thread is told what it is to look at.
pub(super) struct Desk {
    state: Mutex<DeskState>,
    changed: Condvar,
}

/// A child, and how many there were before it.
pub(super) struct SupervisedChild {
    pub(super) caller: Arc<Caller>,
    pub(super) generation: u64,
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
struct DeskState {
    phase: Phase,
    /// A child whose service is being built.
    rising: Option<Arc<Caller>>,
    /// A child that waits to take over, or a thread that brings one up.
    spare: Option<Arc<Caller>>,
    spare_rises: bool,
    /// `restart` wants another child at once.
    wants_another: bool,
    /// How many starts have failed, and why the last one did, if no child serves.
    failures: u64,
    last_failure: Option<String>,
    /// What is yet to be told.
    events: VecDeque<Event>,
    /// The thread, once it runs.
    thread: Option<ThreadId>,
    /// The thread has nothing more to do.
    is_done: bool,
}

/// | from | to | who | when |
/// |---|---|---|---|
/// | Open | GivenUp | the thread | the current child has died, and there may be no more restarts |
/// | GivenUp | Open | the thread | `restart` wants another child |
/// | any | Stopped | who stops the bridge | first thing |
#[derive(Default)]
enum Phase {
    /// There is a child, or there will be another.
    #[default]
    Open,
    /// Why there will be no other child.
    GivenUp(String),
    Stopped,
}

impl Desk {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new() })
    }

    /// What is to be done about calls that time out.
    pub(super) fn lateness(self: &Arc<Self>, restart: Option<&Restart>, hooks: &[Hook]) -> Lateness {
        let kill_after = restart.and_then(|restart| restart.kill_after);
        let is_heard = hooks.iter().any(|hook| matches!(hook, Hook::Event(_)));
        let desk = self.clone();
        let tell = is_heard.then(|| -> Tell { Arc::new(move |error| desk.note(error)) });
        Lateness { kill_after, tell }
    }

    /// Has the thread tell of a call that has timed out.
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

    /// Has everybody who waits look again.
    fn ring(&self) {
        // Under the lock, so that who is about to wait has seen what this is about or hears it.
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
        desk: Arc<Desk>,
    ) -> io::Result<Arc<Self>> {
        let supervisor = Arc::new(Self {
            service: T::NAME,
            spec: Box::new(spec),
            restart,
            current: ArcSwap::from_pointee(SupervisedChild { caller: first, generation: 0 }),
            desk,
            thread: Mutex::new(None),
        });
        let of_thread = supervisor.clone();
        let thread = thread::Builder::new().name("callgate-restart".into());
        let thread = thread.spawn(move || of_thread.run(hooks))?;
        *supervisor.thread.lock() = Some(thread);
        Ok(supervisor)
    }

    /// The child that calls go to; it may have died.
    pub(super) fn current(&self) -> Arc<SupervisedChild> {
        self.current.load_full()
    }

    // ---- calls -----------------------------------------------------------------------------------------------------

    /// Calls a method of whichever child there is, and of its successors as long as the call may run again.
    #[inline]
    pub(super) fn call<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        let context = &CallContext::new(method, timeout);
        let child = self.current.load();
        if child.is_over() && self.restart.is_some() {
            return self.call_on(&*self.successor_slow(&child, context)?, context, args);
        }
        self.call_on(&child, context, args)
    }

    /// Makes a call of `child`, and of its successors.
    #[inline(always)]
    fn call_on<A: Request, R: Reply>(
        &self,
        child: &SupervisedChild,
        context: &CallContext,
        args: A,
    ) -> Result<R, CallError> {
        let mut args = Some(args);
        match child.caller.call_again(context, &mut args) {
            Err(error) => self.call_again_slow(child, context, args, error),
            done => done,
        }
    }

    /// Makes a call again that failed, as often as that is safe. What is left of its arguments is in `args`.
    #[cold]
    fn call_again_slow<A: Request, R: Reply>(
        &self,
        child: &SupervisedChild,
        context: &CallContext,
        mut args: Option<A>,
        mut error: CallError,
    ) -> Result<R, CallError> {
        let (mut generation, mut starts, mut lost) = (child.generation, 0, None);
        while let CallError::Died { started, .. } = error {
            if started == Started::Yes {
                starts += 1;
                lost = Some(error.clone());
            }
            let is_safe = starts == 0 || context.method.idempotent && starts < ATTEMPTS;
            if !is_safe || args.is_none() || self.restart.is_none() {
                break;
            }
            let Some(child) = self.after(generation, context.deadline) else { break };
            match child.caller.call_again(context, &mut args) {
                Err(another) => (error, generation) = (another, child.generation),
                done => return done,
            }
        }
        Err(match lost {
            Some(lost) => in_all(lost, error),
            None => error,
        })
    }

    /// The child for a call that found the current one dead.
    ///
    /// # Errors
    ///
    /// `Down`, if there is none now and calls do not wait, or none any more.
    #[cold]
    fn successor_slow(&self, dead: &SupervisedChild, context: &CallContext) -> Result<Arc<SupervisedChild>, CallError> {
        // In a fork, nobody gives back what others had locked.
        let calls_wait = self.restart.as_ref().is_some_and(|restart| restart.calls_wait);
        if calls_wait
            && !dead.caller.peer.is_in_fork()
            && let Some(child) = self.after(dead.generation, context.deadline)
        {
            return Ok(child);
        }
        Err(self.down(dead, context))
    }

    /// The child for a call that is not waited for.
    pub(super) fn now(&self, method: &'static Method) -> Result<Arc<SupervisedChild>, CallError> {
        let child = self.current();
        if child.is_over() && self.restart.is_some() {
            return Err(self.down(&child, &CallContext::new(method, None)));
        }
        Ok(child)
    }

    #[cold]
    fn down(&self, dead: &SupervisedChild, context: &CallContext) -> CallError {
        let peer = &dead.caller.peer;
        if peer.is_in_fork() {
            return dead.caller.in_fork_slow(context);
        }
        self.down_in(self.desk.state.lock(), dead, context)
    }

    fn down_in(&self, state: MutexGuard<'_, DeskState>, dead: &SupervisedChild, context: &CallContext) -> CallError {
        let (call, pid) = (context.name(), dead.caller.peer.pid);
        let (restarting, why) = match (&state.phase, &state.last_failure) {
            (Phase::Stopped, _) => return CallError::Stopped { call, pid, started: Started::No },
            (Phase::GivenUp(why), _) => (false, why.clone()),
            (Phase::Open, None) => (true, "there is no other yet".into()),
            (Phase::Open, Some(why)) => (true, format!("there is no other yet; the last start failed ({why})")),
        };
        CallError::Down { call, pid, exit: dead.exit(), restarting, why }
    }

    /// The first child after the one of `generation`, as soon as there is one. `None` = not before the deadline, or never; or there is no deadline, and
    /// a start has failed; or a hook asks, and there is none before it is done.
    fn after(&self, generation: u64, deadline: Deadline) -> Option<Arc<SupervisedChild>> {
        let mut state = self.desk.state.lock();
        let (is_hook, failures) = (state.thread == Some(thread::current().id()), state.failures);
        loop {
            let child = self.current();
            if child.generation > generation {
                return Some(child);
            }
            if is_hook || !matches!(state.phase, Phase::Open) || deadline.has_passed() {
                return None;
            }
            match deadline.instant() {
                Some(instant) => drop(self.desk.changed.wait_until(&mut state, instant)),
                None if state.failures > failures => return None,
                None => self.desk.changed.wait(&mut state),
            }
        }
    }

    // ---- the end ---------------------------------------------------------------------------------------------------

    /// Stops the current child as a bridge without a supervisor does; there will be no other.
    pub(super) fn stop(&self, drop: &'static Method, grace: Duration) -> Result<Exit, CallError> {
        self.end(grace, |child| child.stop(drop, grace))
    }

    /// Kills the current child; there will be no other.
    pub(super) fn kill(&self) -> Exit {
        self.end(Duration::from_secs(1), Caller::kill)
    }

    /// Has the current child stop, and does not wait for that, nor for the thread; there will be no other.
    pub(super) fn let_go(&self, drop: &'static Method, grace: Duration) {
        let child = self.current();
        if !child.caller.peer.is_in_fork() {
            self.forbid_others().iter().for_each(|other| other.discard());
        }
        self.current().caller.let_go(drop, grace);
    }

    /// Ends the current child with `end`, and the thread within `grace` after that.
    fn end<R>(&self, grace: Duration, end: impl FnOnce(&Caller) -> R) -> R {
        let child = self.current();
        if child.caller.peer.is_in_fork() {
            return end(&child.caller);
        }
        drop(child);
        for other in self.forbid_others() {
            other.kill();
        }
        // From here on it stays the current one.
        let ended = end(&self.current().caller);
        self.join(grace);
        ended
    }

    /// There will be no other child from now on. Those that there are beside the current one, which are of no more use.
    fn forbid_others(&self) -> Vec<Arc<Caller>> {
        let mut state = self.desk.state.lock();
        state.phase = Phase::Stopped;
        let others = [state.spare.take(), state.rising.take()];
        drop(state);
        self.desk.changed.notify_all();
        others.into_iter().flatten().collect()
    }

    /// Waits until the thread has ended, unless this is that thread: a hook may be what stops the bridge.
    fn join(&self, grace: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.thread().id() == thread::current().id() {
            return;
        }
        let until = Instant::now() + grace;
        let mut state = self.desk.state.lock();
        while !state.is_done || state.spare_rises {
            if self.desk.changed.wait_until(&mut state, until).timed_out() {
                // It is starting a child, which it will kill.
                return;
            }
        }
        drop(state);
        let _ = thread.join();
    }

    // ---- another child at once -------------------------------------------------------------------------------------

    /// Kills the current child, and one that rises, and waits until another serves or could not be started. For a hook, which the thread waits for, it does
    /// not wait.
    pub(super) fn restart(&self, method: &'static Method) -> Result<(), CallError> {
        let context = &CallContext::new(method, None);
        let child = self.current();
        if child.caller.peer.is_in_fork() {
            return Err(child.caller.in_fork_slow(context));
        }
        let mut state = self.desk.state.lock();
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
        self.desk.changed.notify_all();
        child.caller.put_down(ASKED);
        rising.iter().for_each(|rising| rising.put_down(ASKED));
        let mut state = self.desk.state.lock();
        while !is_hook && self.current().generation == child.generation {
            let is_decided = match state.phase {
                Phase::Stopped => true,
                _ => !state.wants_another && state.failures > failures,
            };
            if is_decided {
                return Err(self.down_in(state, &child, context));
            }
            self.desk.changed.wait(&mut state);
        }
        Ok(())
    }

    // ---- the thread ------------------------------------------------------------------------------------------------

    fn run(self: &Arc<Self>, mut hooks: Vec<Hook>) {
        self.desk.state.lock().thread = Some(thread::current().id());
        let child = self.current();
        tell(&mut hooks, &Event::Started { service: self.service, pid: child.caller.peer.pid });
        drop(child);
        self.watch_over_children(&mut hooks);
        // Whatever they hold is gone when the bridge has stopped.
        drop(hooks);
        self.desk.state.lock().is_done = true;
        self.desk.changed.notify_all();
    }

    /// Replaces one child after the other, until the bridge has been stopped, or is over.
    fn watch_over_children(self: &Arc<Self>, hooks: &mut [Hook]) {
        let mut history = History::default();
        loop {
            self.prepare_spare();
            let child = self.current();
            let desk = self.desk.clone();
            child.caller.peer.peer_status.on_end(move || desk.ring());
            if !self.wait_for_the_end(&child, hooks) {
                return;
            }
            let mut asked = self.tell_of_death(&child, hooks, &mut history);
            while let Err(why) = self.replace(&child, &mut history, asked, hooks) {
                if !self.give_up(why, hooks) {
                    return;
                }
                asked = true;
            }
            let child = self.current();
            let (pid, generation) = (child.caller.peer.pid, child.generation);
            tell(hooks, &Event::Restarted { service: self.service, pid, generation });
        }
    }

    /// Waits for the end of a child, and tells of what happens until then. `false` = the bridge has been stopped.
    fn wait_for_the_end(&self, child: &SupervisedChild, hooks: &mut [Hook]) -> bool {
        let mut state = self.desk.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if let Some(event) = state.events.pop_front() {
                MutexGuard::unlocked(&mut state, || tell(hooks, &event));
            } else if child.caller.peer.peer_status.exit().is_some() {
                return true;
            } else {
                self.desk.changed.wait(&mut state);
            }
        }
    }

    /// There will be no other child, unless somebody asks for one: waits for that. `false` = nobody will.
    fn give_up(&self, why: String, hooks: &mut [Hook]) -> bool {
        let mut state = self.desk.state.lock();
        if matches!(state.phase, Phase::Stopped) {
            return false;
        }
        state.phase = Phase::GivenUp(why.clone());
        let spare = state.spare.take();
        drop(state);
        self.desk.changed.notify_all();
        spare.iter().for_each(|spare| spare.discard());
        tell(hooks, &Event::GaveUp { service: self.service, why });
        if self.restart.is_none() {
            return false;
        }
        let mut state = self.desk.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if std::mem::take(&mut state.wants_another) {
                state.phase = Phase::Open;
                return true;
            }
            self.desk.changed.wait(&mut state);
        }
    }

    /// Whether it was asked for.
    fn tell_of_death(&self, child: &SupervisedChild, hooks: &mut [Hook], history: &mut History) -> bool {
        let asked = std::mem::take(&mut self.desk.state.lock().wants_another);
        if child.caller.has_answered_calls() {
            history.bear_fruit();
        }
        let death = Death {
            service: self.service,
            pid: child.caller.peer.pid,
            exit: child.exit(),
            corrupt: match child.caller.peer.peer_status.cause() {
                Some(Cause::Corrupt(what)) => Some(what),
                _ => None,
            },
            overdue: child.caller.culprit(),
            asked,
            last_words: child.caller.peer.peer_status.last_words(),
            generation: child.generation,
            restarting: self.restart.as_ref().is_some_and(|restart| asked || restart.has_left(history, Instant::now())),
        };
        tell(hooks, &Event::Died(death));
        asked
    }

    /// Starts another child in the place of one that has died: at once, and without being counted, if it was asked for.
    ///
    /// # Errors
    ///
    /// Why there will be none, in words.
    fn replace(
        &self,
        dead: &SupervisedChild,
        history: &mut History,
        mut asked: bool,
        hooks: &mut [Hook],
    ) -> Result<(), String> {
        let restart = self.restart.as_ref().ok_or("it is not restarted")?;
        let mut last = None;
        loop {
            let wait = if asked { Some(Duration::ZERO) } else { restart.next(history, Instant::now()) };
            let Some(wait) = wait else { break };
            if !self.rest(wait) {
                return Err("the bridge has been stopped".into());
            }
            match self.next_child().and_then(|child| self.install(child, dead.generation + 1)) {
                Ok(()) => return Ok(()),
                // It has been killed for another.
                Err(_) if std::mem::take(&mut self.desk.state.lock().wants_another) => asked = true,
                Err(error) => {
                    asked = false;
                    let why = error.to_string();
                    self.note_failure(&why);
                    tell(hooks, &Event::NotRestarted { service: self.service, why: why.clone() });
                    last = Some(why);
                }
            }
        }
        let most = restart.most.unwrap_or(u32::MAX);
        let limit = format!("there have been {most} restarts within {:?}", restart.within);
        let allowed = "as many as Restart::at_most allows";
        Err(match last {
            Some(error) => format!("{limit}, the last of which failed: {error}; that is {allowed}"),
            None => format!("{limit}, {allowed}"),
        })
    }

    fn note_failure(&self, why: &str) {
        let mut state = self.desk.state.lock();
        state.failures += 1;
        state.last_failure = Some(why.into());
        drop(state);
        self.desk.changed.notify_all();
    }

    /// Waits before a restart, or until one is wanted at once. `false` = the bridge has been stopped.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.desk.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if time.is_zero()
                || std::mem::take(&mut state.wants_another)
                || self.desk.changed.wait_until(&mut state, until).timed_out()
            {
                return !matches!(state.phase, Phase::Stopped);
            }
        }
    }

    /// A child with a service: the spare one, if it still lives and does anything.
    fn next_child(&self) -> Result<Arc<Caller>, StartError> {
        let start_timeout = self.spec.start_timeout();
        let spare = self.desk.state.lock().spare.take();
        if let Some(spare) = spare.filter(|spare| !spare.peer.peer_status.is_over()) {
            match self.raise(spare, SPARE_PATIENCE.min(start_timeout)) {
                Err(error) if !has_begun(&error) => {}
                raised => return raised,
            }
        }
        let child = self.spec.bring_up(&|| !self.desk.is_stopped())?;
        self.raise(child, start_timeout)
    }

    /// Has the child build its service, which it must begin `within` that time.
    fn raise(&self, child: Arc<Caller>, within: Duration) -> Result<Arc<Caller>, StartError> {
        let mut state = self.unless_stopped(&child)?;
        state.rising = Some(child.clone());
        drop(state);
        let built = self.spec.construct(&child, within);
        self.desk.state.lock().rising = None;
        built.map(|()| child)
    }

    /// Makes `child` the one that calls go to.
    fn install(&self, child: Arc<Caller>, generation: u64) -> Result<(), StartError> {
        let mut state = self.unless_stopped(&child)?;
        state.last_failure = None;
        // If this one was on its way when somebody asked for another, it is that one.
        state.wants_another = false;
        self.current.store(Arc::new(SupervisedChild { caller: child, generation }));
        drop(state);
        self.desk.changed.notify_all();
        Ok(())
    }

    /// Has a spare child brought up, if there is to be one and is none, on a thread of its own: it may take its time, or hang.
    fn prepare_spare(self: &Arc<Self>) {
        let mut state = self.desk.state.lock();
        let has_one = state.spare.as_ref().is_some_and(|spare| !spare.peer.peer_status.is_over());
        if has_one || state.spare_rises || !self.restart.as_ref().is_some_and(|restart| restart.spare) {
            return;
        }
        state.spare_rises = true;
        drop(state);
        let itself = self.clone();
        let brought_up = thread::Builder::new().name("callgate-spare".into()).spawn(move || itself.bring_up_spare());
        if brought_up.is_err() {
            // Without one, the next child is started when it is needed; what is wrong will be said then.
            self.desk.state.lock().spare_rises = false;
        }
    }

    fn bring_up_spare(&self) {
        let spare = self.spec.bring_up(&|| !self.desk.is_stopped()).ok();
        let mut state = self.desk.state.lock();
        let unwanted = match state.phase {
            Phase::Open => std::mem::replace(&mut state.spare, spare),
            _ => spare,
        };
        state.spare_rises = false;
        drop(state);
        self.desk.changed.notify_all();
        unwanted.iter().for_each(|unwanted| unwanted.discard());
    }

    /// The state, unless the bridge has been stopped: then `child` is killed, of which whoever stopped it knows nothing.
    fn unless_stopped(&self, child: &Caller) -> Result<MutexGuard<'_, DeskState>, StartError> {
        let state = self.desk.state.lock();
        if !matches!(state.phase, Phase::Stopped) {
            return Ok(state);
        }
        drop(state);
        child.discard();
        let error = io::Error::from(io::ErrorKind::Interrupted);
        Err(StartError::System { service: self.service, what: "starting another child".into(), error })
    }
}

/// Tells the hooks. One that panics has been told all the same; the others must be, and the child replaced.
fn tell(hooks: &mut [Hook], event: &Event) {
    for hook in hooks {
        let _ = catch_unwind(AssertUnwindSafe(|| match (hook, event) {
            (Hook::Death(hook), Event::Died(death)) => hook(death),
            (Hook::Event(hook), event) => hook(event),
            _ => {}
        }));
    }
}

/// Whether the child had begun to build its service, as far as the failure tells.
fn has_begun(error: &StartError) -> bool {
    !matches!(
        error,
        StartError::Call { error: CallError::TimedOut { started: Started::No, .. }, .. } | StartError::System { .. }
    )
}

/// Why a bridge is not restarted that knows nothing of how its child was made.
pub(super) fn no_restart(method: &'static Method) -> CallError {
    let why = "the bridge was started without Builder::restart, so it has its first child for good; stop it and start another".into();
    CallError::Refused { call: method.call_name(), why }
}

/// What is known of a call that was lost in one child after it had started, and came to `last` in another.
fn in_all(lost: CallError, mut last: CallError) -> CallError {
    if let Some(started) = last.started_mut() {
        *started = Started::Yes;
        return last;
    }
    match last {
        CallError::Panicked { .. }
        | CallError::Corrupt { .. }
        | CallError::TooLarge { what: Payload::Reply, .. }
        | CallError::TooDeep { what: Payload::Reply, .. }
        | CallError::TooMany { what: Payload::Reply, .. }
        | CallError::Exhausted { what: Payload::Reply, .. } => last,
        // It says that the method has not run, which is true of the last attempt only.
        _ => lost,
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("service", &self.service).finish_non_exhaustive()
    }
}
