//! Streams that have been dropped here and may not have been dropped in the child yet: calls that follow must find the service free.
//!
//! The request that drops a stream goes to the stream's lane, and a later call may go to another. A call of a service that lends to streams therefore
//! waits until the requests before it have been answered, or, if it must not wait, goes behind the last of them.

#![forbid(unsafe_code)]

use super::settle::{Settle, WaitedBy, Wakes};
use super::shared_lane::SharedLane;
use super::{CallContext, Caller, LaneClaim, MayWait};
use crate::nest;
use crate::streams::CLOSE;
use callgate_os::sync::Ordering::{Acquire, Relaxed, Release};
use callgate_os::sync::{AtomicU32, AtomicU64};
use callgate_transport::doorbell::Waited;
use callgate_transport::error::{CallError, Started};
use std::sync::{Arc, Weak};

/// The streams that were opened here, and the requests to drop some that have not been answered.
pub(super) struct StreamCounts {
    opened: AtomicU64,
    /// How many requests there are.
    count: AtomicU32,
    /// How many of them each lane has.
    on: Box<[AtomicU32]>,
    /// The lane of the last one.
    last: AtomicU32,
}

impl StreamCounts {
    pub(super) fn new(lanes: u32) -> Self {
        Self {
            opened: AtomicU64::new(0),
            count: AtomicU32::new(0),
            on: (0..lanes).map(|_| AtomicU32::new(0)).collect(),
            last: AtomicU32::new(0),
        }
    }

    /// The number of a new stream.
    pub(super) fn next_number(&self) -> u64 {
        // Relaxed: a count.
        self.opened.fetch_add(1, Relaxed)
    }
}

/// A request that drops a stream, whose reply nobody wants. It counts until it is answered or lost.
struct Close {
    caller: Weak<Caller>,
    context: CallContext,
    lane: u32,
}

impl Drop for Close {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.upgrade() {
            let closing = &caller.streams;
            // Release: the answer comes before the call that does not wait for it. Pairs with the Acquires in `is_closing` and `await_closes_on`.
            closing.on[self.lane as usize].fetch_sub(1, Release);
            closing.count.fetch_sub(1, Release);
        }
    }
}

impl Settle for Close {
    fn context(&self) -> CallContext {
        self.context
    }

    fn send(&self, _: (u32, u64), publish: &mut dyn FnMut()) -> bool {
        publish();
        true
    }

    fn settle(&self, caller: &Caller, claim: &mut LaneClaim<'_>) -> bool {
        caller.drop_next(claim, &self.context).unwrap_or(true)
    }

    fn waited_by(&self) -> WaitedBy {
        WaitedBy::Abandoned
    }
}

impl Wakes for Close {}

impl Caller {
    /// Has the child drop a stream. Never waits.
    pub(super) fn close_stream(&self, lane: u32, number: u64, context: &CallContext) {
        // Relaxed: a later call is made by this thread, or comes after it in some other way.
        self.streams.on[lane as usize].fetch_add(1, Relaxed);
        self.streams.count.fetch_add(1, Relaxed);
        self.streams.last.store(lane, Relaxed);
        let close = Arc::new(Close { caller: self.itself.clone(), context: *context, lane });
        // If it cannot be sent, the child is gone, and the stream with it.
        let _ = self.send_bound(lane, &close, CLOSE, number, MayWait::No);
    }

    /// Whether a call may find that a dropped stream still has the service.
    #[inline(always)]
    pub(super) fn is_closing(&self, context: &CallContext) -> bool {
        // Acquire: pairs with the Release in `Close::drop`.
        context.method.lends && self.streams.count.load(Acquire) > 0
    }

    /// The lane behind whose last request a call must go that does not wait.
    pub(super) fn closing_lane(&self, context: &CallContext) -> Option<usize> {
        // Relaxed: a hint.
        self.is_closing(context).then(|| self.streams.last.load(Relaxed) as usize)
    }

    /// Waits until the child has dropped the streams that were dropped here.
    #[cold]
    pub(super) fn await_closes(&self, context: &CallContext) -> Result<(), CallError> {
        // The worker that waits for a callback drops nothing meanwhile.
        if self.lent_lane().is_some() {
            return Ok(());
        }
        // A call that its own chain would wait for is refused, and does not wait here either.
        nest::current().map_or(Ok(()), |at| self.may_nest(at, context))?;
        let lanes = self.lanes.iter().zip(&self.streams.on);
        // Relaxed: read again below.
        let closing = lanes.filter(|(_, count)| count.load(Relaxed) > 0);
        closing.map(|(lane, _)| lane).try_for_each(|lane| self.await_closes_on(lane, context))
    }

    fn await_closes_on(&self, lane: &SharedLane, context: &CallContext) -> Result<(), CallError> {
        let mut claim = self.lock(lane, context)?;
        let count = &self.streams.on[claim.index() as usize];
        loop {
            self.settle_ready(&mut claim);
            self.send_queued(&mut claim);
            // Acquire: pairs with the Release in `Close::drop`. Nothing under way: another thread is about to send one.
            if count.load(Acquire) == 0 || claim.is_idle() {
                return Ok(());
            }
            if self.is_stuck(&claim) {
                return Err(self.over(Started::No, context));
            }
            match claim.wait(self.wait, &self.peer.peer_status, context.deadline(), &|| false) {
                Waited::Ready => {}
                Waited::DeadlinePassed => return Err(self.late(context)),
                Waited::Dead => return Err(self.over(Started::No, context)),
            }
        }
    }
}
