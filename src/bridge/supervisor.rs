//! A bridge that outlives its children: a thread waits for the death of each, tells who wants to know, and starts the next.
//!
//! Calls go to the current child, and look at nothing else while it lives. Whether one may run again in the next child is decided here,
//! by what is known of the first attempt.

#![forbid(unsafe_code)]

use super::recipe::Recipe;
use super::restart::{Death, History, Restart};
use crate::call::caller::{Caller, Ticket};
use crate::call::service::{Method, Service};
use crate::doorbell::Deadline;
use crate::error::{CallError, Exit, Payload, Progress, StartError};
use crate::frame::{Reply, Request};
use crate::life::Cause;
use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

/// How often a call is made that has started each time before: once it has killed so many children, it may be what kills them.
const ATTEMPTS: u32 = 3;

/// What makes a bridge's children.
trait Make: Send + Sync {
    /// A child without its service.
    fn bring_up(&self) -> Result<Arc<Caller>, StartError>;

    /// Has the child build its service. One that does not is killed.
    fn construct(&self, child: &Caller) -> Result<(), StartError>;
}

impl<T: Service> Make for Recipe<T> {
    fn bring_up(&self) -> Result<Arc<Caller>, StartError> {
        Recipe::bring_up(self)
    }

    fn construct(&self, child: &Caller) -> Result<(), StartError> {
        Recipe::construct(self, child)
    }
}

/// Who is told of deaths.
pub(super) type Hook = Box<dyn FnMut(&Death) + Send>;

/// What a bridge's children have in common.
pub(super) struct Supervisor {
    service: &'static str,
    recipe: Box<dyn Make>,
    /// `None` = deaths are only told of.
    restart: Option<Restart>,
    current: ArcSwap<Child>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A child, and how many there were before it.
pub(super) struct Child {
    pub(super) caller: Arc<Caller>,
    pub(super) generation: u64,
}

impl Child {
    fn is_over(&self) -> bool {
        self.caller.peer.life.is_over()
    }

    fn exit(&self) -> Exit {
        self.caller.peer.life.exit().unwrap_or(Exit::Unknown)
    }
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// A child whose service is being built.
    rising: Option<Arc<Caller>>,
    /// A child that waits to take over.
    spare: Option<Arc<Caller>>,
    /// The thread, once it runs.
    thread: Option<ThreadId>,
    /// The thread has nothing more to do.
    is_done: bool,
}

/// | from | to | who | when |
/// |---|---|---|---|
/// | Open | GivenUp | the thread | the current child has died, and there may be no more restarts |
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

impl Supervisor {
    /// Takes over a bridge whose first child serves.
    pub(super) fn start<T: Service>(
        recipe: Recipe<T>,
        first: Arc<Caller>,
        restart: Option<Restart>,
        hooks: Vec<Hook>,
    ) -> io::Result<Arc<Self>> {
        let supervisor = Arc::new(Self {
            service: T::NAME,
            recipe: Box::new(recipe),
            restart,
            current: ArcSwap::from_pointee(Child { caller: first, generation: 0 }),
            state: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::new(None),
        });
        let of_thread = supervisor.clone();
        let thread = thread::Builder::new().name("callgate-restart".into());
        let thread = thread.spawn(move || of_thread.run(hooks))?;
        *supervisor.thread.lock() = Some(thread);
        Ok(supervisor)
    }

    /// The child that calls go to; it may have died.
    pub(super) fn current(&self) -> Arc<Child> {
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
        let ticket = &Ticket::new(method, timeout);
        let child = self.current.load();
        if child.is_over() && self.restart.is_some() {
            return self.call_on(&*self.successor_slow(&child, ticket)?, ticket, args);
        }
        self.call_on(&child, ticket, args)
    }

    /// Makes a call of `child`, and of its successors.
    #[inline(always)]
    fn call_on<A: Request, R: Reply>(&self, child: &Child, ticket: &Ticket, args: A) -> Result<R, CallError> {
        let mut args = Some(args);
        match child.caller.call_again(ticket, &mut args) {
            Err(error) => self.call_again_slow(child, ticket, args, error),
            done => done,
        }
    }

