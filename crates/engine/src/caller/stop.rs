//! The end of a child: stopped and waited for, let go, or killed.
//!
//! A fork of the caller's process leaves the child alone, which is not its own.

#![forbid(unsafe_code)]

use super::shared_lane::SharedLane;
use super::{Ask, CallContext, Caller, LANE_SLICE, LaneClaim};
use crate::callee::PANICKED;
use crate::lane::WorkerBell;
use crate::peer_status::Cause;
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::doorbell::Deadline;
use callgate_transport::error::{Awaited, CallError, Exit, Fault, Started};
use callgate_transport::failpoints::{self, Step};
use std::time::Duration;

/// How long a killed child may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Caller {
    /// Has the child drop the service and exit after all calls sent before; kills it if that takes longer than `grace`. The child is gone when this
    /// returns. A second stop waits for the first, and returns how the child ended.
    ///
    /// Waits only for the child: not for callers, nor for replies that have not been taken.
    pub fn stop(&self, drop: &'static Method, grace: Duration) -> Result<Exit, CallError> {
        let context = &CallContext::new(drop, Some(grace));
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        let _one_at_a_time = self.stopping.lock();
        let peer_status = &self.peer.peer_status;
        match (peer_status.cause(), peer_status.exit()) {
            (Some(Cause::Stopped), Some(exit)) => return Ok(exit),
            (Some(Cause::Corrupt(_)), _) | (None, Some(_)) => {
                self.kill();
                return Err(self.over(Started::No, context));
            }
            _ => {}
        }
        peer_status.blame(Cause::Stopped);
        let answer = match self.ask_to_stop(context, LANE_SLICE) {
            Some((mut lane, position)) => self.receive(&mut lane, position, Kind::Stop, context),
            None => self.stopped_unasked(drop, context.deadline()),
        };
        match answer {
            Err(error @ CallError::Corrupt { .. }) => {
                self.kill();
                Err(error)
            }
            // The child may also have ended without an answer.
            answer => match peer_status.wait(context.deadline()) {
                Some(_) if matches!(answer, Err(CallError::Panicked { .. })) => answer.map(|()| Exit::Unknown),
                Some(exit) => Ok(exit),
                None => {
                    self.kill();
                    Err(self.out_of_time(Awaited::Answer, Started::Yes, context))
                }
            },
        }
    }

    /// Asks the child to stop, and does not wait for it: unfinished calls, and replies that nobody takes, may hold its lanes. If the first lane is
    /// free within `timeout`, returns it with the position of a request, which will be answered. The child ends in any case.
    fn ask_to_stop(&self, context: &CallContext, timeout: Duration) -> Option<(LaneClaim<'_>, u64)> {
        let (first, others) = self.bells.split_first()?;
        // Before the request to stop, at which the first worker begins to wait for the others.
        others.iter().for_each(WorkerBell::ask_to_end);
        let asked = self.claim_within(&self.lanes[0], timeout).and_then(|mut lane| {
            self.settle_ready(&mut lane);
            lane.owe();
            if lane.credit() == 0 {
                return None;
            }
            let ask = Ask { kind: Kind::Stop, call: 0 };
            let position = self.send_on(&mut lane, ask, (), context).ok()?;
            Some((lane, position))
        });
        // After the request, which is then found: a method that waits for an answer looks at no other lane.
        first.ask_to_end();
        if asked.is_none() {
            failpoints::reach(Step::ParentStopSent);
        }
        asked
    }

    /// This lane, if it is free within `timeout`.
    fn claim_within<'a>(&'a self, lane: &'a SharedLane, timeout: Duration) -> Option<LaneClaim<'a>> {
        let context = &CallContext::new(const { &Method::nameless() }, Some(timeout));
        match lane.gate.try_claim(self) {
            None if !timeout.is_zero() => self.wait_for_lane(std::iter::once(lane), context).ok().flatten(),
            claim => claim,
        }
    }

    /// The answer of a child that was asked to stop without a request, as far as its exit code tells.
    fn stopped_unasked(&self, drop: &'static Method, deadline: Deadline) -> Result<(), CallError> {
        if self.peer.peer_status.wait(deadline) != Some(Exit::Code(PANICKED)) {
            return Ok(());
        }
        let message = "in the service's destructor; the child has printed the message".into();
        let fault = Fault::new(message, None, None);
        Err(CallError::Panicked { call: drop.call_name(), fault: Box::new(fault) })
    }

    /// Has the child stop, as [`stop`](Self::stop) does, and leaves the rest to the watcher. An idle child is waited for until `patience` is over.
    pub fn let_go(&self, drop: &'static Method, grace: Duration, patience: Duration) {
        if self.peer.is_in_fork() || self.peer.peer_status.is_over() {
            return;
        }
        self.peer.peer_status.blame(Cause::Stopped);
        let context = &CallContext::new(drop, Some(grace));
        let is_idle = self.lanes.iter().all(|lane: &SharedLane| self.claim_if_idle(lane).is_some());
        // Set whether or not the child gets the request.
        self.hold.kill_after(grace);
        let asked = self.ask_to_stop(context, Duration::ZERO);
        std::mem::drop(asked);
        if is_idle {
            self.peer.peer_status.wait(Deadline::after(Some(patience.min(grace))));
        }
    }

    /// Kills the child and waits until it is gone. A fork leaves it alone, as it is not its child.
    pub fn kill(&self) -> Exit {
        self.kill_within(KILL_TIMEOUT)
    }

    /// Like [`kill`](Self::kill), but waits for at most `timeout`; the watcher does the rest.
    pub fn kill_within(&self, timeout: Duration) -> Exit {
        if self.peer.is_in_fork() {
            return Exit::Unknown;
        }
        self.hold.end(Cause::Stopped);
        self.peer.peer_status.wait(Deadline::after(Some(timeout))).unwrap_or(Exit::Running)
    }

    /// Kills the child, `because` of something, and does not wait. Its calls fail as if it had died.
    pub fn put_down(&self, because: &str) {
        if !self.peer.is_in_fork() {
            self.hold.kill(because);
        }
    }

    /// Kills the child because the bridge is stopped, and does not wait.
    pub fn discard(&self) {
        if !self.peer.is_in_fork() {
            self.hold.end(Cause::Stopped);
        }
    }
}
