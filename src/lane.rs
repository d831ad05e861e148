//! Lanes: one ordered conversation between two processes, a request ring and a reply ring with their doorbells.
//!
//! Layer 3. Reply number n answers request number n, so a caller that sends only while fewer requests than slots are
//! unanswered holds a free slot in both rings: replies are credits. Knows nothing of methods or services.

#![forbid(unsafe_code)]

use crate::arena::Allocation;
use crate::commit::{Kind, Place};
use crate::doorbell::{self, Deadline, Pace, Wait, Waited, Waiter};
use crate::encode::{Encode, SendBox, Spill, encode, look_at_reply};
use crate::error::{NoMemory, Started};
use crate::failpoints::{self, Step};
use crate::layout::{CalleeLine, CallerLine, ENDING, WorkerLine};
use crate::loans::Attachments;
use crate::loans::BoxRef;
use crate::memory_pool::{AllocContext, PoolHandle};
use crate::peer_status::PeerStatus;
use crate::reading::BYTES_A_LOOK;
use crate::reading::DecodeRefusal;
pub(crate) use crate::ring::{Announcement, Consumer, Frame, Seen};
use crate::ring::{Claim, Onlooker, Producer};
use crate::segment::{Placed, Segment};
use crate::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::sync::fence;
use crate::validator::Checked;
use crate::wake::{Bells, Sleeper};
use crossbeam_utils::CachePadded;
use rkyv::Archive;
use rkyv::rancor::Failure;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

/// Why a frame could not be written. Nothing was published.
#[derive(Clone, Debug)]
pub(crate) enum SendError {
    /// There was no memory for it.
    NoMemory(NoMemory),
    /// The value's own `Serialize` failed.
    Encode,
    /// Its reader would refuse it.
    Beyond(DecodeRefusal),
}

/// The caller's end of a lane. Shares no cache line with another, nor the pair of lines that the processor fetches.
#[repr(align(128))]
pub(crate) struct CallerLane {
    index: u32,
    /// Its place among the lanes of its worker.
    place: u32,
    /// Whether the other side has been told that it is about to be used.
    is_begun: bool,
    /// The position of the last nested call, and its chain.
    nested: Option<(u64, u64)>,
    requests: Producer,
    replies: Consumer,
    caller: Placed<CallerLine>,
    callee: Placed<CalleeLine>,
    /// The line of the one worker that serves this lane.
    worker: Placed<WorkerLine>,
    /// How this side sleeps at the caller's doorbell, and wakes who sleeps at the worker's.
    own_bell: Arc<dyn Sleeper>,
    worker_bell: Arc<dyn Sleeper>,
    in_use: bool,
    /// How long replies take on this lane.
    pace: Pace,
    /// What the request being written carries. What a `Serialize` that failed or panicked left here is given back by the next
    /// request.
    attachments: Attachments,
    /// What unanswered requests carry, with their positions, oldest first.
    under_way: VecDeque<(u64, Attachments)>,
}

