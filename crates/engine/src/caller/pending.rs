//! Calls that have begun, as their owners have them: polled, waited for, withdrawn.
//!
//! Whoever has a lane [attends](super::attend) to its calls. A thread that waits for one has the lane, or is told when it may have it.

#![forbid(unsafe_code)]

use super::batch;
use super::call_state::{Call, CallPhase, CallPlace};
use super::settle::Exactness;
use super::{CallContext, Caller, LaneClaim};
use crate::nest;
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
    caller: Arc<Caller>,
    call: Arc<Call<R>>,
    /// Whether its owner has the outcome.
    is_taken: bool,
}

impl<R: Reply> PendingCall<R> {
    pub(super) fn new(caller: Arc<Caller>, call: Arc<Call<R>>) -> Self {
        Self { caller, call, is_taken: false }
    }

    /// The outcome, if it is there. Never waits. After `None`, `waker` is woken when it may be there.
    ///
    /// # Panics
    ///
    /// If the outcome has been taken.
    pub fn poll(&mut self, waker: Option<&Waker>) -> Option<Result<R, CallError>> {
        self.check();
        let outcome = self.caller.poll_call(&self.call, waker);
        self.note(outcome)
    }

    /// The same for a thread, which is woken as the bridge's calls [say](Caller::polled_by).
    ///
    /// # Panics
    ///
    /// If the outcome has been taken.
    pub fn poll_by_thread(&mut self) -> Option<Result<R, CallError>> {
        self.check();
        let waker = self.caller.poller.get().and_then(|poller| poller.get());
        let outcome = self.caller.poll_call(&self.call, waker);
        self.note(outcome)
    }

    /// Waits for the outcome, at most until `until`.
    ///
    /// # Panics
    ///
    /// If the outcome has been taken.
    pub fn wait(&mut self, until: Deadline) -> Option<Result<R, CallError>> {
        self.check();
        let outcome = self.caller.wait_for(&self.call, until);
        self.note(outcome)
    }

    fn check(&self) {
        assert!(!self.is_taken, "a pending call's outcome can be taken once");
    }

    /// Notes that its owner gets the outcome. In a fork there is none: each look finds the same error.
    #[inline]
    fn note(&mut self, outcome: Option<Result<R, CallError>>) -> Option<Result<R, CallError>> {
        self.is_taken = outcome.is_some() && !self.caller.peer.is_in_fork();
        outcome
    }

