//! Calls of a bridge that restarts: each goes to the current child, and is repeated in the next ones while that is safe.
//!
//! Relies on the lane's record of whether a lost call had begun. Starts no child: the supervisor's thread does.

#![forbid(unsafe_code)]

use super::{Phase, SupervisedChild, Supervisor, SupervisorState};
use callgate_engine::caller::{Answerer, CallContext, Caller};
use callgate_engine::service::Method;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::{CallError, Payload, Started};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often a call that has started may run in all: after killing this many children, the call itself may be the cause.
const ATTEMPTS: u32 = 3;

impl Supervisor {
    /// Calls a method of the current child, and of its successors while repeating the call is safe.
    #[inline]
    pub(in crate::bridge) fn call<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<R, CallError> {
        self.attempt(&CallContext::new(method, timeout), args, |caller, context, args| caller.call_again(context, args))
    }

    /// Calls a method that calls back, likewise. It is not repeated once a callback has run.
    pub(in crate::bridge) fn converse<A: Request, R: Reply>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        callbacks: &mut Answerer<'_>,
    ) -> Result<R, CallError> {
        self.attempt(&CallContext::new(method, timeout), args, |caller, context, args| {
            caller.call_conversing(context, args, callbacks)
        })
    }

    /// Makes a call to the current child, then to its successors.
    #[inline(always)]
    fn attempt<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        args: A,
        mut call: impl FnMut(&Caller, &CallContext, &mut Option<A>) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let child = self.current.load();
        if child.is_over() && self.restart.is_some() {
            return self.call_on(&*self.successor_slow(&child, context)?, context, args, &mut call);
        }
        self.call_on(&child, context, args, &mut call)
    }

    /// Makes a call to `child`, then to its successors.
    #[inline(always)]
    fn call_on<A: Request, R: Reply>(
        &self,
        child: &SupervisedChild,
        context: &CallContext,
        args: A,
        call: &mut impl FnMut(&Caller, &CallContext, &mut Option<A>) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let mut args = Some(args);
        match call(&child.caller, context, &mut args) {
            Err(error) => self.call_again_slow(child, context, args, call, error),
            done => done,
        }
    }

    /// Retries a failed call as often as that is safe. `args` holds its arguments, unless they have been used up.
    #[cold]
    fn call_again_slow<A: Request, R: Reply>(
        &self,
        child: &SupervisedChild,
        context: &CallContext,
        mut args: Option<A>,
        call: &mut impl FnMut(&Caller, &CallContext, &mut Option<A>) -> Result<R, CallError>,
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
            let Some(child) = self.after(generation, context.deadline()) else { break };
            match call(&child.caller, context, &mut args) {
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
    /// `Down` if calls do not wait for the next child, or none came in time.
    #[cold]
    fn successor_slow(&self, dead: &SupervisedChild, context: &CallContext) -> Result<Arc<SupervisedChild>, CallError> {
        // In a fork, locks that other threads held are never released.
        let calls_wait = self.restart.as_ref().is_some_and(|restart| restart.calls_wait);
        if calls_wait
            && !dead.caller.peer.is_in_fork()
            && let Some(child) = self.after(dead.generation, context.deadline())
        {
            return Ok(child);
        }
        Err(self.down(dead, context))
    }

    /// The child for a call that waits for one.
    ///
    /// # Errors
    ///
    /// `Down` if calls do not wait for the next child, or none came in time.
    pub(in crate::bridge) fn living(
        &self,
        method: &'static Method,
        timeout: Option<Duration>,
    ) -> Result<Arc<SupervisedChild>, CallError> {
        let child = self.current();
        match child.is_over() && self.restart.is_some() {
            true => self.successor_slow(&child, &CallContext::new(method, timeout)),
            false => Ok(child),
        }
    }

    /// The child for a call that does not wait.
    ///
    /// # Errors
    ///
    /// The last child, and why there is no other.
    pub(in crate::bridge) fn now(
        &self,
        method: &'static Method,
    ) -> Result<Arc<SupervisedChild>, (Arc<SupervisedChild>, CallError)> {
        let child = self.current();
        if child.is_over() && self.restart.is_some() {
            let error = self.down(&child, &CallContext::new(method, None));
            return Err((child, error));
        }
        Ok(child)
    }

    /// Sends a call that wants no result to the current child.
    pub(in crate::bridge) fn send<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<(), CallError> {
        let child = self.now(method).map_err(|(_, error)| error)?;
        // In a fork, locks that other threads held are never released; the call says so.
        if !child.caller.peer.is_in_fork() {
            self.sent_to.lock().add(&child, method);
        }
        child.caller.send_one_way(method, args, timeout)
    }

    /// Waits until the calls that want no result have been carried out, or are lost with a child.
    pub(in crate::bridge) fn flush(&self, method: &'static Method, timeout: Option<Duration>) -> Result<(), CallError> {
        let current = self.current();
        if current.caller.peer.is_in_fork() {
            return current.caller.flush(method, timeout);
        }
        let (children, lost) = {
            let mut sent_to = self.sent_to.lock();
            (sent_to.children.clone(), sent_to.lost.take())
        };
        let flushed: Vec<_> = children.iter().map(|child| child.caller.flush(method, timeout)).collect();
        // What a living child has not acknowledged is waited for again. What became of the others has been told.
        self.sent_to.lock().children.retain(|child| !child.is_over());
        lost.map_or(Ok(()), Err).and(flushed.into_iter().collect())
    }

    #[cold]
    fn down(&self, dead: &SupervisedChild, context: &CallContext) -> CallError {
        let peer = &dead.caller.peer;
        if peer.is_in_fork() {
            return dead.caller.in_fork_slow(context);
        }
        self.down_in(self.shared.state.lock(), dead, context)
    }

    pub(super) fn down_in(
        &self,
        state: MutexGuard<'_, SupervisorState>,
        dead: &SupervisedChild,
        context: &CallContext,
    ) -> CallError {
        let (call, pid) = (context.name(), dead.caller.peer.pid);
        let (restarting, why) = match (&state.phase, &state.last_failure) {
            (Phase::Stopped, _) => return CallError::Stopped { call, pid, started: Started::No },
            (Phase::GivenUp(why), _) => (false, why.clone()),
            (Phase::Open, None) => (true, "its replacement is not ready".into()),
            (Phase::Open, Some(why)) => (true, format!("its replacement is not ready; the last start failed ({why})")),
        };
        CallError::Down { call, pid, exit: dead.exit(), restarting, why }
    }

    /// Waits for a child later than `generation`. `None`: the deadline has passed; there will be none; there is no deadline and a start has failed; or a
    /// hook calls, whose return the thread awaits before it starts a child.
    fn after(&self, generation: u64, deadline: Deadline) -> Option<Arc<SupervisedChild>> {
        let mut state = self.shared.state.lock();
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
                Some(instant) => drop(self.shared.changed.wait_until(&mut state, instant)),
                None if state.failures > failures => return None,
                None => self.shared.changed.wait(&mut state),
            }
        }
    }
}

/// The error of a call that started in a child that died (`lost`), and then failed with `last` in another.
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
        // `last` says that the method has not run, which is true of the last attempt only.
        _ => lost,
    }
}
