//! A call whose method calls back, as a task has it: it answers questions when it is polled.
//!
//! The task has the lane from the request to the method's value, like a thread that waits; between polls the lane is lent to it. The child rings for each
//! question, and the reactor wakes the task. Without a lane, the request is kept encoded.

#![forbid(unsafe_code)]

use super::conversation::{Answerer, ConversationState, OpenConversation};
use super::settle::WakerCell;
use super::shared_lane::SharedLane;
use super::{Ask, CallContext, Caller, LaneClaim};
use crate::current;
use crate::gate::Borrower;
use crate::nest;
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::error::CallError;
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use callgate_transport::written_frame::WrittenFrame;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How often a poll goes on with a method that asks again at once.
const TURNS: u32 = 32;

/// A call that has begun, and whose method may call back: for whoever polls it.
///
/// If it is dropped, its method is ended when it asks next; if it has not started, it never runs.
pub struct PendingConversation<R: Reply> {
    caller: Arc<Caller>,
    context: CallContext,
    phase: ConversationPhase<R>,
    state: ConversationState,
    borrower: Borrower,
    waker: Arc<WakerCell>,
    timer: Option<(Instant, u64)>,
}

enum ConversationPhase<R> {
    /// Encoded, and not sent.
    Written(UnsentRequest),
    /// It has this lane; its last request is at `position`.
    Talking {
        lane: usize,
        position: u64,
    },
    Done(Result<R, CallError>),
    Taken(PhantomData<R>),
}

/// A request that has no lane yet.
struct UnsentRequest {
    call: u64,
    /// What the child must be told before it: the number of an interface, and where that is.
    bind: Option<(u64, (u64, u64))>,
    written: WrittenFrame,
}

impl Caller {
    /// Begins a call whose method calls back. Never waits, except within a callback of a call to the same child, which has the child for itself: there
    /// the call is made at once.
    pub fn begin_conversing<A: Request, R: Reply>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
        callbacks: &mut Answerer<'_>,
    ) -> PendingConversation<R> {
        let mut context = CallContext::new(method, timeout);
        if nest::current().is_some() {
            context.inherit(current::deadline());
        }
        let mut args = Some(args);
        let phase = match self.lent_lane() {
            Some(_) => ConversationPhase::Done(self.call_conversing(&context, &mut args, callbacks)),
            None => self
                .written(&context, &args)
                .map_or_else(|error| ConversationPhase::Done(Err(error)), ConversationPhase::Written),
        };
        let mut begun = self.conversing(context, phase);
        begun.state.at = nest::current();
        // If it finds no lane now, a poll looks again.
        if let Err(error) = begun.send() {
            begun.leave();
            begun.phase = ConversationPhase::Done(Err(error));
        }
        begun
    }

    /// A call that could not be begun.
    pub fn conversing_failed<R: Reply>(
        self: &Arc<Self>,
        method: &'static Method,
        error: CallError,
    ) -> PendingConversation<R> {
        self.conversing(CallContext::new(method, None), ConversationPhase::Done(Err(error)))
    }

    fn conversing<R: Reply>(
        self: &Arc<Self>,
        context: CallContext,
        phase: ConversationPhase<R>,
    ) -> PendingConversation<R> {
        let (caller, state, waker) = (self.clone(), ConversationState::default(), Arc::default());
        PendingConversation { caller, context, phase, state, borrower: Borrower::new(), waker, timer: None }
    }

    fn written<A: Request>(&self, context: &CallContext, args: &Option<A>) -> Result<UnsentRequest, CallError> {
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        self.may_converse(context)?;
        if let Some(at) = nest::current() {
            self.may_nest(at, context)?;
        }
        let bind = context.method.interface.map(|interface| self.interface_ahead(interface, context)).transpose()?;
        let (interface, place) = bind.unwrap_or_default();
        let Some(args) = args else { return Err(self.spent_slow(context)) };
        let alloc = &AllocContext { pool: &*self.pool, limit: &context.limit, wait: None };
        let written =
            WrittenFrame::new(args, self.slot_capacity, alloc).map_err(|error| self.unsent(error, context))?;
        Ok(UnsentRequest { call: context.method.word(interface), bind: place.map(|place| (interface, place)), written })
    }

    /// A lane for a conversation: one with nothing under way if there is one, otherwise one with room.
    fn claim_to_converse(&self, requests: u64, context: &CallContext) -> Result<Option<LaneClaim<'_>>, CallError> {
        let idle = match self.closing_lane(context).or_else(|| self.one_way_lane()) {
            Some(_) => None,
            None => self.lanes_from(self.preferred_lane()).find_map(|lane| self.claim_if_idle(lane)),
        };
        let idle = idle.filter(|claim| claim.credit() >= requests);
        idle.map_or_else(|| self.claim_with_room(requests, context), |idle| Ok(Some(idle)))
    }
}

