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
        let mut context = CallContext::new(method, timeout);
        if nest::current().is_some() {
            context.inherit(current::deadline());
        }
        let call = self.start(context, &mut Some(args), Sending::Begun);
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

    pub(super) fn start<A: Request, R: Reply>(
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
        let lane = self.closing_lane(context).or_else(|| self.one_way_lane()).map(|lane| lane as u32);
        self.enqueue(QueuedRequest { call: call.clone(), ask, bind, written, lane })
    }

    /// Notes when a call is overdue: nobody may look at it by then.
    pub(super) fn note_due(&self, context: &CallContext, at: (u32, u64)) {
        if let (Some(overdue), Some(due)) = (&self.overdue, context.deadline().instant()) {
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), at, due);
        }
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
