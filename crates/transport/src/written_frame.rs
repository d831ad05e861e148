//! A request that is written before there is a slot for it: in private memory, or in a block of the arena if it outgrows a slot.
//!
//! Relies on `encode` to write it. Never publishes it.

use crate::archive::copy_out;
use crate::commit::ALIGN;
use crate::encode::{Encode, write_frame};
use crate::layout::INLINE;
use crate::loans::Attachments;
use crate::memory_pool::AllocContext;
use crate::outgoing_frame::SendError;
use crate::ring::Producer;
use crate::segment::{Slots, Span};
use crate::validator::Checked;
use rkyv::Archive;
use rkyv::util::AlignedVec;
use std::mem;

/// A request that waits for a slot.
pub struct WrittenFrame {
    /// Empty if the frame lies in a block.
    bytes: Box<[u8]>,
    len: usize,
    attachments: Attachments,
}

/// What a frame carries while it is written: if the value's own `Serialize` panics, it comes back.
struct Unsent<'a, 'b>(Attachments, &'a AllocContext<'b>);

impl Drop for Unsent<'_, '_> {
    fn drop(&mut self) {
        if self.0.is_loaded {
            let attachments = mem::take(&mut self.0);
            self.1.pool.on(|pool, source| pool.finish_frame(attachments, source));
        }
    }
}

impl WrittenFrame {
    /// Writes `value` for a slot with room for `capacity` bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new<T: Encode + Archive<Archived: Checked>>(
        value: &T,
        capacity: usize,
        alloc: &AllocContext<'_>,
    ) -> Result<Self, SendError> {
        let mut ring = Producer::new(Slots::private(capacity), 0);
        let mut unsent = Unsent(Attachments::default(), alloc);
        let len = write_frame(value, &mut ring, alloc, &mut unsent.0, None)?;
        let attachments = mem::take(&mut unsent.0);
        let (stage, slot) = ring.claim();
        let mut bytes = AlignedVec::<ALIGN>::new();
        if attachments.block.is_none() {
            copy_out(slot.payload().first(len), &mut bytes);
            let staged = len.min(INLINE);
            bytes[..staged].copy_from_slice(&stage.0[..staged]);
        }
        Ok(Self { bytes: bytes.as_slice().into(), len, attachments })
    }

    /// The bytes of private memory and of blocks that it takes.
    pub fn cost(&self) -> usize {
        self.len
    }

    /// Whether it carries memory of its value: boxes.
    pub fn carries_boxes(&self) -> bool {
        self.attachments.carries_boxes()
    }

    /// Puts the frame into the next slot of `ring`, for which the caller holds a credit, and what it carries into `attachments`. Returns its length.
    pub fn into_slot(self, ring: &mut Producer, attachments: &mut Attachments) -> usize {
        let (stage, slot) = ring.claim();
        let (first, rest) = self.bytes.split_at(self.bytes.len().min(INLINE));
        stage.0[..first.len()].copy_from_slice(first);
        if !rest.is_empty() {
            // SAFETY: a slot is shared memory that this process may write to, and is referred to by spans alone.
            unsafe { Span::of(rest).copy_into(slot.payload().after(INLINE)) };
        }
        *attachments = self.attachments;
        self.len
    }

    /// What it carries, if it will not be sent.
    pub fn into_attachments(self) -> Attachments {
        self.attachments
    }
}
