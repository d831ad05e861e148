//! Calls that have begun, as their owners have them: polled, waited for, withdrawn.
//!
//! Whoever has a lane [attends](super::attend) to its calls. A thread that waits for one has the lane, or is told when it may have it.

#![forbid(unsafe_code)]

use super::batch;
use super::call_state::{Call, CallPhase, CallPlace};
use super::settle::Exactness;
use super::{CallContext, Caller, LaneClaim};
use crate::service::Method;
use callgate_os::clock;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{CallError, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::reply::Reply;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

/// A call that has begun, for whoever may take its outcome: once.
///
/// If it is dropped before it has started, it never runs. In a fork it does nothing: the call belongs to the process that was forked.
pub struct PendingCall<R: Reply> {
    pub(super) caller: Arc<Caller>,
    pub(super) call: Arc<Call<R>>,
}

impl<R: Reply> PendingCall<R> {
    /// The outcome, if it is there. Never waits. After `None`, `waker` is woken when it may be there.
    ///
    /// # Panics
    ///
    /// If the outcome has been taken.
    pub fn poll(&mut self, waker: Option<&Waker>) -> Option<Result<R, CallError>> {
        self.caller.poll_call(&self.call, waker)
    }

    /// Waits for the outcome, at most until `until`.
    ///
    /// # Panics
    ///
    /// If the outcome has been taken.
    pub fn wait(&mut self, until: Deadline) -> Option<Result<R, CallError>> {
        self.caller.wait_for(&self.call, until)
    }

    /// Withdraws the call. Returns how far it has come: unless it has started, it never runs.
    pub fn cancel(self) -> Started {
        self.caller.abandon(&self.call, Exactness::Known)
    }

    /// The side that has called.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    pub fn method(&self) -> &'static Method {
        self.call.context.method
    }

    /// Copies the reply while `child` writes it, which returns whether it goes on. `None` if there is nothing to copy yet, or nothing of the copy
    /// could be used: then [`poll`](Self::poll) has the reply. For tests in which one thread plays both sides.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    pub fn follow(&mut self, mut child: impl FnMut() -> bool) -> Option<Result<R, CallError>> {
        use crate::lane::CallerLane;
        let CallPlace::Lane(lane, position) = Call::at(&self.call.state.lock()) else { return None };
        let mut claim = self.caller.lanes[lane as usize].gate.try_claim(&*self.caller)?;
        if claim.replies().position() != position {
            return None;
        }
        let wait = |_: &CallerLane, _: &_, _: &_| if child() { Waited::Ready } else { Waited::DeadlinePassed };
        let outcome = self.caller.follow(&mut claim, Kind::Call, &self.call.context, wait)?;
        claim.forget_call(position);
        self.call.state.lock().phase = CallPhase::Taken;
        Some(outcome)
    }
}

impl<R: Reply> Drop for PendingCall<R> {
    fn drop(&mut self) {
        self.caller.abandon(&self.call, Exactness::Unknown);
    }
}

impl Caller {
    /// The outcome of a call, if it is there.
    pub(super) fn outcome_of<R: Reply>(&self, call: &Call<R>) -> Option<Result<R, CallError>> {
        let mut state = call.state.lock();
        if !state.phase.has_outcome() {
            return None;
        }
        let (phase, timer) = (mem::replace(&mut state.phase, CallPhase::Taken), state.timer.take());
        drop(state);
        self.timers.cancel(timer);
        match phase {
            CallPhase::Done(outcome) => Some(outcome),
            CallPhase::Moved(reply) => Some(self.read_moved(&reply, &call.context)),
            _ => panic!("a pending call's outcome can be taken once"),
        }
    }

