//! Requests that found no room on any lane: encoded, in private memory, sent in their order as soon as there is room.
//!
//! Bounded in number and bytes. Never waits.

#![forbid(unsafe_code)]

use super::settle::Settle;
use super::{Ask, Caller, LaneClaim};
use crate::streams::CLOSE;
use callgate_os::sync::AtomicU32;
use callgate_os::sync::Ordering::Relaxed;
use callgate_transport::commit::Kind;
use callgate_transport::error::{CallError, Started};
use callgate_transport::written_frame::WrittenFrame;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many requests may wait for room, and how many bytes they may have.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub calls: u32,
    pub bytes: u64,
}

impl QueueLimits {
    pub const DEFAULT: Self = Self { calls: 16_384, bytes: 16 << 20 };
}

/// The requests that wait for room.
pub struct Queue {
    limits: QueueLimits,
    /// How many there are. Written with the lock held.
    len: AtomicU32,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    requests: BTreeMap<u64, QueuedRequest>,
    bytes: u64,
    /// The number of the next request.
    next: u64,
}

/// A request that waits for room.
pub(super) struct QueuedRequest {
    pub call: Arc<dyn Settle>,
    pub ask: Ask,
    /// What the child must be told before it, on the same lane: the number of an interface, and where that is.
    pub bind: Option<(u64, (u64, u64))>,
    pub written: WrittenFrame,
    /// The only lane that it may go to, behind one-way calls of its thread.
    pub lane: Option<u32>,
}

impl QueuedRequest {
    /// How many requests it takes.
    fn slots(&self) -> u64 {
        1 + u64::from(self.bind.is_some())
    }
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, len: AtomicU32::new(0), waiting: Mutex::default() }
    }

    pub fn is_empty(&self) -> bool {
        // Relaxed: a request that has just been noted is found by whoever noted it: see `gate`.
        self.len.load(Relaxed) == 0
    }

    /// Puts a request at the end. If there is no room, returns it. There always is for one that drops a stream: these are no more than the streams.
    fn push(&self, request: QueuedRequest) -> Option<QueuedRequest> {
        let (mut waiting, cost) = (self.waiting.lock(), request.written.cost() as u64);
        let is_full =
            waiting.requests.len() as u64 >= self.limits.calls.into() || waiting.bytes + cost > self.limits.bytes;
        if is_full && request.ask.call != CLOSE {
            return Some(request);
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.bytes += cost;
        request.call.queued(number);
        waiting.requests.insert(number, request);
        self.len.store(waiting.requests.len() as u32, Relaxed);
        None
    }

    /// Takes the first request that may go to a lane with so much credit. Those behind one that needs more wait, too.
    fn pop(&self, lane: u32, credit: u64) -> Option<QueuedRequest> {
        let mut waiting = self.waiting.lock();
        let mut for_lane = waiting.requests.iter().filter(|(_, request)| request.lane.is_none_or(|only| only == lane));
        let number = for_lane.next().filter(|(_, request)| request.slots() <= credit).map(|(number, _)| *number)?;
        self.remove_from(&mut waiting, number)
    }

    /// Takes the request with this number, if it has not been sent.
    pub(super) fn remove(&self, number: u64) -> Option<QueuedRequest> {
        self.remove_from(&mut self.waiting.lock(), number)
    }

    fn remove_from(&self, waiting: &mut Waiting, number: u64) -> Option<QueuedRequest> {
        let request = waiting.requests.remove(&number)?;
        waiting.bytes -= request.written.cost() as u64;
        self.len.store(waiting.requests.len() as u32, Relaxed);
        Some(request)
    }
}

impl Caller {
    /// Has a request sent as soon as there is room.
    ///
    /// # Errors
    ///
    /// `Busy`.
    pub(super) fn enqueue(&self, request: QueuedRequest) -> Result<(), CallError> {
        let context = request.call.context();
        if let Some(request) = self.queue.push(request) {
            self.discard_written(request.written);
            let QueueLimits { calls, bytes } = self.queue.limits;
            return Err(CallError::Busy { call: context.name(), lanes: self.lanes.len() as u32, calls, bytes });
        }
        self.rely_on_watcher();
        for lane in &self.lanes {
            match lane.gate.want(self) {
                Some(mut claim) => claim.owe(),
                // Other workers may be free while this lane's is not: a lane is left to more requests when its holder leaves.
                None if self.workers == 1 || self.is_unordered => lane.rouse(),
                None => {}
            }
            if self.queue.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Sends requests that wait, as far as this lane has room.
    pub(super) fn send_queued(&self, claim: &mut LaneClaim<'_>) {
        while !self.queue.is_empty()
            && let Some(request) = self.next_queued(claim)
        {
            self.send_request(claim, request);
        }
    }

    fn next_queued(&self, claim: &LaneClaim<'_>) -> Option<QueuedRequest> {
        self.queue.pop(claim.index(), if self.is_over() { u64::MAX } else { claim.credit() })
    }

    fn is_over(&self) -> bool {
        self.peer.peer_status.is_over()
    }

    fn send_request(&self, claim: &mut LaneClaim<'_>, request: QueuedRequest) {
        let QueuedRequest { call, ask, bind, written, .. } = request;
        let context = &call.context();
        let failure = match bind {
            _ if self.is_over() => Some(self.over(Started::No, context)),
            _ if context.deadline().has_passed() => Some(self.late(context)),
            Some((number, place)) => self.send_on(claim, Ask { kind: Kind::Bind, call: number }, place, context).err(),
            None => None,
        };
        if let Some(error) = failure {
            self.discard_written(written);
            return call.fail(error);
        }
        let mut written = Some(written);
        let at = (claim.index(), claim.position());
        let is_sent = call.send(at, &mut || {
            if let Some(written) = written.take() {
                let len = claim.adopt(written, &*self.pool);
                self.publish_on(claim, ask, len, context);
            }
        });
        match written {
            Some(written) => self.discard_written(written),
            None => claim.give_up(&*self.pool),
        }
        if is_sent {
            self.note_due(context, at);
            claim.pending.push_back((at.1, call));
        }
    }

    /// Takes back what a request carries that will not be sent.
    pub(super) fn discard_written(&self, written: WrittenFrame) {
        let attachments = written.into_attachments();
        if attachments.is_loaded {
            self.pool.on(|pool, source| pool.finish_frame(attachments, source));
        }
    }
}
