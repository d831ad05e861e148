//! Writes values into frames with rkyv: straight into shared memory, without allocating.
//!
//! The first bytes go onto a stage, which is published with the commit word; a frame that outgrows its slot moves into a block
//! ([`OutgoingFrame`]). Never writes beyond the room that it has, and never publishes.

use crate::archive::{access, catch, copy_out};
use crate::arena::Allocation;
use crate::bounds::MAX_DEPTH;
use crate::commit::ALIGN;
use crate::layout::INLINE;
use crate::loans::Attachments;
use crate::memory_pool::AllocContext;
use crate::outgoing_frame::{CallerBell, OutgoingFrame, SendError};
use crate::reading::{DecodeRefusal, last_refusal};
use crate::ring::Producer;
use crate::segment::Span;
use crate::stage::Stage;
use crate::validator::Checked;
use callgate_os::stack;
use callgate_os::sync::will_write;
use rkyv::api::low::LowSerializer;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::{Allocator, Positional, Serializer, Writer, WriterExt};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Place as ArchivePlace, Serialize};
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// The serialiser: writes straight into shared memory, without allocating.
///
/// The lifetime is that of one encoding: no value's `Serialize` can keep the encoder, or exchange it for another.
pub type Encoder<'e> = LowSerializer<FrameWriter<'e>, Scratch<'e>, Failure>;

/// A value that can be serialised into a frame.
pub trait Encode: for<'e> Serialize<Encoder<'e>> {}

impl<T: for<'e> Serialize<Encoder<'e>>> Encode for T {}

/// The writer of a frame's bytes: first onto the stage, then into the slot behind it, and, if they outgrow that, into a block.
pub struct FrameWriter<'e> {
    stage: &'e mut Stage,
    /// How many of the first bytes belong on the stage: its whole length, or none once the frame is in a block.
    staged: usize,
    start: NonNull<u8>,
    /// The length up to which `overflow` need not be told or asked.
    capacity: usize,
    /// The length up to which there is room. More than `capacity` only in a block.
    room: usize,
    written: usize,
    /// The number of writes: at least the number of objects in the frame, less its root.
    pieces: usize,
    /// Whether some part may have been written without bytes: an empty collection, or one of elements without size. rkyv aligns for each part and
    /// then writes it, so such a part shows as zeros for alignment, or as nothing, twice in a row or at the end.
    has_empty: bool,
    was_padding: bool,
    overflow: Overflow<'e>,
}

/// Where the bytes go when they outgrow the slot.
enum Overflow<'e> {
    /// Into a block of shared memory.
    Block(OutgoingFrame<'e>),
    /// Into private memory, from the first byte on.
    Private(&'e mut PrivateBytes),
}

/// A value that is serialised for this process or for a socket.
struct PrivateBytes {
    bytes: AlignedVec<ALIGN>,
    /// The most bytes that it may have.
    max: usize,
}

/// The result of writing a frame.
#[derive(Clone, Copy)]
struct Encoded {
    len: usize,
    /// Whether its reader may refuse it, so that it must be checked here.
    is_suspect: bool,
}

impl Overflow<'_> {
    /// Moves the `written` bytes to a place with room for `need`. Returns its start, and how many bytes it holds.
    fn grow(&mut self, written: usize, need: usize) -> Result<(NonNull<u8>, usize), Failure> {
        match self {
            Self::Block(frame) => frame.grow(written, need),
            Self::Private(private) => private.grow(need),
        }
    }

    /// Notes that the first `written` bytes are final, of a frame that needs at least `need` and has `room`. Returns the length, more than `written`,
    /// up to which this need not be called again.
    fn mark_final(&mut self, written: usize, need: usize, room: usize) -> Result<usize, Failure> {
        match self {
            Self::Block(frame) => frame.mark_final(written, need, room),
            Self::Private(_) => Ok(room),
        }
    }

    /// Discards a frame that could not be written, and returns the reason.
    #[cold]
    fn fail_slow(&mut self) -> SendError {
        match self {
            Self::Block(frame) => frame.fail(),
            Self::Private(_) => SendError::Encode,
        }
    }
}