impl CallerLane {
    /// The caller's end of lane `index`, with no call made yet.
    pub(crate) fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        let (worker, place) = segment.geometry().worker_of(index);
        Self {
            index,
            place,
            is_begun: false,
            nested: None,
            requests: Producer::new(segment.requests(index), 0),
            replies: Consumer::new(segment.replies(index), 0),
            caller: segment.caller_line(index),
            callee: segment.callee_line(index),
            worker: segment.worker_line(worker),
            own_bell: bells.lane(index),
            worker_bell: bells.worker(worker),
            in_use: false,
            pace: Pace::new(),
            attachments: Attachments::default(),
            // Never grows: there are at most as many unanswered requests as slots.
            under_way: VecDeque::with_capacity(segment.geometry().slots as usize),
        }
    }

    /// Which of the bridge's lanes it is.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// How many requests have been answered, as far as their replies have been taken.
    pub(crate) fn answered(&self) -> u64 {
        self.replies.position()
    }

    /// The position that the next request will have.
    #[inline(always)]
    pub(crate) fn position(&self) -> u64 {
        self.requests.position()
    }

    /// How many requests have not been answered.
    #[inline(always)]
    fn unanswered(&self) -> u64 {
        self.requests.position().wrapping_sub(self.replies.position())
    }

    /// How many requests can be sent now: as many as there are slots, but for those that are unanswered.
    #[inline(always)]
    pub(crate) fn credit(&self) -> u64 {
        self.replies.count().saturating_sub(self.unanswered())
    }

    /// Whether every request has been answered.
    #[inline(always)]
    pub(crate) fn is_idle(&self) -> bool {
        self.unanswered() == 0
    }

    /// Writes a request. The lane must have credit. Returns its length, for [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// If the arguments cannot be written.
    #[inline(always)]
    pub(crate) fn write<A: Encode + Archive<Archived: Checked>>(
        &mut self,
        args: &A,
        alloc: &AllocContext<'_>,
    ) -> Result<usize, SendError> {
        debug_assert!(self.credit() > 0);
        write(args, &mut self.requests, alloc, &mut self.attachments, None)
    }

    /// Whether the request that was written carries memory that its arguments had: what is in boxes.
    #[inline(always)]
    pub(crate) fn carries_boxes(&self) -> bool {
        self.attachments.is_loaded && !(self.attachments.lent.is_empty() && self.attachments.returns.is_empty())
    }

    /// Publishes and announces the request of `len` bytes that was written. What of its arguments somebody still looks at now is shared
    /// with the callee; the rest is its own.
    #[inline(always)]
    pub(crate) fn publish(&mut self, kind: Kind, call: u64, len: usize, alloc: &AllocContext<'_>) {
        let (place, returns) =
            if self.attachments.is_loaded { self.sent_slow(len, alloc) } else { (Place::Slot(len), 0) };
        self.requests.publish(kind, returns << 32 | call, place);
        failpoints::reach(Step::ParentRequestStored);
        if !self.in_use {
            self.enter_use_slow();
        }
        doorbell::notify(&self.worker.bell, &self.worker_bell);
    }

    /// Keeps what the request carries until it is answered. Returns where it lies, and what it brings home.
    #[cold]
    fn sent_slow(&mut self, len: usize, alloc: &AllocContext<'_>) -> (Place, u64) {
        let mut attachments = std::mem::take(&mut self.attachments);
        let place = place(len, attachments.block.as_ref());
        let returns = alloc.pool.on(|pool, _| pool.sent(&mut attachments));
        self.under_way.push_back((self.requests.position(), attachments));
        failpoints::reach(Step::ParentRequestDeparted);
        (place, returns.to_word())
    }

    /// Whether the request that comes next may be nested, of the chain `chain`: not while one of another chain is under way, which may not have
    /// been read.
    pub(crate) fn may_nest(&self, chain: u64) -> bool {
        self.is_idle() || self.nested.is_none_or(|(_, other)| other == chain)
    }

    /// The request that comes next is nested, of the chain `chain`, and [may be](Self::may_nest).
    #[cold]
    pub(crate) fn nest(&mut self, chain: u64) {
        self.unnest();
        // Relaxed: published by the request's commit word.
        self.caller.chain.store(chain, Relaxed);
        self.nested = Some((self.requests.position(), chain));
        // What carries nothing has its end noticed here, too.
        self.under_way.push_back((self.requests.position(), Attachments::default()));
    }

    /// Its number, the first time: then whoever serves it is to be told that it is about to be used.
    /// The next request is not nested: the one that was to be has not been sent.
    #[cold]
    pub(crate) fn unnest(&mut self) {
        let next = self.requests.position();
        if self.nested.take_if(|(position, _)| *position == next).is_some() {
            self.caller.chain.store(0, Relaxed);
            self.under_way.retain(|(position, _)| *position != next);
        }
    }

    #[cold]
    pub(crate) fn begin_use(&mut self) -> Option<u32> {
        let is_begun = std::mem::replace(&mut self.is_begun, true);
        (!is_begun).then_some(self.index)
    }

    /// Whether it has had a request.
    #[inline(always)]
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Tells the worker to look at this lane from now on.
    #[cold]
    fn enter_use_slow(&mut self) {
        self.in_use = true;
        // Relaxed: ordered before the look at `parked` by the fence in `notify`, like the commit word.
        self.worker.lanes_in_use.fetch_max(self.place + 1, Relaxed);
    }

    /// Waits for the next reply, whichever request it answers.
    #[inline(never)]
    pub(crate) fn wait(&self, wait: Wait, peer_status: &PeerStatus, deadline: Deadline) -> Waited {
        self.waiter(wait, peer_status, &self.pace).wait(deadline, || self.replies.is_ready())
    }

    /// Waits for the next reply, or until it is announced.
    #[inline(never)]
    pub(crate) fn wait_for_any(&self, wait: Wait, peer_status: &PeerStatus, deadline: Deadline) -> Waited {
        self.waiter(wait, peer_status, &self.pace).wait(deadline, || self.replies.has_more(&Seen::default()))
    }

    /// Waits for the next reply, or for more of it than has been seen. `pace` = what is known of such waits: they say nothing of how
    /// long replies take.
    ///
    /// The child does not ring for more of a block that it has announced. Who sleeps here sleeps until it moves on to another
    /// block or publishes: for both it rings, as always when it has written the commit word.
    #[inline(never)]
    pub(crate) fn wait_for_more(
        &self,
        wait: Wait,
        peer_status: &PeerStatus,
        deadline: Deadline,
        seen: &Seen,
        pace: &Pace,
    ) -> Waited {
        self.waiter(wait, peer_status, pace).wait(deadline, || self.replies.has_more(seen))
    }

    fn waiter<'a>(&'a self, wait: Wait, peer_status: &'a PeerStatus, pace: &'a Pace) -> Waiter<'a> {
        Waiter {
            bell: &self.caller.bell,
            sleeper: &*self.own_bell,
            wait,
            pace,
            dead: Some(peer_status.dead()),
            peer_cpu: self.worker.bell.cpu.load(Relaxed),
        }
    }

    /// Where replies come from.
    pub(crate) fn replies(&self) -> &Consumer {
        &self.replies
    }

    /// Has the child ring for the next reply, instead of waiting for it. Whether it is there already, and nothing will ring.
    ///
    /// One who waits in this way looks again when it is rung, or when the peer has died, and calls this again if it looked in
    /// vain; then [`disarm`](Self::disarm).
    pub(crate) fn arm(&self) -> bool {
        doorbell::arm(&self.caller.bell, || self.replies.is_ready())
    }

    /// Has the child ring no more for this lane, and forgets that it has rung.
    pub(crate) fn disarm(&self) {
        doorbell::disarm(&self.caller.bell);
        self.own_bell.forget();
    }

    /// The next reply, if it is there.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy peer could have written it.
    #[inline(always)]
    pub(crate) fn take(&self) -> Result<Option<(u64, Frame<'_>)>, &'static str> {
        Ok(self.replies.take()?.map(|frame| (self.replies.position(), frame)))
    }

    /// Is done with the reply that [`take`](Self::take) returned. `carried` = it carried blocks, which the callee may use again.
    /// Returns what the request carried.
    #[inline(always)]
    pub(crate) fn release(&mut self, attachments: bool) -> Option<Attachments> {
        self.replies.release();
        if attachments {
            // Release: what is to be copied is copied, and what is kept is taken. Pairs with the Acquire in `ReplyMemory::collect` and `OwnMemory::collect`.
            self.caller.released.store(self.replies.position(), Release);
        }
        if self.under_way.is_empty() { None } else { self.arrived_slow() }
    }

    /// Takes back what a request carried whose arguments panicked while they were written.
    pub(crate) fn forget_unsent(&mut self, pool: &dyn PoolHandle) {
        if self.attachments.is_loaded {
            let attachments = std::mem::take(&mut self.attachments);
            pool.on(|pool, source| pool.finish_frame(attachments, source));
        }
    }

    /// Nobody waits for the replies any more. What their requests carry comes back when they are taken.
    pub(crate) fn give_up(&mut self, pool: &dyn PoolHandle) {
        for (_, attachments) in &mut self.under_way {
            pool.on(|pool, _| pool.given_up(attachments));
        }
    }

    /// What the request carried whose reply has just been released.
    #[cold]
    fn arrived_slow(&mut self) -> Option<Attachments> {
        let next = self.replies.position();
        let is_next = |position: u64| position.wrapping_add(1) == next;
        if self.nested.is_some_and(|(position, _)| is_next(position)) {
            self.nested = None;
            self.caller.chain.store(0, Relaxed);
        }
        let mut arrived = None;
        while self.under_way.front().is_some_and(|(position, _)| is_next(*position)) {
            let attachments = self.under_way.pop_front().map(|(_, attachments)| attachments);
            arrived = attachments.filter(|attachments| attachments.is_loaded).or(arrived);
        }
        arrived
    }

    /// Leaves the lane for good: the conversation is over. Returns how far the unanswered request at `position` has come; if it has not
    /// started, it never will.
    ///
    /// A child is dead by now. A stranger may live, hear of the end later than this side, and take the request meanwhile:
    ///
    /// ```text
    /// caller                      worker of a stranger
    /// C1  gone = 1                W1  started = position + 1
    /// C2  fence(SeqCst)           W2  fence(SeqCst)
    /// C3  look at started         W3  if gone: carry nothing out, now or later
    /// ```
    ///
    /// The two fences stand in one total order. If W2 is first, C3 sees W1: the request has started. If C2 is first, W3 sees C1, and
    /// nothing is carried out. Of a worker that lies, as one that has died, no more is known than it has said.
    #[cold]
    pub(crate) fn leave(&self, position: u64) -> Started {
        // C1.
        self.caller.gone.store(1, Relaxed);
        // C2: orders `gone` before the look at `started`. Pairs with W2 in `ReplySlot::is_left`.
        fence(SeqCst);
        // C3.
        self.started(position)
    }

    /// How far the unanswered request at `position` has come. Only for a message: the peer may lie.
    pub(crate) fn started(&self, position: u64) -> Started {
        // Relaxed: a hint while the writer lives; after its death (the Acquire of `PeerStatus::dead`) its last store is visible, and after
        // the fence in `leave` the store of a worker that goes on.
        let started = self.callee.started.load(Relaxed);
        if is_past(started, position) { Started::Yes } else { Started::No }
    }
}