    fn poll_call<R: Reply>(&self, call: &Arc<Call<R>>, waker: Option<&Waker>) -> Option<Result<R, CallError>> {
        let context = &call.context;
        if self.peer.is_in_fork() {
            return Some(Err(self.in_fork_slow(context)));
        }
        if let Some(outcome) = self.outcome_of(call) {
            return Some(outcome);
        }
        if context.deadline().has_passed() {
            return Some(self.last_look(call).unwrap_or_else(|| self.expire(call)));
        }
        batch::notify_begun();
        let at = Call::at(&call.state.lock());
        match self.claim_of(at) {
            Some((mut claim, position)) => {
                self.settle_ready(&mut claim);
                if waker.is_some() && claim.may_be_next(position) {
                    // Its turn is next, and a fast call never leaves its task.
                    claim.poll_briefly(&self.peer.peer_status);
                    self.settle_ready(&mut claim);
                }
                if !call.has_outcome() {
                    call.wake_by(waker);
                    claim.owe();
                } else if !self.queue.is_empty() {
                    claim.owe();
                }
            }
            None => {
                call.wake_by(waker);
                // Whoever has the lane may have attended to it before it could see the waker.
                let at = Call::at(&call.state.lock());
                self.claim_of(at).iter_mut().for_each(|(claim, _)| claim.owe());
            }
        }
        if let Some(outcome) = self.outcome_of(call) {
            return Some(outcome);
        }
        if waker.is_some()
            && let Some(due) = context.deadline().instant()
        {
            let timer = self.timers.wake_at(due, call);
            let old = call.state.lock().timer.replace(timer);
            self.timers.cancel(old);
        }
        None
    }

    /// The lane of a call, and the call's position there, if it is on one and nobody has that; otherwise its holder will attend to it.
    fn claim_of(&self, at: CallPlace) -> Option<(LaneClaim<'_>, u64)> {
        let CallPlace::Lane(lane, position) = at else { return None };
        Some((self.lanes[lane as usize].gate.want(self)?, position))
    }

    pub(super) fn wait_for<R: Reply>(&self, call: &Arc<Call<R>>, until: Deadline) -> Option<Result<R, CallError>> {
        batch::notify_begun();
        let context = &call.context;
        if self.peer.is_in_fork() {
            return Some(Err(self.in_fork_slow(context)));
        }
        if let Some(outcome) = self.outcome_of(call) {
            return Some(outcome);
        }
        let outcome = loop {
            if context.deadline().has_passed() {
                break Some(self.last_look(call).unwrap_or_else(|| self.expire(call)));
            }
            if until.has_passed() {
                break None;
            }
            let at = call.await_change();
            if let Some((mut claim, position)) = self.claim_of(at) {
                // It has the turn that it may have been given.
                call.state.lock().turn = None;
                self.watch(call, position, &mut claim, until);
                claim.owe();
            } else {
                self.rely_on_watcher();
                call.sleep(until);
            }
            if let Some(outcome) = self.outcome_of(call) {
                break Some(outcome);
            }
        };
        let turn = {
            let mut state = call.state.lock();
            state.is_awaited = false;
            state.turn.take()
        };
        // A turn that was given and not used goes to the next.
        if let Some(mut claim) = turn.and_then(|lane| self.lanes[lane as usize].gate.want(self)) {
            claim.owe();
        }
        outcome
    }

    /// Waits at a lane until the call has an outcome or the time is over, and takes every reply that comes.
    pub(super) fn watch<R: Reply>(&self, call: &Call<R>, position: u64, claim: &mut LaneClaim<'_>, until: Deadline) {
        let context = &call.context;
        loop {
            self.settle_ready(claim);
            if call.has_outcome() {
                return;
            }
            // A thread that waits for a certain time only does not begin what it might not finish.
            if until.instant().is_none()
                && self.may_follow(claim, position)
                && claim.is_announced()
                && let Some(outcome) = self.follow_slow(claim, Kind::Call, context)
            {
                claim.forget_call(position);
                return call.finish(outcome);
            }
            match self.wait_on(claim, position, context.deadline().earlier(until)) {
                Waited::Ready if claim.is_wanted() => self.attend_while_waiting(claim),
                Waited::Ready => {}
                Waited::DeadlinePassed => return,
                Waited::Dead => {
                    self.settle_ready(claim);
                    return self.end_calls(claim);
                }
            }
        }
    }

