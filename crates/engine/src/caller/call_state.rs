//! The state of a call that its caller does not wait in, in private memory: it has a lane only while a request is written or a reply taken.
//!
//! | state | next | who | when |
//! |---|---|---|---|
//! | New | Queued | the caller | every lane is full: the request is in the [queue](super::queue) |
//! | – | Sent | the caller | the request has been published on a lane with room |
//! | Queued | Sent | whoever has a lane with room | just before the request is published |
//! | Sent | Moved | the reactor | the reply is there, and no thread of the call's own takes it now |
//! | any | Done | whoever has the lane; the caller; whoever notices the end | the outcome is known |
//! | Moved, Done | Taken | the call's owner | it has the outcome |
//!
//! Whoever has the lane [attends](super::attend) to its calls. A thread that waits for one has the lane, or is told when it may have it.

#![forbid(unsafe_code)]

use super::settle::{self, Settle, WaitedBy, Wakes};
use super::{CallContext, Caller, LaneClaim};
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::CallError;
use callgate_transport::moved_reply::MovedReply;
use callgate_transport::reply::Reply;
use parking_lot::{Condvar, Mutex};
use std::task::Waker;
use std::time::Instant;

/// The state that a call's owner shares with whoever has its lane.
pub(super) struct Call<R> {
    pub(super) context: CallContext,
    /// The lane and the position where it was sent as it began; `None` if it was queued.
    pub(super) sent: Option<(u32, u64)>,
    pub(super) state: Mutex<CallState<R>>,
    /// Notified when the outcome is there, or the thread may have the lane.
    changed: Condvar,
}

pub(super) struct CallState<R> {
    pub(super) phase: CallPhase<R>,
    pub(super) waker: Option<Waker>,
    pub(super) is_abandoned: bool,
    /// A thread waits for it.
    pub(super) is_awaited: bool,
    /// The lane that this thread may have.
    pub(super) turn: Option<u32>,
    /// The reactor's timer for its deadline.
    pub(super) timer: Option<(Instant, u64)>,
}

pub(super) enum CallPhase<R> {
    New,
    Queued(u64),
    Sent {
        lane: u32,
        position: u64,
    },
    /// Boxed: a reply has the alignment of a cache line, which would make every call's memory expensive.
    Moved(Box<MovedReply>),
    Done(Result<R, CallError>),
    Taken,
}

impl<R> CallPhase<R> {
    /// Whether the outcome is known, or was.
    pub(super) fn has_outcome(&self) -> bool {
        matches!(self, Self::Moved(_) | Self::Done(_) | Self::Taken)
    }
}

/// Where a call is that has no outcome yet.
pub(super) enum CallPlace {
    Queue(u64),
    Lane(u32, u64),
    Nowhere,
}

impl<R: Reply> Call<R> {
    pub(super) fn new(context: CallContext) -> Self {
        Self::in_phase(CallPhase::New, context, None)
    }

    /// A call whose request has just been published.
    pub(super) fn sent(context: CallContext, (lane, position): (u32, u64)) -> Self {
        Self::in_phase(CallPhase::Sent { lane, position }, context, Some((lane, position)))
    }

    fn in_phase(phase: CallPhase<R>, context: CallContext, sent: Option<(u32, u64)>) -> Self {
        let state = CallState { phase, waker: None, is_abandoned: false, is_awaited: false, turn: None, timer: None };
        Self { context, sent, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn finish(&self, outcome: Result<R, CallError>) {
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
        settle::wake(waker);
    }

    pub(super) fn at(state: &CallState<R>) -> CallPlace {
        match state.phase {
            CallPhase::Queued(number) => CallPlace::Queue(number),
            CallPhase::Sent { lane, position } => CallPlace::Lane(lane, position),
            _ => CallPlace::Nowhere,
        }
    }

    /// Has this waker woken when something changes.
    pub(super) fn wake_by(&self, waker: Option<&Waker>) {
        // Wakers are the user's code: none is cloned or dropped under the lock.
        let Some(waker) = waker.cloned() else { return };
        let old = self.state.lock().waker.replace(waker);
        drop(old);
    }

    /// Notes that this thread is about to sleep until something changes. Returns where the call is.
    pub(super) fn await_change(&self) -> CallPlace {
        let mut state = self.state.lock();
        state.is_awaited = true;
        Self::at(&state)
    }

    /// Sleeps until the call has an outcome, this thread may have its lane, or the time is over.
    pub(super) fn sleep(&self, until: Deadline) {
        let mut state = self.state.lock();
        let earliest = self.context.deadline().earlier(until).instant();
        while !state.phase.has_outcome() && state.turn.is_none() {
            match earliest {
                None => self.changed.wait(&mut state),
                Some(at) if self.changed.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
            }
        }
    }

    pub(super) fn has_outcome(&self) -> bool {
        self.state.lock().phase.has_outcome()
    }

    /// Notes that no thread waits for it any more. Returns the lane that it was given and has not used.
    pub(super) fn end_wait(&self) -> Option<u32> {
        let mut state = self.state.lock();
        state.is_awaited = false;
        state.turn.take()
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
        let Some(position) = claim.next_position() else { return false };
        match caller.take::<R>(claim, position, Kind::Call, &self.context) {
            Some(outcome) => {
                self.finish(outcome);
                true
            }
            None => false,
        }
    }

    fn hold(&self, reply: MovedReply) {
        self.enter(CallPhase::Moved(Box::new(reply)));
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

    fn give_turn(&self, lane: u32) -> bool {
        let mut state = self.state.lock();
        if state.is_awaited {
            state.turn = Some(lane);
            self.changed.notify_one();
        }
        state.is_awaited
    }
}

impl<R: Reply> Wakes for Call<R> {
    fn wake(&self) {
        let waker = self.state.lock().waker.take();
        settle::wake(waker);
    }
}
