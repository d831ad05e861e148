//! Picks the lane of a call, and waits for one.
//!
//! A lane belongs to one thread at a time. A call that its thread waits in has a lane to itself if one is idle; otherwise it goes behind others, like calls
//! that nobody waits in ([`pending`](super::pending)). Only nested calls, and those between clients, wait for a lane. Waiting for one ends at the call's
//! deadline or the child's end.

#![forbid(unsafe_code)]

use super::batch;
use super::settle::{WakerCell, Wakes};
use super::shared_lane::SharedLane;
use super::{CallContext, Caller, LANE_SLICE, LaneClaim};
use crate::current;
use crate::lane::CallerLane;
use crate::nest::{self, At};
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::error::{CallError, Started};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Instant;

/// One in this many lanes between two clients is reserved for calls that are not nested.
const KEPT: usize = 5;

/// Where threads wait for a lane.
pub(super) struct Freed {
    /// How many threads and tasks wait.
    waiting: AtomicU32,
    /// The tasks among them.
    lock: Mutex<Vec<Arc<WakerCell>>>,
    changed: Condvar,
}

impl Freed {
    pub(super) fn new() -> Self {
        Self { waiting: AtomicU32::new(0), lock: Mutex::default(), changed: Condvar::new() }
    }

    /// A thread is about to want lanes, and to [wait](Self::wait) if it gets none.
    fn enter(&self) -> MutexGuard<'_, Vec<Arc<WakerCell>>> {
        let guard = self.lock.lock();
        // Relaxed: published by the gate's word when the lanes are wanted.
        self.waiting.store(self.waiting.load(Relaxed) + 1, Relaxed);
        guard
    }

    fn wait(&self, mut guard: MutexGuard<'_, Vec<Arc<WakerCell>>>, until: Instant) {
        self.changed.wait_until(&mut guard, until);
        self.leave(&guard);
    }

    fn leave(&self, _: &MutexGuard<'_, Vec<Arc<WakerCell>>>) {
        self.waiting.store(self.waiting.load(Relaxed) - 1, Relaxed);
    }

    /// A task is about to want lanes, and is woken when one is left.
    pub(super) fn enter_task(&self, task: &Arc<WakerCell>) {
        let mut guard = self.enter();
        match guard.iter().any(|other| Arc::ptr_eq(other, task)) {
            true => self.leave(&guard),
            false => guard.push(task.clone()),
        }
    }

    /// Whether tasks wait for room on a lane.
    pub(super) fn has_tasks(&self) -> bool {
        // Relaxed: as in `notify`.
        self.waiting.load(Relaxed) > 0 && !self.lock.lock().is_empty()
    }

    /// A wanted lane has been left. `has_room` = a task could send there: others are not woken for nothing.
    pub(super) fn notify(&self, has_room: bool) {
        // Relaxed: the gate's word has been read since.
        if self.waiting.load(Relaxed) > 0 {
            let mut guard = self.lock.lock();
            self.changed.notify_all();
            let tasks = if has_room { std::mem::take(&mut *guard) } else { Vec::new() };
            tasks.iter().for_each(|_| self.leave(&guard));
            drop(guard);
            tasks.iter().for_each(|task| task.wake());
        }
    }
}

impl Caller {
    /// Claims an idle lane for this thread, and returns the call word as it must be sent. Prefers the lane of the thread's number, then any that is
    /// idle. `None` if there is none: then the call goes behind others.
    #[inline]
    pub(super) fn claim(
        &self,
        call: u64,
        context: &mut CallContext,
    ) -> Result<Option<(LaneClaim<'_>, u64)>, CallError> {
        if let Some(lane) = self.lanes.get(nest::own_lane())
            && let Some(claim) = lane.gate.try_claim(self)
            && claim.is_idle()
        {
            return Ok(Some((claim, call)));
        }
        self.claim_slow(call, context)
    }

    /// The lane that this thread tries first.
    pub(super) fn preferred_lane(&self) -> usize {
        nest::plain(nest::thread_number()) % self.lanes.len()
    }

