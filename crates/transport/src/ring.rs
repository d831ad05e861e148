//! A ring of slots between one producer and one consumer.
//!
//! Never blocks, never allocates, never calls the OS. Both positions are private: the consumer recognises its next frame by the
//! sequence in the slot's commit word, and the producer knows by other means (replies are credits) that the
//! slot it writes is free. So there is no head or tail in shared memory, and a small frame moves one cache line.
//!
//! # Why a consumer never reads a half-written frame
//!
//! The producer writes the payload and the call word, then the commit word with Release; the consumer reads the commit word
//! with Acquire, and the rest only if the sequence in it is the one it expects. A slot is written again only one lap later,
//! with another sequence, and only after the consumer's side has said (by a reply, or by sending the next request) that it is
//! done with the frame.
//!
//! # Frames that are read while they are written
//!
//! ```text
//! producer                                       consumer
//! P1  the block's name, the mark                 C1  the commit word (Acquire): it announces
//! P2  the commit word (Release): it announces    C2  the block's name
//! P3  bytes; the mark behind them (Release)      C3  fence(Acquire); the commit word: still the same
//! P4  the commit word: taken back                C4  the mark (Acquire); the bytes before it
//! P5  fence(Release)
//! P6  the block's name; ..
//! ```
//!
//! A large frame is announced while it is being written into a block, and the mark says how many of the block's first bytes are
//! final. *The bytes before the mark are what was written*: P3 is a pair of its own with C4, and what was written before the
//! announcement came before P2, which C1 has seen. *The block's name is whole*: P6 writes the name of another block, or of the whole
//! frame. If C2 sees any of that, the fences P5 and C3 make P4 visible to C3, and no word after it is what C1 saw: announcements
//! of one frame are counted.
//!
//! When the frame outgrows its block, the block is taken back before anybody else may have it, but the consumer may have copied
//! from it what others wrote. So it uses a copy only if the frame, published, lies in the very block that it copied from.

#![forbid(unsafe_code)]

use crate::commit::{BlockRef, Commit, Kind, Place};
use crate::layout::{EXPECTED, INLINE, MARK, SlotLine};
use crate::segment::{Slots, Span};
use crate::stage::Stage;
use callgate_os::sync::Ordering::{Acquire, Relaxed, Release};
use callgate_os::sync::fence;
use std::cell::Cell;

/// The bit of a reply's call word that says that the reply carries something.
pub const CARRIES: u64 = 1;

/// The shift of [`Frame::answers`] in a reply's call word. The number is less than that of slots, which is 4,096 at most.
pub const ANSWERS: u32 = 1;

/// The words of the payload that are stored for every frame: enough for a number or two.
const FIRST_WORDS: usize = 2;

/// The writing end of a ring.
pub struct Producer {
    next: Claim,
    /// The first bytes of the next frame's payload.
    stage: Stage,
}

/// The slot of the next frame.
pub struct Claim {
    slots: Slots,
    position: u64,
    /// The commit word that last announced a frame, or withdrew the announcement.
    announced: Cell<u64>,
}

impl Producer {
    /// The producer of a ring whose next frame has `position`.
    pub fn new(slots: Slots, position: u64) -> Self {
        Self { next: Claim { slots, position, announced: Cell::new(0) }, stage: Stage::new() }
    }

