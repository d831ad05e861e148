//! The callee's end of a lane: takes a request, records that it has started, writes the reply and publishes it.

#![forbid(unsafe_code)]

use super::{BegunRequest, CalleeLane, ReplySlot, ReplyWriter, RequestReader, SentReply};
use callgate_os::barrier;
use callgate_os::sync::Ordering::{Relaxed, SeqCst};
use callgate_os::sync::fence;
use callgate_transport::commit::{Kind, Place};
use callgate_transport::encode::{Encode, write_frame};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::outgoing_frame::{CallerBell, SendError, place};
use callgate_transport::ring::{ANSWERS, Consumer, Frame, Producer};
use callgate_transport::segment::Segment;
use callgate_transport::validator::Checked;
use callgate_transport::wake::Bells;
use rkyv::Archive;

impl CalleeLane {
    /// The callee's end of lane `index`, with no call answered yet.
    pub fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self {
            requests: RequestReader {
                index,
                ring: Consumer::new(segment.requests(index), 0),
                callee: segment.callee_line(index),
            },
            replies: ReplyWriter {
                ring: Producer::new(segment.replies(index), 0),
                caller: CallerBell { line: segment.caller_line(index), sleeper: bells.lane(index) },
                attachments: Attachments::default(),
            },
        }
    }

    /// The lane's index in the bridge.
    pub fn index(&self) -> u32 {
        self.requests.index
    }

    /// Whether a request is there.
    #[inline(always)]
    pub fn is_ready(&self) -> bool {
        self.requests.ring.is_ready()
    }

    /// See [`Consumer::fetch_lines`].
    #[inline(always)]
    pub(crate) fn fetch_lines(&self) {
        self.requests.ring.fetch_lines();
    }

    /// The next request, if it is there, and the slot for its reply. Records first that the request has started.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    #[inline(always)]
    pub fn begin(&mut self) -> Result<Option<BegunRequest<'_>>, &'static str> {
        let Some((frame, is_withdrawn)) = self.requests.begin()? else { return Ok(None) };
        Ok(Some(BegunRequest {
            frame,
            slot: ReplySlot { requests: &self.requests, replies: &mut self.replies, len: 0 },
            is_withdrawn,
        }))
    }

    /// The next request, as [`begin`](Self::begin) takes it, if it is a plain call: in a slot, with nothing attached, not withdrawn. Otherwise
    /// `begin` takes it.
    #[inline(always)]
    pub(crate) fn begin_plain(&mut self) -> Option<(Frame<'_>, ReplySlot<'_>)> {
        let frame = self.requests.begin_plain()?;
        Some((frame, ReplySlot { requests: &self.requests, replies: &mut self.replies, len: 0 }))
    }

    /// The position that the next reply will have.
    pub fn position(&self) -> u64 {
        self.replies.ring.position()
    }

    /// Publishes and announces the written reply, and releases the request. `carries` is [`SentReply::call`].
    #[inline(always)]
    pub fn publish(&mut self, kind: Kind, carries: u64, place: Place) {
        self.replies.publish(&self.requests, kind, carries, place);
    }

    /// The position of the request that has been begun last, until it is released.
    pub(crate) fn request_position(&self) -> u64 {
        self.requests.ring.position()
    }

    /// Releases the request that has been begun, and copied: its reply comes when its task ends.
    pub(crate) fn release_request(&mut self) {
        self.requests.ring.release();
    }

    /// The slot for the next reply, to a request that has been released.
    pub(crate) fn reply_slot(&mut self) -> ReplySlot<'_> {
        ReplySlot { requests: &self.requests, replies: &mut self.replies, len: 0 }
    }

    /// Publishes and announces the written reply to the request that is the `answers`th of the unanswered ones.
    pub(crate) fn publish_answer(&mut self, kind: Kind, carries: u64, place: Place, answers: usize) {
        let ReplyWriter { ring, caller, .. } = &mut self.replies;
        ring.publish(kind, carries | (answers as u64) << ANSWERS, place);
        failpoints::reach(Step::ChildReplyStored);
        caller.notify();
    }

    /// Releases a request that is not answered.
    pub fn pass(&mut self) {
        let RequestReader { ring, callee, .. } = &self.requests;
        ring.release();
        // Relaxed: for whoever judges this side.
        callee.passed.store(ring.position(), Relaxed);
        self.replies.ring.skip();
    }

    /// The CPU that the caller last said it runs on, plus 1.
    pub(crate) fn caller_cpu(&self) -> u32 {
        self.replies.caller_cpu()
    }
}

/// Whether a request with this call word returns no block: there is nothing for `accept_returns` to accept.
#[inline(always)]
fn carries_nothing(call: u64) -> bool {
    call >> 32 == 0
}

impl RequestReader {
    /// The next request, if it is there, and whether its caller has withdrawn it. Records first that it has started.
    #[inline(always)]
    fn begin(&self) -> Result<Option<(Frame<'_>, bool)>, &'static str> {
        let Some(frame) = self.ring.take()? else { return Ok(None) };
        let is_withdrawn = self.start(&frame);
        Ok(Some((frame, is_withdrawn)))
    }

    /// The next request, if it is a plain call. Records first that it has started. One that turns out to be withdrawn is left to `begin`, which records
    /// the same.
    #[inline(always)]
    fn begin_plain(&self) -> Option<Frame<'_>> {
        let frame = self.ring.take_call().filter(|frame| carries_nothing(frame.call))?;
        (!self.start(&frame)).then_some(frame)
    }

