//! How a call begins that its caller does not wait in: on a lane with room, or encoded in the queue.
//!
//! Never waits.

#![forbid(unsafe_code)]

use super::call_state::Call;
use super::pending::PendingCall;
use super::queue::QueuedRequest;
use super::settle::Settle;
use super::{Ask, CallContext, Caller, LaneClaim, MayWait};
use crate::current;
use crate::nest;
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::{CallError, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use callgate_transport::written_frame::WrittenFrame;
use std::sync::Arc;
use std::time::Duration;

impl Caller {
    /// Begins a call: sends its request, or has it sent as soon as there is room. Never waits: this thread may itself hold what it would wait for.
    pub fn begin<A: Request, R: Reply>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> PendingCall<R> {
        let context = CallContext::new(method, timeout);
        // Nested calls have no lane of their own.
        if method.interface.is_none()
            && !self.is_closing(&context)
            && !self.peer.is_in_fork()
            && let Some(claim) = self.claim_own_with_room()
        {
            let ask = Ask { kind: Kind::Call, call: method.word(0) };
            let sent = self.send_begun(claim, ask, args, &context);
            let call = sent.unwrap_or_else(|error| failed(context, error));
            return PendingCall::new(self.clone(), call);
        }
        self.begin_slow(context, args)
    }

    #[inline(never)]
    fn begin_slow<A: Request, R: Reply>(self: &Arc<Self>, mut context: CallContext, args: A) -> PendingCall<R> {
        if nest::current().is_some() {
            context.inherit(current::deadline());
        }
        let call = self.start(context, &mut Some(args), Sending::Begun);
        PendingCall::new(self.clone(), call)
    }

    /// Sends the request of a call that has just begun.
    #[inline(always)]
    fn send_begun<A: Request, R: Reply>(
        &self,
        mut claim: LaneClaim<'_>,
        ask: Ask,
        args: A,
        context: &CallContext,
    ) -> Result<Arc<Call<R>>, CallError> {
        let len = self.write_on(&mut claim, ask.kind, &args, MayWait::No, context)?;
        drop(args);
        Ok(self.publish_call(&mut claim, ask, len, context))
    }

    /// Publishes the written request of a call that no thread waits in.
    #[inline(always)]
    fn publish_call<R: Reply>(
        &self,
        claim: &mut LaneClaim<'_>,
        ask: Ask,
        len: usize,
        context: &CallContext,
    ) -> Arc<Call<R>> {
        let at = (claim.index(), claim.position());
        self.publish_begun(claim, ask, len, context);
        let call = Arc::new(Call::sent(*context, at));
        self.announce_begun(claim);
        claim.pending.push_back((at.1, call.clone()));
        // Other calls must not wait for blocks that come back only when this call's owner asks for the reply.
        claim.give_up(&*self.pool);
        self.note_due(context, at);
        call
    }

    /// A call that could not be begun.
    pub fn begin_failed<R: Reply>(self: &Arc<Self>, method: &'static Method, error: CallError) -> PendingCall<R> {
        PendingCall::new(self.clone(), failed(CallContext::new(method, None), error))
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

    pub(super) fn start<A: Request, R: Reply>(
        &self,
        context: CallContext,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Arc<Call<R>> {
        if nest::is_calling_back() && self.lent_lane().is_some() {
            // The only call that the child carries out now is one that a callback waits for.
            let call = Arc::new(Call::new(context));
            call.finish(self.call_again(&context, args));
            return call;
        }
        self.try_start(&context, args, sending).unwrap_or_else(|error| failed(context, error))
    }

    fn try_start<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<Arc<Call<R>>, CallError> {
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
            return self.send_now(claim, context, bind, args, sending);
        }
        if nest::current().is_some() {
            let why = format!("all {} lanes of the bridge are full, and a nested call does not wait", self.lanes.len());
            return Err(CallError::Refused { call: context.name(), why });
        }
        self.send_later(context, bind, args, sending)
    }

    /// Sends a request on a lane with room for it.
    fn send_now<A: Request, R: Reply>(
        &self,
        mut claim: LaneClaim<'_>,
        context: &CallContext,
        bind: Option<(u64, Option<(u64, u64)>)>,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<Arc<Call<R>>, CallError> {
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
        Ok(self.publish_call(&mut claim, ask, len, context))
    }

    /// Encodes a request, to be sent when there is room.
    #[cold]
    fn send_later<A: Request, R: Reply>(
        &self,
        context: &CallContext,
        bind: Option<(u64, Option<(u64, u64)>)>,
        args: &mut Option<A>,
        sending: Sending,
    ) -> Result<Arc<Call<R>>, CallError> {
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
        let lane = self.closing_lane(context).or_else(|| self.one_way_lane()).map(|lane| lane as u32);
        let call = Arc::new(Call::new(*context));
        self.enqueue(QueuedRequest { call: call.clone(), ask, bind, written, lane })?;
        Ok(call)
    }

    /// Notes when a call is overdue: nobody may look at it by then.
    pub(super) fn note_due(&self, context: &CallContext, at: (u32, u64)) {
        if let (Some(overdue), Some(due)) = (&self.overdue, context.deadline().instant()) {
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), at, due);
        }
    }
}

/// A call that ended before it was sent.
#[cold]
fn failed<R: Reply>(context: CallContext, error: CallError) -> Arc<Call<R>> {
    let call = Arc::new(Call::new(context));
    call.fail(error);
    call
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