impl Caller {
    /// The lanes that a call may go to.
    fn lanes_for(&self, context: &CallContext) -> &[SharedLane] {
        match self.closing_lane(context).or_else(|| self.one_way_lane()) {
            Some(lane) => &self.lanes[lane..=lane],
            None => &self.lanes,
        }
    }
}

impl<R: Reply> PendingConversation<R> {
    /// The side that has called.
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    pub fn method(&self) -> &'static Method {
        self.context.method
    }

    /// Answers the questions that are there by `callbacks`. Returns the outcome, if it is there. Never waits, but for what a callback waits for. After `None`,
    /// `waker` is woken when there is more to do.
    ///
    /// # Panics
    ///
    /// If the outcome has been taken. If a callback does: with the same payload, once the method has ended.
    pub fn poll(&mut self, waker: &Waker, callbacks: &mut Answerer<'_>) -> Option<Result<R, CallError>> {
        self.waker.set(waker.clone());
        for _ in 0..TURNS {
            match self.try_poll(callbacks) {
                Ok(Polled::Outcome(outcome)) => return Some(self.finish(outcome)),
                Ok(Polled::Again) => {}
                Ok(Polled::Pending) => {
                    self.wake_in_time();
                    return None;
                }
                Err(error) => return Some(self.finish(Err(error))),
            }
        }
        // Other tasks of its thread have their turn.
        waker.wake_by_ref();
        None
    }

    /// Waits for the outcome, and answers the questions that come before it.
    ///
    /// # Errors
    ///
    /// Those of the call.
    ///
    /// # Panics
    ///
    /// As [`poll`](Self::poll).
    pub fn wait(&mut self, callbacks: &mut Answerer<'_>) -> Result<R, CallError> {
        let caller = self.caller.clone();
        if let Err(error) = self.get_lane(&caller) {
            return self.finish(Err(error));
        }
        let Some(mut talk) = self.talk(&caller) else { return self.take_done() };
        let outcome = caller.take_turns(&mut talk, callbacks);
        self.state = mem::take(&mut talk.state);
        drop(talk);
        self.finish(outcome)
    }

    /// Sends the request, if that has not been done, and waits for a lane for it.
    fn get_lane(&mut self, caller: &Caller) -> Result<(), CallError> {
        if caller.peer.is_in_fork() {
            return Err(caller.in_fork_slow(&self.context));
        }
        let requests = match &self.phase {
            ConversationPhase::Written(unsent) => unsent.requests(),
            ConversationPhase::Talking { .. } => return caller.may_wait_here(&self.context),
            _ => return Ok(()),
        };
        caller.may_wait_here(&self.context)?;
        let claim = match caller.claim_to_converse(requests, &self.context)? {
            Some(claim) => claim,
            None => {
                let mut claim = caller.claim_idle(&self.context)?;
                caller.wait_for_room_of(requests, &mut claim, &self.context)?;
                claim
            }
        };
        self.send_on(claim)
    }

    fn take_done(&mut self) -> Result<R, CallError> {
        match mem::replace(&mut self.phase, ConversationPhase::Taken(PhantomData)) {
            ConversationPhase::Done(outcome) => self.finish(outcome),
            _ => panic!("a pending call's outcome can be taken once"),
        }
    }

    /// What the call comes to.
    fn finish(&mut self, outcome: Result<R, CallError>) -> Result<R, CallError> {
        self.leave();
        mem::take(&mut self.state).outcome(outcome)
    }

    fn leave(&mut self) {
        self.caller.timers.cancel(self.timer.take());
        if let ConversationPhase::Written(unsent) = mem::replace(&mut self.phase, ConversationPhase::Taken(PhantomData))
        {
            self.caller.discard_written(unsent.written);
        }
    }

    fn try_poll(&mut self, callbacks: &mut Answerer<'_>) -> Result<Polled<R>, CallError> {
        let caller = self.caller.clone();
        if caller.peer.is_in_fork() {
            return Err(caller.in_fork_slow(&self.context));
        }
        match &self.phase {
            ConversationPhase::Written(_) => return self.find_lane(),
            ConversationPhase::Talking { .. } => {}
            ConversationPhase::Done(_) | ConversationPhase::Taken(_) => return Ok(Polled::Outcome(self.take_done())),
        }
        let Some(mut talk) = self.talk(&caller) else {
            unreachable!("whoever talks has its lane");
        };
        // A fast method never leaves its task.
        talk.lane().poll_briefly(&caller.peer.peer_status);
        let outcome = caller.take_turn(&mut talk, callbacks);
        self.state = mem::take(&mut talk.state);
        match outcome {
            Some(outcome) => Ok(Polled::Outcome(outcome)),
            None => self.keep_listening(&caller, talk),
        }
    }

    /// Leaves the lane to this call, and has its task woken for the next reply, unless that is there or will never be.
    fn keep_listening(&mut self, caller: &Caller, mut talk: OpenConversation<'_>) -> Result<Polled<R>, CallError> {
        if self.context.deadline().has_passed() {
            return Err(caller.give_up_late(&mut talk));
        }
        if caller.peer.peer_status.exit().is_some() && !talk.lane().is_answered() {
            return Err(caller.ended_in(&mut talk));
        }
        let (position, lane) = (talk.position, talk.lane());
        let index = lane.index() as usize;
        *caller.lanes[index].task.lock() = Some((lane.replies().position(), self.waker.clone()));
        let is_there = lane.listen();
        // The end may have come before the task could be seen.
        let has_ended = caller.peer.peer_status.exit().is_some();
        self.phase = ConversationPhase::Talking { lane: index, position };
        if let Some(claim) = talk.claim.take() {
            claim.lend_to(&mut self.borrower);
        }
        Ok(if is_there || has_ended { Polled::Again } else { Polled::Pending })
    }

    /// The conversation, with the lane that is lent to it; `None` if it has none.
    fn talk<'a>(&mut self, caller: &'a Caller) -> Option<OpenConversation<'a>> {
        let ConversationPhase::Talking { lane, position } = self.phase else { return None };
        // Until it listens again: a panic in the user's code ends it.
        self.phase = ConversationPhase::Taken(PhantomData);
        let claim = caller.lanes[lane].gate.take_back(&mut self.borrower, caller)?;
        claim.disarm();
        *caller.lanes[lane].task.lock() = None;
        let state = mem::take(&mut self.state);
        Some(OpenConversation::new(caller, claim, position, &self.context, state))
    }

    /// Sends the request, if there is a lane for it; otherwise has the task woken when one is left.
    fn find_lane(&mut self) -> Result<Polled<R>, CallError> {
        if self.context.deadline().has_passed() {
            return Err(self.caller.late(&self.context));
        }
        if self.send()? {
            return Ok(Polled::Again);
        }
        let (caller, requests) = (self.caller.clone(), self.requests());
        caller.freed.enter_task(&self.waker);
        // Whoever has a lane now notices the wish when it leaves; one that is full is listened to; one that has been left since is free.
        let mut has_room = false;
        for lane in caller.lanes_for(&self.context) {
            if let Some(mut claim) = lane.gate.want(&*caller) {
                match claim.credit() >= requests {
                    true => has_room = true,
                    false => claim.owe(),
                }
            }
        }
        Ok(if has_room { Polled::Again } else { Polled::Pending })
    }

    fn requests(&self) -> u64 {
        if let ConversationPhase::Written(unsent) = &self.phase { unsent.requests() } else { 0 }
    }

    /// Sends the request if there is a lane with room. Returns whether it has been sent.
    fn send(&mut self) -> Result<bool, CallError> {
        let ConversationPhase::Written(unsent) = &self.phase else { return Ok(false) };
        let caller = self.caller.clone();
        match caller.claim_to_converse(unsent.requests(), &self.context)? {
            Some(claim) => self.send_on(claim).map(|()| true),
            None => Ok(false),
        }
    }

    /// Sends the request on a lane with room for it, which is lent to this call from then on.
    fn send_on(&mut self, mut claim: LaneClaim<'_>) -> Result<(), CallError> {
        let caller = self.caller.clone();
        let ConversationPhase::Written(unsent) = mem::replace(&mut self.phase, ConversationPhase::Taken(PhantomData))
        else {
            return Ok(());
        };
        let UnsentRequest { call, bind, written } = unsent;
        if let Some((interface, place)) = bind {
            let ask = Ask { kind: Kind::Bind, call: interface };
            if let Err(error) = caller.send_on(&mut claim, ask, place, &self.context) {
                caller.discard_written(written);
                return Err(error);
            }
        }
        let call = self.state.at.map_or(call, |at| caller.nest(&mut claim, at, call));
        let len = claim.adopt(written, &*caller.pool);
        let position = caller.publish_on(&mut claim, Ask { kind: Kind::Call, call }, len, &self.context);
        self.phase = ConversationPhase::Talking { lane: claim.index() as usize, position };
        claim.lend_to(&mut self.borrower);
        Ok(())
    }

    /// Has the task woken when the call's time is over.
    fn wake_in_time(&mut self) {
        if let (Some(due), None) = (self.context.deadline().instant(), self.timer) {
            self.timer = Some(self.caller.timers.wake_at(due, &self.waker));
        }
    }
}

/// What a poll has found.
enum Polled<R> {
    Outcome(Result<R, CallError>),
    /// There is more to do.
    Again,
    Pending,
}

impl UnsentRequest {
    fn requests(&self) -> u64 {
        1 + u64::from(self.bind.is_some())
    }
}

impl<R: Reply> Drop for PendingConversation<R> {
    fn drop(&mut self) {
        let caller = self.caller.clone();
        if caller.peer.is_in_fork() {
            return;
        }
        // What is dropped in the middle is given up.
        drop(self.talk(&caller));
        self.leave();
    }
}
