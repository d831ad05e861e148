//! What whoever has a lane does for the calls that have begun there: takes their replies, sends what waits, and sees to it that somebody looks at the
//! next reply.
//!
//! Somebody does: a thread that waits for a call has the lane, or is given it when its holder leaves; for tasks, and for requests that wait for room, the
//! child rings, and the reactor looks. The lane's gate makes sure that no holder leaves without this, see `gate`.
//!
//! The reactor, the watcher's thread, runs no code of the user's but wakers: it moves replies out of their slots unread.

#![forbid(unsafe_code)]

use super::settle::{Settle, WaitedBy, Wakes};
use super::shared_lane::{LaneState, SharedLane};
use super::{CallContext, Caller, LaneClaim};
use crate::gate::{Attendant, Gate};
use crate::watcher::{self, Due, Reactive};
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::commit::Kind;
use callgate_transport::error::CallError;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::moved_reply::MovedReply;
use callgate_transport::reply::Reply;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

impl Attendant<LaneState> for Caller {
    #[cold]
    fn attend(&self, gate: &Gate<LaneState>) {
        self.attend_at(gate, Caller::settle_ready);
    }
}

impl Caller {
    /// Does what there is to do on a lane, or has its holder do it; `settle` takes the replies. Returns whether there were any.
    fn attend_at(&self, gate: &Gate<LaneState>, settle: fn(&Self, &mut LaneClaim<'_>) -> bool) -> bool {
        let mut has_found = false;
        while !self.peer.is_in_fork()
            && let Some(mut claim) = gate.want(self)
        {
            let before = claim.answered();
            let turn = self.attend_to(&mut claim, settle);
            has_found |= claim.answered() != before;
            let has_room = claim.has_room();
            let is_wanted = claim.release();
            let is_given = turn.is_none_or(|(lane, call)| call.give_turn(lane));
            self.freed.notify(has_room);
            // A thread that has just left does not look at the lane: another may.
            if !is_wanted && is_given {
                break;
            }
        }
        has_found
    }

    /// Does what there is to do on a lane; `settle` takes the replies, and returns whether to listen for the next. Returns whom to give the lane.
    fn attend_to(
        &self,
        claim: &mut LaneClaim<'_>,
        settle: fn(&Self, &mut LaneClaim<'_>) -> bool,
    ) -> Option<(u32, Arc<dyn Settle>)> {
        loop {
            // Read before looking for replies, so that one published before the death is still found.
            let has_ended = self.peer.peer_status.exit().is_some();
            let may_listen = settle(self, claim);
            if has_ended && (may_listen || self.is_stuck(claim)) {
                self.end_calls(claim);
            }
            let has_cancels = self.is_unordered && self.send_cancels(claim);
            self.send_queued(claim);
            let (mut has_task, index) =
                (!self.queue.is_empty() || has_cancels || self.freed.has_tasks(), claim.index());
            claim.is_watched = true;
            for (_, call) in &claim.pending {
                match call.waited_by() {
                    WaitedBy::Thread => return Some((index, call.clone())),
                    WaitedBy::Task | WaitedBy::Caller => has_task = true,
                    WaitedBy::None | WaitedBy::Abandoned => {}
                }
            }
            claim.is_watched = has_task;
            failpoints::reach(Step::ParentAttended);
            // What a peer has written that broke the protocol may stay, and looks like a reply for ever.
            if !has_task || !may_listen || claim.is_idle() || self.is_broken() {
                claim.disarm();
                return None;
            }
            if !claim.listen() {
                return None;
            }
        }
    }

    /// Has this thread attend to the lane as it leaves, if it may have taken from others what they rely on: the lane's bell, or a turn. Whoever has begun to
    /// wait since the lane was last attended to has wanted it, so that it is attended to anyway.
    #[inline]
    pub(super) fn owe_others(&self, claim: &mut LaneClaim<'_>) {
        if claim.is_watched || !self.queue.is_empty() {
            claim.owe();
        }
    }

    /// Does what can be done while this thread has a lane and waits for a reply.
    #[cold]
    pub(super) fn attend_while_waiting(&self, claim: &mut LaneClaim<'_>) {
        claim.clear_want();
        // Between the turns of a conversation comes nothing from others.
        if (self.workers == 1 || self.is_unordered) && !claim.is_borrowed() {
            self.send_cancels(claim);
            self.send_queued(claim);
        }
        claim.owe();
    }

    /// Takes the replies that are there: gives them to their calls, and drops those that nobody wants any more. Never takes more replies than there are
    /// unanswered requests. Returns whether the next reply is worth listening for.
    pub(super) fn settle_ready(&self, claim: &mut LaneClaim<'_>) -> bool {
        // There is no reply at the position of the next request.
        self.settle_before(claim, claim.position())
    }

    /// The same for the replies before `position`.
    pub(super) fn settle_before(&self, claim: &mut LaneClaim<'_>, position: u64) -> bool {
        while !claim.is_idle() && !claim.is_due(position) && claim.is_answered() {
            match claim.next_call() {
                Some(call) if call.settle(self, claim) => drop(claim.pending.pop_front()),
                // The child has taken it back.
                Some(_) => break,
                None if self.drop_ready(claim) => {}
                None => return false,
            }
        }
        true
    }

    /// Drops the next reply, which is there. `false` = it is none that a healthy child writes, and stays; the child is being killed.
    fn drop_ready(&self, claim: &mut LaneClaim<'_>) -> bool {
        self.drop_next(claim, &CallContext::nameless()).is_ok()
    }

    /// The same, on the reactor's thread. A reply that it does not move, because it is large or carries boxes, is left to any task that waits at the lane:
    /// that one listens again.
    fn move_ready(&self, claim: &mut LaneClaim<'_>) -> bool {
        while !claim.is_idle() && claim.is_answered() {
            match claim.next_call() {
                Some(call) if matches!(call.waited_by(), WaitedBy::Abandoned | WaitedBy::Caller) => {
                    if !call.settle(self, claim) {
                        break;
                    }
                    claim.pending.pop_front();
                }
                Some(call) => {
                    let Some(reply) = self.move_next(claim) else {
                        self.leave_to_others(claim);
                        return false;
                    };
                    claim.pending.pop_front();
                    call.hold(reply);
                }
                None if self.drop_ready(claim) => {}
                None => return false,
            }
        }
        true
    }

    /// Leaves the next reply to any task that waits at the lane, or, if there is none, to a thread of its own.
    #[cold]
    fn leave_to_others(&self, claim: &LaneClaim<'_>) {
        let calls: Vec<_> = claim.pending.iter().map(|(_, call)| call.clone()).collect();
        if calls.iter().any(|call| call.waited_by() == WaitedBy::Task) {
            return calls.iter().for_each(|call| call.wake());
        }
        let (caller, index) = (self.itself.clone(), claim.index() as usize);
        // One such thread for a lane at a time.
        if self.lanes[index].is_taken_aside.swap(1, Relaxed) != 0 {
            return;
        }
        let take = move || {
            let Some(caller) = caller.upgrade() else { return };
            caller.lanes[index].is_taken_aside.store(0, Relaxed);
            caller.attend_at(&caller.lanes[index].gate, Caller::settle_ready);
        };
        // Without a thread the reply waits until the next call, poll or wait.
        if std::thread::Builder::new().name("callgate-take".into()).spawn(take).is_err() {
            self.lanes[index].is_taken_aside.store(0, Relaxed);
        }
    }

    /// The next reply, moved out of its slot.
    fn move_next(&self, claim: &mut LaneClaim<'_>) -> Option<MovedReply> {
        let reply = MovedReply::of_next(claim.replies())?;
        self.release(claim, false);
        Some(reply)
    }

    /// The value in a reply that was moved out of its slot.
    pub(super) fn read_moved<R: Reply>(&self, reply: &MovedReply, context: &CallContext) -> Result<R, CallError> {
        self.outcome(&reply.frame(), Kind::Call, context)
    }

    /// Ends every call on a lane whose peer has ended.
    pub(super) fn end_calls(&self, claim: &mut LaneClaim<'_>) {
        while let Some((position, call)) = claim.pending.pop_front() {
            call.fail(self.ended(claim, position, &call.context()));
        }
    }
}

/// The child has rung, or has ended.
impl Reactive for Caller {
    fn react(&self) -> bool {
        let is_over = self.peer.peer_status.exit().is_some();
        let found = |found, lane: &SharedLane| {
            let has_task = lane.wake_task(is_over);
            self.attend_at(&lane.gate, Caller::move_ready) || has_task || found
        };
        self.lanes.iter().fold(false, found)
    }
}

// ---- deadlines of tasks ----------------------------------------------------------------------------------------------

/// When tasks must be woken because the time of their calls is over.
pub(super) struct Timers {
    itself: Weak<Self>,
    due: Mutex<DueCalls>,
}

#[derive(Default)]
struct DueCalls {
    calls: BTreeMap<(Instant, u64), Weak<dyn Wakes>>,
    numbered: u64,
    /// When the watcher looks.
    looks: BTreeSet<Instant>,
}

impl DueCalls {
    /// When the watcher must look for the first call, unless it looks then or before anyway.
    fn next_look(&mut self) -> Option<Instant> {
        let (first, _) = *self.calls.first_key_value()?.0;
        if self.looks.first().is_some_and(|look| *look <= first) {
            return None;
        }
        self.looks.insert(first);
        Some(first)
    }
}

impl Timers {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|itself| Self { itself: itself.clone(), due: Mutex::default() })
    }

    /// Wakes the call's task at this time. Returns what cancels that.
    pub fn wake_at<S: Wakes + 'static>(&self, at: Instant, call: &Arc<S>) -> (Instant, u64) {
        let mut due = self.due.lock();
        let call: Weak<S> = Arc::downgrade(call);
        let timer = (at, due.numbered);
        due.numbered += 1;
        due.calls.insert(timer, call);
        if let Some(look) = due.next_look() {
            // Without a watcher there is no child either.
            let _ = watcher::look_at(self.itself.clone(), look);
        }
        timer
    }

    pub fn cancel(&self, timer: Option<(Instant, u64)>) {
        if let Some(timer) = timer {
            self.due.lock().calls.remove(&timer);
        }
    }
}

impl Due for Timers {
    fn is_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut due = self.due.lock();
        due.looks.retain(|look| *look > now);
        let later = due.calls.split_off(&(now, u64::MAX));
        let passed = std::mem::replace(&mut due.calls, later);
        let next = due.next_look();
        drop(due);
        passed.into_values().filter_map(|call| call.upgrade()).for_each(|call| call.wake());
        next
    }
}
