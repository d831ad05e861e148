//! A frame while it is written: it moves into a block when it outgrows its slot, carries boxes, and may be read meanwhile.
//!
//! Relies on `memory_pool` for blocks and on `ring` for the slot. Announces a frame, and never publishes it.

#![forbid(unsafe_code)]

use crate::arena::Allocation;
use crate::bounds::BYTES_A_LOOK;
use crate::commit::Place;
use crate::doorbell::{self, Deadline};
use crate::error::NoMemory;
use crate::failpoints::{self, Step};
use crate::layout::CallerLine;
use crate::loans::{Attachments, BoxRef};
use crate::memory_pool::{AllocContext, BlockSize};
use crate::reading::DecodeRefusal;
use crate::ring::Claim;
use crate::segment::Placed;
use crate::wake::Sleeper;
use rkyv::rancor::Failure;
use std::ptr::NonNull;
use std::sync::Arc;

/// Why a frame could not be written. Nothing was published.
#[derive(Clone, Debug)]
pub enum SendError {
    /// There was no memory for it.
    NoMemory(NoMemory),
    /// The value's own `Serialize` failed.
    Encode,
    /// Its reader would refuse it.
    Beyond(DecodeRefusal),
}

/// Where the caller of a lane waits, and how to wake it.
pub struct CallerBell {
    pub line: Placed<CallerLine>,
    pub sleeper: Arc<dyn Sleeper>,
}

impl CallerBell {
    #[inline(always)]
    pub fn notify(&self) {
        doorbell::notify(&self.line.bell, &self.sleeper);
    }
}

/// Where a frame of `len` bytes lies that was written into its slot, or into `block` if it outgrew that.
#[inline(always)]
pub fn place(len: usize, block: Option<&Allocation>) -> Place {
    block.map_or(Place::Slot(len), |block| Place::Block(block.reference(len)))
}

/// A reply is announced when it is known to reach this length: below, its caller gains nothing.
const ANNOUNCED: usize = 128 << 10;

/// How much of an announced reply is written between two marks. From 16 to 64 KiB it makes no difference.
const PIECE: usize = 32 << 10;

/// A frame that is being written. Takes memory only when the frame outgrows its slot, or carries a box.
pub struct OutgoingFrame<'a> {
    slot: &'a Claim,
    // By value: the compiler then need not give the original any address.
    alloc: AllocContext<'a>,
    attachments: &'a mut Attachments,
    /// The caller that copies a large reply while it is written. Requests are read in place, so they have none.
    reader: Option<&'a CallerBell>,
    /// When nobody wants the frame any more; known once it has outgrown its slot.
    until: Deadline,
    /// Bytes in the boxes of the frame.
    boxed: u64,
    /// Why the last attempt to get memory failed.
    failed: Option<NoMemory>,
}

impl<'a> OutgoingFrame<'a> {
    /// A frame for the slot that was claimed. Whatever it carries is left in `attachments`.
    #[inline(always)]
    pub(crate) fn new(
        slot: &'a Claim,
        alloc: &AllocContext<'a>,
        attachments: &'a mut Attachments,
        reader: Option<&'a CallerBell>,
    ) -> Self {
        Self { slot, alloc: *alloc, attachments, reader, until: Deadline::NEVER, boxed: 0, failed: None }
    }

    /// The same, at another address: the compiler need not give the first one any.
    #[inline(always)]
    pub(crate) fn moved(self) -> Self {
        let Self { slot, alloc, attachments, reader, until, boxed, failed } = self;
        Self { slot, alloc, attachments, reader, until, boxed, failed }
    }

    /// Moves the frame, of which `written` bytes are written, into a block with room for `need`. Returns where that begins, and how many
    /// bytes it has.
    #[cold]
    pub(crate) fn grow(&mut self, written: usize, need: usize) -> Result<(NonNull<u8>, usize), Failure> {
        let pool = self.alloc.pool;
        if self.attachments.block.is_none() {
            self.until = self.alloc.limit.until();
        }
        let mut larger = match self.alloc.allocate(BlockSize::Growing { written, need }) {
            Ok(larger) => larger,
            Err(why) => return Err(self.refuse(why)),
        };
        failpoints::reach(if self.reader.is_none() { Step::ParentBlockAllocated } else { Step::ChildBlockAllocated });
        // A frame may fill the block up to where the longest payload ends.
        let from = self.attachments.block.as_ref().map_or(self.slot.payload(), Allocation::span);
        larger.copy_from(from.first(written));
        let room = larger.room();
        let place = (room.start(), room.len());
        self.attachments.is_loaded = true;
        if let Some(old) = self.attachments.block.replace(larger) {
            if self.slot.is_announced() {
                self.slot.take_back();
                failpoints::reach(Step::ChildTakenBack);
            }
            pool.on(|pool, source| pool.free(old, source));
        }
        Ok(place)
    }

    /// Has `attach` lend the frame's reader a box, or give one back, and note it in the attachments.
    #[cold]
    pub(crate) fn attach(
        &mut self,
        attach: impl FnOnce(&AllocContext<'_>, &mut Attachments) -> Result<BoxRef, NoMemory>,
    ) -> Result<BoxRef, Failure> {
        self.attachments.is_loaded = true;
        let attached = attach(&self.alloc, self.attachments).and_then(|box_ref| {
            self.count_box(&box_ref)?;
            Ok(box_ref)
        });
        attached.map_err(|why| self.refuse(why))
    }

    /// Notes that the first `written` bytes are final as long as the frame stays in its block, which has `room` bytes. The frame will have at
    /// least `need`. Returns up to where, beyond `written`, it may be written before this is called again.
    #[cold]
    pub(crate) fn mark_final(&mut self, written: usize, need: usize, room: usize) -> Result<usize, Failure> {
        let (Some(reader), Some(block)) = (self.reader, self.attachments.block.as_ref()) else {
            if self.until.has_passed() {
                return Err(self.refuse(NoMemory::Late { len: need as u64 }));
            }
            return Ok(written.saturating_add(BYTES_A_LOOK));
        };
        if self.alloc.pool.is_trusted_by_peer() {
            // It will be read where it lies.
            return Ok(room);
        }
        if need < ANNOUNCED {
            return Ok(ANNOUNCED);
        }
        if self.slot.is_announced() {
            self.slot.advance(written);
            failpoints::reach(Step::ChildAdvanced);
        } else {
            self.slot.announce(block.reference(room), written, need);
            reader.notify();
            failpoints::reach(Step::ChildAnnounced);
        }
        Ok((written / PIECE + 1) * PIECE)
    }

    /// Takes back what a frame carried that was not sent.
    #[cold]
    pub(crate) fn discard_slow(&mut self) {
        self.slot.take_back();
        let attachments = std::mem::take(self.attachments);
        self.alloc.pool.on(|pool, source| pool.finish_frame(attachments, source));
    }

    /// Discards the frame, and says why it could not be written.
    pub(crate) fn fail(&mut self) -> SendError {
        self.discard_slow();
        self.failed.take().map_or(SendError::Encode, SendError::NoMemory)
    }

    fn refuse(&mut self, why: NoMemory) -> Failure {
        self.failed = Some(why);
        Failure
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
}