    /// Makes a call again that failed, as often as that is safe. What is left of its arguments is in `args`.
    #[cold]
    fn call_again_slow<A: Request, R: Reply>(
        &self,
        child: &Child,
        ticket: &Ticket,
        mut args: Option<A>,
        mut error: CallError,
    ) -> Result<R, CallError> {
        let (mut generation, mut starts, mut lost) = (child.generation, 0, None);
        while let CallError::Died { progress, .. } = error {
            if progress == Progress::Started {
                starts += 1;
                lost = Some(error.clone());
            }
            let is_safe = starts == 0 || ticket.method.idempotent && starts < ATTEMPTS;
            if !is_safe || args.is_none() || self.restart.is_none() {
                break;
            }
            let Some(child) = self.after(generation, ticket.deadline) else { break };
            match child.caller.call_again(ticket, &mut args) {
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
    fn successor_slow(&self, dead: &Child, ticket: &Ticket) -> Result<Arc<Child>, CallError> {
        // In a fork, nobody gives back what others had locked.
        let calls_wait = self.restart.as_ref().is_some_and(|restart| restart.calls_wait);
        if calls_wait
            && !dead.caller.peer.is_in_fork()
            && let Some(child) = self.after(dead.generation, ticket.deadline)
        {
            return Ok(child);
        }
        Err(self.down(dead, ticket))
    }

    /// The child for a call that is not waited for.
    pub(super) fn now(&self, method: &'static Method) -> Result<Arc<Child>, CallError> {
        let child = self.current();
        if child.is_over() && self.restart.is_some() {
            return Err(self.down(&child, &Ticket::new(method, None)));
        }
        Ok(child)
    }

    #[cold]
    fn down(&self, dead: &Child, ticket: &Ticket) -> CallError {
        let peer = &dead.caller.peer;
        if peer.is_in_fork() {
            return dead.caller.in_fork_slow(ticket);
        }
        let (call, pid) = (ticket.name(), peer.pid);
        let (restarting, why) = match &self.state.lock().phase {
            Phase::Stopped => return CallError::Stopped { call, pid, progress: Progress::NotStarted },
            Phase::GivenUp(why) => (false, why.clone()),
            Phase::Open => (true, "there is no other yet".into()),
        };
        CallError::Down { call, pid, exit: dead.exit(), restarting, why }
    }

    /// The first child after the one of `generation`, as soon as there is one. `None` = not before the deadline, or never; or a hook asks, and
    /// there is none before it is done.
    fn after(&self, generation: u64, deadline: Deadline) -> Option<Arc<Child>> {
        let mut state = self.state.lock();
        let is_hook = state.thread == Some(thread::current().id());
        loop {
            let child = self.current();
            if child.generation > generation {
                return Some(child);
            }
            if is_hook || !matches!(state.phase, Phase::Open) || deadline.has_passed() {
                return None;
            }
            match deadline.instant() {
                Some(instant) => drop(self.changed.wait_until(&mut state, instant)),
                None => self.changed.wait(&mut state),
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

    /// Ends the current child with `end`, and the thread within `grace` after that.
    fn end<R>(&self, grace: Duration, end: impl FnOnce(&Caller) -> R) -> R {
        let child = self.current();
        if child.caller.peer.is_in_fork() {
            return end(&child.caller);
        }
        drop(child);
        let mut state = self.state.lock();
        state.phase = Phase::Stopped;
        let others = [state.spare.take(), state.rising.take()];
        drop(state);
        self.changed.notify_all();
        for other in others.into_iter().flatten() {
            other.kill();
        }
        // From here on it stays the current one.
        let ended = end(&self.current().caller);
        self.join(grace);
        ended
    }

    /// Waits until the thread has ended, unless this is that thread: a hook may be what stops the bridge.
    fn join(&self, grace: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        if thread.thread().id() == thread::current().id() {
            return;
        }
        let until = Instant::now() + grace;
        let mut state = self.state.lock();
        while !state.is_done {
            if self.changed.wait_until(&mut state, until).timed_out() {
                // It is starting a child, which it will kill.
                return;
            }
        }
        drop(state);
        let _ = thread.join();
    }

    // ---- the thread ------------------------------------------------------------------------------------------------

    fn run(&self, mut hooks: Vec<Hook>) {
        self.state.lock().thread = Some(thread::current().id());
        if let Err(why) = self.watch_over_children(&mut hooks) {
            self.give_up(why);
        }
        // Whatever they hold is gone when the bridge has stopped.
        drop(hooks);
        self.state.lock().is_done = true;
        self.changed.notify_all();
    }

    /// Replaces one child after the other, until the bridge has been stopped.
    ///
    /// # Errors
    ///
    /// Why there will be no other child, in words.
    fn watch_over_children(&self, hooks: &mut [Hook]) -> Result<(), String> {
        let mut history = History::default();
        loop {
            self.prepare_spare();
            let child = self.current();
            child.caller.peer.life.wait(Deadline::NEVER);
            if self.is_stopped() {
                return Ok(());
            }
            self.tell(hooks, &child, &mut history);
            self.replace(&child, &mut history)?;
        }
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Stopped)
    }

    fn give_up(&self, why: String) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Stopped) {
            state.phase = Phase::GivenUp(why);
        }
        let spare = state.spare.take();
        drop(state);
        self.changed.notify_all();
        if let Some(spare) = spare {
            spare.kill();
        }
    }

    fn tell(&self, hooks: &mut [Hook], child: &Child, history: &mut History) {
        let death = Death {
            service: self.service,
            pid: child.caller.peer.pid,
            exit: child.exit(),
            corrupt: match child.caller.peer.life.cause() {
                Some(Cause::Corrupt(what)) => Some(what),
                _ => None,
            },
            last_words: child.caller.peer.life.last_words(),
            generation: child.generation,
            restarting: self.restart.as_ref().is_some_and(|restart| restart.has_left(history, Instant::now())),
        };
        for hook in hooks {
            // One that panics has been told all the same; the others must be, and the child replaced.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&death)));
        }
    }

    /// Starts another child in the place of one that has died.
    ///
    /// # Errors
    ///
    /// Why there will be none, in words.
    fn replace(&self, dead: &Child, history: &mut History) -> Result<(), String> {
        let restart = self.restart.as_ref().ok_or("it is not restarted")?;
        let mut last = None;
        while let Some(wait) = restart.next(history, Instant::now()) {
            if !self.rest(wait) {
                return Err("the bridge has been stopped".into());
            }
            match self.next_child().and_then(|child| self.install(child, dead.generation + 1)) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let limit = format!("there have been {} restarts within {:?}", restart.most, restart.within);
        Err(last.map_or_else(|| limit.clone(), |error| format!("{limit}, the last of which failed: {error}")))
    }

    /// Waits before a restart. `false` = the bridge has been stopped.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if time.is_zero() || self.changed.wait_until(&mut state, until).timed_out() {
                return !matches!(state.phase, Phase::Stopped);
            }
        }
    }

    /// A child with a service: the spare one, if it still lives.
    fn next_child(&self) -> Result<Arc<Caller>, StartError> {
        let spare = self.state.lock().spare.take();
        let child = match spare.filter(|spare| !spare.peer.life.is_over()) {
            Some(spare) => spare,
            None => self.recipe.bring_up()?,
        };
        let mut state = self.unless_stopped(&child)?;
        state.rising = Some(child.clone());
        drop(state);
        let built = self.recipe.construct(&child);
        self.state.lock().rising = None;
        built.map(|()| child)
    }

    /// Makes `child` the one that calls go to.
    fn install(&self, child: Arc<Caller>, generation: u64) -> Result<(), StartError> {
        let state = self.unless_stopped(&child)?;
        self.current.store(Arc::new(Child { caller: child, generation }));
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn prepare_spare(&self) {
        if !self.restart.as_ref().is_some_and(|restart| restart.spare) {
            return;
        }
        // Without one, the next child is started when it is needed; what is wrong will be said then.
        let Ok(spare) = self.recipe.bring_up() else { return };
        if let Ok(mut state) = self.unless_stopped(&spare) {
            state.spare = Some(spare.clone());
        }
    }

    /// The state, unless the bridge has been stopped: then `child` is killed, of which whoever stopped it knows nothing.
    fn unless_stopped(&self, child: &Caller) -> Result<MutexGuard<'_, State>, StartError> {
        let state = self.state.lock();
        if !matches!(state.phase, Phase::Stopped) {
            return Ok(state);
        }
        drop(state);
        child.kill();
        let error = io::Error::from(io::ErrorKind::Interrupted);
        Err(StartError::System { service: self.service, what: "starting another child".into(), error })
    }
}

/// What is known of a call that was lost in one child after it had started, and came to `last` in another.
fn in_all(lost: CallError, mut last: CallError) -> CallError {
    if let Some(progress) = last.progress_mut() {
        *progress = Progress::Started;
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