    /// The outcome of a call whose time is over, if its reply is there all the same.
    #[cold]
    fn last_look<R: Reply>(&self, call: &Arc<Call<R>>) -> Option<Result<R, CallError>> {
        let at = Call::at(&call.state.lock());
        if let Some((mut claim, _)) = self.claim_of(at) {
            self.settle_ready(&mut claim);
            claim.owe();
        }
        self.outcome_of(call)
    }

    /// The outcome of a call whose time is over: it is withdrawn, and its error says whether it had started.
    #[cold]
    fn expire<R: Reply>(&self, call: &Arc<Call<R>>) -> Result<R, CallError> {
        let context = &call.context;
        let mut state = call.state.lock();
        let at = Call::at(&state);
        if let CallPlace::Nowhere = at {
            drop(state);
            // The outcome came just now.
            return self.outcome_of(call).unwrap_or_else(|| Err(self.late(context)));
        }
        state.is_abandoned = true;
        state.phase = CallPhase::Taken;
        let timer = state.timer.take();
        drop(state);
        self.timers.cancel(timer);
        Err(match self.withdraw_at(at, context, Exactness::Known) {
            None => self.late(context),
            Some(started) => self.timed_out(started, context),
        })
    }

    /// Withdraws a call that nobody wants any more. Returns whether it has started, if that is to be known.
    fn abandon<R: Reply>(&self, call: &Arc<Call<R>>, exactness: Exactness) -> Started {
        if self.peer.is_in_fork() {
            return Started::Unknown;
        }
        let mut state = call.state.lock();
        if mem::replace(&mut state.is_abandoned, true) {
            return Started::Unknown;
        }
        let (at, timer, waker) = (Call::at(&state), state.timer.take(), state.waker.take());
        let outcome = mem::replace(&mut state.phase, CallPhase::Taken);
        drop(state);
        self.timers.cancel(timer);
        let started = match &outcome {
            CallPhase::Done(Err(error)) => error.started(),
            _ => Started::Yes,
        };
        // Not under the lock: destructors are the user's code.
        drop((outcome, waker));
        match at {
            CallPlace::Nowhere => started,
            at => self.withdraw_at(at, &call.context, exactness).unwrap_or(Started::No),
        }
    }

    /// Withdraws a request. Returns whether it has started; `None` if it was not even sent.
    fn withdraw_at(&self, at: CallPlace, context: &CallContext, exactness: Exactness) -> Option<Started> {
        match at {
            CallPlace::Queue(number) => {
                // If it has just been taken from the queue, whoever sends it sees that it has been abandoned.
                let queued = self.queue.remove(number);
                queued.into_iter().for_each(|queued| self.discard_written(queued.written));
                None
            }
            CallPlace::Lane(lane, position) => Some(self.withdraw((lane, position), context, exactness)),
            CallPlace::Nowhere => None,
        }
    }

    /// Withdraws the request at this place. If it is not answered soon, it is overdue.
    #[cold]
    pub(super) fn withdraw(
        &self,
        (lane, position): (u32, u64),
        context: &CallContext,
        exactness: Exactness,
    ) -> Started {
        let withdrawal = &self.lanes[lane as usize].withdrawal;
        let started = match exactness {
            Exactness::Known => withdrawal.withdraw(position),
            Exactness::Unknown => withdrawal.mark(position),
        };
        failpoints::reach(Step::ParentWithdrawn);
        if self.is_unordered {
            self.cancel((lane, position));
        }
        let overdue = self.overdue.as_ref();
        // A share of no timeout is no time.
        if let Some(overdue) = overdue.filter(|overdue| context.limit.timeout.is_some() || overdue.has_fixed_grace()) {
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), (lane, position), Instant::now());
        }
        started
    }

    /// Notes a call's deadline in the frame that is about to be published.
    #[cold]
    pub(super) fn note_deadline(&self, claim: &LaneClaim<'_>, deadline: Instant) {
        claim.set_deadline(clock::nanos_of(deadline));
    }
}