/// Whether `mark`, one more than some position, lies beyond `position`. By distance, as positions may wrap: the two are never
/// half of all positions apart.
pub(crate) fn is_past(mark: u64, position: u64) -> bool {
    mark.wrapping_sub(position.wrapping_add(1)) < u64::MAX / 2
}

/// Where a frame of `len` bytes lies that was written into its slot, or into `loan` if it outgrew that.
#[inline(always)]
fn place(len: usize, loan: Option<&Allocation>) -> Place {
    loan.map_or(Place::Slot(len), |loan| Place::Block(loan.reference(len)))
}

/// Serialises `value` for the slot that `ring` has claimed, or into a block, left in `carried`, if it outgrows that. Returns its
/// length. `reader` is told of a large frame while it is written.
#[inline(always)]
fn write<T: Encode + Archive<Archived: Checked>>(
    value: &T,
    ring: &mut Producer,
    alloc: &AllocContext<'_>,
    attachments: &mut Attachments,
    reader: Option<&CallerBell>,
) -> Result<usize, SendError> {
    let (stage, claim) = ring.claim();
    let slot = claim.payload();
    let mut spill = BlockSpill { alloc, claim, attachments, reader, until: Deadline::NEVER, boxed: 0, failed: None };
    if spill.attachments.is_loaded {
        spill.discard_slow();
    }
    let frame = encode(value, stage, slot, &mut spill).map_err(|Failure| spill.failed_slow())?;
    // Who reads requests says itself what it does not accept, and goes on. Who reads replies trusts nobody.
    if frame.is_suspect && reader.is_some() {
        let block = spill.attachments.block.as_ref().map(Allocation::span);
        look_at_reply::<T::Archived>(frame.len, block, stage, slot).map_err(SendError::Beyond)?;
    }
    Ok(frame.len)
}

/// A reply is announced when it is known to reach this length: below, its caller gains nothing.
const ANNOUNCED: usize = 128 << 10;

/// How much of an announced reply is written between two marks. From 16 to 64 KiB it makes no difference.
const PIECE: usize = 32 << 10;

/// Moves a frame that outgrows its slot into a block, and into a larger one when it outgrows that. Takes the memory only then.
struct BlockSpill<'a> {
    alloc: &'a AllocContext<'a>,
    claim: &'a Claim,
    attachments: &'a mut Attachments,
    /// Who copies a large frame while it is written. Requests are read in place, so nobody.
    reader: Option<&'a CallerBell>,
    /// When nobody wants the frame any more; known once it has outgrown its slot.
    until: Deadline,
    /// Bytes in the boxes of the frame.
    boxed: u64,
    /// Why the last attempt to get memory failed.
    failed: Option<NoMemory>,
}

impl BlockSpill<'_> {
    /// Takes back what a frame carried that was not sent.
    #[cold]
    fn discard_slow(&mut self) {
        self.claim.take_back();
        let attachments = std::mem::take(self.attachments);
        self.alloc.pool.on(|pool, source| pool.finish_frame(attachments, source));
    }

    /// Counts what a caller copies of the boxes in one reply: all together it copies no more than a payload.
    fn count_box(&mut self, box_ref: &BoxRef) -> Result<(), NoMemory> {
        let pool = self.alloc.pool;
        if self.reader.is_none() || pool.is_trusted_by_peer() {
            return Ok(());
        }
        self.boxed = self.boxed.saturating_add(box_ref.len());
        let max = pool.on(|pool, _| pool.max_payload());
        if self.boxed > max { Err(NoMemory::TooLarge { len: self.boxed, max }) } else { Ok(()) }
    }

    #[cold]
    fn failed_slow(&mut self) -> SendError {
        self.discard_slow();
        self.failed.take().map_or(SendError::Encode, SendError::NoMemory)
    }
}