    /// Every lane, beginning with this one.
    pub(super) fn lanes_from(&self, first: usize) -> impl Iterator<Item = &SharedLane> {
        let (before, after) = self.lanes.split_at(first);
        after.iter().chain(before)
    }

    #[inline(never)]
    fn claim_slow(&self, call: u64, context: &mut CallContext) -> Result<Option<(LaneClaim<'_>, u64)>, CallError> {
        if let Some(lane) = self.lent_lane() {
            let Some(mut claim) = lane.gate.borrow(self) else { return Ok(None) };
            context.inherit(claim.deadline);
            // One credit is kept, to end the method that called back.
            if claim.credit() <= 1 {
                self.await_idle(&mut claim, context)?;
            }
            return Ok(Some((claim, call)));
        }
        let Some(at) = nest::current() else {
            if self.peer.peer_status.is_over() {
                return Err(self.over(Started::No, context));
            }
            if let Some(lane) = self.one_way_lane() {
                // Among others there, whose replies may come first, like a call that no thread waits in.
                if self.is_unordered {
                    return Ok(None);
                }
                let mut claim = self.lock(&self.lanes[lane], context)?;
                self.wait_for_room(&mut claim, context)?;
                self.forget_one_way(&claim);
                return Ok(Some((claim, call)));
            }
            let idle = self.lanes_from(self.preferred_lane()).find_map(|lane| self.claim_if_idle(lane));
            return Ok(idle.map(|claim| (claim, call)));
        };
        context.inherit(current::deadline());
        self.may_nest(at, context)?;
        let mut claim = self.claim_idle(context)?;
        if !claim.may_nest(at.chain) {
            return Err(at.too_nested(context.name(), "nested calls that were given up hold every lane of the bridge"));
        }
        let call = self.nest(&mut claim, at, call);
        Ok(Some((claim, call)))
    }

    /// This lane, if nobody has it and nothing is under way on it.
    pub(super) fn claim_if_idle<'a>(&'a self, lane: &'a SharedLane) -> Option<LaneClaim<'a>> {
        self.if_idle(lane.gate.try_claim(self)?)
    }