    /// The position of the next frame.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.next.position
    }

    /// Where the next frame's payload goes: the first bytes onto the stage, those after them into the slot. The caller holds a
    /// credit for the slot.
    #[inline(always)]
    pub fn claim(&mut self) -> (&mut Stage, &Claim) {
        (&mut self.stage, &self.next)
    }

    /// Publishes the claimed slot as a frame and moves on. What of its payload is not on the stage must already be written.
    ///
    /// The stores to the slot's first line stand together here, so that the line changes hands once.
    #[inline(always)]
    pub fn publish(&mut self, kind: Kind, call: u64, place: Place) {
        let line = self.next.line();
        match place {
            Place::Slot(len) => {
                let (first, others) = line.inline.split_at(FIRST_WORDS);
                self.stage.words(0..FIRST_WORDS).zip(first).for_each(|(word, to)| to.store(word, Relaxed));
                // What stays there if the frame is shorter, the consumer has seen before.
                if len > FIRST_WORDS * 8 {
                    self.stage
                        .words(FIRST_WORDS..INLINE / 8)
                        .zip(others)
                        .for_each(|(word, to)| to.store(word, Relaxed));
                }
            }
            Place::Block(block) => {
                self.next.take_back();
                block.store(line);
            }
        }
        line.call.store(call, Relaxed);
        // Release: publishes payload and call word. Pairs with the Acquire in `Consumer::is_ready`.
        line.commit.store(Commit { kind, place }.encode(self.next.position), Release);
        self.next.position = self.next.position.wrapping_add(1);
    }
}

impl Producer {
    /// Leaves the claimed slot as it is and moves on: nothing is published there.
    #[inline(always)]
    pub fn skip(&mut self) {
        self.next.position = self.next.position.wrapping_add(1);
    }
}

impl Claim {
    /// The slot's payload.
    #[inline(always)]
    pub fn payload(&self) -> Span<'_> {
        self.slots.payload(self.position)
    }

    #[inline(always)]
    fn line(&self) -> &SlotLine {
        self.slots.line(self.position)
    }

    /// Whether an announcement of the frame stands.
    pub fn is_announced(&self) -> bool {
        Commit::is_writing(self.announced.get(), self.position)
    }

    /// Announces the frame, which is being written into `block`. The block's first `mark` bytes are final; the frame will have about
    /// `expected` bytes.
    #[cold]
    pub fn announce(&self, block: BlockRef, mark: usize, expected: usize) {
        self.take_back();
        let line = self.line();
        block.store(line);
        line.inline[EXPECTED].store(expected as u64, Relaxed);
        line.inline[MARK].store(mark as u64, Relaxed);
        let word = Commit::announcing(self.position, self.announced.get());
        self.announced.set(word);
        // Release, P2: publishes the block's name, and its bytes so far. Pairs with the Acquire C1 in `Consumer::announced`.
        line.commit.store(word, Release);
    }

    /// Marks the first `mark` bytes of the announced block as final.
    pub fn advance(&self, mark: usize) {
        debug_assert!(self.is_announced());
        // Release, P3: publishes the bytes. Pairs with the Acquire C4 in `Consumer::mark`.
        self.line().inline[MARK].store(mark as u64, Release);
    }

    /// Withdraws the announcement, if there is one. Call it before the block goes to another frame.
    pub fn take_back(&self) {
        if self.is_announced() {
            let word = Commit::taken_back(self.announced.get());
            self.announced.set(word);
            // P4.
            self.line().commit.store(word, Relaxed);
            // P5: whoever sees what is written from here on sees that the announcement no longer stands. Pairs with C3 in
            // `Consumer::still_says`.
            fence(Release);
        }
    }
}

/// The requests of a ring, as seen by whoever may withdraw one, or asks whether one is withdrawn: a thread that holds neither end.
pub struct Withdrawer(Slots);

impl Withdrawer {
    pub fn new(slots: Slots) -> Self {
        Self(slots)
    }

    /// Marks the request at `position` as withdrawn, unless another is in its slot by now.
    pub fn withdraw(&self, position: u64) {
        let commit = &self.0.line(position).commit;
        // Relaxed, here and below: the mark carries nothing with it. What orders it is in `Withdrawal`.
        let word = commit.load(Relaxed);
        if Commit::is_at(word, position) {
            // Fails if the producer has published another request there since.
            let _ = commit.compare_exchange(word, Commit::withdrawn(word), Relaxed, Relaxed);
        }
    }
}

impl Withdrawer {
    /// Whether the request at `position`, which has not been answered, has been withdrawn.
    pub fn is_withdrawn(&self, position: u64) -> bool {
        // Relaxed: nothing is read on the strength of this.
        let word = self.0.line(position).commit.load(Relaxed);
        Commit::is_at(word, position) && Commit::is_withdrawn(word)
    }
}

