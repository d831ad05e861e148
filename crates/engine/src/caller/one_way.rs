//! Calls whose results nobody wants: written, published, and acknowledged many at a time.
//!
//! A one-way request is answered only if it fails, but for one in each half ring, which is an ordinary call: its reply acknowledges all before it, because
//! a lane's requests are carried out in their order. The caller looks for failures when it takes that reply. One-way calls of a thread, and its calls
//! after them, share a lane, and thus keep their order.

#![forbid(unsafe_code)]

use super::shared_lane::{SEVERAL, SharedLane};
use super::{Ask, CallContext, Caller, LaneClaim, MayWait, batch};
use crate::lane::{CallerLane, Frame};
use crate::nest;
use crate::service::Method;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::commit::{Kind, Place};
use callgate_transport::doorbell::Waited;
use callgate_transport::error::{Awaited, CallError, Started};
use callgate_transport::request::Request;
use std::time::Duration;

/// The longest report of a failure that is read, in bytes.
const LONGEST_FAILURE: u64 = 1 << 20;

impl SharedLane {
    /// Notes that this thread sends one-way calls here.
    fn note_sender(&self) {
        let own = nest::plain(nest::thread_number()) as u32 + 1;
        match self.has_one_way.load(Relaxed) {
            0 => self.has_one_way.store(own, Relaxed),
            other if other != own => self.has_one_way.store(SEVERAL, Relaxed),
            _ => {}
        }
    }

    /// Whether this thread may have sent one-way calls here that have not been acknowledged.
    fn is_sender(&self) -> bool {
        let sender = self.has_one_way.load(Relaxed);
        sender == SEVERAL || sender != 0 && sender == nest::plain(nest::thread_number()) as u32 + 1
    }
}

