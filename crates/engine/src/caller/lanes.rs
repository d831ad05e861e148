//! Picks the lane of a call, and waits for one.
//!
//! A lane belongs to one thread at a time. Waiting for one ends at the call's deadline or the child's end.

#![forbid(unsafe_code)]

use super::{CallContext, Caller, LANE_SLICE};
use crate::lane::CallerLane;
use crate::nest::{self, At};
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::error::{CallError, Started};
use callgate_transport::layout::CallerLine;
use callgate_transport::segment::Placed;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Instant;

/// One in this many lanes between two clients is reserved for calls that are not nested.
const KEPT: usize = 5;

impl Caller {
    /// Claims a lane for this thread, and returns the call word as it must be sent. Prefers the lane of the thread's number, then any that is free,
    /// then waits for the first.
    #[inline]
    pub(super) fn claim(
        &self,
        call: u64,
        context: &CallContext,
    ) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        match self.lanes.get(nest::own_lane()).and_then(|lane| lane.try_lock()) {
            Some(lane) => Ok((lane, call)),
            None => self.claim_slow(call, context),
        }
    }

    /// The lane that this thread tries first.
    pub(super) fn preferred_lane(&self) -> usize {
        nest::plain(nest::thread_number()) % self.lanes.len()
    }

    /// Every lane, beginning with this one.
    pub(super) fn lanes_from(&self, first: usize) -> impl Iterator<Item = &Arc<Mutex<CallerLane>>> {
        let (before, after) = self.lanes.split_at(first);
        after.iter().chain(before)
    }

    #[inline(never)]
    fn claim_slow(&self, call: u64, context: &CallContext) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        let Some(at) = nest::current() else { return Ok((self.claim_any(self.preferred_lane(), context)?, call)) };
        self.may_nest(at, context)?;
        let mut lane = self.claim_idle(context)?;
        if !lane.may_nest(at.chain) {
            return Err(at.too_nested(context.name(), "nested calls that were given up hold every lane of the bridge"));
        }
        let call = self.nest(&mut lane, at, call);
        Ok((lane, call))
    }

    /// Whether a call may be made from `at`. A child has no worker for a call made within a call that it carries out: that call would wait for
    /// itself.
    #[cold]
    pub(super) fn may_nest(&self, at: At, context: &CallContext) -> Result<(), CallError> {
        at.may_call(context.name())?;
        let begins_here = (1..=u64::from(self.workers)).contains(&at.chain.wrapping_sub(self.chains));
        let is_under_way = |(line, lane): (&Placed<CallerLine>, &Arc<Mutex<CallerLane>>)| {
            // Relaxed: written by a thread of the same chain, which this one comes after.
            line.chain.load(Relaxed) == at.chain && lane.try_lock().is_none_or(|lane| !lane.is_idle())
        };
        let is_entered = || begins_here || self.callers.iter().zip(&self.lanes).any(is_under_way);
        if !context.name().is_of_callback() && is_entered() {
            return Err(at.too_nested(context.name(), "the child already carries out a call that waits for this one"));
        }
        Ok(())
    }

    /// Nests the next request on this lane at `at`. Returns its call word.
    #[cold]
    pub(super) fn nest(&self, lane: &mut CallerLane, at: At, call: u64) -> u64 {
        lane.nest(at.chain);
        at.mark(call)
    }

    /// A lane for a call of a callback that is nested at `at`. Does not wait for one, because the outer calls hold some. Leaves some to calls that
    /// are not nested.
    #[cold]
    pub(super) fn claim_nested(
        &self,
        at: At,
        call: u64,
        context: &CallContext,
    ) -> Result<(MutexGuard<'_, CallerLane>, u64), CallError> {
        self.may_nest(at, context)?;
        for lane in self.lanes[self.lanes.len() / KEPT..].iter().rev() {
            if let Some(free) = lane.try_lock()
                && let Some(mut idle) = self.if_idle(free, context)?
            {
                let call = self.nest(&mut idle, at, call);
                return Ok((idle, call));
            }
        }
        match self.peer.peer_status.is_over() {
            true => Err(self.over(Started::No, context)),
            false => Err(at.too_nested(context.name(), "nested calls hold every lane between the two processes")),
        }
    }

    #[cold]
    fn claim_any(&self, preferred: usize, context: &CallContext) -> Result<MutexGuard<'_, CallerLane>, CallError> {
        if let Some(lane) = self.lanes_from(preferred).find_map(|lane| lane.try_lock()) {
            return Ok(lane);
        }
        // No lane comes free when the child has ended: fail at once.
        if self.peer.peer_status.is_over() {
            return Err(self.over(Started::No, context));
        }
        self.lock(&self.lanes[preferred], context)
    }

    /// A lane with nothing under way: behind a call that gave up, another might wait for ever, while the workers of other lanes are free. Only if
    /// every lane has such a call, this one waits behind one.
    pub(super) fn claim_idle(&self, context: &CallContext) -> Result<MutexGuard<'_, CallerLane>, CallError> {
        let preferred = self.preferred_lane();
        loop {
            let mut in_use = None;
            for lane in self.lanes_from(preferred) {
                match lane.try_lock() {
                    Some(free) => {
                        if let Some(idle) = self.if_idle(free, context)? {
                            return Ok(idle);
                        }
                    }
                    None => in_use = in_use.or(Some(lane)),
                }
            }
            if self.peer.peer_status.is_over() {
                return Err(self.over(Started::No, context));
            }
            let Some(lane) = in_use else { return self.lock(&self.lanes[preferred], context) };
            if let Some(free) = self.lock_soon(lane, context)?
                && let Some(idle) = self.if_idle(free, context)?
            {
                return Ok(idle);
            }
            if context.deadline().has_passed() {
                return Err(self.late(context));
            }
        }
    }

    /// This lane, if nothing is under way on it.
    fn if_idle<'a>(
        &self,
        mut lane: MutexGuard<'a, CallerLane>,
        context: &CallContext,
    ) -> Result<Option<MutexGuard<'a, CallerLane>>, CallError> {
        self.settle(&mut lane, context)?;
        Ok(lane.is_idle().then_some(lane))
    }

    /// Locks this very lane, as soon as it is free.
    ///
    /// A call ends when the child does, but one that has begun and is not finished may keep its lane for ever, so the child's end is checked while
    /// waiting.
    pub(super) fn lock<'a>(
        &self,
        lane: &'a Mutex<CallerLane>,
        context: &CallContext,
    ) -> Result<MutexGuard<'a, CallerLane>, CallError> {
        loop {
            if let Some(lane) = self.lock_soon(lane, context)? {
                return Ok(lane);
            }
        }
    }

    /// The same; `None` if it is not free soon.
    fn lock_soon<'a>(
        &self,
        lane: &'a Mutex<CallerLane>,
        context: &CallContext,
    ) -> Result<Option<MutexGuard<'a, CallerLane>>, CallError> {
        let slice = Instant::now() + LANE_SLICE;
        let until = context.deadline().instant().map_or(slice, |deadline| deadline.min(slice));
        if let Some(lane) = lane.try_lock_until(until) {
            return Ok(Some(lane));
        }
        if self.peer.peer_status.exit().is_some() {
            return Err(self.over(Started::No, context));
        }
        if context.deadline().has_passed() {
            return Err(self.late(context));
        }
        Ok(None)
    }
}
