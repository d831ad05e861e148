//! Writing a frame: into its slot, or into a block when it outgrows that, which a reply's reader may copy meanwhile.
//!
//! A frame is announced here, never published.

#![forbid(unsafe_code)]

use super::{CallerBell, SendError};
use callgate_transport::arena::Allocation;
use callgate_transport::commit::Place;
use callgate_transport::doorbell::Deadline;
use callgate_transport::encode::{Encode, SendBox, Spill, encode, look_at_reply};
use callgate_transport::error::NoMemory;
use callgate_transport::failpoints::{self, Step};
use callgate_transport::loans::{Attachments, BoxRef};
use callgate_transport::memory_pool::AllocContext;
use callgate_transport::reading::BYTES_A_LOOK;
use callgate_transport::ring::{Claim, Producer};
use callgate_transport::validator::Checked;
use rkyv::Archive;
use rkyv::rancor::Failure;
use std::ptr::NonNull;

/// Where a frame of `len` bytes lies that was written into its slot, or into `loan` if it outgrew that.
#[inline(always)]
pub(super) fn place(len: usize, loan: Option<&Allocation>) -> Place {
    loan.map_or(Place::Slot(len), |loan| Place::Block(loan.reference(len)))
}

/// Serialises `value` for the slot that `ring` has claimed, or into a block, left in `carried`, if it outgrows that. Returns its
/// length. `reader` is told of a large frame while it is written.
#[inline(always)]
pub(super) fn write<T: Encode + Archive<Archived: Checked>>(
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
            self.until = self.alloc.deadline.until();
        }
        let larger = self.alloc.find(&mut |pool, source| pool.allocate_more(written, need, source));
        let mut larger = larger.map_err(|why| self.failed = Some(why)).ok()?;
        failpoints::reach(if self.reader.is_none() { Step::ParentBlockAllocated } else { Step::ChildBlockAllocated });
        // A frame may fill the block up to where the longest payload ends.
        let from = self.attachments.block.as_ref().map_or(self.claim.payload(), Allocation::span);
        larger.copy_from(from.first(written));
        let room = larger.room();
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
