//! The caller's end of a lane: sends requests, waits for replies, takes them, and leaves.
//!
//! Sends only while it has credit, and trusts nothing that the callee has written.

#![forbid(unsafe_code)]

use super::{CallerLane, OneWayRequest, is_past};
use crate::peer_status::PeerStatus;
use callgate_os::sync::Ordering::{Relaxed, Release, SeqCst};
use callgate_os::sync::fence;
use callgate_transport::commit::{Kind, Place};
use callgate_transport::doorbell::{self, Deadline, Pace, Wait, Waited, Waiter};
use callgate_transport::encode::{Encode, write_frame};
use callgate_transport::error::{CallName, Started};
use callgate_transport::failpoints::{self, Step};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::{AllocContext, PoolHandle};
use callgate_transport::outgoing_frame::{SendError, place};
use callgate_transport::ring::{Consumer, Frame, Producer, Seen};
use callgate_transport::segment::Segment;
use callgate_transport::validator::Checked;
use callgate_transport::wake::Bells;
use callgate_transport::written_frame::WrittenFrame;
use rkyv::Archive;
use std::cell::Cell;
use std::collections::VecDeque;

impl CallerLane {
    /// The caller's end of lane `index`, with no call made yet.
    pub fn new(segment: &Segment, index: u32, bells: &Bells) -> Self {
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
            deadlines: segment.deadlines(index),
            acknowledged: 0,
            one_way: VecDeque::new(),
            capacity: u64::from(segment.geometry().slots) - u64::from(segment.is_unordered()),
            is_unordered: segment.is_unordered(),
            named: Cell::new(0),
            shown: None,
        }
    }

    /// The lane's index in the bridge.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The number of requests whose replies have been taken.
    pub fn answered(&self) -> u64 {
        self.acknowledged
    }

    /// The position that the next request will have.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.requests.position()
    }

    /// The number of unanswered requests.
    #[inline(always)]
    fn unanswered(&self) -> u64 {
        self.requests.position().wrapping_sub(self.replies.position())
    }

    /// How many calls can be sent now.
    #[inline(always)]
    pub fn credit(&self) -> u64 {
        self.capacity.saturating_sub(self.unacknowledged())
    }

    /// How many requests have not been acknowledged: their slots are in use.
    #[inline(always)]
    pub(super) fn unacknowledged(&self) -> u64 {
        self.requests.position().wrapping_sub(self.acknowledged)
    }

    /// Whether every request has been answered that will be. One-way requests may still be under way; they are half as many as slots at most.
    #[inline(always)]
    pub fn is_idle(&self) -> bool {
        self.unanswered() == 0
    }

    /// Writes a request and returns its length, for [`publish`](Self::publish). The lane must have credit.
    ///
    /// # Errors
    ///
    /// If the arguments cannot be written.
    #[inline(always)]
    pub fn write<A: Encode + Archive<Archived: Checked>>(
        &mut self,
        args: &A,
        alloc: &AllocContext<'_>,
    ) -> Result<usize, SendError> {
        debug_assert!(self.unacknowledged() < self.replies.count());
        write_frame(args, &mut self.requests, alloc, &mut self.attachments, None)
    }

    /// Whether the written request carries memory of its arguments: boxes.
    #[inline(always)]
    pub(crate) fn carries_boxes(&self) -> bool {
        self.attachments.carries_boxes()
    }

    /// Whether the written request carries anything: a block, or boxes.
    #[inline(always)]
    pub(crate) fn carries_anything(&self) -> bool {
        self.attachments.is_loaded
    }

    /// Publishes and announces the request of `len` bytes that was written. Boxes that this side still holds are now shared with the callee; the rest
    /// is the callee's own.
    #[inline(always)]
    pub fn publish(&mut self, kind: Kind, call: u64, len: usize, pool: &dyn PoolHandle) {
        self.publish_quietly(kind, call, len, pool);
        self.notify();
    }

    /// Notifies the worker of what was published.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        doorbell::notify(&self.worker.bell, &self.worker_bell);
    }

    /// Publishes as [`publish`](Self::publish) does, and leaves it to the caller to [notify](Self::notify) the worker.
    #[inline(always)]
    pub(crate) fn publish_quietly(&mut self, kind: Kind, call: u64, len: usize, pool: &dyn PoolHandle) {
        if self.attachments.is_loaded {
            self.publish_loaded(kind, call, len, pool);
        } else {
            self.requests.publish(kind, call, Place::Slot(len));
        }
        failpoints::reach(Step::ParentRequestStored);
        if !self.in_use {
            self.enter_use_slow();
        }
    }

    /// Notes that the request at `position`, published just now, is one-way.
    pub(crate) fn note_one_way(&mut self, position: u64, is_silent: bool, call: CallName) {
        self.one_way.push_back(OneWayRequest { position, is_silent, call });
        if is_silent && position == self.replies.position() {
            self.replies.release();
        }
    }

    /// Waits no more for replies that do not come.
    #[cold]
    fn skip_silent(&mut self) {
        while self.one_way.iter().any(|one| one.is_silent && one.position == self.replies.position()) {
            self.replies.release();
        }
    }

    /// Whether one-way requests have not been acknowledged.
    #[inline(always)]
    pub(crate) fn has_one_way(&self) -> bool {
        !self.one_way.is_empty()
    }

    /// The oldest one-way request that the next reply acknowledges, which is there.
    pub(crate) fn acknowledge_one(&mut self) -> Option<OneWayRequest> {
        if self.is_unordered {
            let next = self.next_position()?;
            let place = self.one_way.iter().position(|one| one.position == next)?;
            return self.one_way.remove(place);
        }
        let until = self.replies.position();
        let is_before = |one: &OneWayRequest| until.wrapping_sub(one.position) < u64::MAX / 2;
        if self.one_way.front().is_some_and(is_before) { self.one_way.pop_front() } else { None }
    }

    /// Whether the next request should be answered even if it succeeds: every half ring of requests, so that there is always room.
    pub(crate) fn wants_acknowledgement(&self) -> bool {
        (self.requests.position().wrapping_add(1)).is_multiple_of(self.replies.count() / 2)
    }

    #[cold]
    fn publish_loaded(&mut self, kind: Kind, call: u64, len: usize, pool: &dyn PoolHandle) {
        let (place, returns) = self.sent_slow(len, pool);
        self.requests.publish(kind, returns << 32 | call, place);
    }

    /// Keeps what the request carries until it is answered. Returns where the request lies, and the list of blocks that it returns.
    fn sent_slow(&mut self, len: usize, pool: &dyn PoolHandle) -> (Place, u64) {
        let mut attachments = std::mem::take(&mut self.attachments);
        let place = place(len, attachments.block.as_ref());
        let returns = pool.on(|pool, _| pool.sent(&mut attachments));
        self.under_way.push_back((self.requests.position(), attachments));
        failpoints::reach(Step::ParentRequestDeparted);
        (place, returns.to_word())
    }

    /// Whether the next request may be nested in the chain `chain`: not while one of another chain is under way, which may not have been read.
    pub fn may_nest(&self, chain: u64) -> bool {
        self.is_idle() || self.nested.is_none_or(|(_, other)| other == chain)
    }

    /// Nests the next request in the chain `chain`, as [`may_nest`](Self::may_nest) allows.
    #[cold]
    pub fn nest(&mut self, chain: u64) {
        self.unnest();
        // Relaxed: published by the request's commit word.
        self.caller.chain.store(chain, Relaxed);
        self.nested = Some((self.requests.position(), chain));
        // An entry even if the request carries nothing, so that its end is noticed.
        self.under_way.push_back((self.requests.position(), Attachments::default()));
    }

    /// Undoes [`nest`](Self::nest): the request was not sent.
    #[cold]
    pub(crate) fn unnest(&mut self) {
        let next = self.requests.position();
        if self.nested.take_if(|(position, _)| *position == next).is_some() {
            self.caller.chain.store(0, Relaxed);
            self.under_way.retain(|(position, _)| *position != next);
        }
    }

    /// The lane's index the first time, so that the peer can be told before it is used; `None` later.
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
        // Where replies have no order, every request comes here.
        self.in_use = !self.is_unordered;
        // Relaxed: ordered before the look at `parked` by the fence in `notify`, like the commit word.
        if !self.is_unordered || self.worker.lanes_in_use.load(Relaxed) <= self.place {
            self.worker.lanes_in_use.fetch_max(self.place + 1, Relaxed);
        }
        if self.is_unordered {
            self.note_unanswered();
        }
    }

    /// Waits for the next reply, whichever request it answers, or until `is_wanted`.
    #[inline(never)]
    pub fn wait(
        &self,
        wait: Wait,
        peer_status: &PeerStatus,
        deadline: Deadline,
        is_wanted: &dyn Fn() -> bool,
    ) -> Waited {
        self.waiter(wait, peer_status, &self.pace).wait(deadline, || self.replies.is_ready() || is_wanted())
    }

    /// Waits for the next reply, or until it is announced, or until `is_wanted`.
    #[inline(never)]
    pub(crate) fn wait_for_any(
        &self,
        wait: Wait,
        peer_status: &PeerStatus,
        deadline: Deadline,
        is_wanted: &dyn Fn() -> bool,
    ) -> Waited {
        let waiter = self.waiter(wait, peer_status, &self.pace);
        waiter.wait(deadline, || self.replies.has_more(&Seen::default()) || is_wanted())
    }

    /// Polls for the next reply as long as replies usually take here, if that is short.
    pub(crate) fn poll_briefly(&self, peer_status: &PeerStatus) {
        if let Some(budget) = self.pace.brief() {
            self.waiter(Wait::Spin, peer_status, &self.pace).poll(budget, || self.replies.is_ready());
        }
    }

    /// Waits for the next reply, or for more of it than has been `seen`. `pace` is that of such waits, which say nothing of how long replies take.
    ///
    /// The child does not ring for more of a block that it has announced. A caller that sleeps here sleeps until the reply moves to another block or
    /// is published: the child rings for both, as always when it has written the commit word.
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

    /// Whether the next reply is still being written, and can be copied meanwhile.
    pub(crate) fn is_announced(&self) -> bool {
        self.replies.announced().is_some()
    }

    /// The ring of replies.
    pub fn replies(&self) -> &Consumer {
        &self.replies
    }

    /// Has the child ring the bridge's ring for the next reply. Returns whether the reply is already there, so that nothing will ring.
    pub(crate) fn listen(&self) -> bool {
        doorbell::listen(&self.caller.bell, || self.replies.is_ready())
    }

    /// Has the child ring no more for this lane.
    pub(crate) fn disarm(&self) {
        doorbell::disarm(&self.caller.bell);
    }

    /// Whether the next reply is there.
    pub(crate) fn is_answered(&self) -> bool {
        self.replies.is_ready()
    }

    /// Notes the deadline of the next request, for whoever carries it out.
    #[cold]
    pub(crate) fn set_deadline(&self, nanos: u64) {
        self.deadlines.set(self.requests.position(), nanos);
    }

    /// Makes a request that was written beforehand the next one; returns its length, for [`publish`](Self::publish). The lane must have credit.
    pub(crate) fn adopt(&mut self, written: WrittenFrame, pool: &dyn PoolHandle) -> usize {
        debug_assert!(self.credit() > 0);
        self.forget_unsent(pool);
        written.into_slot(&mut self.requests, &mut self.attachments)
    }

    /// The next reply, if it is there.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy peer could have written it.
    #[inline(always)]
    pub fn take(&self) -> Result<Option<(u64, Frame<'_>)>, &'static str> {
        let Some(frame) = self.replies.take()? else { return Ok(None) };
        let position = if self.is_unordered { self.named_by(&frame)? } else { self.replies.position() };
        Ok(Some((position, frame)))
    }

    /// Whether more than the next reply is released with it: what its request carries, or one-way requests.
    #[inline(always)]
    pub(crate) fn has_more_to_release(&self) -> bool {
        // Without a branch between the two, which are nearly always false.
        self.has_one_way() | !self.under_way.is_empty()
    }

    /// Releases the reply returned by [`take`](Self::take), if there is not [more](Self::has_more_to_release) to release.
    #[inline(always)]
    pub(crate) fn release_reply(&mut self) {
        self.replies.release();
        self.acknowledged = self.replies.position();
    }

    /// Releases the reply returned by [`take`](Self::take). `attachments` = it carried blocks, which the callee may use again. Returns what the
    /// request carried.
    pub fn release(&mut self, attachments: bool) -> Option<Attachments> {
        self.release_reply();
        if self.has_one_way() {
            self.skip_silent();
        }
        if attachments {
            // Release: what had to be copied is copied, and what is kept is taken. Pairs with the Acquire in `ReplyMemory::collect` and
            // `OwnMemory::collect`.
            self.caller.released.store(self.acknowledged, Release);
        }
        if self.under_way.is_empty() { None } else { self.arrived_slow() }
    }

    /// Takes back what a request carried whose arguments panicked while being written.
    pub(crate) fn forget_unsent(&mut self, pool: &dyn PoolHandle) {
        if self.attachments.is_loaded {
            let attachments = std::mem::take(&mut self.attachments);
            pool.on(|pool, source| pool.finish_frame(attachments, source));
        }
    }

    /// Notes that nobody waits for the replies any more. What their requests carry comes back when they are taken.
    pub fn give_up(&mut self, pool: &dyn PoolHandle) {
        for (_, attachments) in &mut self.under_way {
            pool.on(|pool, _| pool.given_up(attachments));
        }
    }

    /// The nested request has been answered.
    pub(super) fn leave_chain(&self) {
        self.caller.chain.store(0, Relaxed);
    }

    /// What the request carried whose reply has just been released.
    #[cold]
    fn arrived_slow(&mut self) -> Option<Attachments> {
        if self.is_unordered {
            return self.arrived_unordered();
        }
        let next = self.acknowledged;
        let is_next = |position: u64| position.wrapping_add(1) == next;
        if self.nested.take_if(|(position, _)| is_next(*position)).is_some() {
            self.leave_chain();
        }
        let mut arrived = None;
        while self.under_way.front().is_some_and(|(position, _)| is_next(*position)) {
            let attachments = self.under_way.pop_front().map(|(_, attachments)| attachments);
            arrived = attachments.filter(|attachments| attachments.is_loaded).or(arrived);
        }
        arrived
    }

    /// Leaves the lane for good, because the conversation is over. Returns how far the unanswered request at `position` has come; if it has not
    /// started, it never will.
    ///
    /// A child is dead by now. A remote worker may live, hear of the end later than this side, and take the request meanwhile:
    ///
    /// ```text
    /// caller                      worker of a remote caller
    /// C1  gone = 1                W1  started = position + 1
    /// C2  fence(SeqCst)           W2  fence(SeqCst)
    /// C3  look at started         W3  if gone: carry nothing out, now or later
    /// ```
    ///
    /// The two fences have a total order. If W2 is first, C3 sees W1: the request has started. If C2 is first, W3 sees C1, and nothing is carried
    /// out. Of a worker that lies or has died, only what it has stored is known.
    #[cold]
    pub fn leave(&self, position: u64) -> Started {
        // C1.
        self.caller.gone.store(1, Relaxed);
        // C2: orders `gone` before the look at `started`. Pairs with W2 in `ReplySlot::is_left`.
        fence(SeqCst);
        // C3.
        self.started(position)
    }

    /// How far the unanswered request at `position` has come. Only for a message, because the peer may lie.
    pub fn started(&self, position: u64) -> Started {
        // Relaxed: a hint while the writer lives. After its death (the Acquire of `PeerStatus::dead`) its last store is visible; after the fence in
        // `leave`, so is the store of a worker that lives on.
        let started = self.callee.started.load(Relaxed);
        if is_past(started, position) { Started::Yes } else { Started::No }
    }
}
