//! Requests that go to a certain lane: those for a stream, which the worker of that lane has.
//!
//! Never waits, but for memory if it may.

#![forbid(unsafe_code)]

use super::queue::QueuedRequest;
use super::settle::Settle;
use super::{Ask, CallContext, Caller, LaneClaim, MayWait};
use crate::nest;
use crate::streams::CLOSE;
use callgate_transport::commit::Kind;
use callgate_transport::error::{CallError, Started};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::request::Request;
use callgate_transport::written_frame::WrittenFrame;
use std::sync::Arc;

impl Caller {
    /// A call word as it must be sent from here.
    pub(super) fn nested_word(
        &self,
        claim: &mut LaneClaim<'_>,
        word: u64,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        match nest::current() {
            Some(at) if word == CLOSE || claim.may_nest(at.chain) => {
                Ok(if word == CLOSE { word } else { self.nest(claim, at, word) })
            }
            Some(at) => Err(at.too_nested(context.name(), "nested calls of another chain are under way on its lane")),
            None => Ok(word),
        }
    }

    /// Sends a request on this very lane, or has it sent there as soon as there is room.
    pub(super) fn send_bound<A: Request, S: Settle + 'static>(
        &self,
        lane: u32,
        call: &Arc<S>,
        word: u64,
        args: A,
        may_wait: MayWait,
    ) -> Result<(), CallError> {
        let context = &call.context();
        if self.peer.is_in_fork() {
            return Err(self.in_fork_slow(context));
        }
        if self.peer.peer_status.is_over() {
            return Err(self.over(Started::No, context));
        }
        if self.queue.is_empty()
            && let Some(mut claim) = self.lanes[lane as usize].gate.try_claim(self)
        {
            if claim.credit() == 0 {
                self.settle_ready(&mut claim);
                claim.owe();
            }
            if claim.credit() > 0 {
                return self.send_bound_now(&mut claim, call, word, args, may_wait);
            }
        }
        self.queue_bound(lane, call, word, args, may_wait)
    }

    fn send_bound_now<A: Request, S: Settle + 'static>(
        &self,
        claim: &mut LaneClaim<'_>,
        call: &Arc<S>,
        word: u64,
        args: A,
        may_wait: MayWait,
    ) -> Result<(), CallError> {
        let context = &call.context();
        let word = self.nested_word(claim, word, context)?;
        let ask = Ask { kind: Kind::Call, call: word };
        let len = self.write_on(claim, ask.kind, &args, may_wait, context)?;
        drop(args);
        let at = (claim.index(), claim.position());
        let is_sent = call.send(at, &mut || {
            self.publish_begun(claim, ask, len, context);
        });
        if is_sent {
            self.announce_begun(claim);
            claim.pending.push_back((at.1, call.clone()));
            self.note_due(context, at);
        }
        claim.give_up(&*self.pool);
        Ok(())
    }

    /// Has a request sent on this very lane as soon as there is room.
    #[cold]
    pub(super) fn queue_bound<A: Request, S: Settle + 'static>(
        &self,
        lane: u32,
        call: &Arc<S>,
        word: u64,
        args: A,
        may_wait: MayWait,
    ) -> Result<(), CallError> {
        let context = &call.context();
        if nest::current().is_some() && word != CLOSE {
            let why = "its lane of the bridge is full, and a nested call does not wait".into();
            return Err(CallError::Refused { call: context.name(), why });
        }
        let wait = (may_wait == MayWait::Yes).then_some(context.deadline());
        let alloc = &AllocContext { pool: &*self.pool, limit: &context.limit, wait };
        let written =
            WrittenFrame::new(&args, self.slot_capacity, alloc).map_err(|error| self.unsent(error, context))?;
        drop(args);
        let ask = Ask { kind: Kind::Call, call: word };
        self.enqueue(QueuedRequest { call: call.clone(), ask, bind: None, written, lane: Some(lane) })
    }
}