impl Spill for BlockSpill<'_> {
    #[cold]
    fn spill(&mut self, written: usize, need: usize) -> Option<(NonNull<u8>, usize)> {
        let pool = self.alloc.pool;
        if self.attachments.block.is_none() {
            self.until = self.alloc.patience.until();
        }
        let larger = self.alloc.find(&mut |pool, source| pool.allocate_more(written, need, source));
        let larger = larger.map_err(|why| self.failed = Some(why)).ok()?;
        failpoints::reach(if self.reader.is_none() { Step::ParentBlockAllocated } else { Step::ChildBlockAllocated });
        // A frame may fill the block up to where the longest payload ends.
        let room = larger.room();
        let from = self.attachments.block.as_ref().map_or(self.claim.payload(), Allocation::span);
        from.first(written).copy_into(room);
        let place = (room.start(), room.len());
        self.attachments.is_loaded = true;
        if let Some(old) = self.attachments.block.replace(larger) {
            if self.claim.is_announced() {
                self.claim.take_back();
                failpoints::reach(Step::ChildTakenBack);
            }
            pool.on(|pool, source| pool.free(old, source));
        }
        Some(place)
    }

    #[cold]
    fn send_with(&mut self, send: &mut SendBox<'_>) -> Result<Option<BoxRef>, Failure> {
        self.attachments.is_loaded = true;
        let sent = send(self.alloc, self.attachments).and_then(|box_ref| {
            self.count_box(&box_ref)?;
            Ok(Some(box_ref))
        });
        sent.map_err(|why| {
            self.failed = Some(why);
            Failure
        })
    }

    #[cold]
    fn progress(&mut self, written: usize, need: usize, alloc: usize) -> Option<usize> {
        let (Some(reader), Some(loan)) = (self.reader, self.attachments.block.as_ref()) else {
            if self.until.has_passed() {
                self.failed = Some(NoMemory::Late { len: need as u64 });
                return None;
            }
            return Some(written.saturating_add(BYTES_A_LOOK));
        };
        if self.alloc.pool.is_trusted_by_peer() {
            // It will be read where it lies.
            return Some(alloc);
        }
        if need < ANNOUNCED {
            return Some(ANNOUNCED);
        }
        if self.claim.is_announced() {
            self.claim.advance(written);
            failpoints::reach(Step::ChildAdvanced);
        } else {
            self.claim.announce(loan.reference(alloc), written, need);
            reader.notify();
            failpoints::reach(Step::ChildAnnounced);
        }
        Some((written / PIECE + 1) * PIECE)
    }
}

/// The callee's end of a lane.
pub(crate) struct CalleeLane {
    index: u32,
    requests: Consumer,
    replies: ReplyWriter,
    callee: Placed<CalleeLine>,
    /// What the reply being written carries.
    attachments: Attachments,
}

/// Where the replies of a lane go, and who waits for them.
struct ReplyWriter {
    ring: Producer,
    caller: CallerBell,
}

/// Where the caller of a lane waits, and how to wake it.
struct CallerBell {
    line: Placed<CallerLine>,
    sleeper: Arc<dyn Sleeper>,
}

impl CallerBell {
    #[inline(always)]
    fn notify(&self) {
        doorbell::notify(&self.line.bell, &self.sleeper);
    }
}

impl CalleeLane {
    /// The callee's end of lane `index`, with no call answered yet.
    pub(crate) fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self {
            index,
            requests: Consumer::new(segment.requests(index), 0),
            replies: ReplyWriter {
                ring: Producer::new(segment.replies(index), 0),
                caller: CallerBell { line: segment.caller_line(index), sleeper: bells.lane(index) },
            },
            callee: segment.callee_line(index),
            attachments: Attachments::default(),
        }
    }

    /// Which of the bridge's lanes it is.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether a request is there.
    #[inline(always)]
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// The next request, if it is there, and the place for its reply. Records that the request is being carried out, before
    /// anything of it is.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    #[inline(always)]
    pub(crate) fn begin(&mut self) -> Result<Option<(Frame<'_>, ReplySlot<'_>)>, &'static str> {
        let Some(frame) = self.requests.take()? else { return Ok(None) };
        self.callee.started.store(self.requests.position().wrapping_add(1), Relaxed);
        // The compiler must not move the method's own effects before the record. The processor need not be told: the record
        // of a child is read only after it is dead, and then everything it stored is visible. Workers of strangers ask `is_left`.
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        Ok(Some((frame, ReplySlot { replies: &mut self.replies, len: 0, attachments: &mut self.attachments })))
    }

    /// The position that the next reply will have.
    pub(crate) fn position(&self) -> u64 {
        self.replies.ring.position()
    }

    /// Publishes and announces the reply that was written, and is done with the request. `carries` = what [`SentReply::call`] says.
    #[inline(always)]
    pub(crate) fn publish(&mut self, kind: Kind, carries: u64, place: Place) {
        let ReplyWriter { ring, caller } = &mut self.replies;
        self.requests.release();
        ring.publish(kind, carries, place);
        failpoints::reach(Step::ChildReplyStored);
        caller.notify();
    }

    /// The CPU that the caller last said it ran on, plus 1.
    pub(crate) fn caller_cpu(&self) -> u32 {
        self.replies.caller.line.bell.cpu.load(Relaxed)
    }
}

/// A lane as somebody sees it who neither calls nor answers there, and what its callee says of itself. Only for judging a child: it may lie.
pub(crate) struct LaneView {
    replies: Onlooker,
    callee: Placed<CalleeLine>,
    worker: u32,
}

impl LaneView {
    /// A view of lane `index`.
    pub(crate) fn new(segment: &Segment, index: u32) -> Self {
        let (worker, _) = segment.geometry().worker_of(index);
        Self { replies: Onlooker::new(segment.replies(index)), callee: segment.callee_line(index), worker }
    }

    /// The worker that serves it.
    pub(crate) fn worker(&self) -> u32 {
        self.worker
    }

    /// How many calls have begun.
    pub(crate) fn started(&self) -> u64 {
        // Relaxed: a hint while the writer lives.
        self.callee.started.load(Relaxed)
    }

    /// Whether the call at `position` has been answered.
    pub(crate) fn is_answered(&self, position: u64) -> bool {
        self.replies.has_seen(position)
    }

