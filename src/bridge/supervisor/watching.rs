//! The thread that waits for each child's death, runs the hooks and starts the next child; and the spare child.
//!
//! Relies on `restart` to decide whether and when to start another. Makes no calls.

#![forbid(unsafe_code)]

use super::{Hook, Phase, SupervisedChild, Supervisor, SupervisorState};
use crate::bridge::restart::{Death, Event, History};
use crate::start_error::StartError;
use callgate_engine::caller::Caller;
use callgate_engine::peer_status::Cause;
use callgate_transport::error::{CallError, Started};
use parking_lot::MutexGuard;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a spare child may take to begin building its service. After that it counts as hung, and another is started.
const SPARE_TIMEOUT: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn run(self: &Arc<Self>, mut hooks: Vec<Hook>) {
        self.shared.state.lock().thread = Some(thread::current().id());
        let child = self.current();
        tell(&mut hooks, &Event::Started { service: self.service, pid: child.caller.peer.pid });
        drop(child);
        self.watch_over_children(&mut hooks);
        // Before `is_done`, so that `stop` returns after the hooks are dropped.
        drop(hooks);
        self.shared.state.lock().is_done = true;
        self.shared.changed.notify_all();
    }

    /// Replaces each child that dies, until the bridge is stopped or gives up for good.
    fn watch_over_children(self: &Arc<Self>, hooks: &mut [Hook]) {
        let mut history = History::default();
        loop {
            self.prepare_spare();
            let child = self.current();
            let shared = self.shared.clone();
            child.caller.peer.peer_status.on_end(move || shared.ring());
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

    /// Waits for the end of a child, and reports events until then. `false`: the bridge has been stopped.
    fn wait_for_the_end(&self, child: &SupervisedChild, hooks: &mut [Hook]) -> bool {
        let mut state = self.shared.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if let Some(event) = state.events.pop_front() {
                MutexGuard::unlocked(&mut state, || tell(hooks, &event));
            } else if child.caller.peer.peer_status.exit().is_some() {
                return true;
            } else {
                self.shared.changed.wait(&mut state);
            }
        }
    }

    /// Gives up restarting, and waits until `restart` asks for another child. `false` = the bridge has been stopped, or cannot restart.
    fn give_up(&self, why: String, hooks: &mut [Hook]) -> bool {
        let mut state = self.shared.state.lock();
        if matches!(state.phase, Phase::Stopped) {
            return false;
        }
        state.phase = Phase::GivenUp(why.clone());
        let spare = state.spare.take();
        drop(state);
        self.shared.changed.notify_all();
        spare.iter().for_each(|spare| spare.discard());
        tell(hooks, &Event::GaveUp { service: self.service, why });
        if self.restart.is_none() {
            return false;
        }
        let mut state = self.shared.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if std::mem::take(&mut state.wants_another) {
                state.phase = Phase::Open;
                return true;
            }
            self.shared.changed.wait(&mut state);
        }
    }

    /// Reports the death to the hooks. Returns whether `restart` asked for it.
    fn tell_of_death(&self, child: &SupervisedChild, hooks: &mut [Hook], history: &mut History) -> bool {
        let asked = std::mem::take(&mut self.shared.state.lock().wants_another);
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

    /// Starts a replacement for a dead child. A restart that was asked for comes at once, and does not count.
    ///
    /// # Errors
    ///
    /// The reason, in words, why no other child is started.
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
                // `restart` killed this child too.
                Err(_) if std::mem::take(&mut self.shared.state.lock().wants_another) => asked = true,
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
        let allowed = "the most that Restart::at_most allows";
        Err(match last {
            Some(error) => format!("{limit}, {allowed}; the last one failed: {error}"),
            None => format!("{limit}, {allowed}"),
        })
    }

    fn note_failure(&self, why: &str) {
        let mut state = self.shared.state.lock();
        state.failures += 1;
        state.last_failure = Some(why.into());
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits for `time`, or until `restart` asks for a child. `false`: the bridge has been stopped.
    fn rest(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.shared.state.lock();
        loop {
            if matches!(state.phase, Phase::Stopped) {
                return false;
            }
            if time.is_zero()
                || std::mem::take(&mut state.wants_another)
                || self.shared.changed.wait_until(&mut state, until).timed_out()
            {
                return !matches!(state.phase, Phase::Stopped);
            }
        }
    }

    /// A child whose service is built: the spare one if it lives and responds, else a new one.
    fn next_child(&self) -> Result<Arc<Caller>, StartError> {
        let start_timeout = self.spec.start_timeout();
        let spare = self.shared.state.lock().spare.take();
        if let Some(spare) = spare.filter(|spare| !spare.peer.peer_status.is_over()) {
            match self.raise(spare, SPARE_TIMEOUT.min(start_timeout)) {
                Err(error) if !has_begun(&error) => {}
                raised => return raised,
            }
        }
        let child = self.spec.bring_up(&|| !self.shared.is_stopped())?;
        self.raise(child, start_timeout)
    }

    /// Has the child build its service, which it must begin `within` this time.
    fn raise(&self, child: Arc<Caller>, within: Duration) -> Result<Arc<Caller>, StartError> {
        let mut state = self.unless_stopped(&child)?;
        state.rising = Some(child.clone());
        drop(state);
        let built = self.spec.construct(&child, within);
        self.shared.state.lock().rising = None;
        built.map(|()| child)
    }

    /// Makes `child` the current one.
    fn install(&self, child: Arc<Caller>, generation: u64) -> Result<(), StartError> {
        let mut state = self.unless_stopped(&child)?;
        state.last_failure = None;
        // A child that was starting when `restart` asked for another satisfies that request.
        state.wants_another = false;
        self.current.store(Arc::new(SupervisedChild { caller: child, generation }));
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Brings up a spare child if one is configured and missing, on a thread of its own because it may hang.
    fn prepare_spare(self: &Arc<Self>) {
        let mut state = self.shared.state.lock();
        let has_one = state.spare.as_ref().is_some_and(|spare| !spare.peer.peer_status.is_over());
        if has_one || state.spare_rises || !self.restart.as_ref().is_some_and(|restart| restart.spare) {
            return;
        }
        state.spare_rises = true;
        drop(state);
        let itself = self.clone();
        let brought_up = thread::Builder::new().name("callgate-spare".into()).spawn(move || itself.bring_up_spare());
        if brought_up.is_err() {
            // Without a spare, the next child starts on demand, and reports the error then.
            self.shared.state.lock().spare_rises = false;
        }
    }

    fn bring_up_spare(&self) {
        let spare = self.spec.bring_up(&|| !self.shared.is_stopped()).ok();
        let mut state = self.shared.state.lock();
        let unwanted = match state.phase {
            Phase::Open => std::mem::replace(&mut state.spare, spare),
            _ => spare,
        };
        state.spare_rises = false;
        drop(state);
        self.shared.changed.notify_all();
        unwanted.iter().for_each(|unwanted| unwanted.discard());
    }

    /// Locks the state. If the bridge has been stopped, discards `child`, which `stop` could not know of, and fails.
    fn unless_stopped(&self, child: &Caller) -> Result<MutexGuard<'_, SupervisorState>, StartError> {
        let state = self.shared.state.lock();
        if !matches!(state.phase, Phase::Stopped) {
            return Ok(state);
        }
        drop(state);
        child.discard();
        let error = io::Error::from(io::ErrorKind::Interrupted);
        Err(StartError::System { service: self.service, what: "starting another child".into(), error })
    }
}

/// Calls the hooks. A panic in one is ignored, so that the others run and the child is replaced.
fn tell(hooks: &mut [Hook], event: &Event) {
    for hook in hooks {
        let _ = catch_unwind(AssertUnwindSafe(|| match (hook, event) {
            (Hook::Death(hook), Event::Died(death)) => hook(death),
            (Hook::Event(hook), event) => hook(event),
            _ => {}
        }));
    }
}

/// Whether the child may have begun to build its service, judging by the error.
fn has_begun(error: &StartError) -> bool {
    !matches!(
        error,
        StartError::Call { error: CallError::TimedOut { started: Started::No, .. }, .. } | StartError::System { .. }
    )
}