/// The reading end of a ring.
pub struct Consumer {
    slots: Slots,
    /// A cell: a callee moves on while the request that it has taken is still borrowed.
    position: Cell<u64>,
    /// The longest payload whose lines are written together; 0 if slots have only one line.
    staged: usize,
    /// Whether to fetch more than the first line while polling: the last frame was no longer than `staged`. A producer does not have the lines of a
    /// longer one together, and fetching them would only get in its way.
    fetches: Cell<bool>,
}

/// The announcement of the next frame, which is still being written. Not yet checked against the known segments.
pub struct Announcement {
    /// The commit word, which differs between the announcements of one frame.
    pub word: u64,
    /// The whole block that the frame may fill.
    pub block: BlockRef,
    /// The likely length of the frame.
    pub expected: u64,
}

/// What a consumer has seen of an announced frame: the announcing word, and how many bytes were final.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub word: u64,
    pub mark: u64,
}

/// A frame that has been published and not yet released.
pub struct Frame<'a> {
    pub commit: Commit,
    /// The call word, see [`SlotLine::call`].
    pub call: u64,
    /// The slot's first line.
    pub line: &'a SlotLine,
    /// The payload, if it is in the slot.
    pub payload: Span<'a>,
}

impl Frame<'_> {
    /// Whether a reply has memory outside its slot, which its receiver must release.
    #[inline(always)]
    pub fn carries(&self) -> bool {
        self.call & CARRIES != 0 || matches!(self.commit.place, Place::Block(_))
    }

    /// Which of the unanswered requests this reply answers, counted from the oldest. Only where calls are answered as they end; otherwise the oldest.
    pub fn answers(&self) -> usize {
        (self.call as u32 >> ANSWERS) as usize
    }

    /// Whether the producer has withdrawn it, if it is a request that has not been answered.
    #[inline(always)]
    pub fn is_withdrawn(&self) -> bool {
        // Relaxed: nothing is read on the strength of this.
        Commit::is_withdrawn(self.line.commit.load(Relaxed))
    }
}

impl Consumer {
    /// The consumer of a ring whose next frame has `position`.
    pub fn new(slots: Slots, position: u64) -> Self {
        let staged = if slots.capacity() >= Stage::LEN { Stage::LEN } else { 0 };
        Self { slots, position: Cell::new(position), staged, fetches: Cell::new(staged > 0) }
    }