impl Caller {
    /// Sends a call and wants no result. Waits for room on this thread's lane.
    pub fn send_one_way<A: Request>(
        &self,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<(), CallError> {
        let context = CallContext::new(method, timeout);
        let call = self.call_word(method, &context)?;
        self.may_wait_here(&context)?;
        if let Some(at) = nest::current() {
            return Err(at.too_nested(context.name(), "a one-way call waits for room, and may be waited for itself"));
        }
        if self.is_closing(&context) {
            self.await_closes(&context)?;
        }
        let lane = &self.lanes[self.preferred_lane()];
        let mut claim = match lane.gate.try_claim(self) {
            Some(claim) => claim,
            None => self.lock(lane, &context)?,
        };
        if claim.credit() == 0 {
            self.wait_for_room(&mut claim, &context)?;
        }
        let len = self.write_behind_others(&mut claim, &args, &context)?;
        drop(args);
        // What a request carries comes back with its reply.
        // A task's end is known only by its reply.
        let is_silent = !claim.carries_anything() && !claim.wants_acknowledgement() && !self.is_unordered;
        let kind = if is_silent { Kind::Send } else { Kind::Call };
        lane.note_sender();
        let position = self.publish_begun(&mut claim, Ask { kind, call }, len, &context);
        claim.note_one_way(position, is_silent, context.name());
        self.announce_begun(&claim);
        claim.give_up(&*self.pool);
        Ok(())
    }

    /// Writes a one-way request. The memory that it lacks may be that of the requests before it, which comes back with their replies.
    fn write_behind_others<A: Request>(
        &self,
        claim: &mut LaneClaim<'_>,
        args: &A,
        context: &CallContext,
    ) -> Result<usize, CallError> {
        while !claim.is_idle() {
            batch::notify_begun();
            self.owe_others(claim);
            match self.write_on(claim, Kind::Call, args, MayWait::No, context) {
                Err(CallError::Exhausted { .. }) => {}
                written => return written,
            }
            match claim.wait(self.wait, &self.peer.peer_status, context.deadline(), &|| false) {
                Waited::Ready => drop(self.settle_ready(claim)),
                Waited::DeadlinePassed => return Err(self.timed_out_for(Awaited::Memory, Started::No, context)),
                Waited::Dead => return Err(self.over(Started::No, context)),
            }
        }
        self.write_on(claim, Kind::Call, args, MayWait::Yes, context)
    }

    /// Waits until every one-way call of this bridge has been carried out.
    ///
    /// # Errors
    ///
    /// The first failure of one since the last flush; or that of the wait itself.
    pub fn flush(&self, method: &'static Method, timeout: Option<Duration>) -> Result<(), CallError> {
        let context = CallContext::new(method, timeout);
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(&context));
        }
        self.may_wait_here(&context)?;
        batch::notify_begun();
        for lane in self.lanes.iter().filter(|lane| lane.has_one_way.load(Relaxed) != 0) {
            let mut claim = self.lock(lane, &context)?;
            if !claim.has_one_way() {
                continue;
            }
            if self.is_unordered {
                self.await_one_way(&mut claim, &context)?;
                continue;
            }
            self.wait_for_room(&mut claim, &context)?;
            let ask = Ask { kind: Kind::Flush, call: 0 };
            let flushed = self
                .send_on(&mut claim, ask, (), &context)
                .and_then(|position| self.receive::<()>(&mut claim, position, Kind::Flush, &context));
            flushed.map_err(maybe_started)?;
        }
        self.one_way_failure.lock().take().map_or(Ok(()), Err)
    }

    /// Whether one-way calls have been sent that have not been flushed.
    pub fn has_one_way(&self) -> bool {
        self.lanes.iter().any(|lane| lane.has_one_way.load(Relaxed) != 0) || self.one_way_failure.lock().is_some()
    }

    /// Notes the first failure of the one-way calls that the next reply acknowledges, which is there. Returns whether any reply of theirs carries
    /// memory.
    #[cold]
    pub(super) fn acknowledge_slow(&self, lane: &mut CallerLane) -> bool {
        let mut carries = false;
        while let Some(one) = lane.acknowledge_one() {
            let context = &CallContext::nameless();
            let failure = match lane.reply_to(&one) {
                Ok(None) => continue,
                Err(what) => Some(self.corrupt(what, context)),
                Ok(Some(frame)) => {
                    carries |= frame.carries();
                    // That of the next reply is accepted by whoever takes it.
                    let number = if one.is_silent { self.pool.accept_returns(frame.call) } else { None };
                    let is_wanted = self.one_way_failure.lock().is_none();
                    let failure = if is_wanted { self.failure_in(&frame, context) } else { None };
                    self.pool.forget(number);
                    failure
                }
            };
            if let Some(mut failure) = failure {
                failure.rename(one.call);
                self.one_way_failure.lock().get_or_insert(failure);
            }
        }
        carries
    }

    /// The failure that the reply to a one-way call reports; `None` if it succeeded.
    fn failure_in(&self, frame: &Frame<'_>, context: &CallContext) -> Option<CallError> {
        let len = if let Place::Block(block) = frame.commit.place { block.len } else { 0 };
        match frame.commit.kind {
            Kind::Call | Kind::Flush => None,
            // Whoever acknowledges may be the watcher.
            _ if len > LONGEST_FAILURE => {
                let why = format!("it failed, and says why in {len} bytes");
                Some(CallError::Refused { call: context.name(), why })
            }
            _ => Some(self.failure_slow(frame, context)),
        }
    }

    /// This thread's lane, if one-way calls on it have not been acknowledged: then its next call goes behind them.
    pub(super) fn one_way_lane(&self) -> Option<usize> {
        let preferred = self.preferred_lane();
        self.lanes[preferred].is_sender().then_some(preferred)
    }

    /// Forgets that a lane has one-way calls, once they have been acknowledged.
    pub(super) fn forget_one_way(&self, claim: &LaneClaim<'_>) {
        if !claim.has_one_way() {
            self.lanes[claim.index() as usize].has_one_way.store(0, Relaxed);
        }
    }
}

/// One-way calls may have run before whatever it is that ends a flush.
#[cold]
pub(super) fn maybe_started(mut error: CallError) -> CallError {
    if let Some(started) = error.started_mut() {
        *started = Started::Unknown;
    }
    error
}
