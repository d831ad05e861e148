//! One request and its reply, on a lane that has been claimed.
//!
//! Replies come in the order of their requests: late ones to calls that gave up are dropped on the way. No more replies are taken than
//! there are unanswered requests.

#![forbid(unsafe_code)]

use super::{Ask, CallContext, Caller, MayWait};
use crate::lane::{CallerLane, SendError};
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Decoder;
use callgate_transport::doorbell::Waited;
use callgate_transport::error::{Awaited, CallError, NoMemory, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use rkyv::rancor::Failure;
use std::time::Instant;

/// What a caller finds where the next reply comes.
enum Next<R> {
    /// The reply to its own request, which has been taken; or why it will get none.
    Mine(Result<R, CallError>),
    /// Its own reply, which the child is still writing.
    Streaming,
    /// The late reply to an earlier call that gave up, which has been dropped.
    Late,
    /// Nothing yet.
    Pending,
}

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
        let position = self.send_on(lane, ask, args, context)?;
        self.receive(lane, position, ask.kind, context)
    }

    /// Sends a request on a lane; returns its position. Its arguments are dropped before it is published: what memory of theirs it
    /// carries is the callee's alone.
    #[inline(always)]
    pub(super) fn send_on<A: Request>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: A,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let len = self.write_on(lane, ask.kind, &args, MayWait::Yes, context)?;
        drop(args);
        Ok(self.publish_on(lane, ask, len))
    }

    /// Like [`send_on`](Self::send_on), but leaves the arguments in place, to be sent again, unless the request carries memory of theirs.
    // Always: for each type of arguments it has two callers, and costs 50 instructions more out of line.
    #[inline(always)]
    pub(super) fn send_kept_on<A: Request>(
        &self,
        lane: &mut CallerLane,
        ask: Ask,
        args: &mut Option<A>,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let Some(kept) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let len = self.write_on(lane, ask.kind, kept, MayWait::Yes, context)?;
        if lane.carries_boxes() {
            *args = None;
        }
        Ok(self.publish_on(lane, ask, len))
    }

    /// Writes a request and returns its length. The callee sees nothing of it before [`publish_on`](Self::publish_on).
    #[inline(always)]
    pub(super) fn write_on<A: Request>(
        &self,
        lane: &mut CallerLane,
        kind: Kind,
        args: &A,
        may_wait: MayWait,
        context: &CallContext,
    ) -> Result<usize, CallError> {
        if !lane.is_idle() {
            self.settle_slow(lane, context)?;
        }
        // The request to stop is itself sent after the bridge has been declared stopped.
        if self.peer.peer_status.is_over() && kind != Kind::Stop {
            return Err(self.over(Started::No, context));
        }
        let alloc = &AllocContext { pool: &*self.pool, limit: &context.limit, wait: None };
        let mut written = lane.write(args, alloc);
        if let Err(SendError::NoMemory(NoMemory::Exhausted { .. } | NoMemory::Late { .. })) = written {
            let wait = (may_wait == MayWait::Yes).then_some(context.deadline());
            written = self.write_again_slow(lane, args, &AllocContext { wait, ..*alloc });
        }
        written.map_err(|error| {
            lane.unnest();
            self.unsent(error, context)
        })
    }

    /// Publishes the request of `len` bytes that was written; returns its position.
    #[inline(always)]
    pub(super) fn publish_on(&self, lane: &mut CallerLane, ask: Ask, len: usize) -> u64 {
        let position = lane.position();
        failpoints::reach(Step::ParentRequestWritten);
        lane.publish(ask.kind, ask.call, len, &*self.pool);
        match ask.kind {
            Kind::Construct => failpoints::reach(Step::ParentConstructorSent),
            Kind::Bind => failpoints::reach(Step::ParentBindSent),
            Kind::Stop => failpoints::reach(Step::ParentStopSent),
            _ => failpoints::reach(Step::ParentPublished),
        }
        position
    }

    /// Writes a request that found all memory in use: takes in what late replies on other lanes give back, and
    /// waits for more if `alloc` lets it.
    #[cold]
    fn write_again_slow<A: Request>(
        &self,
        lane: &mut CallerLane,
        args: &A,
        alloc: &AllocContext<'_>,
    ) -> Result<usize, SendError> {
        self.take_late_replies();
        lane.write(args, alloc)
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
        let mut has_waited = false;
        loop {
            match self.next(lane, position, kind, context) {
                Next::Mine(outcome) => return outcome,
                Next::Late => continue,
                // A child may publish replies and take them back for ever, but not beyond the deadline.
                _ if has_waited && context.deadline().has_passed() => return Err(self.give_up(lane, position, context)),
                Next::Streaming => {
                    if let Some(outcome) = self.follow_slow(lane, kind, context) {
                        return outcome;
                    }
                }
                Next::Pending => match self.wait_on(lane, position, context) {
                    Waited::Ready => {}
                    Waited::DeadlinePassed => return Err(self.give_up(lane, position, context)),
                    Waited::Dead => return Err(self.ended(lane, position, context)),
                },
            }
            has_waited = true;
        }
    }

    /// Takes the reply to the request at `position` if it is there, dropping late replies to requests before it. Never waits.
    #[inline(always)]
    pub(super) fn take<R: Reply>(
        &self,
        lane: &mut CallerLane,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        loop {
            match self.next(lane, position, kind, context) {
                Next::Mine(outcome) => return Some(outcome),
                Next::Late => {}
                Next::Streaming | Next::Pending => return None,
            }
        }
    }

    /// Takes the next reply, if it is there, for the call whose request is at `position`.
    #[inline(always)]
    fn next<R: Reply>(&self, lane: &mut CallerLane, position: u64, kind: Kind, context: &CallContext) -> Next<R> {
        match lane.take() {
            // Apart from the rest because nearly every reply is like this: this call's own, in the slot.
            Ok(Some((at, frame))) if at == position && frame.commit.kind == kind && !frame.carries() => {
                failpoints::reach(Step::ParentReplySeen);
                let value = R::from_slot(frame.line, frame.payload, self.decoder(context));
                self.release(lane, false);
                Next::Mine(value.map_err(|Failure| self.unread(context)))
            }
            Ok(Some(_)) => self.next_slow(lane, position, kind, context),
            Ok(None) if self.may_follow(lane, position) && lane.is_announced() => Next::Streaming,
            Ok(None) => Next::Pending,
            Err(what) => Next::Mine(Err(self.corrupt(what, context))),
        }
    }

    /// Takes the next reply: a fault, one that carries something, or a late one.
    #[cold]
    fn next_slow<R: Reply>(&self, lane: &mut CallerLane, position: u64, kind: Kind, context: &CallContext) -> Next<R> {
        let (at, frame) = match lane.take() {
            Ok(Some(taken)) => taken,
            // It has been taken back.
            Ok(None) => return Next::Pending,
            Err(what) => return Next::Mine(Err(self.corrupt(what, context))),
        };
        failpoints::reach(Step::ParentReplySeen);
        let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
        let next = match at == position {
            true => Next::Mine(self.outcome(&frame, kind, context)),
            false => Next::Late,
        };
        self.release(lane, carries);
        self.pool.forget(number);
        next
    }

    /// Whether the reply to the request at `position` is copied while it is written: not while a late one is before it, which is only
    /// dropped, and not if it is read where it lies.
    #[inline(always)]
    fn may_follow(&self, lane: &CallerLane, position: u64) -> bool {
        lane.replies().position() == position && self.peer.trust.is_none()
    }

    /// Waits for the next reply; if it can be followed, until it is announced.
    #[inline(always)]
    fn wait_on(&self, lane: &CallerLane, position: u64, context: &CallContext) -> Waited {
        let wait = if self.may_follow(lane, position) { CallerLane::wait_for_any } else { CallerLane::wait };
        wait(lane, self.wait, &self.peer.peer_status, context.deadline())
    }

    /// Leaves the reply to the request at `position` to whoever uses the lane next.
    #[cold]
    pub fn give_up(&self, lane: &mut CallerLane, position: u64, context: &CallContext) -> CallError {
        lane.give_up(&*self.pool);
        if let Some(overdue) = &self.overdue {
            let (timeout, at) = (context.limit.timeout.unwrap_or_default(), (lane.index(), position));
            overdue.watch(context.name(), timeout, at, Instant::now());
        }
        self.timed_out(lane.started(position), context)
    }

    /// Takes late replies to calls that gave up, and waits for room if there is none.
    #[cold]
    fn settle_slow(&self, lane: &mut CallerLane, context: &CallContext) -> Result<(), CallError> {
        loop {
            self.settle(lane, context)?;
            if lane.credit() > 0 {
                return Ok(());
            }
            match lane.wait(self.wait, &self.peer.peer_status, context.deadline()) {
                Waited::Ready if !context.deadline().has_passed() => {}
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
        Decoder::of(&self.pool, self.peer.max_payload, self.peer.trust, context.deadline())
    }
}