    /// The position of the next frame.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.position.get()
    }

    /// Fetches the lines behind the next frame's first, which the producer writes before it: then they arrive with it, not after it. Call it each time
    /// before looking for the frame while waiting for it.
    #[inline(always)]
    pub fn fetch_lines(&self) {
        if self.fetches.get() {
            self.slots.fetch_behind(self.position());
        }
    }

    /// Whether the next frame has been published. Reads one cache line, the frame's own.
    #[inline(always)]
    pub fn is_ready(&self) -> bool {
        // Acquire: the frame is read after this. Pairs with the Release in `Producer::publish`.
        Commit::is_at(self.slots.line(self.position()).commit.load(Acquire), self.position())
    }

    /// Whether the next frame has been published, or more of it is announced than `seen`. Reads one cache line, the frame's own.
    #[inline(always)]
    pub fn has_more(&self, seen: &Seen) -> bool {
        self.fetch_lines();
        let line = self.slots.line(self.position());
        // Acquire: as in `is_ready`.
        let word = line.commit.load(Acquire);
        // Relaxed: to be read again with Acquire, in `mark`, by who copies.
        Commit::is_begun(word, self.position()) && (word != seen.word || line.inline[MARK].load(Relaxed) > seen.mark)
    }

    /// The announcement of the next frame, if it is being written.
    pub fn announced(&self) -> Option<Announcement> {
        let line = self.slots.line(self.position());
        // Acquire, C1: the block is read after this. Pairs with the Release P2 in `Claim::announce`.
        let word = line.commit.load(Acquire);
        if !Commit::is_writing(word, self.position()) {
            return None;
        }
        // C2.
        let (block, expected) = (BlockRef::load(line), line.inline[EXPECTED].load(Relaxed));
        self.still_says(word).then_some(Announcement { word, block, expected })
    }

    /// Whether the announcement `word` still stands. If so, everything read since it was seen was written before a withdrawal.
    pub fn still_says(&self, word: u64) -> bool {
        // C3: pairs with P5 in `Claim::take_back`.
        fence(Acquire);
        self.slots.line(self.position()).commit.load(Relaxed) == word
    }

    /// How many of the announced block's first bytes are final, if the announcement still stands.
    pub fn mark(&self) -> u64 {
        // Acquire, C4: the bytes are copied after this. Pairs with the Release P3 in `Claim::advance`.
        self.slots.line(self.position()).inline[MARK].load(Acquire)
    }

    /// The next frame, `None` if it has not been published.
    ///
    /// # Errors
    ///
    /// The breach, if no healthy peer could have written the frame.
    #[inline(always)]
    pub fn take(&self) -> Result<Option<Frame<'_>>, &'static str> {
        self.take_at(self.position())
    }

    /// The frame at `position`, which no later frame has replaced; `None` if it has not been published.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    #[inline(always)]
    pub fn take_at(&self, position: u64) -> Result<Option<Frame<'_>>, &'static str> {
        match self.call_at(position) {
            Some(frame) => Ok(Some(frame)),
            None => self.take_other(position),
        }
    }

    /// What [`take`](Self::take) finds, if it is a call, or its value, in a slot, and not withdrawn, as nearly every frame is.
    #[inline(always)]
    pub fn take_call(&self) -> Option<Frame<'_>> {
        self.call_at(self.position())
    }

    #[inline(always)]
    fn call_at(&self, position: u64) -> Option<Frame<'_>> {
        // Before the load, which the compiler moves nothing over: what it needs to know of the slots is read once.
        let (line, payload) = (self.slots.line(position), self.slots.payload(position));
        // Acquire: as in `is_ready`. Read once: what is checked here is what is used.
        let word = line.commit.load(Acquire);
        let len = Commit::plain_len(word, position, payload.len())?;
        self.fetches.set(len <= self.staged);
        let commit = Commit { kind: Kind::Call, place: Place::Slot(len) };
        Some(Frame { commit, call: line.call.load(Relaxed), line, payload: payload.first(len) })
    }

    /// The next frame, if it has `position` and is plain: a call, or its value, in a slot, that carries nothing.
    #[inline(always)]
    pub fn take_plain(&self, position: u64) -> Option<Frame<'_>> {
        let (line, payload) = (self.slots.line(self.position()), self.slots.payload(self.position()));
        // Acquire: as in `is_ready`.
        let word = line.commit.load(Acquire);
        let len = Commit::plain_len(word, position, payload.len())?;
        let call = line.call.load(Relaxed);
        if call != 0 || position != self.position() {
            return None;
        }
        self.fetches.set(len <= self.staged);
        let commit = Commit { kind: Kind::Call, place: Place::Slot(len) };
        Some(Frame { commit, call: 0, line, payload: payload.first(len) })
    }

    /// [`take_at`](Self::take_at) of a frame that is not plain, or not there. Reads the word again, which may have changed.
    #[inline(never)]
    fn take_other(&self, position: u64) -> Result<Option<Frame<'_>>, &'static str> {
        let (line, payload) = (self.slots.line(position), self.slots.payload(position));
        // Acquire, and once: as in `call_at`.
        let word = line.commit.load(Acquire);
        if !Commit::is_at(word, position) {
            return Ok(None);
        }
        let commit = Commit::checked(word, line, payload.len())?;
        let payload = match commit.place {
            Place::Slot(len) => payload.first(len),
            Place::Block(_) => {
                self.fetches.set(false);
                Span::empty()
            }
        };
        Ok(Some(Frame { commit, call: line.call.load(Relaxed), line, payload }))
    }

    /// Releases the next frame and moves on.
    #[inline(always)]
    pub fn release(&self) {
        self.position.set(self.position().wrapping_add(1));
    }

    /// How many slots the ring has.
    pub fn count(&self) -> u64 {
        self.slots.count()
    }
}