    /// Whether the call that has begun last is still being carried out.
    pub(crate) fn is_running(&self) -> bool {
        self.started().checked_sub(1).is_some_and(|last| !self.is_answered(last))
    }
}

/// How the calling side reaches a worker apart from any lane.
///
/// ```text
/// whoever stops the bridge                  worker
/// E1  lanes_in_use = ENDING (Release)       F1  lanes_in_use is ENDING; fence(Acquire)
/// E2  fence(SeqCst); parked?                F2  answer whatever is published on any lane
/// E3  if parked: wake                       F3  nothing more: the end
/// ```
///
/// What was published before E1, by whichever thread, F2 finds. That the worker sees E1 before it sleeps is the argument of `doorbell`, with
/// E1 as what is published. A request that is published later may find nobody: no thread may send any more by then, but for those that
/// were about to, whose requests then never start.
pub(crate) struct WorkerBell {
    line: Placed<WorkerLine>,
    sleeper: Arc<dyn Sleeper>,
}

impl WorkerBell {
    /// How to reach the worker `index`.
    pub(crate) fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
        Self { line: segment.worker_line(index), sleeper: bells.worker(index) }
    }

    /// Has the worker end once it has answered what has been published.
    pub(crate) fn ask_to_end(&self) {
        // Release, E1: pairs with the Acquire in `WorkerLanes::find_last`.
        self.line.lanes_in_use.fetch_max(ENDING, Release);
        doorbell::notify(&self.line.bell, &self.sleeper);
    }
}

/// The place for the reply to one request, and what has been written there.
pub(crate) struct ReplySlot<'a> {
    replies: &'a mut ReplyWriter,
    len: usize,
    attachments: &'a mut Attachments,
}

/// A reply that carries something, as it is published.
pub(crate) struct SentReply {
    pub(crate) place: Place,
    /// The call word: `returns << 32 | 1`, by which the caller knows that there is something to be released, and what comes home.
    pub(crate) call: u64,
    pub(crate) attachments: Attachments,
}