    /// Withdraws the call. Returns how far it has come: unless it has started, it never runs.
    pub fn cancel(self) -> Started {
        if self.is_taken { Started::Yes } else { self.caller.abandon(&self.call, Exactness::Known) }
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
        if !self.is_taken {
            self.caller.abandon(&self.call, Exactness::Unknown);
        }
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
        let looked = self.look_alone(call, waker.is_some());
        if let Some(Some(outcome)) = looked {
            return Some(outcome);
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
                if looked.is_none() && waker.is_some() && claim.may_be_next(position) {
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
        if nest::is_calling_back()
            && let Err(error) = self.may_wait_for(call)
        {
            return Some(self.last_look(call).unwrap_or(Err(error)));
        }
        if let Some(outcome) = self.wait_alone(call, until) {
            return Some(outcome);
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
                let outcome = self.watch(call, position, &mut claim, until);
                self.owe_others(&mut claim);
                if outcome.is_some() {
                    break outcome;
                }
            } else {
                self.rely_on_watcher();
                call.sleep(until);
            }
            if let Some(outcome) = self.outcome_of(call) {
                break Some(outcome);
            }
        };
        // A turn that was given and not used goes to the next.
        if let Some(mut claim) = call.end_wait().and_then(|lane| self.lanes[lane as usize].gate.want(self)) {
            claim.owe();
        }
        outcome
    }

    /// Whether a callback may wait for a call that began before: not if the worker carries it out that waits for the callback.
    #[cold]
    fn may_wait_for<R: Reply>(&self, call: &Call<R>) -> Result<(), CallError> {
        let worker = |lane: u32| lane % self.workers;
        let own = self.lent_lane().map(|lane| worker(lane.index()));
        let is_elsewhere = match Call::at(&call.state.lock()) {
            CallPlace::Lane(lane, _) => own != Some(worker(lane)),
            CallPlace::Queue(_) => self.workers > 1,
            CallPlace::Nowhere => true,
        };
        if is_elsewhere { Ok(()) } else { self.may_wait_here(&call.context) }
    }

    /// Looks for a call's reply at its lane, if nobody has that. `polls` = looks for a while, if the reply is the next one: a fast call never leaves its
    /// task. `None` if it has not looked.
    #[inline]
    fn look_alone<R: Reply>(&self, call: &Call<R>, polls: bool) -> Option<Option<Result<R, CallError>>> {
        let (lane, position) = call.sent?;
        if call.context.deadline().has_passed() {
            return None;
        }
        batch::notify_begun();
        let mut claim = self.lanes[lane as usize].gate.try_claim(self)?;
        let mut outcome = self.take_next(call, position, &mut claim);
        if outcome.is_none() && polls && claim.is_next_call(position) {
            claim.poll_briefly(&self.peer.peer_status);
            outcome = self.take_next(call, position, &mut claim);
        }
        if !self.queue.is_empty() {
            claim.owe();
        }
        Some(outcome)
    }

    /// Takes the reply of a call, if it is there and no other is before it; gives those before it to their calls.
    #[inline]
    fn take_next<R: Reply>(
        &self,
        call: &Call<R>,
        position: u64,
        claim: &mut LaneClaim<'_>,
    ) -> Option<Result<R, CallError>> {
        if !claim.is_next_call(position) {
            self.settle_before(claim, position);
        }
        if !claim.is_next_call(position) {
            return None;
        }
        let outcome = match self.take_plain(claim, position, &call.context) {
            Some(outcome) => outcome,
            None => self.take(claim, position, Kind::Call, &call.context)?,
        };
        claim.forget_next(position);
        self.cancel_timer(call);
        Some(outcome)
    }

    /// Waits for a call at its lane, if nobody has that and the call is still there: others need not know that a thread waits. `None` if it must be waited
    /// for otherwise.
    #[inline]
    fn wait_alone<R: Reply>(&self, call: &Call<R>, until: Deadline) -> Option<Result<R, CallError>> {
        let (lane, position) = call.sent?;
        if call.context.deadline().has_passed() {
            return None;
        }
        let mut claim = self.lanes[lane as usize].gate.try_claim(self)?;
        let outcome = self.watch(call, position, &mut claim, until);
        self.owe_others(&mut claim);
        outcome
    }

    /// Waits at a lane until the call has an outcome or the time is over, and takes every reply that comes before.
    #[inline]
    pub(super) fn watch<R: Reply>(
        &self,
        call: &Call<R>,
        position: u64,
        claim: &mut LaneClaim<'_>,
        until: Deadline,
    ) -> Option<Result<R, CallError>> {
        loop {
            if let Some(outcome) = self.take_next(call, position, claim) {
                return Some(outcome);
            }
            if !claim.has_call(position) {
                return self.outcome_of(call);
            }
            if let Some(outcome) = self.watch_slow(call, position, claim, until)? {
                return Some(outcome);
            }
        }
    }

    /// Waits until a reply comes, or the call ends without one. `None` if the time is over.
    #[inline(never)]
    fn watch_slow<R: Reply>(
        &self,
        call: &Call<R>,
        position: u64,
        claim: &mut LaneClaim<'_>,
        until: Deadline,
    ) -> Option<Option<Result<R, CallError>>> {
        let context = &call.context;
        // A thread that waits for a certain time only does not begin what it might not finish.
        if until.instant().is_none()
            && self.may_follow(claim, position)
            && claim.is_announced()
            && let Some(outcome) = self.follow_slow(claim, Kind::Call, context)
        {
            claim.forget_call(position);
            self.cancel_timer(call);
            return Some(Some(outcome));
        }
        if self.is_stuck(claim) {
            self.end_calls(claim);
            return Some(None);
        }
        match self.wait_on(claim, position, context.deadline().earlier(until)) {
            Waited::Ready if claim.is_wanted() => self.attend_while_waiting(claim),
            Waited::Ready => {}
            Waited::DeadlinePassed => return None,
            Waited::Dead => {
                self.settle_ready(claim);
                self.end_calls(claim);
            }
        }
        Some(None)
    }

    /// Wakes nobody any more when the call's time is over.
    #[inline]
    fn cancel_timer<R: Reply>(&self, call: &Call<R>) {
        if call.context.deadline().instant().is_some() {
            let timer = call.state.lock().timer.take();
            self.timers.cancel(timer);
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
        let started = match at {
            CallPlace::Nowhere => started,
            at => self.withdraw_at(at, &call.context, exactness).unwrap_or(Started::No),
        };
        // Last, and not under the lock: destructors are the user's code, and may panic.
        drop((outcome, waker));
        started
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
        self.watch_overdue((lane, position), context);
        started
    }

    /// Has a call that nobody waits for any more cost the child its life if it goes on for too long.
    pub(super) fn watch_overdue(&self, at: (u32, u64), context: &CallContext) {
        let overdue = self.overdue.as_ref();
        // A share of no timeout is no time.
        if let Some(overdue) = overdue.filter(|overdue| context.limit.timeout.is_some() || overdue.has_fixed_grace()) {
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), at, Instant::now());
        }
    }

    /// Notes a call's deadline in the frame that is about to be published.
    #[cold]
    pub(super) fn note_deadline(&self, claim: &LaneClaim<'_>, deadline: Instant) {
        claim.set_deadline(clock::nanos_of(deadline));
    }
}