impl PrivateBytes {
    fn grow(&mut self, need: usize) -> Result<(NonNull<u8>, usize), Failure> {
        if need > self.max {
            return Err(Failure);
        }
        self.bytes.resize(need.next_power_of_two().clamp(256, self.max.max(256)), 0);
        Ok((NonNull::new(self.bytes.as_mut_ptr()).ok_or(Failure)?, self.bytes.len()))
    }
}

impl Positional for FrameWriter<'_> {
    #[inline(always)]
    fn pos(&self) -> usize {
        self.written
    }
}

impl Writer<Failure> for FrameWriter<'_> {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        // The length of `bytes` is mostly a constant here, and a small frame needs no more than this.
        let end = self.written + bytes.len();
        self.pieces += 1;
        let is_padding = bytes.len() < ALIGN && bytes.iter().all(|&byte| byte == 0);
        self.has_empty |= is_padding && self.was_padding;
        self.was_padding = is_padding;
        match self.stage.0[..self.staged].get_mut(self.written..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.written = end;
                Ok(())
            }
            None => self.write_behind(bytes),
        }
    }
}

impl<'e> FrameWriter<'e> {
    /// The frame that is being written; `None` for private memory, which no box can go to.
    pub(crate) fn frame(&mut self) -> Option<&mut OutgoingFrame<'e>> {
        match &mut self.overflow {
            Overflow::Block(frame) => Some(frame),
            Overflow::Private(_) => None,
        }
    }

    /// Writes bytes that do not all fit onto the stage.
    fn write_behind(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() > self.capacity - self.written {
            return self.write_slow(bytes);
        }
        let (staged, bytes) = bytes.split_at(bytes.len().min(self.staged.saturating_sub(self.written)));
        self.stage.0[self.written.min(INLINE)..][..staged.len()].copy_from_slice(staged);
        self.written += staged.len();
        self.put(bytes);
        Ok(())
    }

    /// Writes bytes that there is room for, none of which belongs on the stage.
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.capacity - self.written);
        // SAFETY: `written <= capacity`, and `start` is valid for `capacity` bytes.
        let target = unsafe { self.start.add(self.written) };
        will_write(target, bytes.len());
        // SAFETY: there is room, as the caller has checked; `bytes` is private memory, so nothing overlaps.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        self.written += bytes.len();
    }

    /// Writes bytes beyond the capacity: into a block, moved to a larger one if needed, in pieces as `mark_final` allows.
    #[cold]
    fn write_slow(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let need = self.written.saturating_add(bytes.len());
        if need > self.room {
            self.spill_slow(need)?;
        }
        while !bytes.is_empty() {
            let end = self.overflow.mark_final(self.written, need, self.room)?;
            self.capacity = end.clamp(self.written + 1, self.room);
            let (piece, rest) = bytes.split_at(bytes.len().min(self.capacity - self.written));
            self.put(piece);
            bytes = rest;
        }
        Ok(())
    }

    /// Writes the root of the archive, whose parts have been written. Returns the frame's length.
    #[inline(always)]
    fn finish<T: Archive>(&mut self, value: &T, resolver: T::Resolver) -> Result<usize, Failure> {
        const { assert!(align_of::<T::Archived>() <= ALIGN, "an archive is aligned to more than 16 bytes") };
        let at = self.written.next_multiple_of(align_of::<T::Archived>());
        let end = at + size_of::<T::Archived>();
        if end > self.staged {
            return self.finish_behind(value, resolver);
        }
        // Bytes between the parts and the root, and in the root's padding, must not show what was there before.
        if at > self.written {
            self.stage.0[self.written..at].fill(0);
        }
        let place = &mut self.stage.0[at..end];
        place.fill(0);
        // SAFETY: as many initialised bytes as the archive has, aligned: the stage is, and the archive's alignment is no larger.
        let root = unsafe { ArchivePlace::new_unchecked(at, place.as_mut_ptr().cast::<T::Archived>()) };
        value.resolve(resolver, root);
        Ok(end)
    }

    /// Writes a root that does not fit onto the stage.
    fn finish_behind<T: Archive>(&mut self, value: &T, resolver: T::Resolver) -> Result<usize, Failure> {
        self.align_for::<T::Archived>()?;
        // SAFETY: aligned for the archive just now.
        unsafe { self.resolve_aligned(value, resolver)? };
        Ok(self.written)
    }

    /// Moves the frame to a place with room for `need` bytes.
    #[cold]
    fn spill_slow(&mut self, need: usize) -> Result<(), Failure> {
        // The frame is moved from the slot, so the stage goes there first.
        let staged = NonNull::from(&self.stage.0[..self.written.min(self.staged)]);
        will_write(self.start, staged.len());
        // SAFETY: the slot has room for all that was written, and the stage is private memory, so nothing overlaps.
        unsafe { self.start.copy_from_nonoverlapping(staged.cast(), staged.len()) };
        (self.start, self.room) = self.overflow.grow(self.written, need)?;
        assert!(self.room >= need);
        self.capacity = self.written;
        // Only now: a `Serialize` that goes on after a failure must still find its stage.
        self.staged = 0;
        Ok(())
    }
}

