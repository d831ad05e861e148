//! What differs for a caller whose child's calls are tasks: replies come as those end, and a call that has started can still be ended.
//!
//! Whoever withdraws a call that may have started notes it at its lane. The lane's holder, who attends to what is noted, tells the child by a request of
//! its own, if the call has not been answered by then. The child drops the call's task, and answers both.

#![forbid(unsafe_code)]

use super::call_state::Call;
use super::one_way::maybe_started;
use super::{Ask, CallContext, Caller, LaneClaim};
use crate::lane::UnansweredSet;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::{Deadline, Waited};
use callgate_transport::error::{CallError, Started};
use callgate_transport::reply::Reply;
use std::sync::Arc;
use std::time::Duration;

/// How long a thread sleeps at a lane that cannot be roused.
const LOOK: Duration = Duration::from_millis(5);

impl Caller {
    /// Has the child drop the task of the request at this place.
    #[cold]
    pub(super) fn cancel(&self, (lane, position): (u32, u64)) {
        let lane = &self.lanes[lane as usize];
        lane.cancelled.lock().push(position);
        match lane.gate.want(self) {
            Some(mut claim) => claim.owe(),
            None => lane.rouse(),
        }
    }

    /// Tells the child of the calls on this lane that nobody wants any more, as far as there is room. Returns whether some are left.
    pub(super) fn send_cancels(&self, claim: &mut LaneClaim<'_>) -> bool {
        let lane = &self.lanes[claim.index() as usize];
        loop {
            let Some(position) = lane.cancelled.lock().pop() else { return false };
            if !claim.is_unanswered(position) || self.peer.peer_status.is_over() {
                continue;
            }
            if !claim.may_cancel() {
                lane.cancelled.lock().push(position);
                self.rely_on_watcher();
                return true;
            }
            let ask = Ask { kind: Kind::Cancel, call: position };
            // Carries nothing, so it needs no memory; the child's end ends the call, too.
            let _ = self.send_on(claim, ask, (), &CallContext::nameless());
        }
    }

    /// Waits for the reply to the request at `position`, which this thread has sent, while others use its lane as well.
    #[cold]
    pub(super) fn receive_among_others<R: Reply>(
        &self,
        lane: &mut LaneClaim<'_>,
        position: u64,
        context: &CallContext,
    ) -> Result<R, CallError> {
        let call = Arc::new(Call::sent(*context, (lane.index(), position)));
        lane.pending.push_back((position, call.clone()));
        self.attend_while_waiting(lane);
        loop {
            if let Some(outcome) = self.watch(&call, position, lane, Deadline::NEVER) {
                return outcome;
            }
            if context.deadline().has_passed() {
                lane.forget_call(position);
                return Err(self.give_up(lane, position, context));
            }
        }
    }

    /// Waits for the next reply, or until the lane is wanted: what it is wanted for may be what this thread's own call waits for. May return earlier, if
    /// a thread that sleeps here cannot be roused.
    #[inline(never)]
    pub(super) fn wait_among_others(&self, lane: &LaneClaim<'_>, deadline: Deadline) -> Waited {
        let until = if lane.can_be_roused() { deadline } else { deadline.earlier(Deadline::after(Some(LOOK))) };
        match lane.wait(self.wait, &self.peer.peer_status, until, &|| lane.is_wanted()) {
            Waited::DeadlinePassed if !deadline.has_passed() => Waited::Ready,
            waited => waited,
        }
    }

    /// Waits until every one-way call on this lane has been answered.
    pub(super) fn await_one_way(&self, claim: &mut LaneClaim<'_>, context: &CallContext) -> Result<(), CallError> {
        loop {
            self.settle_ready(claim);
            if !claim.has_one_way() {
                self.forget_one_way(claim);
                return Ok(());
            }
            if self.is_stuck(claim) {
                return Err(maybe_started(self.over(Started::Unknown, context)));
            }
            let failure = match self.wait_among_others(claim, context.deadline()) {
                Waited::Ready => {
                    if claim.is_wanted() {
                        self.attend_while_waiting(claim);
                    }
                    continue;
                }
                Waited::DeadlinePassed => self.timed_out(Started::Unknown, context),
                Waited::Dead => self.over(Started::Unknown, context),
            };
            return Err(maybe_started(failure));
        }
    }

    /// Has the lanes say which requests have no reply, for whoever judges how long calls take.
    pub(super) fn show_unanswered(&self, unanswered: &[UnansweredSet]) {
        for (lane, unanswered) in self.lanes.iter().zip(unanswered) {
            // Nobody else knows this caller yet.
            lane.gate.try_claim(self).into_iter().for_each(|mut claim| claim.show_unanswered(unanswered.clone()));
        }
    }
}