/// A view of a ring that sees which frames are published, and reads none.
pub struct Onlooker(Slots);

impl Onlooker {
    pub fn new(slots: Slots) -> Self {
        Self(slots)
    }

    /// Whether the frame at `position` has been published, at any time.
    pub fn has_seen(&self, position: u64) -> bool {
        // Relaxed: nothing else is read on the strength of this.
        Commit::is_at_or_past(self.0.line(position).commit.load(Relaxed), position)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backing::heap::Heap;
    use crate::copy_buffer::CopyBuffer;
    use crate::layout::Geometry;
    use crate::segment::{Block, Segment};
    use callgate_os::mapping::{HeapMemory, Mapping, Protection};
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    fn send(producer: &mut Producer, value: u64) {
        *producer.claim().0 = Stage::of(value);
        producer.publish(Kind::Call, value, Place::Slot(8));
    }

    fn receive(consumer: &mut Consumer, slots: &Slots) -> Option<u64> {
        let value = {
            let frame = consumer.take().unwrap()?;
            assert_eq!(frame.commit, Commit { kind: Kind::Call, place: Place::Slot(8) });
            let value = slots.line(consumer.position()).inline[0].load(Relaxed);
            assert_eq!(frame.call, value);
            value
        };
        consumer.release();
        Some(value)
    }

    /// Like the loom models, but with plain bytes on the heap, where race detectors see them: payload behind a slot's
    /// first line, and a block that is copied while it is written.
    #[test]
    fn two_threads_see_frames_and_marked_bytes_whole() {
        const FRAMES: u8 = 100;
        const PIECES: usize = 8;
        let geometry = Geometry { lanes: 1, slots: 2, slot_lines: 3, workers: 1 };
        let (segment, _) = Segment::create(geometry, &Heap::default()).unwrap();
        let memory = HeapMemory::new(PIECES * 128);
        let block =
            || Block::new(&Arc::new(Mapping::on_heap(&memory, Protection::ReadWrite)), 0, PIECES as u64 * 128).unwrap();
        let (requests, replies) = (segment.requests(0), segment.replies(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut producer, asked, block) =
                    (Producer::new(segment.replies(0), 0), Consumer::new(segment.requests(0), 0), block());
                for number in 0..FRAMES {
                    while !asked.is_ready() {
                        std::thread::sleep(Duration::from_micros(1));
                    }
                    let copy = copied(asked.take().unwrap().unwrap().payload);
                    assert!(copy[48..].iter().all(|byte| *byte == number));
                    asked.release();
                    let name = BlockRef { segment: 1, offset: 0, len: PIECES as u64 * 128, loan_id: 0 };
                    for piece in 0..PIECES {
                        match piece {
                            0 => producer.claim().1.announce(name, 0, PIECES * 128),
                            _ => producer.claim().1.advance(piece * 128),
                        }
                        Span::of(&[number; 128]).copy_into_for_test(block.span().after(piece * 128));
                    }
                    producer.publish(Kind::Call, 1, Place::Block(name));
                }
            });
            let (mut producer, answers, block) = (Producer::new(requests, 0), Consumer::new(replies, 0), block());
            for number in 0..FRAMES {
                Span::of(&[number; 100]).copy_into_for_test(producer.claim().1.payload().after(48));
                producer.publish(Kind::Call, 0, Place::Slot(148));
                while !answers.is_ready() {
                    if answers.announced().is_some() {
                        let marked = copied(block.span().first(answers.mark() as usize));
                        assert!(marked.iter().all(|byte| *byte == number));
                    }
                    std::thread::sleep(Duration::from_micros(1));
                }
                assert!(copied(block.span()).iter().all(|byte| *byte == number));
                answers.release();
            }
        });
    }

    fn copied(span: Span<'_>) -> Vec<u8> {
        let mut copy_buffer = CopyBuffer::<Vec<u8>>::of_bytes();
        copy_buffer.copy_up_to(span, crate::doorbell::Deadline::NEVER).unwrap();
        copy_buffer.with(<[u8]>::to_vec)
    }

    /// Start positions: 0, or shortly before 32 or 64 bits wrap.
    fn positions() -> impl Strategy<Value = u64> {
        let wraps_soon = (u64::from(u32::MAX) - 20)..(u64::from(u32::MAX) + 20);
        prop_oneof![Just(0u64), wraps_soon, (u64::MAX - 20)..=u64::MAX]
    }

    #[derive(Clone, Debug)]
    enum Act {
        Announce(BlockRef, u64),
        Advance(u64),
        TakeBack,
        Publish(Kind, u64, Place),
        Receive,
    }

    fn act() -> impl Strategy<Value = Act> {
        let block =
            || any::<[u64; 4]>().prop_map(|[segment, offset, len, loan_id]| BlockRef { segment, offset, len, loan_id });
        // An announcement's fourth word is its mark; nobody reads its loan id.
        let named = block().prop_map(|block| BlockRef { loan_id: 0, ..block });
        let kind = prop_oneof![Just(Kind::Construct), Just(Kind::Call), Just(Kind::Fault), Just(Kind::Exhausted)];
        let place = prop_oneof![(0usize..=48).prop_map(Place::Slot), block().prop_map(Place::Block)];
        prop_oneof![
            (named, any::<u64>()).prop_map(|(block, expected)| Act::Announce(block, expected)),
            any::<u64>().prop_map(Act::Advance),
            Just(Act::TakeBack),
            (kind, any::<u64>(), place).prop_map(|(kind, call, place)| Act::Publish(kind, call, place)),
            Just(Act::Receive),
        ]
    }

    proptest! {
        /// Any order of sends and receives equals a queue, also where positions wrap around 32 and 64 bits.
        #[test]
        fn fault_21_a_ring_is_a_bounded_queue(
            start in positions(),
            sends in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let slots = Slots::on_heap(4);
            let (mut producer, mut consumer) = (Producer::new(slots.clone(), start), Consumer::new(slots.clone(), start));
            let mut model = VecDeque::new();
            for (value, send_it) in sends.into_iter().enumerate() {
                if send_it && model.len() < 4 {
                    send(&mut producer, value as u64);
                    model.push_back(value as u64);
                } else {
                    prop_assert_eq!(receive(&mut consumer, &slots), model.pop_front());
                }
            }
        }

        /// Frames of every kind and place, and announcements of the next one, equal a queue and what was last said, also where
        /// positions wrap.
        #[test]
        fn what_a_ring_says_is_what_was_said(start in positions(), acts in proptest::collection::vec(act(), 0..200)) {
            let slots = Slots::on_heap(4);
            let (mut producer, consumer) = (Producer::new(slots.clone(), start), Consumer::new(slots, start));
            let (mut sent, mut said) = (VecDeque::new(), None);
            for act in acts {
                match act {
                    Act::Announce(block, expected) if sent.len() < 4 => {
                        producer.claim().1.announce(block, 0, expected as usize);
                        said = Some((block, expected, 0));
                    }
                    Act::Advance(mark) if said.is_some() => {
                        producer.claim().1.advance(mark as usize);
                        said = said.map(|(block, expected, _)| (block, expected, mark));
                    }
                    Act::TakeBack => {
                        producer.claim().1.take_back();
                        said = None;
                    }
                    Act::Publish(kind, call, place) if sent.len() < 4 => {
                        producer.publish(kind, call, place);
                        sent.push_back((kind, call, place));
                        said = None;
                    }
                    Act::Receive => {
                        let taken = consumer.take().unwrap().map(|frame| (frame.commit.kind, frame.call, frame.commit.place));
                        prop_assert_eq!(taken, sent.pop_front());
                        if taken.is_some() {
                            consumer.release();
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(consumer.is_ready(), !sent.is_empty());
                let announced = consumer.announced().map(|said| (said.block, said.expected, consumer.mark()));
                prop_assert_eq!(announced, said.filter(|_| sent.is_empty()));
            }
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use callgate_os::sync::AtomicU64;
    use std::sync::Arc;

    /// Two laps through a ring of two slots: the consumer sees every frame whole, and the producer writes a slot again only
    /// with the credit that a reply gives it.
    #[test]
    fn loom_frames_are_seen_whole_and_slots_reused_with_credits() {
        loom::model(|| {
            let (requests, replies) = (Slots::on_heap(2), Slots::on_heap(2));
            let (peer_requests, peer_replies) = (requests.clone(), replies.clone());
            let callee = loom::thread::spawn(move || {
                let mut consumer = Consumer::new(peer_requests.clone(), 0);
                let mut producer = Producer::new(peer_replies.clone(), 0);
                for _ in 0..CALLS {
                    let value = receive(&mut consumer, &peer_requests);
                    send(&mut producer, value + 100);
                }
            });
            let mut producer = Producer::new(requests.clone(), 0);
            let mut consumer = Consumer::new(replies.clone(), 0);
            for value in 0..CALLS {
                send(&mut producer, value);
                assert_eq!(receive(&mut consumer, &replies), value + 100);
            }
            callee.join().unwrap();
        });
    }

    /// A frame that is copied while it is written: what the mark covers is final. The block is a word here, which loom can see.
    #[test]
    fn loom_what_is_marked_is_final() {
        loom::model(|| {
            let slots = Slots::on_heap(2);
            let block = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
            let (peer_slots, peer_block) = (slots.clone(), block.clone());
            let writing = loom::thread::spawn(move || {
                let mut producer = Producer::new(peer_slots, 0);
                producer.claim().1.announce(name(1), 0, 2);
                peer_block[0].store(10, Relaxed);
                producer.claim().1.advance(1);
                peer_block[1].store(11, Relaxed);
                producer.publish(Kind::Call, 0, Place::Block(name(1)));
            });
            let consumer = Consumer::new(slots, 0);
            let is_final = |len: u64| (0..len).all(|at| block[at as usize].load(Relaxed) == 10 + at);
            while !consumer.is_ready() {
                if consumer.announced().is_some() {
                    assert!(is_final(consumer.mark()), "bytes before the mark");
                }
                loom::thread::yield_now();
            }
            assert!(consumer.take().is_ok_and(|frame| frame.is_some()) && is_final(2));
            writing.join().unwrap();
        });
    }

    /// A frame that moves from one block to another before it is published: nobody reads half of one name and half of another's.
    #[test]
    fn loom_the_name_of_a_block_is_read_whole() {
        loom::model(|| {
            let slots = Slots::on_heap(2);
            let peer_slots = slots.clone();
            let writing = loom::thread::spawn(move || {
                let mut producer = Producer::new(peer_slots, 0);
                producer.claim().1.announce(name(1), 0, 2);
                producer.claim().1.announce(name(2), 1, 2);
                producer.publish(Kind::Call, 0, Place::Block(name(3)));
            });
            let consumer = Consumer::new(slots, 0);
            if let Some(Announcement { block, .. }) = consumer.announced() {
                assert!([name(1), name(2)].contains(&block), "{block:?}");
            }
            writing.join().unwrap();
            assert_eq!(consumer.take().unwrap().unwrap().commit.place, Place::Block(name(3)));
        });
    }

    /// A name whose parts tell which it is.
    fn name(number: u64) -> BlockRef {
        BlockRef { segment: number, offset: number, len: number, loan_id: number }
    }

    /// More calls than slots, so that slots are used again.
    const CALLS: u64 = 3;

    fn send(producer: &mut Producer, value: u64) {
        *producer.claim().0 = Stage::of(value);
        producer.publish(Kind::Call, value, Place::Slot(8));
    }

    fn receive(consumer: &mut Consumer, slots: &Slots) -> u64 {
        loop {
            if let Some(frame) = consumer.take().unwrap() {
                let value = slots.line(consumer.position()).inline[0].load(Relaxed);
                assert_eq!(frame.call, value, "call word and payload belong to one frame");
                consumer.release();
                return value;
            }
            loom::thread::yield_now();
        }
    }
}
