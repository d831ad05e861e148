//! A lane as the threads of the calling side share it: what its holder has, and what needs no holder.

#![forbid(unsafe_code)]

use super::settle::Settle;
use crate::gate::Gate;
use crate::lane::{CallerLane, Withdrawal};
use callgate_os::sync::Ordering::SeqCst;
use callgate_os::sync::{AtomicU32, fence};
use callgate_transport::doorbell;
use callgate_transport::layout::CallerLine;
use callgate_transport::segment::{Placed, Segment};
use callgate_transport::wake::{Bells, Sleeper};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// More than one thread.
pub(super) const SEVERAL: u32 = u32::MAX;

/// A lane as the threads of the calling side share it.
pub struct SharedLane {
    pub(super) gate: Gate<LaneState>,
    /// What needs no claim.
    pub(super) withdrawal: Withdrawal,
    pub(super) line: Placed<CallerLine>,
    bell: Arc<dyn Sleeper>,
    /// Whose one-way calls have not been acknowledged here: 0 = nobody's, the number of a thread plus 1, or [`SEVERAL`]. Written by the lane's holder.
    pub(super) has_one_way: AtomicU32,
    /// Not 0 while a thread of its own takes a reply here.
    pub(super) is_taken_aside: AtomicU32,
    /// Calls that have started and that nobody wants any more, which the child has not been told: their positions.
    pub(super) cancelled: Mutex<Vec<u64>>,
}

impl SharedLane {
    pub(super) fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self {
            gate: Gate::new(LaneState::new(CallerLane::new(segment, index, bells))),
            withdrawal: Withdrawal::new(segment, index),
            line: segment.caller_line(index),
            bell: bells.lane(index),
            has_one_way: AtomicU32::new(0),
            is_taken_aside: AtomicU32::new(0),
            cancelled: Mutex::default(),
        }
    }

    /// Wakes the holder, if it sleeps at the lane: it is wanted.
    #[cold]
    pub(super) fn rouse(&self) {
        // Orders the gate's word before the look at `parked`, as N2 of `doorbell` does; pairs with W2 there.
        fence(SeqCst);
        doorbell::rouse(&self.line.bell, &*self.bell);
    }
}

/// A lane, and the calls that have begun on it and have no outcome: their positions in order.
pub struct LaneState {
    pub(super) lane: CallerLane,
    pub(super) pending: VecDeque<(u64, Arc<dyn Settle>)>,
}

impl LaneState {
    pub(super) fn new(lane: CallerLane) -> Self {
        Self { lane, pending: VecDeque::new() }
    }

    /// Leaves the reply to the request at `position` to the next taker of replies, who drops it, if it is not taken already.
    pub(super) fn forget_call(&mut self, position: u64) {
        self.pending.retain(|(at, _)| *at != position);
    }

    /// The call whose reply is the next one, if it is a pending call's.
    /// It is then the first of the pending ones.
    pub(super) fn next_call(&mut self) -> Option<Arc<dyn Settle>> {
        let next = self.lane.next_position()?;
        if self.lane.is_unordered() {
            let place = self.pending.iter().position(|(at, _)| *at == next)?;
            let found = self.pending.remove(place)?;
            self.pending.push_front(found);
        }
        let (at, call) = self.pending.front()?;
        (*at == next).then(|| call.clone())
    }
}

impl Deref for LaneState {
    type Target = CallerLane;

    #[inline(always)]
    fn deref(&self) -> &CallerLane {
        &self.lane
    }
}

impl DerefMut for LaneState {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut CallerLane {
        &mut self.lane
    }
}