    fn if_idle<'a>(&self, mut claim: LaneClaim<'a>) -> Option<LaneClaim<'a>> {
        if !claim.is_idle() {
            self.settle_ready(&mut claim);
            claim.owe();
        }
        claim.is_idle().then_some(claim)
    }

    /// This thread's own lane, if it has room for a request. Where other lanes or calls come first, `None`.
    #[inline(always)]
    pub(super) fn claim_own_with_room(&self) -> Option<LaneClaim<'_>> {
        let lane = self.lanes.get(nest::own_lane()).filter(|_| self.workers == 1)?;
        if lane.has_one_way.load(Relaxed) != 0 || !self.queue.is_empty() {
            return None;
        }
        lane.gate.try_claim(self).filter(|claim| claim.credit() > 0)
    }

    /// A lane with room for as many requests. Several workers do not wait for each other: then one with nothing under way comes first.
    pub(super) fn claim_with_room(
        &self,
        requests: u64,
        context: &CallContext,
    ) -> Result<Option<LaneClaim<'_>>, CallError> {
        if let Some(lane) = self.closing_lane(context).or_else(|| self.one_way_lane()) {
            let Some(mut claim) = self.lanes[lane].gate.try_claim(self) else { return Ok(None) };
            self.settle_ready(&mut claim);
            self.forget_one_way(&claim);
            self.owe_others(&mut claim);
            return Ok((claim.credit() >= requests).then_some(claim));
        }
        let preferred = self.preferred_lane();
        let may_nest = |claim: &LaneClaim<'_>| nest::current().is_none_or(|at| claim.may_nest(at.chain));
        if self.workers > 1
            && let Some(claim) = self.lanes_from(preferred).find_map(|lane| self.claim_if_idle(lane))
        {
            return Ok(Some(claim));
        }
        for lane in self.lanes_from(preferred) {
            let Some(mut claim) = lane.gate.try_claim(self) else { continue };
            if claim.credit() < requests {
                self.settle_ready(&mut claim);
                self.owe_others(&mut claim);
            }
            if claim.credit() >= requests && may_nest(&claim) {
                return Ok(Some(claim));
            }
        }
        match self.peer.peer_status.is_over() {
            true => Err(self.over(Started::No, context)),
            false => Ok(None),
        }
    }

    /// Whether a call may be made from `at`. A child has no worker for a call made within a call that it carries out: that call would wait for
    /// itself.
    #[cold]
    pub(super) fn may_nest(&self, at: At, context: &CallContext) -> Result<(), CallError> {
        at.may_call(context.name())?;
        let begins_here = (1..=u64::from(self.workers)).contains(&at.chain.wrapping_sub(self.chains));
        let is_under_way = |lane: &SharedLane| {
            // Relaxed: written by a thread of the same chain, which this one comes after.
            lane.line.chain.load(Relaxed) == at.chain && lane.gate.try_claim(self).is_none_or(|claim| !claim.is_idle())
        };
        let is_entered = || begins_here || self.lanes.iter().any(is_under_way);
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
    ) -> Result<(LaneClaim<'_>, u64), CallError> {
        self.may_nest(at, context)?;
        for lane in self.lanes[self.lanes.len() / KEPT..].iter().rev() {
            if let Some(mut idle) = self.claim_if_idle(lane) {
                let call = self.nest(&mut idle, at, call);
                return Ok((idle, call));
            }
        }
        match self.peer.peer_status.is_over() {
            true => Err(self.over(Started::No, context)),
            false => Err(at.too_nested(context.name(), "nested calls hold every lane between the two processes")),
        }
    }

    /// A lane with nothing under way: behind a call that gave up, another might wait for ever, while the workers of other lanes are free. Only if
    /// every lane has such a call, this one waits behind one.
    pub(super) fn claim_idle(&self, context: &CallContext) -> Result<LaneClaim<'_>, CallError> {
        let preferred = self.preferred_lane();
        loop {
            let mut in_use = Vec::new();
            for lane in self.lanes_from(preferred) {
                match lane.gate.try_claim(self) {
                    Some(claim) => {
                        if let Some(idle) = self.if_idle(claim) {
                            return Ok(idle);
                        }
                    }
                    None => in_use.push(lane),
                }
            }
            if self.peer.peer_status.is_over() {
                return Err(self.over(Started::No, context));
            }
            if in_use.is_empty() {
                let mut claim = self.lock(&self.lanes[preferred], context)?;
                self.wait_for_room(&mut claim, context)?;
                return Ok(claim);
            }
            let freed = self.wait_for_lane(in_use.into_iter(), context)?;
            if let Some(idle) = freed.and_then(|claim| self.if_idle(claim)) {
                return Ok(idle);
            }
        }
    }

    /// This very lane, as soon as nobody has it.
    pub(super) fn lock<'a>(&'a self, lane: &'a SharedLane, context: &CallContext) -> Result<LaneClaim<'a>, CallError> {
        loop {
            if let Some(mut claim) = self.wait_for_lane(std::iter::once(lane), context)? {
                // Others may have calls here.
                claim.owe();
                return Ok(claim);
            }
        }
    }

    /// One of these lanes, if one is free soon. A call ends when the child does, but a lane may be kept for ever, so the child's end is checked while
    /// waiting.
    pub(super) fn wait_for_lane<'a>(
        &'a self,
        lanes: impl Iterator<Item = &'a SharedLane> + Clone,
        context: &CallContext,
    ) -> Result<Option<LaneClaim<'a>>, CallError> {
        batch::notify_begun();
        let slice = Instant::now() + LANE_SLICE;
        let until = context.deadline().instant().map_or(slice, |deadline| deadline.min(slice));
        let guard = self.freed.enter();
        if let Some(claim) = lanes.clone().find_map(|lane| lane.gate.want(self)) {
            self.freed.leave(&guard);
            return Ok(Some(claim));
        }
        self.freed.wait(guard, until);
        if let Some(claim) = lanes.clone().find_map(|lane| lane.gate.try_claim(self)) {
            return Ok(Some(claim));
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
