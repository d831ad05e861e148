//! A lane as the threads of the calling side share it: what its holder has, and what needs no holder.

#![forbid(unsafe_code)]

use super::settle::{Settle, WakerCell, Wakes};
use crate::gate::Gate;
use crate::lane::{CallerLane, Withdrawal};
use callgate_os::sync::Ordering::SeqCst;
use callgate_os::sync::{AtomicU32, fence};
use callgate_transport::doorbell;
use callgate_transport::layout::CallerLine;
use callgate_transport::ring::Onlooker;
use callgate_transport::segment::{Placed, Segment};
use callgate_transport::wake::{Bells, Sleeper};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

/// More than one thread.
pub(super) const SEVERAL: u32 = u32::MAX;

/// A lane as the threads of the calling side share it.
pub struct SharedLane {
    pub(super) gate: Gate<LaneState>,
    index: u32,
    /// What needs no claim.
    pub(super) withdrawal: Withdrawal,
    pub(super) line: Placed<CallerLine>,
    bell: Arc<dyn Sleeper>,
    /// Whose one-way calls have not been acknowledged here: 0 = nobody's, the number of a thread plus 1, or [`SEVERAL`]. Written by the lane's holder.
    pub(super) has_one_way: AtomicU32,
    /// The task that waits for a reply here, of a conversation that has the lane, and the reply's position.
    pub(super) task: Mutex<Option<(u64, Arc<WakerCell>)>>,
    replies: Onlooker,
    /// Not 0 while a thread of its own takes a reply here.
    pub(super) is_taken_aside: AtomicU32,
    /// Calls that have started and that nobody wants any more, which the child has not been told: their positions.
    pub(super) cancelled: Mutex<Vec<u64>>,
}

impl SharedLane {
    pub(super) fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self {
            gate: Gate::new(LaneState::new(CallerLane::new(segment, index, bells))),
            index,
            withdrawal: Withdrawal::new(segment, index),
            line: segment.caller_line(index),
            bell: bells.lane(index),
            has_one_way: AtomicU32::new(0),
            task: Mutex::new(None),
            replies: Onlooker::new(segment.replies(index)),
            is_taken_aside: AtomicU32::new(0),
            cancelled: Mutex::default(),
        }
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// Wakes the task that waits for a reply here, if that is there or `is_over`. Returns whether there was one.
    pub(super) fn wake_task(&self, is_over: bool) -> bool {
        let mut task = self.task.lock();
        let woken = task.take_if(|(position, _)| is_over || self.replies.has_seen(*position));
        drop(task);
        woken.as_ref().is_some_and(|(_, waker)| {
            waker.wake();
            true
        })
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
    /// Conversations here that were given up and whose methods may still ask: what came behind them would look like a callback's call.
    pub(super) forsaken: u32,
    /// Replies that were questions, which end no call.
    pub(super) questions: u64,
    /// While the lane is lent to a callback: the deadline of the call that it belongs to.
    pub(super) deadline: Option<Instant>,
    /// Whether the last holder that attended found somebody who waits for a call of this lane, or for room. Whoever has begun to wait since has wanted the
    /// lane.
    pub(super) is_watched: bool,
}

impl LaneState {
    pub(super) fn new(lane: CallerLane) -> Self {
        Self { lane, pending: VecDeque::new(), forsaken: 0, questions: 0, deadline: None, is_watched: false }
    }

    /// How many calls have ended here with a reply that was taken.
    pub(super) fn answered_calls(&self) -> u64 {
        self.lane.answered() - self.questions
    }

    /// Whether there is room for any call, with what must be sent before it.
    pub(super) fn has_room(&self) -> bool {
        self.credit() >= 2 || self.lane.is_idle() && self.credit() > 0
    }

    /// How many requests can be sent now.
    pub(super) fn credit(&self) -> u64 {
        if self.forsaken == 0 { self.lane.credit() } else { 0 }
    }

    /// Leaves the reply to the request at `position` to the next taker of replies, who drops it, if it is not taken already.
    pub(super) fn forget_call(&mut self, position: u64) {
        self.pending.retain(|(at, _)| *at != position);
    }

    /// Whether the next reply is that of the pending call at `position`.
    #[inline(always)]
    pub(super) fn is_next_call(&self, position: u64) -> bool {
        match self.lane.is_unordered() {
            false => {
                self.lane.replies().position() == position
                    && self.pending.front().is_some_and(|(at, _)| *at == position)
            }
            true => self.lane.next_position() == Some(position) && self.has_call(position),
        }
    }

    /// Whether the next reply is that to the request at `position`.
    pub(super) fn is_due(&self, position: u64) -> bool {
        match self.lane.is_unordered() {
            false => self.lane.replies().position() == position,
            true => self.lane.next_position() == Some(position),
        }
    }

    /// Forgets the call at `position`, whose reply was the [next](Self::is_next_call) one.
    pub(super) fn forget_next(&mut self, position: u64) {
        match self.lane.is_unordered() {
            false => drop(self.pending.pop_front()),
            true => self.forget_call(position),
        }
    }

    /// Whether the call at `position` has no outcome yet.
    pub(super) fn has_call(&self, position: u64) -> bool {
        self.pending.iter().any(|(at, _)| *at == position)
    }

    /// The call whose reply is the next one, if it is a pending call's. It is then the first of the pending ones.
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
