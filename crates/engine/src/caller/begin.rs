//! Calls that their caller does not wait in: each keeps its lane until its reply has been taken.
//!
//! Beginning a call and polling for its reply never wait; only finishing it does.

#![forbid(unsafe_code)]

use super::{Ask, Begun, CallContext, Caller, MayWait};
use crate::lane::CallerLane;
use crate::nest;
use crate::service::Method;
use callgate_transport::commit::Kind;
use callgate_transport::error::CallError;
use callgate_transport::reply::Reply;
use callgate_transport::request::Request;
use parking_lot::{ArcMutexGuard, RawMutex};
use std::sync::Arc;
use std::time::Duration;

impl Begun {
    /// The reply, if it is there or never will be. Never waits. After `None`, the bridge's doorbell rings for it.
    pub fn poll<R: Reply>(&mut self) -> Option<Result<R, CallError>> {
        let Self { lane, caller, position, context } = self;
        if caller.peer.is_in_fork() {
            return Some(Err(caller.in_fork_slow(context)));
        }
        // Read before looking for the reply, so that a reply published before the death is still found.
        let ended = caller.peer.peer_status.exit().is_some();
        // Look twice if the doorbell will not ring, because a reply came before it was armed. Not three times: a child that publishes and takes back
        // is not waited for.
        for _ in 0..2 {
            if let Some(outcome) = caller.take(lane, *position, Kind::Call, context) {
                return Some(outcome);
            }
            if caller.peer.door.is_none() || !lane.arm() {
                break;
            }
        }
        match ended {
            true => Some(Err(caller.ended(lane, *position, context))),
            false if context.deadline().has_passed() => Some(Err(caller.timed_out(lane.started(*position), context))),
            false => None,
        }
    }

    /// Waits for the reply.
    pub fn finish<R: Reply>(&mut self) -> Result<R, CallError> {
        let Self { lane, caller, position, context } = self;
        if caller.peer.is_in_fork() {
            return Err(caller.in_fork_slow(context));
        }
        caller.receive(lane, *position, Kind::Call, context)
    }

    pub fn method(&self) -> &'static Method {
        self.context.method
    }

    /// Copies the reply while `child` writes it, which returns whether it goes on. `None` if there is nothing to copy yet, or nothing of the copy
    /// could be used: then [`poll`](Self::poll) has the reply. For tests in which one thread plays both sides.
    #[cfg(all(any(test, feature = "testkit"), not(loom)))]
    pub fn follow<R: Reply>(&mut self, mut child: impl FnMut() -> bool) -> Option<Result<R, CallError>> {
        use callgate_transport::doorbell::Waited::{DeadlinePassed, Ready};
        let Self { lane, caller, position, context } = self;
        if lane.replies().position() != *position {
            return None;
        }
        let wait = |_: &CallerLane, _: &_, _: &_| if child() { Ready } else { DeadlinePassed };
        caller.follow(lane, Kind::Call, context, wait)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.caller.peer.door.is_some() && !self.caller.peer.is_in_fork() {
            self.lane.disarm();
        }
    }
}

impl Caller {
    /// Sends the request of a call, and keeps its lane until the reply has been taken. Never waits: this thread may itself hold what it would wait
    /// for.
    pub fn begin<A: Request>(
        self: &Arc<Self>,
        method: &'static Method,
        args: A,
        timeout: Option<Duration>,
    ) -> Result<Begun, CallError> {
        let context = CallContext::new(method, timeout);
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(&context));
        }
        if let Some(at) = nest::current() {
            self.may_nest(at, &context)?;
        }
        let mut lane = self.claim_for_long(&context)?;
        let interface = match method.interface {
            None => 0,
            Some(interface) => self.bind_ahead(&mut lane, interface, &context)?,
        };
        let call = match nest::current() {
            None => method.word(interface),
            Some(at) => self.nest(&mut lane, at, method.word(interface)),
        };
        let ask = Ask { kind: Kind::Call, call };
        let len = self.write_on(&mut lane, ask.kind, &args, MayWait::No, &context)?;
        drop(args);
        let position = self.publish_on(&mut lane, ask, len);
        // Other calls must not wait for blocks that come back only when this thread asks for the reply.
        lane.give_up(&*self.pool);
        if let (Some(overdue), Some(due)) = (&self.overdue, context.deadline().instant()) {
            // Nobody may poll for it by then.
            overdue.watch(context.name(), context.limit.timeout.unwrap_or_default(), (lane.index(), position), due);
        }
        Ok(Begun { lane, caller: self.clone(), position, context })
    }

    /// A lane to keep for longer than one call, with room for two requests.
    fn claim_for_long(&self, context: &CallContext) -> Result<ArcMutexGuard<RawMutex, CallerLane>, CallError> {
        for lane in self.lanes_from(self.preferred_lane()) {
            let Some(mut lane) = lane.try_lock_arc() else { continue };
            self.settle(&mut lane, context)?;
            if lane.credit() >= 2 && nest::current().is_none_or(|at| lane.may_nest(at.chain)) {
                return Ok(lane);
            }
        }
        Err(CallError::Refused {
            call: context.name(),
            why: format!(
                "all {} lanes of the bridge are in use, by other calls or by `Pending`s whose results have not been taken; take or drop \
                 them, or give the bridge more with Builder::concurrent_callers",
                self.lanes.len()
            ),
        })
    }
}
