//! Calls that their caller does not wait in: each has its state in private memory, and a lane only while a request is written or a reply taken.
//!
//! | state | next | who | when |
//! |---|---|---|---|
//! | New | Queued | the caller | every lane is full: the request is in the [queue](super::queue) |
//! | New, Queued | Sent | the caller; whoever has a lane with room | just before the request is published |
//! | Sent | Moved | the reactor | the reply is there, and no thread of the call's own takes it now |
//! | any | Done | whoever has the lane; the caller; whoever notices the end | the outcome is known |
//! | Moved, Done | Taken | the call's owner | it has the outcome |
//!
//! Whoever has the lane [attends](super::attend) to its calls. A thread that waits for one has the lane, or is told when it may have it.

#![forbid(unsafe_code)]

use super::batch;
use super::queue::QueuedRequest;
use super::settle::{Exactness, Settle, WaitedBy};
use super::{Ask, CallContext, Caller, LaneClaim, MayWait};
use crate::nest;
use crate::service::Method;
use callgate_os::clock;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{CallError, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::moved_reply::MovedReply;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use callgate_transport::written_frame::WrittenFrame;
use parking_lot::{Condvar, Mutex};
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// The state that a call's owner shares with whoever has its lane.
pub(super) struct Call<R> {
    context: CallContext,
    state: Mutex<CallState<R>>,
    /// Notified when the outcome is there, or the thread may have the lane.
    changed: Condvar,
}

struct CallState<R> {
    phase: CallPhase<R>,
    waker: Option<Waker>,
    is_abandoned: bool,
    /// A thread waits for it.
    is_awaited: bool,
    /// The lane that this thread may have.
    turn: Option<u32>,
    /// The reactor's timer for its deadline.
    timer: Option<(Instant, u64)>,
}

enum CallPhase<R> {
    New,
    Queued(u64),
    Sent { lane: u32, position: u64 },
    Moved(MovedReply),
    Done(Result<R, CallError>),
    Taken,
}

impl<R> CallPhase<R> {
    /// Whether a call that has an outcome had started. Yes, unless that says that it was never sent, or was lost before.
    fn started(&self) -> Started {
        match self {
            CallPhase::Done(Err(CallError::Busy { .. } | CallError::Down { .. })) => Started::No,
            CallPhase::Done(Err(
                CallError::Died { started, .. }
                | CallError::TimedOut { started, .. }
                | CallError::Stopped { started, .. },
            )) => *started,
            _ => Started::Yes,
        }
    }
}

/// Where a call is that has no outcome yet.
enum CallPlace {
    Queue(u64),
    Lane(u32, u64),
    Nowhere,
}

impl<R: Reply> Call<R> {
    fn new(context: CallContext) -> Self {
        let state = CallState {
            phase: CallPhase::New,
            waker: None,
            is_abandoned: false,
            is_awaited: false,
            turn: None,
            timer: None,
        };
        Self { context, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn finish(&self, outcome: Result<R, CallError>) {
        self.enter(CallPhase::Done(outcome));
    }

    /// Enters a last phase and tells whoever waits.
    fn enter(&self, phase: CallPhase<R>) {
        let mut state = self.state.lock();
        if state.is_abandoned || matches!(state.phase, CallPhase::Done(_) | CallPhase::Taken) {
            drop(state);
            // Not under the lock: a value's destructor is the user's code.
            return drop(phase);
        }
        state.phase = phase;
        let waker = state.waker.take();
        if state.is_awaited {
            self.changed.notify_one();
        }
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn at(state: &CallState<R>) -> CallPlace {
        match state.phase {
            CallPhase::Queued(number) => CallPlace::Queue(number),
            CallPhase::Sent { lane, position } => CallPlace::Lane(lane, position),
            _ => CallPlace::Nowhere,
        }
    }

    /// Notes that this thread is about to sleep until something changes. Returns where the call is.
    fn await_change(&self) -> CallPlace {
        let mut state = self.state.lock();
        (state.is_awaited, state.turn) = (true, None);
        Self::at(&state)
    }

    /// Sleeps until the call has an outcome, this thread may have its lane, or the time is over. Returns the lane.
    fn sleep(&self, until: Deadline) -> Option<u32> {
        let mut state = self.state.lock();
        let earliest = self.context.deadline().earlier(until).instant();
        while matches!(state.phase, CallPhase::New | CallPhase::Queued(_) | CallPhase::Sent { .. })
            && state.turn.is_none()
        {
            match earliest {
                None => self.changed.wait(&mut state),
                Some(at) if self.changed.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
            }
        }
        state.turn
    }

    fn has_outcome(&self) -> bool {
        matches!(self.state.lock().phase, CallPhase::Moved(_) | CallPhase::Done(_) | CallPhase::Taken)
    }
}

impl<R: Reply> Settle for Call<R> {
    fn context(&self) -> CallContext {
        self.context
    }

    fn queued(&self, number: u64) {
        self.state.lock().phase = CallPhase::Queued(number);
    }

    fn send(&self, (lane, position): (u32, u64), publish: &mut dyn FnMut()) -> bool {
        let mut state = self.state.lock();
        let is_wanted = !state.is_abandoned && matches!(state.phase, CallPhase::New | CallPhase::Queued(_));
        if is_wanted {
            // Under the lock, so that nobody withdraws a request that is yet to be published.
            publish();
            state.phase = CallPhase::Sent { lane, position };
        }
        is_wanted
    }

    fn settle(&self, caller: &Caller, claim: &mut LaneClaim<'_>) -> bool {
        if self.state.lock().is_abandoned {
            return caller.drop_next(claim, &self.context).unwrap_or(true);
        }
        let position = claim.replies().position();
        match caller.take::<R>(claim, position, Kind::Call, &self.context) {
            Some(outcome) => {
                self.finish(outcome);
                true
            }
            None => false,
        }
    }

    fn hold(&self, reply: MovedReply) {
        self.enter(CallPhase::Moved(reply));
    }

    fn fail(&self, error: CallError) {
        self.finish(Err(error));
    }

    fn waited_by(&self) -> WaitedBy {
        let state = self.state.lock();
        match (state.is_abandoned, state.is_awaited, &state.waker) {
            (true, ..) => WaitedBy::Abandoned,
            (_, true, _) => WaitedBy::Thread,
            (.., Some(_)) => WaitedBy::Task,
            _ => WaitedBy::None,
        }
    }

    fn give_turn(&self, lane: u32) {
        self.state.lock().turn = Some(lane);
        self.changed.notify_one();
    }

    fn wake(&self) {
        let waker = self.state.lock().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A call that has begun, for whoever may take its outcome: once.
///
/// If it is dropped before it has started, it never runs. In a fork it does nothing: the call belongs to the process that was forked.
pub struct PendingCall<R: Reply> {
    caller: Arc<Caller>,
    call: Arc<Call<R>>,
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
    /// Begins a call: sends its request, or has it sent as soon as there is room. Never waits: this thread may itself hold what it would wait for.
    pub fn begin<A: Request, R: Reply>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> PendingCall<R> {
        let call = self.start(CallContext::new(method, timeout), &mut Some(args), Sending::Begun);
        PendingCall { caller: self.clone(), call }
    }

    /// A call that could not be begun.
    pub fn begin_failed<R: Reply>(self: &Arc<Self>, method: &'static Method, error: CallError) -> PendingCall<R> {
        let call = Arc::new(Call::new(CallContext::new(method, None)));
        call.fail(error);
        PendingCall { caller: self.clone(), call }
    }

    /// Makes a call that found no idle lane: behind others, like any call that has begun.
    #[cold]
    pub(super) fn call_behind<A: Request, R: Reply>(
        &self,
        context: CallContext,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<R, CallError> {
        let call = self.start(context, args, sending);
        match self.wait_for(&call, Deadline::NEVER) {
            Some(outcome) => outcome,
            None => unreachable!("a wait without a deadline ends with an outcome"),
        }
    }

    fn start<A: Request, R: Reply>(
        &self,
        context: CallContext,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Arc<Call<R>> {
        let call = Arc::new(Call::new(context));
        if let Err(error) = self.try_start(&call, args, sending) {
            call.fail(error);
        }
        call
    }

    fn try_start<A: Request, R: Reply>(
        &self,
        call: &Arc<Call<R>>,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<(), CallError> {
        let context = &call.context;
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        if let Some(at) = nest::current() {
            self.may_nest(at, context)?;
        }
        if self.peer.peer_status.is_over() {
            return Err(self.over(Started::No, context));
        }
        let bind = context.method.interface.map(|interface| self.interface_ahead(interface, context)).transpose()?;
        // None passes those that wait already.
        if self.queue.is_empty()
            && let Some(claim) = self.claim_with_room(1 + u64::from(matches!(bind, Some((_, Some(_))))), context)?
        {
            return self.send_now(claim, call, bind, args, sending);
        }
        if nest::current().is_some() {
            let why = format!("all {} lanes of the bridge are full, and a nested call does not wait", self.lanes.len());
            return Err(CallError::Refused { call: context.name(), why });
        }
        self.send_later(call, bind, args, sending)
    }

    /// Sends a request on a lane with room for it.
    fn send_now<A: Request, R: Reply>(
        &self,
        mut claim: LaneClaim<'_>,
        call: &Arc<Call<R>>,
        bind: Option<(u64, Option<(u64, u64)>)>,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<(), CallError> {
        let context = &call.context;
        let (interface, place) = bind.unwrap_or_default();
        if let Some(place) = place {
            self.send_on(&mut claim, Ask { kind: Kind::Bind, call: interface }, place, context)?;
        }
        let word = context.method.word(interface);
        let word = nest::current().map_or(word, |at| self.nest(&mut claim, at, word));
        let ask = Ask { kind: Kind::Call, call: word };
        let Some(kept) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let len = self.write_on(&mut claim, ask.kind, kept, sending.may_wait(), context)?;
        if sending != Sending::Kept || claim.carries_boxes() {
            *args = None;
        }
        let at = (claim.index(), claim.position());
        let is_sent = call.send(at, &mut || {
            self.publish_begun(&mut claim, ask, len, context);
        });
        if is_sent {
            claim.pending.push_back((at.1, call.clone()));
        }
        // Other calls must not wait for blocks that come back only when this call's owner asks for the reply.
        claim.give_up(&*self.pool);
        self.note_due(context, at);
        Ok(())
    }

    /// Encodes a request, to be sent when there is room.
    #[cold]
    fn send_later<A: Request, R: Reply>(
        &self,
        call: &Arc<Call<R>>,
        bind: Option<(u64, Option<(u64, u64)>)>,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<(), CallError> {
        let context = &call.context;
        let Some(kept) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let wait = (sending.may_wait() == MayWait::Yes).then_some(context.deadline());
        let alloc = &AllocContext { pool: &*self.pool, limit: &context.limit, wait };
        let written =
            WrittenFrame::new(kept, self.slot_capacity, alloc).map_err(|error| self.unsent(error, context))?;
        if sending != Sending::Kept || written.carries_boxes() {
            *args = None;
        }
        failpoints::reach(Step::ParentRequestQueued);
        let (interface, place) = bind.unwrap_or_default();
        let ask = Ask { kind: Kind::Call, call: context.method.word(interface) };
        let bind = place.map(|place| (interface, place));
        let lane = self.one_way_lane().map(|lane| lane as u32);
        self.enqueue(QueuedRequest { call: call.clone(), ask, bind, written, lane })
    }

    /// Notes when a call is overdue: nobody may look at it by then.
    fn note_due(&self, context: &CallContext, at: (u32, u64)) {
        if let (Some(overdue), Some(due)) = (&self.overdue, context.deadline().instant()) {
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), at, due);
        }
    }

    // ---- its owner -------------------------------------------------------------------------------------------------

    /// The outcome of a call, if it is there.
    fn outcome_of<R: Reply>(&self, call: &Call<R>) -> Option<Result<R, CallError>> {
        let mut state = call.state.lock();
        if !matches!(state.phase, CallPhase::Moved(_) | CallPhase::Done(_) | CallPhase::Taken) {
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
            return Some(self.expire(call));
        }
        let at = {
            let mut state = call.state.lock();
            if waker.is_some() {
                state.waker = waker.cloned();
            }
            Call::at(&state)
        };
        if let CallPlace::Lane(lane, _) = at
            && let Some(mut claim) = self.lanes[lane as usize].gate.want(self)
        {
            self.settle_ready(&mut claim);
            if !call.has_outcome() && waker.is_some() {
                // A fast call never leaves its task.
                claim.poll_briefly(&self.peer.peer_status);
                self.settle_ready(&mut claim);
            }
            claim.owe();
        }
        if let Some(outcome) = self.outcome_of(call) {
            return Some(outcome);
        }
        if waker.is_some()
            && let Some(due) = context.deadline().instant()
        {
            let timer = self.timers.wake_at(due, call);
            let old = mem::replace(&mut call.state.lock().timer, Some(timer));
            self.timers.cancel(old);
        }
        None
    }

    fn wait_for<R: Reply>(&self, call: &Arc<Call<R>>, until: Deadline) -> Option<Result<R, CallError>> {
        batch::notify_begun();
        let context = &call.context;
        if self.peer.is_in_fork() {
            return Some(Err(self.in_fork_slow(context)));
        }
        let mut turn = None;
        let outcome = loop {
            if let Some(outcome) = self.outcome_of(call) {
                break Some(outcome);
            }
            if context.deadline().has_passed() {
                break Some(self.expire(call));
            }
            if until.has_passed() {
                break None;
            }
            let at = call.await_change();
            if let CallPlace::Lane(lane, position) = at
                && let Some(mut claim) = self.lanes[lane as usize].gate.want(self)
            {
                turn = None;
                self.watch(call, position, &mut claim, until);
                claim.owe();
            } else {
                turn = call.sleep(until);
            }
        };
        call.state.lock().is_awaited = false;
        // A turn that was given and not used goes to the next.
        if let Some(mut claim) = turn.and_then(|lane| self.lanes[lane as usize].gate.want(self)) {
            claim.owe();
        }
        outcome
    }

    /// Waits at a lane until the call has an outcome or the time is over, and takes every reply that comes.
    fn watch<R: Reply>(&self, call: &Call<R>, position: u64, claim: &mut LaneClaim<'_>, until: Deadline) {
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
        let timer = (state.timer.take(), mem::replace(&mut state.phase, CallPhase::Taken)).0;
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
        let started = outcome.started();
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
        if let Some(overdue) = &self.overdue {
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

/// How a request is sent that no thread waits in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// At once: its caller does not wait.
    Begun,
    /// For a thread that waits, and may wait for memory.
    Waited,
    /// The same; the arguments stay, to be sent again, unless the callee has been given some of their memory.
    Kept,
}

impl Sending {
    fn may_wait(self) -> MayWait {
        if self == Sending::Begun { MayWait::No } else { MayWait::Yes }
    }
}
