//! A ring of slots between one producer and one consumer.
//!
//! Layer 2. Never blocks, never allocates, never calls the OS. Both positions are private: the consumer finds a frame by the
//! sequence in the commit word of the slot that it expects, the producer knows from elsewhere (replies are credits) that the
//! slot it writes is free. So there is no head or tail in shared memory, and a small frame moves one cache line.
//!
//! # Why a consumer never reads a half-written frame
//!
//! The producer writes the payload and the call word, then the commit word with Release; the consumer reads the commit word
//! with Acquire, and the rest only if the sequence in it is the one it expects. A slot is written again only one lap later,
//! with another sequence, and only after the consumer's side has said (by a reply, or by sending the next request) that it is
//! done with the frame.

#![forbid(unsafe_code)]

use crate::frame::{Commit, Kind, Place, Stage};
use crate::layout::SlotLine;
use crate::segment::{Slots, Span};
use crate::sync::Ordering::{Acquire, Relaxed, Release};

/// The writing end of a ring.
pub(crate) struct Producer {
    slots: Slots,
    position: u64,
    /// The first bytes of the next frame's payload.
    stage: Stage,
}

impl Producer {
    /// The producer of a ring whose next frame has `position`.
    pub(crate) fn new(slots: Slots, position: u64) -> Self {
        Self { slots, position, stage: Stage::new() }
    }

    /// The position of the next frame.
    #[inline(always)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where the next frame's payload goes: the first bytes onto the stage, those after them into the slot. The caller holds a
    /// credit for the slot.
    #[inline(always)]
    pub(crate) fn claim(&mut self) -> (&mut Stage, Span<'_>) {
        (&mut self.stage, self.slots.payload(self.position))
    }

    /// Publishes the claimed slot as a frame and moves on. What of its payload is not on the stage must already be written.
    ///
    /// The stores to the slot's first line stand together here, so that the line changes hands once.
    #[inline(always)]
    pub(crate) fn publish(&mut self, kind: Kind, call: u64, place: Place) {
        let line: &SlotLine = self.slots.line(self.position);
        match place {
            Place::Slot(_) => {
                self.stage.words().into_iter().zip(&line.inline).for_each(|(word, to)| to.store(word, Relaxed))
            }
            Place::Block(block) => block.store(line),
        }
        line.call.store(call, Relaxed);
        // Release: publishes payload and call word. Pairs with the Acquire in `Consumer::is_ready`.
        line.commit.store(Commit { kind, place }.encode(self.position), Release);
        self.position = self.position.wrapping_add(1);
    }
}

/// The reading end of a ring.
pub(crate) struct Consumer {
    slots: Slots,
    position: u64,
}

/// A frame that has been published and not yet released.
pub(crate) struct Frame<'a> {
    pub(crate) commit: Commit,
    /// The call word, see [`SlotLine::call`].
    pub(crate) call: u64,
    /// The slot's first line.
    pub(crate) line: &'a SlotLine,
    /// The payload, if it is in the slot.
    pub(crate) payload: Span<'a>,
}

impl Frame<'_> {
    /// Whether a reply carries anything beside what is in the slot, which its receiver has to release.
    #[inline(always)]
    pub(crate) fn carries(&self) -> bool {
        self.call != 0 || matches!(self.commit.place, Place::Block(_))
    }
}

impl Consumer {
    /// The consumer of a ring whose next frame has `position`.
    pub(crate) fn new(slots: Slots, position: u64) -> Self {
        Self { slots, position }
    }

    /// The position of the next frame.
    #[inline(always)]
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the next frame has been published. Reads one cache line, the frame's own.
    #[inline(always)]
    pub(crate) fn is_ready(&self) -> bool {
        // Acquire: the frame is read after this. Pairs with the Release in `Producer::publish`.
        Commit::is_at(self.slots.line(self.position).commit.load(Acquire), self.position)
    }

    /// The next frame, `None` if it has not been published.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy peer could have written it.
    #[inline(always)]
    pub(crate) fn take(&self) -> Result<Option<Frame<'_>>, &'static str> {
        let line = self.slots.line(self.position);
        // Acquire: as in `is_ready`. Read once: what is checked here is what is used.
        let word = line.commit.load(Acquire);
        if !Commit::is_at(word, self.position) {
            return Ok(None);
        }
        let commit = Commit::checked(word, line, self.slots.capacity())?;
        let payload = match commit.place {
            Place::Slot(len) => self.slots.payload(self.position).first(len),
            Place::Block(_) => Span::empty(),
        };
        Ok(Some(Frame { commit, call: line.call.load(Relaxed), line, payload }))
    }

    /// Is done with the next frame and moves on.
    #[inline(always)]
    pub(crate) fn release(&mut self) {
        self.position = self.position.wrapping_add(1);
    }

    /// How many slots the ring has.
    pub(crate) fn count(&self) -> u64 {
        self.slots.count()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

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

    proptest! {
        /// Any order of sends and receives equals a queue, also where positions wrap around 32 and 64 bits.
        #[test]
        fn a_ring_is_a_bounded_queue(
            start in prop_oneof![Just(0u64), (u64::from(u32::MAX) - 20)..(u64::from(u32::MAX) + 20), (u64::MAX - 20)..=u64::MAX],
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
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;

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