/// Whether writing a value of the type recurses no deeper than the type nests. A resolver that leads to a part stores its position as a `usize`, so a
/// resolver aligned to less leads to none. Known at compile time.
const fn is_flat<T: Archive>() -> bool {
    align_of::<T::Resolver>() < align_of::<usize>()
}

/// Serialises `value` into the slot that `ring` has claimed, or into a block, left in `attachments`, if it outgrows that. Returns its length.
/// `reader` is told of a large frame while it is written.
#[inline(always)]
pub fn write_frame<T: Encode + Archive<Archived: Checked>>(
    value: &T,
    ring: &mut Producer,
    alloc: &AllocContext<'_>,
    attachments: &mut Attachments,
    reader: Option<&CallerBell>,
) -> Result<usize, SendError> {
    let (stage, claim) = ring.claim();
    let slot = claim.payload();
    if attachments.is_loaded {
        OutgoingFrame::new(claim, alloc, attachments, reader).discard_slow();
    }
    let frame = OutgoingFrame::new(claim, alloc, attachments, reader);
    let Encoded { len, is_suspect } = encode(value, stage, slot, Overflow::Block(frame))?;
    // A callee refuses a request that it does not accept, and goes on. A caller takes such a reply for a breach.
    if is_suspect && reader.is_some() {
        let block = attachments.block.as_ref().map(Allocation::span);
        look_at_reply::<T::Archived>(len, block, stage, slot).map_err(SendError::Beyond)?;
    }
    Ok(len)
}

/// Serialises `value` into private memory.
///
/// # Errors
///
/// If the value's own `Serialize` fails, or it is longer than `max` bytes.
pub fn encode_to_vec<T: Encode>(value: &T, max: usize) -> Result<AlignedVec<ALIGN>, Failure> {
    let mut private = PrivateBytes { bytes: AlignedVec::new(), max };
    // No room at first, so everything is written into the vector, which moves as it grows.
    let encoded = encode(value, &mut Stage::new(), Span::empty(), Overflow::Private(&mut private));
    let Encoded { len, .. } = encoded.map_err(|_| Failure)?;
    private.bytes.resize(len, 0);
    Ok(private.bytes)
}

/// Serialises `value`: its first bytes onto `stage`, the rest into `slot` (which leaves room for the first), or everything into `overflow` if it
/// outgrows that.
///
/// Writing recurses along the value's pointers, and rkyv offers no check on the way down. So a value that has pointers is written on the thread's
/// large stack, and checked afterwards.
#[inline(always)]
fn encode<'e, T: Encode>(
    value: &T,
    stage: &'e mut Stage,
    slot: Span<'_>,
    overflow: Overflow<'e>,
) -> Result<Encoded, SendError> {
    let staged = slot.len().min(INLINE);
    let (start, room) = (slot.start(), slot.len());
    let writer = FrameWriter {
        stage,
        staged,
        start,
        capacity: room,
        room,
        written: 0,
        pieces: 0,
        has_empty: false,
        was_padding: false,
        overflow,
    };
    let mut buffer = MaybeUninit::uninit();
    let mut serializer = Serializer::new(writer, Scratch::new(&mut buffer), ());
    let written = if is_flat::<T>() {
        value.serialize(Strategy::wrap(&mut serializer))
    } else {
        let resolver = stack::on_large(|| value.serialize(Strategy::wrap(&mut serializer)));
        if serializer.writer.pieces > MAX_DEPTH {
            stack::give_back_slow();
        }
        resolver
    };
    let FrameWriter { pieces, has_empty, was_padding, .. } = serializer.writer;
    let is_suspect = pieces > MAX_DEPTH || has_empty || was_padding;
    match written.and_then(|resolver| serializer.writer.finish(value, resolver)) {
        Ok(len) => Ok(Encoded { len, is_suspect }),
        Err(Failure) => Err(serializer.writer.overflow.fail_slow()),
    }
}