    /// Records that the request has started. Returns whether its caller has withdrawn it.
    #[inline(always)]
    fn start(&self, frame: &Frame<'_>) -> bool {
        // B1.
        self.callee.started.store(self.ring.position().wrapping_add(1), Relaxed);
        // B2: orders `started` before the look at the mark. Pairs with D2 in `Withdrawal::withdraw`. It also keeps the compiler from moving the method's
        // effects before the record. For that the processor needs no fence: a child's record is read only after its death, when everything it stored is
        // visible. Workers of a remote caller call `is_left`.
        barrier::light();
        // B3.
        frame.is_withdrawn()
    }
}

impl ReplyWriter {
    /// Publishes and announces the written reply, and releases the request.
    #[inline(always)]
    fn publish(&mut self, requests: &RequestReader, kind: Kind, carries: u64, place: Place) {
        requests.ring.release();
        self.ring.publish(kind, carries, place);
        failpoints::reach(Step::ChildReplyStored);
        self.caller.notify();
    }

    fn caller_cpu(&self) -> u32 {
        self.caller.line.bell.cpu.load(Relaxed)
    }
}

/// The further turns of a method that calls back: it publishes what it asks as the reply to the last request, and the next request answers.
impl<'a> ReplySlot<'a> {
    /// The lane's index in the bridge.
    pub(crate) fn lane(&self) -> u32 {
        self.requests.index
    }

    /// The position that the next reply will have.
    pub(crate) fn position(&self) -> u64 {
        self.replies.ring.position()
    }

    /// Whether the caller has withdrawn the last request, by now.
    pub(crate) fn is_withdrawn_by_now(&self) -> bool {
        // The last request has not been released: its reply is yet to be published.
        matches!(self.requests.ring.take(), Ok(Some(frame)) if frame.is_withdrawn())
    }

    /// Publishes and announces what has been written, and releases the request. `carries` is [`SentReply::call`].
    #[inline(always)]
    pub(crate) fn publish(&mut self, kind: Kind, carries: u64, place: Place) {
        self.replies.publish(self.requests, kind, carries, place);
    }

    /// Whether the next request is there.
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.ring.fetch_lines();
        self.requests.ring.is_ready()
    }

    /// The next request, if it is there, and whether its caller has withdrawn it. Records first that it has started.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn next(&self) -> Result<Option<(Frame<'a>, bool)>, &'static str> {
        self.requests.begin()
    }

    /// The slot for the reply to a request that is carried out within this one.
    pub(crate) fn within(&mut self) -> ReplySlot<'_> {
        ReplySlot { requests: self.requests, replies: self.replies, len: 0 }
    }

    /// The CPU that the caller last said it runs on, plus 1.
    pub(crate) fn caller_cpu(&self) -> u32 {
        self.replies.caller_cpu()
    }
}

impl ReplySlot<'_> {
    /// Serialises the reply into the slot or a block. It is not published yet, but the caller may begin to copy a large one. A second call replaces
    /// the first.
    ///
    /// # Errors
    ///
    /// If it cannot be written; then there is no reply.
    #[inline(always)]
    pub fn write<R: Encode + Archive<Archived: Checked>>(
        &mut self,
        value: &R,
        alloc: &AllocContext<'_>,
    ) -> Result<(), SendError> {
        self.len = 0;
        let ReplyWriter { ring, caller, attachments } = &mut *self.replies;
        self.len = write_frame(value, ring, alloc, attachments, Some(caller))?;
        Ok(())
    }

    /// Whether the caller has left the lane, so that the request that has just begun must not be carried out: W1 to W3 of
    /// [`CallerLane::leave`](super::CallerLane::leave).
    #[inline(always)]
    pub(crate) fn is_left(&self) -> bool {
        // W2: orders `started`, W1 in `begin`, before the look at `gone`. Pairs with C2 in `leave`.
        fence(SeqCst);
        // W3.
        self.replies.caller.line.gone.load(Relaxed) != 0
    }

    /// The chain of the request, if it is nested.
    #[inline(always)]
    pub fn chain(&self) -> u64 {
        // Relaxed: written before the request was published.
        self.replies.caller.line.chain.load(Relaxed)
    }

    /// Whether the reply carries anything.
    #[inline(always)]
    pub fn carries(&self) -> bool {
        self.replies.attachments.is_loaded
    }

    /// The length of a reply that carries nothing.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The reply, about to be published. A caller that reads it in place may keep its block beyond the reply.
    #[cold]
    pub(crate) fn sent_slow(&mut self, alloc: &AllocContext<'_>) -> SentReply {
        let mut attachments = std::mem::take(&mut self.replies.attachments);
        let mut place = place(self.len, attachments.block.as_ref());
        let returns = alloc.pool.on(|pool, source| {
            if let (true, Place::Block(block)) = (alloc.pool.is_trusted_by_peer(), &mut place) {
                block.loan_id = pool.lend_frame(&mut attachments, source);
            }
            pool.sent(&mut attachments)
        });
        SentReply { place, call: returns.to_word() << 32 | 1, attachments }
    }
}