impl ReplySlot<'_> {
    /// Serialises the reply, for the slot or into a block. It is no reply yet, but the caller may begin to copy a large one; a second
    /// call replaces the first.
    ///
    /// # Errors
    ///
    /// If it cannot be written; then there is no reply.
    #[inline(always)]
    pub(crate) fn write<R: Encode + Archive<Archived: Checked>>(
        &mut self,
        value: &R,
        alloc: &AllocContext<'_>,
    ) -> Result<(), SendError> {
        self.len = 0;
        let ReplyWriter { ring, caller } = &mut *self.replies;
        self.len = write(value, ring, alloc, self.attachments, Some(caller))?;
        Ok(())
    }

    /// Whether the caller has left the lane, and the request that has just begun is not to be carried out: W1 to W3 of
    /// [`CallerLane::leave`].
    #[inline(always)]
    pub(crate) fn is_left(&self) -> bool {
        // W2: orders `started`, W1 in `begin`, before the look at `gone`. Pairs with C2 in `leave`.
        fence(SeqCst);
        // W3.
        self.replies.caller.line.gone.load(Relaxed) != 0
    }

    /// The chain of the request, if it is nested.
    #[cold]
    pub(crate) fn chain(&self) -> u64 {
        // Relaxed: written before the request was published.
        self.replies.caller.line.chain.load(Relaxed)
    }

    /// Whether the reply carries anything.
    #[inline(always)]
    pub(crate) fn carries(&self) -> bool {
        self.attachments.is_loaded
    }

    /// The length of a reply that carries nothing.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The reply, about to be published. A caller that reads it where it lies may keep its block beyond the reply.
    #[cold]
    pub(crate) fn sent_slow(self, alloc: &AllocContext<'_>) -> SentReply {
        let mut attachments = std::mem::take(self.attachments);
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

/// All lanes that one worker serves, and the doorbell at which it waits.
pub(crate) struct WorkerLanes {
    /// Apart from what other workers write: the heap may put their lanes next to these.
    lanes: Vec<CachePadded<CalleeLane>>,
    worker: Placed<WorkerLine>,
    /// How the worker sleeps.
    own_bell: Arc<dyn Sleeper>,
    wait: Wait,
    /// How long this worker waits for a request.
    pace: Pace,
    /// The lane served last: the next look begins after it, so that no lane waits for ever.
    last: usize,
    /// Whether the caller may say when this worker ends: a parent may.
    obeys: bool,
}

impl WorkerLanes {
    /// The lanes of worker `index`, whose caller may say when it ends, or not.
    pub(crate) fn new(segment: &Segment, index: u32, bells: &Bells, wait: Wait, obeys: bool) -> Self {
        let lane = |lane| CachePadded::new(CalleeLane::new(segment, lane, bells));
        Self {
            lanes: segment.geometry().lanes_of(index).map(lane).collect(),
            worker: segment.worker_line(index),
            own_bell: bells.worker(index),
            wait,
            pace: Pace::new(),
            last: 0,
            obeys,
        }
    }

    /// The lane at `place`.
    pub(crate) fn lane(&mut self, place: usize) -> &mut CalleeLane {
        &mut self.lanes[place]
    }

    /// The lane at `place`, where [`wait`](Self::wait) has found a request; `None` if that has found the end.
    #[inline(always)]
    pub(crate) fn found(&mut self, place: usize) -> Option<&mut CalleeLane> {
        self.lanes.get_mut(place).map(|lane| &mut **lane)
    }

    /// Whether this is the worker of the first lane.
    pub(crate) fn is_first(&self) -> bool {
        self.lanes.first().is_some_and(|lane| lane.index() == 0)
    }

    /// From now on, finds the request to stop only when there is no other.
    #[cold]
    pub(crate) fn end_soon(&self) {
        // Relaxed: this thread's own note to itself.
        self.worker.lanes_in_use.fetch_max(ENDING, Relaxed);
    }

    /// The addresses of what is kept here of each lane.
    #[cfg(all(test, debug_assertions, not(loom)))]
    pub(crate) fn private_memory(&self) -> Vec<std::ops::Range<usize>> {
        let start = |lane| std::ptr::from_ref::<CalleeLane>(lane).addr();
        self.lanes.iter().map(|lane| start(lane)..start(lane) + size_of::<CalleeLane>()).collect()
    }

    /// Waits without limit for a request, and says at which place the lane is that it is on; a place where there is no lane if the parent has asked
    /// for the end, and every request has been answered. `None` = the caller's `peer_status` is over; whose has none is one that this process does
    /// not outlive.
    #[inline(always)]
    pub(crate) fn wait(&mut self, peer_status: Option<&PeerStatus>) -> Option<usize> {
        let found = self.find().or_else(|| self.wait_slow(peer_status))?;
        self.last = found;
        Some(found)
    }

    #[inline(never)]
    fn wait_slow(&self, peer_status: Option<&PeerStatus>) -> Option<usize> {
        let waiter = Waiter {
            bell: &self.worker.bell,
            sleeper: &*self.own_bell,
            wait: self.wait,
            pace: &self.pace,
            dead: peer_status.map(PeerStatus::dead),
            peer_cpu: self.lanes.get(self.last).map_or(0, |lane| lane.caller_cpu()),
        };
        let mut found = None;
        loop {
            let waited = waiter.wait(Deadline::NEVER, || {
                found = self.find();
                found.is_some()
            });
            if found.is_some() || waited == Waited::Dead {
                return found;
            }
        }
    }

    /// The next lane with a request, in turn.
    #[inline(always)]
    fn find(&self) -> Option<usize> {
        let in_use = self.worker.lanes_in_use.load(Relaxed) as usize;
        let Some(lanes) = self.lanes.get(..in_use) else { return self.find_last() };
        let mut place = self.last;
        for _ in lanes {
            place = if place + 1 < lanes.len() { place + 1 } else { 0 };
            if lanes[place].is_ready() {
                return Some(place);
            }
        }
        None
    }

    /// A lane with a request, the first lane last: the request to stop comes there. If there is none, the end has come.
    #[cold]
    fn find_last(&self) -> Option<usize> {
        // Acquire: what was published before the end was asked for is found. Pairs with the Release in `WorkerBell::ask_to_end`.
        fence(Acquire);
        let lanes = self.lanes.len();
        let found = (1..lanes).chain(0..1).find(|&place| self.lanes[place].is_ready());
        // A stranger writes to this word as it likes, and has no say in when this process ends.
        if self.obeys { found.or(Some(lanes)) } else { found }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::nowhere::nowhere;
    use super::*;
    use crate::backing::Segments;
    use crate::layout::Geometry;
    use crate::sys::poll::readable;
    use crate::wake::{Count, ParentBells, Signal};
    use proptest::prelude::*;
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Duration;

    /// Both ends of two lanes in one process, and what the parent has beside.
    fn two_sides(signal: Signal) -> (Vec<CallerLane>, WorkerLanes, ParentBells) {
        let geometry = Geometry { lanes: 2, slots: 2, slot_lines: 1, workers: 1 };
        let backing = Segments::Sealed.of_parent();
        let (segment, _) = Segment::create(geometry, &*backing).unwrap();
        let parent = ParentBells::new(signal, Count::of(&geometry), &*backing).unwrap();
        let copies = parent.for_child().map(|ring| ring.try_clone_to_owned().unwrap());
        let child =
            Bells::of_child(signal, Count::of(&geometry), &*backing, &mut copies.collect::<Vec<_>>().into_iter())
                .unwrap();
        let callers = (0..geometry.lanes).map(|index| CallerLane::new(&segment, index, &parent.bells)).collect();
        (callers, WorkerLanes::new(&segment, 0, &child, Wait::Park, true), parent)
    }

    #[test]
    fn fault_30_a_nested_call_that_is_not_sent_leaves_nothing_on_its_lane() {
        let (mut callers, _worker, _parent) = two_sides(Signal::Futex);
        let lane = &mut callers[0];
        (1..=100).for_each(|chain| lane.nest(chain));
        assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed)), (1, 100));
        lane.unnest();
        assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed), lane.nested), (0, 0, None));
        // One that has been sent stays.
        lane.nest(7);
        ask(lane);
        lane.unnest();
        assert_eq!((lane.under_way.len(), lane.caller.chain.load(Relaxed)), (1, 7));
    }

    fn ask(lane: &mut CallerLane) {
        let len = lane.write(&(), nowhere()).unwrap();
        lane.publish(Kind::Call, 0, len, nowhere());
    }

    fn answer(worker: &mut WorkerLanes) {
        let index = worker.wait(None).expect("no end");
        let lane = worker.lane(index);
        assert!(lane.begin().unwrap().is_some());
        lane.publish(Kind::Call, 0, Place::Slot(0));
    }

    fn take(lane: &mut CallerLane) {
        assert!(lane.take().unwrap().is_some());
        lane.release(false);
    }

    fn is_readable(door: impl AsFd) -> bool {
        readable(door, Duration::ZERO).unwrap()
    }

    /// The same two sides of one lane, as if `start` calls had been made on it.
    fn long_used(start: u64) -> (CallerLane, CalleeLane) {
        let geometry = Geometry { lanes: 1, slots: 4, slot_lines: 1, workers: 1 };
        let backing = Segments::Sealed.of_parent();
        let (segment, _) = Segment::create(geometry, &*backing).unwrap();
        let bells = Bells::futexes(Count::of(&geometry));
        let (new, peer) = (CallerLane::new(&segment, 0, &bells), CalleeLane::new(&segment, 0, &bells));
        let caller = CallerLane {
            requests: Producer::new(segment.requests(0), start),
            replies: Consumer::new(segment.replies(0), start),
            ..new
        };
        let replies = ReplyWriter { ring: Producer::new(segment.replies(0), start), ..peer.replies };
        segment.callee_line(0).started.store(start, Relaxed);
        (caller, CalleeLane { requests: Consumer::new(segment.requests(0), start), replies, ..peer })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Calls, answers and replies taken in any order are three queues, also where positions wrap: credit is what is not out, and what
        /// had begun when somebody asked says so.
        #[test]
        fn a_lane_equals_its_queues(
            start in prop_oneof![Just(0), (1u64 << 32) - 9..(1 << 32) + 9, u64::MAX - 9..=u64::MAX],
            acts in proptest::collection::vec(0u8..3, 0..120),
        ) {
            let (mut caller, mut callee) = long_used(start);
            let (mut asked, mut answered) = (VecDeque::new(), VecDeque::new());
            for act in acts {
                match act {
                    0 if caller.credit() > 0 => {
                        let position = caller.position();
                        ask(&mut caller);
                        prop_assert_eq!(caller.started(position), Started::No);
                        asked.push_back(position);
                    }
                    1 => {
                        let request = callee.begin().unwrap().is_some();
                        let position = asked.pop_front();
                        prop_assert_eq!(request, position.is_some());
                        if let Some(position) = position {
                            prop_assert_eq!(caller.started(position), Started::Yes);
                            callee.publish(Kind::Call, 0, Place::Slot(0));
                            answered.push_back(position);
                        }
                    }
                    _ => {
                        let taken = caller.take().unwrap().map(|(position, _)| position);
                        prop_assert_eq!(taken, answered.pop_front());
                        if taken.is_some() {
                            caller.release(false);
                        }
                    }
                }
                prop_assert_eq!(caller.credit() as usize, 4 - asked.len() - answered.len());
                prop_assert_eq!(caller.is_idle(), asked.is_empty() && answered.is_empty());
            }
        }
    }

    #[test]
    fn sides_that_park_wake_each_other() {
        for &signal in Signal::ALL {
            let (mut callers, mut worker, parent) = two_sides(signal);
            let peer_status = PeerStatus::new(parent.alarm.clone());
            thread::scope(|scope| {
                scope.spawn(|| (0..2000).for_each(|_| answer(&mut worker)));
                for call in 0..2000 {
                    let lane = &mut callers[call % 2];
                    ask(lane);
                    assert_eq!(lane.wait(Wait::Park, &peer_status, Deadline::NEVER), Waited::Ready, "{signal:?}");
                    take(lane);
                }
            });
        }
    }

    #[test]
    fn a_death_wakes_who_sleeps_whatever_he_sleeps_on() {
        for &signal in Signal::ALL {
            let (mut callers, _, parent) = two_sides(signal);
            let peer_status = PeerStatus::new(parent.alarm.clone());
            ask(&mut callers[0]);
            let (lane, peer_status) = (&mut callers[0], &peer_status);
            thread::scope(|scope| {
                let waiting = scope.spawn(move || lane.wait(Wait::Park, peer_status, Deadline::NEVER));
                thread::sleep(Duration::from_millis(10));
                peer_status.end(crate::error::Exit::Unknown);
                assert_eq!(waiting.join().unwrap(), Waited::Dead, "{signal:?}");
            });
        }
    }

    #[test]
    fn the_door_opens_for_a_reply_that_was_armed_for_and_for_the_end() {
        let (mut callers, mut worker, parent) = two_sides(Signal::EventFd);
        let door = parent.door.as_ref().unwrap();
        for round in 0..3 {
            let lane = &mut callers[round % 2];
            ask(lane);
            assert!(!lane.arm() && !is_readable(door));
            answer(&mut worker);
            assert!(is_readable(door));
            assert_eq!(door.clear().collect::<Vec<_>>(), [round as u32 % 2]);
            // Asked once, it says no more of this ring, though the lane still holds it.
            assert!(!is_readable(door));
            assert!(lane.arm(), "the reply is there");
            take(lane);
            lane.disarm();
        }
        PeerStatus::new(parent.alarm.clone()).end(crate::error::Exit::Unknown);
        assert!(is_readable(door) && door.clear().collect::<Vec<_>>().is_empty() && is_readable(door));
    }

    #[test]
    fn who_has_not_armed_is_not_rung_for() {
        let (mut callers, mut worker, parent) = two_sides(Signal::EventFd);
        let door = parent.door.as_ref().unwrap();
        let lane = &mut callers[0];
        ask(lane);
        assert!(!lane.arm());
        lane.disarm();
        answer(&mut worker);
        assert!(!is_readable(door));
        assert!(lane.arm(), "a reply that came while nobody was armed is found by arming");
    }
}