/// Reads a reply that this process has written, and whose reader may refuse it, as that reader will: in its own block, or on the stage and in the
/// slot.
///
/// # Errors
///
/// Why it would be refused.
#[cold]
fn look_at_reply<A: Checked>(
    len: usize,
    block: Option<Span<'_>>,
    stage: &Stage,
    slot: Span<'_>,
) -> Result<(), DecodeRefusal> {
    let mut copy = AlignedVec::<ALIGN>::new();
    let bytes = match block {
        // SAFETY: a block of this side's own arena, which the peer can only read, or is trusted not to write meanwhile: the rules of `shared_box`.
        // This side has just written it, and waits here until it has been read.
        Some(block) => unsafe { block.first(len).as_bytes() },
        None => {
            // The peer may write to the slot.
            copy_out(slot.first(len), &mut copy);
            let staged = len.min(INLINE);
            copy[..staged].copy_from_slice(&stage.0[..staged]);
            &copy
        }
    };
    let looked = catch(|| access::<A>(bytes).map(drop));
    looked.map_err(|Failure| last_refusal())
}

/// Scratch memory for serialising: a small buffer on the stack, and the heap beyond it.
pub struct Scratch<'e> {
    /// The buffer's address, taken once: borrowing the buffer again would invalidate pointers into it.
    start: NonNull<u8>,
    used: usize,
    buffer: PhantomData<&'e mut ScratchBuffer>,
}

#[repr(align(16))]
struct ScratchBuffer {
    _bytes: [u8; Scratch::LEN],
}

impl<'e> Scratch<'e> {
    const LEN: usize = 512;

    #[inline(always)]
    fn new(buffer: &'e mut MaybeUninit<ScratchBuffer>) -> Self {
        Self { start: NonNull::from(buffer).cast(), used: 0, buffer: PhantomData }
    }

    fn owns(&self, address: NonNull<u8>) -> Option<usize> {
        let offset = address.addr().get().wrapping_sub(self.start.addr().get());
        (offset < Self::LEN).then_some(offset)
    }
}

// SAFETY: `push_alloc` returns memory of the layout that nothing else uses until `pop_alloc`, which comes in reverse order: from a rising mark in the
// buffer, or a heap allocation of its own. The buffer does not move: `'e` borrows it.
unsafe impl Allocator<Failure> for Scratch<'_> {
    unsafe fn push_alloc(&mut self, layout: Layout) -> Result<NonNull<[u8]>, Failure> {
        let start = self.used.next_multiple_of(layout.align());
        let fits = layout.align() <= align_of::<ScratchBuffer>()
            && layout.size() > 0
            && start.checked_add(layout.size()).is_some_and(|end| end <= Self::LEN);
        if !fits {
            return heap_slow(layout);
        }
        self.used = start + layout.size();
        // SAFETY: `start + size` is within the buffer.
        let address = unsafe { self.start.add(start) };
        Ok(NonNull::slice_from_raw_parts(address, layout.size()))
    }

    unsafe fn pop_alloc(&mut self, address: NonNull<u8>, layout: Layout) -> Result<(), Failure> {
        match self.owns(address) {
            Some(offset) if layout.size() > 0 => self.used = offset,
            // SAFETY: not from the buffer, so `heap_slow` allocated it with this layout.
            _ if layout.size() > 0 => unsafe { std::alloc::dealloc(address.as_ptr(), layout) },
            _ => {}
        }
        Ok(())
    }
}

#[cold]
fn heap_slow(layout: Layout) -> Result<NonNull<[u8]>, Failure> {
    if layout.size() == 0 {
        let dangling = NonNull::new(std::ptr::without_provenance_mut(layout.align())).ok_or(Failure)?;
        return Ok(NonNull::slice_from_raw_parts(dangling, 0));
    }
    // SAFETY: the size is not 0.
    let address = NonNull::new(unsafe { std::alloc::alloc(layout) });
    let address = address.unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
    Ok(NonNull::slice_from_raw_parts(address, layout.size()))
}
