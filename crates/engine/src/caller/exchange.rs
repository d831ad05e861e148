//! One request and its reply, on a lane that has been claimed.
//!
//! Replies come in the order of their requests; on the way, those of calls that have begun go to them, and late replies to calls that gave up are
//! dropped. Never takes more replies than there are unanswered requests.

#![forbid(unsafe_code)]

use super::batch;
use super::settle::Exactness;
use super::{Ask, CallContext, Caller, LaneClaim, MayWait};
use crate::lane::{CallerLane, Frame, SendError};
use crate::peer_status::Cause;
use callgate_transport::commit::Kind;
use callgate_transport::decoder::Decoder;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{Awaited, CallError, NoMemory, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use rkyv::rancor::Failure;

/// What a caller finds when it looks for the next reply.
enum Next<'a> {
    /// The reply to its own request.
    Mine(Frame<'a>),
    /// Its own reply, which the child is still writing.
    Streaming,
    /// The reply to an earlier request.
    Earlier,
    /// Nothing yet.
    Pending,
}

impl Caller {
    /// Sends a request on a lane; returns its position. Drops the arguments before publishing, so that boxes among them are the callee's alone.
    #[inline(always)]
    pub(super) fn send_on<A: Request>(
        &self,
        lane: &mut LaneClaim<'_>,
        ask: Ask,
        args: A,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let len = self.write_on(lane, ask.kind, &args, MayWait::Yes, context)?;
        drop(args);
        Ok(self.publish_on(lane, ask, len, context))
    }

    /// Like [`send_on`](Self::send_on), but leaves the arguments in place, to be sent again, unless the request carries boxes of theirs.
    // Always: it has two callers for each type of arguments, and costs 50 instructions more out of line.
    #[inline(always)]
    pub(super) fn send_kept_on<A: Request>(
        &self,
        lane: &mut LaneClaim<'_>,
        ask: Ask,
        args: &mut Option<A>,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let Some(kept) = args.as_ref() else { return Err(self.spent_slow(context)) };
        let len = self.write_on(lane, ask.kind, kept, MayWait::Yes, context)?;
        if lane.carries_boxes() {
            *args = None;
        }
        Ok(self.publish_on(lane, ask, len, context))
    }

    /// Writes a request and returns its length. The callee sees nothing before [`publish_on`](Self::publish_on).
    #[inline(always)]
    pub(super) fn write_on<A: Request>(
        &self,
        lane: &mut LaneClaim<'_>,
        kind: Kind,
        args: &A,
        may_wait: MayWait,
        context: &CallContext,
    ) -> Result<usize, CallError> {
        // The request to stop is sent after the bridge has been declared stopped.
        if self.peer.peer_status.is_over() && kind != Kind::Stop {
            return Err(self.over(Started::No, context));
        }
        let alloc = &AllocContext { pool: &*self.pool, limit: &context.limit, wait: None };
        let mut written = lane.write(args, alloc);
        if let Err(SendError::NoMemory(NoMemory::Exhausted { .. } | NoMemory::Late { .. } | NoMemory::Unread { .. })) =
            written
        {
            let wait = (may_wait == MayWait::Yes).then_some(context.deadline());
            written = self.write_again_slow(lane, args, &AllocContext { wait, ..*alloc });
        }
        written.map_err(|error| {
            lane.unnest();
            self.unsent(error, context)
        })
    }

    /// Publishes the request of `len` bytes that has been written; returns its position.
    #[inline(always)]
    pub(super) fn publish_on(&self, lane: &mut LaneClaim<'_>, ask: Ask, len: usize, context: &CallContext) -> u64 {
        let position = lane.position();
        failpoints::reach(Step::ParentRequestWritten);
        if let Some(deadline) = context.deadline().instant() {
            self.note_deadline(lane, deadline);
        }
        lane.publish(ask.kind, ask.call, len, &*self.pool);
        match ask.kind {
            Kind::Construct => failpoints::reach(Step::ParentConstructorSent),
            Kind::Bind => failpoints::reach(Step::ParentBindSent),
            Kind::Stop => failpoints::reach(Step::ParentStopSent),
            _ => failpoints::reach(Step::ParentPublished),
        }
        position
    }

    /// Publishes the written request of a call that no thread waits in; returns its position. Nobody is woken for it before
    /// [`announce_begun`](Self::announce_begun): what is done between the two costs nothing while the processor gets the slot's line, for which the fence
    /// of the announcement would wait.
    #[inline(always)]
    pub(super) fn publish_begun(&self, lane: &mut LaneClaim<'_>, ask: Ask, len: usize, context: &CallContext) -> u64 {
        let position = lane.position();
        failpoints::reach(Step::ParentRequestWritten);
        if let Some(deadline) = context.deadline().instant() {
            self.note_deadline(lane, deadline);
        }
        lane.publish_quietly(ask.kind, ask.call, len, &*self.pool);
        position
    }

    /// Notifies the worker of a request that was published, at the end of the batch if there is one.
    #[inline(always)]
    pub(super) fn announce_begun(&self, lane: &LaneClaim<'_>) {
        if !self.is_in_batch(lane.index()) {
            lane.notify();
        }
        failpoints::reach(Step::ParentPublished);
    }

    /// Writes a request again that found all memory in use: frees what late replies on other lanes hold, and waits for memory as long as `alloc`
    /// allows.
    #[cold]
    fn write_again_slow<A: Request>(
        &self,
        lane: &mut LaneClaim<'_>,
        args: &A,
        alloc: &AllocContext<'_>,
    ) -> Result<usize, SendError> {
        self.take_late_replies();
        lane.write(args, alloc)
    }

    /// Takes the late replies to calls that gave up on all lanes that are free, to free the memory that they hold.
    pub fn take_late_replies(&self) {
        for mut lane in self.lanes.iter().filter_map(|lane| lane.gate.try_claim(self)) {
            lane.forget_unsent(&*self.pool);
            self.settle_ready(&mut lane);
            lane.owe();
        }
    }

    /// Waits for the reply to the request at `position`, dropping late replies to requests before it.
    // Always: calls by word add callers for each type of reply, and out of line it costs 12 instructions more.
    #[inline(always)]
    pub(super) fn receive<R: Reply>(
        &self,
        lane: &mut LaneClaim<'_>,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let mut has_waited = false;
        loop {
            if kind == Kind::Call
                && let Some(frame) = lane.replies().take_plain(position)
            {
                // Not by `take_plain`: to return an option of the outcome costs 18 instructions.
                let value = self.value(&frame, context);
                return self.released(lane, value);
            }
            match self.next_slow(lane, position) {
                Ok(Next::Mine(_)) => {
                    if let Some(outcome) = self.take_slow(lane, kind, context) {
                        return outcome;
                    }
                }
                Ok(Next::Earlier) => self.pass_next(lane, context)?,
                Err(what) => return Err(self.corrupt(what, context)),
                // A child may publish replies and take them back for ever, but not beyond the deadline.
                _ if has_waited && context.deadline().has_passed() => {
                    return Err(self.give_up(lane, position, context));
                }
                Ok(Next::Streaming) => {
                    has_waited = true;
                    if let Some(outcome) = self.follow_slow(lane, kind, context) {
                        return outcome;
                    }
                }
                Ok(Next::Pending) => match self.wait_on(lane, position, context.deadline()) {
                    Waited::Ready => {
                        has_waited = true;
                        if lane.is_wanted() && self.is_unordered && kind == Kind::Call {
                            return self.receive_among_others(lane, position, context);
                        }
                        if lane.is_wanted() {
                            self.attend_while_waiting(lane);
                        }
                    }
                    Waited::DeadlinePassed => return Err(self.give_up(lane, position, context)),
                    Waited::Dead => return Err(self.ended(lane, position, context)),
                },
            }
        }
    }

    /// Takes the reply to the request at `position` if it is the next one, there, and like nearly all.
    #[inline(always)]
    pub(super) fn take_plain<R: Reply>(
        &self,
        lane: &mut LaneClaim<'_>,
        position: u64,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        let frame = lane.replies().take_plain(position)?;
        let value = self.value(&frame, context);
        self.release(lane, false);
        Some(value)
    }

    /// Takes the reply to the request at `position` if it is there, dropping late replies to requests before it. Never waits.
    #[inline(always)]
    pub(super) fn take<R: Reply>(
        &self,
        lane: &mut LaneClaim<'_>,
        position: u64,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        loop {
            match self.next(lane, position) {
                Ok(Next::Mine(frame)) if is_plain(&frame, kind) => {
                    let value = self.value(&frame, context);
                    self.release(lane, false);
                    return Some(value);
                }
                Ok(Next::Mine(_)) => return self.take_slow(lane, kind, context),
                Ok(Next::Earlier) => {
                    if let Err(error) = self.pass_next(lane, context) {
                        return Some(Err(error));
                    }
                }
                Ok(Next::Streaming | Next::Pending) => return None,
                Err(what) => return Some(Err(self.corrupt(what, context))),
            }
        }
    }

    /// Releases a plain reply whose value has been taken. Returns the value part by part: as a whole it is copied with its room for an error.
    #[inline(always)]
    fn released<R>(&self, lane: &mut LaneClaim<'_>, value: Result<R, CallError>) -> Result<R, CallError> {
        match value {
            Ok(value) => {
                self.release(lane, false);
                Ok(value)
            }
            Err(error) => {
                self.release(lane, false);
                Err(error)
            }
        }
    }

    /// Looks for the next reply, for the call whose request is at `position`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy child could have written it.
    #[inline(always)]
    fn next<'a>(&self, lane: &'a CallerLane, position: u64) -> Result<Next<'a>, &'static str> {
        Ok(match lane.take()? {
            Some((at, frame)) if at == position => Next::Mine(frame),
            Some(_) => Next::Earlier,
            None if self.may_follow(lane, position) && lane.is_announced() => Next::Streaming,
            None => Next::Pending,
        })
    }

    /// The same out of line, for who is about to wait: it must not take registers from the look that finds the reply.
    #[inline(never)]
    fn next_slow<'a>(&self, lane: &'a CallerLane, position: u64) -> Result<Next<'a>, &'static str> {
        self.next(lane, position)
    }

    /// The value in a [plain](is_plain) reply.
    #[inline(always)]
    fn value<R: Reply>(&self, frame: &Frame<'_>, context: &CallContext) -> Result<R, CallError> {
        failpoints::reach(Step::ParentReplySeen);
        let value = R::from_slot(frame.line, frame.payload, self.decoder(context));
        value.map(|value| value.with_trust(self.peer.trust)).map_err(|Failure| self.unread(context))
    }

    /// Takes this call's own reply: a fault, or one that carries something. `None` if the child has taken it back.
    #[cold]
    fn take_slow<R: Reply>(
        &self,
        lane: &mut LaneClaim<'_>,
        kind: Kind,
        context: &CallContext,
    ) -> Option<Result<R, CallError>> {
        let (_, frame) = match lane.take() {
            Ok(taken) => taken?,
            Err(what) => return Some(Err(self.corrupt(what, context))),
        };
        failpoints::reach(Step::ParentReplySeen);
        let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
        let outcome = self.outcome(&frame, kind, context);
        self.release(lane, carries);
        self.pool.forget(number);
        Some(outcome)
    }

    /// Gives the next reply to the pending call that it belongs to, or drops it.
    #[cold]
    pub(super) fn pass_next(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Result<(), CallError> {
        match lane.next_call() {
            Some(call) if call.settle(self, lane) => drop(lane.pending.pop_front()),
            // The child has taken it back.
            Some(_) => {}
            None => drop(self.drop_next(lane, context)?),
        }
        Ok(())
    }

    /// Drops the next reply. Returns whether there was one.
    #[cold]
    pub(super) fn drop_next(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Result<bool, CallError> {
        let Some((_, frame)) = lane.take().map_err(|what| self.corrupt(what, context))? else { return Ok(false) };
        let (carries, number) = (frame.carries(), self.pool.accept_returns(frame.call));
        self.release(lane, carries);
        self.pool.forget(number);
        Ok(true)
    }

    /// Whether to copy the reply to the request at `position` while it is written: not while another reply is before it, and not if the reply is read
    /// in place.
    #[inline(always)]
    pub(super) fn may_follow(&self, lane: &CallerLane, position: u64) -> bool {
        lane.replies().position() == position && self.peer.trust.is_none() && !lane.is_unordered()
    }

    /// Waits for the next reply; if it can be followed, until it is announced. Also ends when the lane is wanted.
    #[inline(always)]
    pub(super) fn wait_on(&self, lane: &LaneClaim<'_>, position: u64, deadline: Deadline) -> Waited {
        if lane.is_unordered() {
            return self.wait_among_others(lane, deadline);
        }
        let wait = if self.may_follow(lane, position) { CallerLane::wait_for_any } else { CallerLane::wait };
        wait(lane, self.wait, &self.peer.peer_status, deadline, &|| lane.is_wanted())
    }

    /// Leaves the reply to the request at `position` to the next user of the lane, and withdraws the request if it has not started.
    #[cold]
    pub fn give_up(&self, lane: &mut CallerLane, position: u64, context: &CallContext) -> CallError {
        lane.give_up(&*self.pool);
        self.timed_out(self.withdraw((lane.index(), position), context, Exactness::Known), context)
    }

    /// Whether the next reply is one that no healthy peer writes, of a peer that is being killed or has ended. It stays where it is, and looks like a reply
    /// for ever: a wait at this lane would never end, and what comes behind it never comes.
    pub(super) fn is_stuck(&self, lane: &CallerLane) -> bool {
        let status = &self.peer.peer_status;
        // One that has ended by itself, or that the user has ended, is not blamed for more.
        status.is_over() && lane.is_answered() && (self.is_broken() || lane.take().is_err())
    }

    /// Takes late replies to calls that gave up, and waits until there is room for a request.
    pub(super) fn wait_for_room(&self, lane: &mut LaneClaim<'_>, context: &CallContext) -> Result<(), CallError> {
        self.wait_for_room_of(1, lane, context)
    }

    /// The same, for as many requests.
    pub(super) fn wait_for_room_of(
        &self,
        requests: u64,
        lane: &mut LaneClaim<'_>,
        context: &CallContext,
    ) -> Result<(), CallError> {
        batch::notify_begun();
        // Others may have calls here, and may rely on this lane's bell.
        self.owe_others(lane);
        loop {
            self.settle_ready(lane);
            if lane.credit() >= requests {
                return Ok(());
            }
            if self.is_broken() || self.is_stuck(lane) {
                return Err(self.over(Started::No, context));
            }
            match lane.wait(self.wait, &self.peer.peer_status, context.deadline(), &|| false) {
                Waited::Ready if !context.deadline().has_passed() => {}
                Waited::Ready | Waited::DeadlinePassed => {
                    return Err(self.timed_out_for(Awaited::Slot, Started::No, context));
                }
                Waited::Dead => return Err(self.over(Started::No, context)),
            }
        }
    }

    /// Whether the peer has broken the protocol.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.peer.peer_status.cause(), Some(Cause::Corrupt(_)))
    }

    /// Releases the reply that was taken, and takes back what its request carried. `carries` = the reply carried something.
    #[inline(always)]
    pub fn release(&self, lane: &mut CallerLane, carries: bool) {
        if carries || lane.has_more_to_release() {
            self.release_slow(lane, carries);
        } else {
            lane.release_reply();
        }
        failpoints::reach(Step::ParentReplyReleased);
    }

    #[cold]
    fn release_slow(&self, lane: &mut CallerLane, carries: bool) {
        let carries = if lane.has_one_way() { self.acknowledge_slow(lane) | carries } else { carries };
        if let Some(attachments) = lane.release(carries) {
            self.pool.on(|pool, source| pool.arrived(attachments, source));
        }
        if carries {
            self.hold.used();
        }
    }

    /// The decoder for replies.
    #[inline(always)]
    pub fn decoder(&self, context: &CallContext) -> Decoder<'_> {
        Decoder::of(&self.pool, self.peer.max_payload, context.deadline())
    }
}

/// Whether a reply to a request of `kind` is like nearly all: a value in its slot, which carries nothing.
#[inline(always)]
fn is_plain(frame: &Frame<'_>, kind: Kind) -> bool {
    frame.commit.kind == kind && !frame.carries()
}
