//! One request and its reply, on a lane that has been claimed.
//!
//! Replies come in the order of their requests: late ones to calls that gave up are dropped on the way. No more replies are taken than
//! there are unanswered requests.

#![forbid(unsafe_code)]

use super::{ArgsPolicy, Ask, CallContext, Caller};
use crate::lane::{CallerLane, SendError};
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Decoder;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{Awaited, CallError, NoMemory, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::{AllocContext, MemoryWait};
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use rkyv::rancor::Failure;
use std::time::Instant;

impl Caller {
    #[inline]
    pub(super) fn ask<A: Request, R: Reply>(&self, ask: Ask, args: A, context: &CallContext) -> Result<R, CallError> {
        let (mut lane, call) = self.claim(ask.call, context)?;
        self.ask_on(&mut lane, Ask { call, ..ask }, args, context)
    }

    #[inline]
    fn ask_on<A: Request, R: Reply>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: A,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let position = self.send_on(lane, ask, &mut Some(args), ArgsPolicy::Spend, context)?;
        self.receive(lane, position, ask.kind, context)
    }

    /// Sends a request on a lane; returns its position. What of its arguments' memory it carries is the callee's alone: they are gone
    /// before it is published.
    // Always: with the calls that are made again it has two callers for each type of arguments, and costs 50 instructions more out of line.
    #[inline(always)]
    pub(super) fn send_on<A: Request>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: &mut Option<A>,
        then: ArgsPolicy,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        if !lane.is_idle() {
            self.settle_slow(lane, context)?;
        }
        // The request to stop is itself sent after the bridge has been declared stopped.
        if self.peer.peer_status.is_over() && ask.kind != Kind::Stop {
            return Err(self.over(Started::No, context));
        }
        let Some(sending) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let position = lane.position();
        let alloc = &AllocContext { pool: &*self.pool, deadline: context };
        let mut written = lane.write(sending, alloc);
        if let Err(SendError::NoMemory(NoMemory::Exhausted { .. } | NoMemory::Late { .. })) = written {
            let wait = if then == ArgsPolicy::SpendAtOnce { Deadline::now() } else { context.deadline };
            written = self.write_again_slow(lane, sending, alloc, wait);
        }
        if then != ArgsPolicy::Keep || lane.carries_boxes() {
            *args = None;
        }
        let len = written.map_err(|error| {
            lane.unnest();
            self.unsent(error, context)
        })?;
        failpoints::reach(Step::ParentRequestWritten);
        lane.publish(ask.kind, ask.call, len, alloc);
        match ask.kind {
            Kind::Construct => failpoints::reach(Step::ParentConstructorSent),
            Kind::Bind => failpoints::reach(Step::ParentBindSent),
            Kind::Stop => failpoints::reach(Step::ParentStopSent),
            _ => failpoints::reach(Step::ParentPublished),
        }
        Ok(position)
    }

    /// Writes a request that found all memory in use: takes in what late replies on other lanes give back, and waits for more if it may.
    #[cold]
    fn write_again_slow<A: Request>(
        &self,
        lane: &mut CallerLane,
        args: &A,
        alloc: &AllocContext<'_>,
        wait: Deadline,
    ) -> Result<usize, SendError> {
        self.take_late_replies();
        lane.write(args, &AllocContext { deadline: &MemoryWait { deadline: alloc.deadline, memory: wait }, ..*alloc })
    }

    /// Takes the late replies to calls that gave up, on all lanes that nobody uses, for what they give back.
    pub fn take_late_replies(&self) {
        let context = &CallContext::new(const { &Method::nameless() }, None);
        for mut lane in self.lanes.iter().filter_map(|lane| lane.try_lock()) {
            lane.forget_unsent(&*self.pool);
            // What is wrong with one of them is said by whoever calls next.
            let _ = self.settle(&mut lane, context);
        }
    }

    /// Waits for the reply to the request at `position`, dropping late replies to requests before it.
    // Always: calls by word have it called from more places for each type of reply, and out of line it costs 12 instructions more.
    #[inline(always)]
    pub(super) fn receive<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let mut waited = false;
        loop {
            if let Some(outcome) = self.take(lane, position, kind, context) {
                return outcome;
            }
            // A child may publish replies and take them back for ever, but not beyond the deadline.
            if waited && context.deadline.has_passed() {
                return Err(self.give_up(lane, position, context));
            }
            // Of a late reply, nothing is wanted before it is there to be dropped.
            // One that is read where it lies is not copied.
            let may_follow = lane.replies().position() == position && self.peer.trust.is_none();
            if waited
                && may_follow
                && let Some(outcome) = self.follow_slow(lane, kind, context)
            {
                return outcome;
            }
            let wait = if may_follow { CallerLane::wait_for_any } else { CallerLane::wait };
            match wait(lane, self.wait, &self.peer.peer_status, context.deadline) {
                Waited::Ready => waited = true,
                Waited::DeadlinePassed => return Err(self.give_up(lane, position, context)),
                Waited::Dead => return Err(self.ended(lane, position, context)),
            }
        }
    }

    /// Leaves the reply to the request at `position` to whoever uses the lane next.
    #[cold]
    pub fn give_up(&self, lane: &mut CallerLane, position: u64, context: &CallContext) -> CallError {
        lane.give_up(&*self.pool);
        if let Some(overdue) = &self.overdue {
            let (timeout, at) = (context.timeout.unwrap_or_default(), (lane.index(), position));
            overdue.watch(context.name(), timeout, at, Instant::now());
        }
        self.timed_out(lane.started(position), context)
    }

    /// Takes the reply to the request at `position` if it is there, and drops late replies to requests before it. Never waits.
    #[inline(always)]
    pub(super) fn take<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        loop {
            match lane.take() {
                // Apart from the rest because it is what nearly every call comes to: its own reply, in the slot.
                Ok(Some((at, frame))) if at == position && frame.commit.kind == kind && !frame.carries() => {
                    failpoints::reach(Step::ParentReplySeen);
                    let value = R::from_slot(frame.line, frame.payload, self.decoder(context));
                    self.release(lane, false);
                    return Some(
                        value.map(|value| value.with_trust(self.peer.trust)).map_err(|Failure| self.unread(context)),
                    );
                }
                Ok(Some(_)) => {
                    if let Some(outcome) = self.take_slow(lane, position, kind, context) {
                        return Some(outcome);
                    }
                }
                Ok(None) => return None,
                Err(what) => return Some(Err(self.corrupt(what, context))),
            }
        }
    }

    /// Takes the next reply if it is there: one in a block, a fault, or a late one to another request, which is dropped (`None`).
    #[cold]
    fn take_slow<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        let (at, frame) = match lane.take() {
            Ok(taken) => taken?,
            Err(what) => return Some(Err(self.corrupt(what, context))),
        };
        failpoints::reach(Step::ParentReplySeen);
        let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
        let outcome = (at == position).then(|| self.outcome(&frame, kind, context));
        self.release(lane, carries);
        self.pool.forget(number);
        outcome
    }

    /// Takes late replies to calls that gave up, and waits for room if there is none.
    #[cold]
    fn settle_slow(&self, lane: &mut CallerLane, context: &CallContext) -> Result<(), CallError> {
        loop {
            self.settle(lane, context)?;
            if lane.credit() > 0 {
                return Ok(());
            }
            match lane.wait(self.wait, &self.peer.peer_status, context.deadline) {
                Waited::Ready if !context.deadline.has_passed() => {}
                Waited::Ready | Waited::DeadlinePassed => {
                    return Err(self.timed_out_for(Awaited::Slot, Started::No, context));
                }
                Waited::Dead => return Err(self.over(Started::No, context)),
            }
        }
    }

    /// Takes late replies to calls that gave up, as far as they are there.
    ///
    /// Never takes more replies than there are unanswered requests: a hostile child may have published replies to requests
    /// that have not been made yet, and taking one would put the two rings out of step for ever.
    pub(super) fn settle(&self, lane: &mut CallerLane, context: &CallContext) -> Result<(), CallError> {
        while !lane.is_idle() {
            let Some((_, frame)) = lane.take().map_err(|what| self.corrupt(what, context))? else { break };
            let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
            self.release(lane, carries);
            self.pool.forget(number);
        }
        Ok(())
    }

    /// Is done with the reply that was taken, which carried something or not, and takes back what its request carried.
    #[inline(always)]
    pub fn release(&self, lane: &mut CallerLane, carries: bool) {
        if let Some(attachments) = lane.release(carries) {
            self.pool.on(|pool, source| pool.arrived(attachments, source));
        }
        if carries {
            self.hold.used();
        }
        failpoints::reach(Step::ParentReplyReleased);
    }

    /// What replies are decoded with.
    #[inline(always)]
    pub fn decoder(&self, context: &CallContext) -> Decoder<'_> {
        Decoder::of(&self.pool, self.peer.max_payload, context.deadline)
    }
}