#[cfg(test)]
mod nowhere {
    use super::*;
    use crate::arena::Source;
    use crate::commit::BlockRef;
    use crate::memory_pool::{MemoryPool, PoolHandle};
    use crate::segment::Block;

    /// Memory for frames that fit any slot.
    pub(super) fn nowhere() -> &'static AllocContext<'static> {
        const { &AllocContext { pool: &Nowhere, patience: &crate::memory_pool::NEVER } }
    }

    struct Nowhere;

    impl PoolHandle for Nowhere {
        fn with(&self, _: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source)) {
            unreachable!("an empty frame needs no memory");
        }

        fn find(
            &self,
            _: Deadline,
            _: &mut dyn FnMut(&mut MemoryPool, &mut dyn Source) -> Result<Allocation, NoMemory>,
        ) -> Result<Allocation, NoMemory> {
            unreachable!("an empty frame fits any slot");
        }

        fn peer_block(&self, _: BlockRef) -> Option<Block> {
            None
        }

        fn trusts_peer(&self) -> bool {
            false
        }

        fn is_trusted_by_peer(&self) -> bool {
            false
        }

        fn is_in_fork(&self) -> bool {
            false
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::nowhere::nowhere;
    use super::*;
    use crate::commit::BlockRef;
    use crate::layout::{AWAKE, BellLine};
    use crate::segment::Slots;
    use crate::sync::{AtomicU32, AtomicU64};
    use crate::sys::futex::Futex;
    use crate::wake::FutexSleeper;

    fn futex() -> Arc<dyn Sleeper> {
        Arc::new(FutexSleeper)
    }

    fn bell() -> BellLine {
        BellLine { parked: Futex::new(AWAKE), cpu: AtomicU32::new(0) }
    }

    fn worker() -> Placed<WorkerLine> {
        Placed::on_heap(WorkerLine { bell: bell(), lanes_in_use: AtomicU32::new(0) })
    }

    fn caller_line() -> Placed<CallerLine> {
        Placed::on_heap(CallerLine {
            bell: bell(),
            released: AtomicU64::new(0),
            gone: AtomicU32::new(0),
            chain: AtomicU64::new(0),
        })
    }

    /// Both ends of a lane.
    fn lane(index: u32, worker: &Placed<WorkerLine>) -> (CallerLane, CalleeLane) {
        let (requests, replies, line) = (Slots::on_heap(2), Slots::on_heap(2), caller_line());
        let callee = Placed::on_heap(CalleeLine { started: AtomicU64::new(0) });
        let called = CalleeLane {
            index,
            requests: Consumer::new(requests.clone(), 0),
            replies: ReplyWriter {
                ring: Producer::new(replies.clone(), 0),
                caller: CallerBell { line: line.clone(), sleeper: futex() },
            },
            callee: callee.clone(),
            attachments: Attachments::default(),
        };
        let caller = CallerLane {
            index,
            place: index,
            is_begun: false,
            nested: None,
            requests: Producer::new(requests, 0),
            replies: Consumer::new(replies, 0),
            caller: line,
            callee,
            worker: worker.clone(),
            own_bell: futex(),
            worker_bell: futex(),
            in_use: false,
            pace: Pace::new(),
            attachments: Attachments::default(),
            under_way: VecDeque::new(),
        };
        (caller, called)
    }

    /// A child's worker that sleeps whenever there is nothing to do.
    fn serving(lanes: Vec<CachePadded<CalleeLane>>, worker: Placed<WorkerLine>) -> WorkerLanes {
        let (wait, pace) = (Wait::Park, Pace::new());
        WorkerLanes { lanes, worker, own_bell: futex(), wait, pace, last: 0, obeys: true }
    }

    /// The end is asked for while the worker is about to sleep: it comes, and what was published before, on a lane that the worker has never looked at, is
    /// answered first.
    #[test]
    fn loom_the_end_comes_after_what_was_published_before_it() {
        loom::model(|| {
            let worker = worker();
            let (mut caller, lane) = lane(0, &worker);
            let bell = WorkerBell { line: worker.clone(), sleeper: futex() };
            let asking = loom::thread::spawn(move || {
                let len = caller.write(&(), nowhere()).unwrap();
                caller.publish(Kind::Call, 0, len, nowhere());
                bell.ask_to_end();
            });
            let mut served = serving(vec![CachePadded::new(lane)], worker);
            let mut answered = 0;
            loop {
                let place = served.wait(None).expect("an end that is found");
                let Some(lane) = served.found(place) else { break };
                assert!(lane.begin().is_ok_and(|request| request.is_some()));
                lane.requests.release();
                answered += 1;
            }
            assert_eq!(answered, 1);
            asking.join().unwrap();
        });
    }

    /// Two lanes that enter use at the same moment, and one parked worker: it serves both. What must hold is that it never
    /// sleeps while a request is published, though both callers ring the same bell and both raise `lanes_in_use`.
    #[test]
    fn loom_worker_finds_requests_on_every_lane() {
        loom::model(|| {
            let worker = worker();
            let (callers, lanes): (Vec<_>, Vec<_>) = (0..2).map(|index| lane(index, &worker)).unzip();
            let callers: Vec<_> = callers
                .into_iter()
                .map(|mut lane| {
                    loom::thread::spawn(move || {
                        let written = lane.write(&(), nowhere());
                        written.map(|len| lane.publish(Kind::Call, 0, len, nowhere())).is_ok()
                    })
                })
                .collect();
            let lanes = lanes.into_iter().map(CachePadded::new).collect();
            let mut served = serving(lanes, worker);
            for _ in 0..2 {
                let place = served.wait(None).expect("no end");
                let lane = served.lane(place);
                assert!(lane.begin().is_ok_and(|request| request.is_some()));
                lane.requests.release();
            }
            callers.into_iter().for_each(|caller| assert!(caller.join().unwrap()));
        });
    }

    /// The caller finds the conversation over in the moment in which a worker that does not know takes the request: what is carried out
    /// counts as started.
    #[test]
    fn loom_what_is_left_before_it_has_started_is_not_carried_out() {
        loom::model(|| {
            let (mut caller, mut callee) = lane(0, &worker());
            let len = caller.write(&(), nowhere()).unwrap();
            caller.publish(Kind::Call, 0, len, nowhere());
            let worker = loom::thread::spawn(move || callee.begin().unwrap().is_some_and(|(_, slot)| !slot.is_left()));
            let started = caller.leave(0);
            let is_carried_out = worker.join().unwrap();
            assert!(started == Started::Yes || !is_carried_out);
        });
    }

    /// A caller that copies a reply while it is written, and sleeps whenever there is no more of it: it gets the reply, though
    /// nobody rings for the pieces.
    #[test]
    fn loom_caller_that_sleeps_between_pieces_is_woken_for_the_reply() {
        loom::model(|| {
            let slots = Slots::on_heap(2);
            let line = caller_line();
            let mut ring = Producer::new(slots.clone(), 0);
            let caller = CallerBell { line: line.clone(), sleeper: futex() };
            let block = BlockRef { segment: 1, offset: 0, len: 1, loan_id: 0 };
            ring.claim().1.announce(block, 0, 1);
            let writing = loom::thread::spawn(move || {
                ring.claim().1.advance(1);
                ring.publish(Kind::Call, 0, Place::Block(block));
                caller.notify();
            });
            let replies = Consumer::new(slots, 0);
            let (pace, mut seen) = (Pace::new(), Seen::default());
            let (bell, sleeper) = (&line.bell, &FutexSleeper);
            let waiter = Waiter { bell, sleeper, wait: Wait::Park, pace: &pace, dead: None, peer_cpu: 0 };
            while !replies.is_ready() {
                if let Some(announced) = replies.announced() {
                    seen = Seen { word: announced.word, mark: replies.mark() };
                }
                waiter.wait(Deadline::NEVER, || replies.has_more(&seen));
            }
            writing.join().unwrap();
        });
    }
}
