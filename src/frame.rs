//! Frames: the commit word in front of a payload, and payloads written to and read from shared memory by rkyv.
//!
//! Layer 2. One of the few files above `segment` with `unsafe` in it: this is where bytes become values. The rules are those
//! of "Trust" in ARCHITECTURE.md: a request is validated and read in place by the child, who trusts its parent not to change
//! it meanwhile; a reply is copied into private memory, then validated with bounded depth, then read.

use crate::copy_buffer::CopyBuffer;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::layout::{INLINE, PAYLOAD_OFFSET, SlotLine, TICKET};
use crate::loans::{Attachments, LoanId};
use crate::memory_pool::{AllocContext, PoolHandle};
use crate::reading::{MAX_DEPTH, Need, Refusal, has_memory, last_refusal, refuse};
use crate::segment::{Block, Span};
use crate::shared_box::{BorrowedBlock, BoxRef};
use crate::sync::Ordering::Relaxed;
use crate::sync::will_write;
use crate::sys::stack;
use crate::validator::{Validation, validate};
use crate::viewable::Viewable;
use rkyv::api::deserialize_using;
use rkyv::api::low::LowSerializer;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Source, Strategy};
use rkyv::ser::{Allocator, Positional, Serializer, Writer, WriterExt};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Place as ArchivePlace, Serialize};
use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

/// The alignment of every payload: of slots, of blocks, and of what they are copied into.
pub(crate) const ALIGN: usize = PAYLOAD_OFFSET;

/// What a frame is. In requests and replies; 0 is no kind, so that a slot never written is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Request: build the service. Reply: nothing, it was built.
    Construct = 1,
    /// Request: call a method. Reply: its value.
    Call = 2,
    /// Request: take an interface into the table; reply: done.
    Bind = 3,
    /// Request: drop the service and exit. Reply: it was dropped.
    Stop = 4,
    /// Reply: the callee panicked; the payload is a `Fault`.
    Fault = 5,
    /// Reply: the value outgrew what a reply may be; the payload is a [`Limit`].
    TooLarge = 6,
    /// Reply: refused; the payload is a text.
    Refused = 7,
    /// Reply: the value found no memory; the payload is a [`Limit`].
    Exhausted = 9,
    /// Reply: a callback failed, or could not be run; the payload is a [`Failure`](crate::error::Failure).
    Failed = 10,
    /// Reply: the value, or the arguments, are beyond what a frame may hold; the payload is a [`Beyond`].
    Beyond = 11,
}

/// Set in the kind's byte if the payload lies in an arena block and the slot holds a [`BlockRef`].
const IN_BLOCK: u8 = 0x80;

/// The kind's byte while a reply is still being written into a block: announced, but of no kind yet, so that it is no frame.
const WRITING: u8 = IN_BLOCK;

impl Kind {
    #[inline(always)]
    fn checked(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Construct,
            2 => Self::Call,
            3 => Self::Bind,
            4 => Self::Stop,
            5 => Self::Fault,
            6 => Self::TooLarge,
            7 => Self::Refused,
            9 => Self::Exhausted,
            10 => Self::Failed,
            11 => Self::Beyond,
            _ => return None,
        })
    }
}

/// The payload of [`Kind::TooLarge`] and [`Kind::Exhausted`].
#[derive(Clone, Copy, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) len: u64,
    pub(crate) max: u64,
}

/// The payload of [`Kind::Beyond`].
#[derive(Clone, Debug, Archive, Serialize, Deserialize)]
pub(crate) struct Beyond {
    /// The arguments are, not the value.
    pub(crate) is_request: bool,
    /// They nest too deep; else they have too many elements of no size.
    pub(crate) is_depth: bool,
    /// The limit, in words.
    pub(crate) limit: String,
}

impl Beyond {
    /// `None` if it was something else that was refused.
    #[cold]
    pub(crate) fn of(refusal: Refusal, is_request: bool) -> Option<Self> {
        let is_depth = matches!(refusal, Refusal::Depth | Refusal::Stack { .. });
        Some(Self { is_request, is_depth, limit: refusal.limit()? })
    }
}

/// What the commit word of a frame says, checked: it cannot be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) kind: Kind,
    /// The payload is the slot's first `len` bytes, or elsewhere.
    pub(crate) place: Place,
}

/// Where a frame's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the slot: so many bytes, never more than the slot holds.
    Slot(usize),
    /// In a block of an arena. Not yet checked against the segments that exist.
    Block(BlockRef),
}

/// Names a payload in an arena: a segment, and the bytes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRef {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// The loan under which the receiver may keep it beyond the frame, as a [`LoanId`](crate::loans::LoanId) is written; 0 = none.
    pub(crate) loan_id: u64,
}

/// The 32 bits of the commit word that tell this lap's frame at `position` from what older laps left in the slot.
#[inline(always)]
fn sequence(position: u64) -> u64 {
    position.wrapping_add(1) & 0xffff_ffff
}

impl Commit {
    /// The commit word for a frame at `position`.
    #[inline(always)]
    pub(crate) fn encode(self, position: u64) -> u64 {
        let (len, flag) = match self.place {
            Place::Slot(len) => (len as u64, 0),
            Place::Block(_) => (0, IN_BLOCK),
        };
        sequence(position) << 32 | len << 8 | u64::from(self.kind as u8 | flag)
    }

    /// Whether `word` was written for the frame at `position`, which is whole; says nothing about the rest of it.
    #[inline(always)]
    pub(crate) fn is_at(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 & !WRITING != 0
    }

    /// Whether `word` was written for the frame at `position`, which is whole, or for a later one.
    pub(crate) fn is_at_or_past(word: u64, position: u64) -> bool {
        let laps = ((word >> 32) as u32).wrapping_sub(sequence(position) as u32);
        Self::is_at(word, position) || laps != 0 && laps < u32::MAX / 2
    }

    /// Whether `word` was written for the frame at `position`, or announces it.
    #[inline(always)]
    pub(crate) fn is_begun(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 != 0
    }

    /// Whether `word` announces the frame at `position`.
    pub(crate) fn is_writing(word: u64, position: u64) -> bool {
        word >> 32 == sequence(position) && word as u8 == WRITING
    }

    /// The word that announces the frame at `position`, where `last` is the last that did so or took it back. No two of one frame are
    /// the same: the length is how many there were before.
    pub(crate) fn announcing(position: u64, last: u64) -> u64 {
        let count = if last >> 32 == sequence(position) { ((last >> 8) + 1) & 0xff_ffff } else { 0 };
        sequence(position) << 32 | count << 8 | u64::from(WRITING)
    }

    /// The word that takes back what the word `last` announced.
    pub(crate) fn taken_back(last: u64) -> u64 {
        last & !0xff
    }

    /// Checks the commit word of `line`, whose slot holds `capacity` bytes.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if no healthy peer could have written it.
    #[inline(always)]
    pub(crate) fn checked(word: u64, line: &SlotLine, capacity: usize) -> Result<Self, &'static str> {
        let raw = (word & 0xff) as u8;
        let kind = Kind::checked(raw & !IN_BLOCK).ok_or("a frame of unknown kind")?;
        let len = (word >> 8 & 0xff_ffff) as usize;
        if raw & IN_BLOCK != 0 {
            return Ok(Self { kind, place: Place::Block(BlockRef::load(line)) });
        }
        if len > capacity {
            return Err("a frame longer than its slot");
        }
        Ok(Self { kind, place: Place::Slot(len) })
    }
}

impl BlockRef {
    /// Reads the reference that [`store`](Self::store) wrote. Not checked against anything.
    pub(crate) fn load(line: &SlotLine) -> Self {
        let [segment, offset, len, loan_id] = [0, 1, 2, TICKET].map(|at: usize| line.inline[at].load(Relaxed));
        Self { segment, offset, len, loan_id }
    }

    /// Writes the reference where the slot's payload would begin.
    pub(crate) fn store(self, line: &SlotLine) {
        for (at, value) in [(0, self.segment), (1, self.offset), (2, self.len), (TICKET, self.loan_id)] {
            line.inline[at].store(value, Relaxed);
        }
    }
}

// ---- encoding ------------------------------------------------------------------------------------------------------

/// What a value is serialised with: straight into shared memory, without allocating.
///
/// The lifetime is that of one encoding: no value's `Serialize` can keep the encoder, or exchange it for another.
pub(crate) type Encoder<'e> = LowSerializer<FrameWriter<'e>, Scratch<'e>, Failure>;

/// Whatever can be serialised into a frame.
pub trait Encode: for<'e> Serialize<Encoder<'e>> {}

impl<T: for<'e> Serialize<Encoder<'e>>> Encode for T {}

/// Provides more room when a frame outgrows where it is being written.
pub(crate) trait Spill {
    /// A place for at least `need` bytes whose first `written` bytes are those written so far. `None` if there is no room;
    /// the implementor remembers why.
    fn spill(&mut self, written: usize, need: usize) -> Option<(NonNull<u8>, usize)>;

    /// Has `send` say which memory goes with the frame. `None` if the frame goes where none can be sent.
    ///
    /// # Errors
    ///
    /// If there was none to be had; the implementor remembers why.
    fn send_with(&mut self, send: &mut Send<'_>) -> Result<Option<BoxRef>, Failure>;

    /// Notes that the first `written` bytes of a frame, for which the last `spill` gave `room` bytes, are final as long as it stays
    /// there. The frame will have `need` bytes at least. Returns up to where, beyond `written`, it is written without asking again. `None` if
    /// nobody wants the frame any more; the implementor remembers why.
    fn progress(&mut self, _written: usize, _need: usize, room: usize) -> Option<usize> {
        Some(room)
    }
}

/// Says which memory goes with a frame.
pub(crate) type Send<'a> = dyn FnMut(&AllocContext<'_>, &mut Attachments) -> Result<BoxRef, NoMemory> + 'a;

/// The payload bytes of a slot's first line, in private memory until the frame is published.
///
/// The consumer polls that line. If its first store and the commit word were tens of nanoseconds apart, the consumer would
/// fetch the line in between, and the producer would have to get it back: two trips instead of one.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub(crate) struct Stage([u8; INLINE]);

const _: () = assert!(align_of::<Stage>() == ALIGN);

impl Stage {
    pub(crate) const fn new() -> Self {
        Self([0; INLINE])
    }

    /// A payload of one number, for tests.
    #[cfg(test)]
    pub(crate) fn of(number: u64) -> Self {
        let mut stage = Self::new();
        stage.0[..8].copy_from_slice(&number.to_ne_bytes());
        stage
    }

    /// The bytes as the words of [`SlotLine::inline`].
    #[inline(always)]
    pub(crate) fn words(&self) -> [u64; INLINE / 8] {
        let (words, _) = self.0.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
    }
}

/// Where the bytes of a frame go: first onto the stage, then into the slot behind it, and, if they outgrow that, into a block.
pub struct FrameWriter<'e> {
    stage: &'e mut Stage,
    /// How many of the first bytes belong on the stage: all that it holds, or none once the frame is in a block.
    staged: usize,
    start: NonNull<u8>,
    /// Up to here there is nothing to ask or tell.
    capacity: usize,
    /// Up to here there is room. Beyond the capacity only in a block.
    room: usize,
    written: usize,
    /// How often something was written: no less often than there are objects in the frame, but for its root.
    pieces: usize,
    /// Whether a part without bytes may have been: a collection that is empty, or whose elements have no size. rkyv aligns for each part, and
    /// then writes it: what has no bytes is zeros for alignment, or nothing, twice in a row, or at the end.
    has_empty: bool,
    was_padding: bool,
    spill: &'e mut (dyn Spill + 'e),
}

/// A frame that has been written.
#[derive(Clone, Copy)]
pub(crate) struct Encoded {
    pub(crate) len: usize,
    /// Whether it may be beyond what a reader accepts, so that it is to be looked at.
    pub(crate) is_suspect: bool,
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
        // The length of `bytes` is mostly a constant here, and this all that a small frame needs.
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

impl FrameWriter<'_> {
    /// See [`Spill::send_with`].
    pub(crate) fn send_with(&mut self, send: &mut Send<'_>) -> Result<Option<BoxRef>, Failure> {
        self.spill.send_with(send)
    }

    /// Writes what does not fit onto the stage, or not wholly.
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

    /// Writes bytes none of which belongs on the stage, and for which there is room.
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

    /// Writes bytes that reach beyond the capacity: into a block, if need be another, and as far at a time as it is told to.
    #[cold]
    fn write_slow(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let need = self.written.saturating_add(bytes.len());
        if need > self.room {
            self.spill_slow(need)?;
        }
        while !bytes.is_empty() {
            let end = self.spill.progress(self.written, need, self.room).ok_or(Failure)?;
            self.capacity = end.clamp(self.written + 1, self.room);
            let (piece, rest) = bytes.split_at(bytes.len().min(self.capacity - self.written));
            self.put(piece);
            bytes = rest;
        }
        Ok(())
    }

    /// Writes the root of the archive, whose parts have been written. Returns the length of the whole.
    #[inline(always)]
    fn finish<T: Archive>(&mut self, value: &T, resolver: T::Resolver) -> Result<usize, Failure> {
        const { assert!(align_of::<T::Archived>() <= ALIGN, "an archive is aligned to more than 16 bytes") };
        let at = self.written.next_multiple_of(align_of::<T::Archived>());
        let end = at + size_of::<T::Archived>();
        if end > self.staged {
            return self.finish_behind(value, resolver);
        }
        // What lies between the parts and the root, and in the root's own padding, must not be what was there before.
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

    /// Moves the frame to where there is room for `need` bytes.
    #[cold]
    fn spill_slow(&mut self, need: usize) -> Result<(), Failure> {
        // What is moved is moved from the slot.
        let staged = NonNull::from(&self.stage.0[..self.written.min(self.staged)]);
        will_write(self.start, staged.len());
        // SAFETY: the slot has room for all that was written, and the stage is private memory, so nothing overlaps.
        unsafe { self.start.copy_from_nonoverlapping(staged.cast(), staged.len()) };
        (self.start, self.room) = self.spill.spill(self.written, need).ok_or(Failure)?;
        assert!(self.room >= need);
        self.capacity = self.written;
        // Only now: a `Serialize` that goes on after a failure must not find its stage forgotten.
        self.staged = 0;
        Ok(())
    }
}

/// Whether writing a value of the type recurses no deeper than its type does. Who leads to a part knows where it lies, in a `usize`: so no
/// pointers lead on where what is known holds none. Known when this is compiled.
const fn is_flat<T: Archive>() -> bool {
    align_of::<T::Resolver>() < align_of::<usize>()
}

/// Serialises `value`: its first bytes onto `stage`, those after them into `slot` (where the first have their place too), or
/// all of them where `spill` says if they outgrow that.
///
/// Writing recurses along the pointers of the value, and rkyv asks nobody on its way down. So a value that has any is written on the
/// thread's large stack, and looked at when it has been.
///
/// # Errors
///
/// If `spill` has no room, or the value's own `Serialize` fails.
#[inline(always)]
pub(crate) fn encode<T: Encode>(
    value: &T,
    stage: &mut Stage,
    slot: Span<'_>,
    spill: &mut dyn Spill,
) -> Result<Encoded, Failure> {
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
        spill,
    };
    let mut buffer = MaybeUninit::uninit();
    let mut serializer = Serializer::new(writer, Scratch::new(&mut buffer), ());
    let resolver = if is_flat::<T>() {
        value.serialize(Strategy::wrap(&mut serializer))?
    } else {
        let resolver = stack::on_large(|| value.serialize(Strategy::wrap(&mut serializer)));
        if serializer.writer.pieces > MAX_DEPTH {
            stack::give_back_slow();
        }
        resolver?
    };
    let FrameWriter { pieces, has_empty, was_padding, .. } = serializer.writer;
    let is_suspect = pieces > MAX_DEPTH || has_empty || was_padding;
    let len = serializer.writer.finish(value, resolver)?;
    Ok(Encoded { len, is_suspect })
}

/// Looks at a reply that this process has written, and that may be beyond what its reader accepts, as its reader will: in its own block, or
/// else on the stage and in the slot.
///
/// # Errors
///
/// Why it would be refused.
#[cold]
pub(crate) fn look_at_reply<A: Checked>(
    len: usize,
    block: Option<Span<'_>>,
    stage: &Stage,
    slot: Span<'_>,
) -> Result<(), Refusal> {
    let mut copy = AlignedVec::<ALIGN>::new();
    let bytes = match block {
        // SAFETY: a block of this side's own arena, which the peer can merely read, or is trusted not to write meanwhile: the rules of
        // `shared_box`. This side has written it just now, and does not go on before this is over.
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

/// Serialises `value` into private memory.
///
/// # Errors
///
/// If the value's own `Serialize` fails, or it is longer than `max` bytes.
pub(crate) fn encode_to_vec<T: Encode>(value: &T, max: usize) -> Result<AlignedVec<ALIGN>, Failure> {
    let mut spill = VecSpill { bytes: AlignedVec::new(), max };
    // No room at first: everything is written into the vector, which moves as it grows.
    let encoded = encode(value, &mut Stage::new(), Span::empty(), &mut spill)?;
    spill.bytes.resize(encoded.len, 0);
    Ok(spill.bytes)
}

struct VecSpill {
    bytes: AlignedVec<ALIGN>,
    max: usize,
}

impl Spill for VecSpill {
    fn spill(&mut self, _written: usize, need: usize) -> Option<(NonNull<u8>, usize)> {
        if need > self.max {
            return None;
        }
        self.bytes.resize(need.next_power_of_two().clamp(256, self.max.max(256)), 0);
        Some((NonNull::new(self.bytes.as_mut_ptr())?, self.bytes.len()))
    }

    fn send_with(&mut self, _: &mut Send<'_>) -> Result<Option<BoxRef>, Failure> {
        Ok(None)
    }
}

/// Scratch memory for serialising: a small buffer on the stack, and the heap beyond it.
pub struct Scratch<'e> {
    /// The buffer's address, taken once: to borrow the buffer anew would take it from those who have parts of it.
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

// SAFETY: `push_alloc` returns memory of the layout that nothing else uses until `pop_alloc`, which comes in reverse order:
// a rising mark in the buffer, or a heap allocation of its own. The buffer does not move: `'e` borrows it.
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

// ---- decoding ------------------------------------------------------------------------------------------------------

/// What values are made with of their archives.
pub struct Decoder<'d> {
    /// The memory of the bridge that the archive came by; `None` in a child, which has but one.
    home: Option<&'d Arc<dyn PoolHandle>>,
    /// Bytes that may yet be copied out of what the peer lends.
    left: u64,
    trust: Option<TrustedPeer>,
    /// The addresses of the frame, so that boxes are made of what came with it and nothing else; `None` in a child.
    frame: Option<Range<usize>>,
    /// Whether a part of the value could not be made, and why.
    refused: Option<Refusal>,
    /// When nobody wants the value any more.
    until: Deadline,
}

/// The word that a peer keeps its hands off what it has given away, and that what it sends is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrustedPeer(());

impl TrustedPeer {
    /// # Safety
    ///
    /// The peer that it is used for must not write to a block that it has lent or sent home, nor to a frame that it has published, until it
    /// is given back; and every frame of it must be a valid archive of what its reader takes it for.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// A [`Decoder`] as rkyv wants it.
pub(crate) type Decoding<'d> = Strategy<Decoder<'d>, Failure>;

impl<'d> Decoder<'d> {
    /// Of replies that came by a bridge, whose boxes together have at most `most` bytes, and which are wanted until a deadline.
    #[inline(always)]
    pub(crate) fn of(home: &'d Arc<dyn PoolHandle>, most: u64, trust: Option<TrustedPeer>, until: Deadline) -> Self {
        Self { home: Some(home), left: most, trust, frame: None, refused: None, until }
    }

    /// Of what a child got from its parent.
    pub(crate) fn of_child() -> Self {
        Self { home: None, left: u64::MAX, trust: None, frame: None, refused: None, until: Deadline::NEVER }
    }

    /// The same, of a frame that lies in `bytes`.
    #[inline(always)]
    fn within(self, bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().addr();
        Self { frame: Some(start..start + bytes.len()), ..self }
    }

    /// Whether `part` is of the frame that is being decoded.
    pub(crate) fn has<T>(&self, part: &T) -> bool {
        self.frame.as_ref().is_none_or(|frame| frame.contains(&std::ptr::from_ref(part).addr()))
    }

    pub(crate) fn home(&self) -> Option<&'d Arc<dyn PoolHandle>> {
        self.home
    }

    /// A part of the value cannot be made. To be said instead of returning an error, with a part that stands for it: when a part of
    /// a vector or an array fails, rkyv forgets those before it, and with them what they hold of the bridge.
    #[cold]
    pub(crate) fn refuse(&mut self, why: Refusal) {
        // What no honest peer sends outweighs what any may.
        if self.refused != Some(Refusal::Invalid) {
            self.refused = Some(why);
        }
    }

    /// When nobody wants the value any more.
    pub(crate) fn until(&self) -> Deadline {
        self.until
    }

    /// The value that `archived` stands for.
    ///
    /// # Errors
    ///
    /// If its own `Deserialize` fails, or a part of it was [refused](Self::refuse).
    #[inline(always)]
    pub(crate) fn make<R: Transfer>(mut self, archived: &R::Archived) -> Result<R, Failure> {
        match (deserialize_using::<R, _, Failure>(archived, &mut self), self.refused) {
            (Ok(value), None) => Ok(value),
            (_, why) => Err(refuse(why.unwrap_or_default())),
        }
    }

    /// # Errors
    ///
    /// If `len` bytes more are more than may be copied.
    pub(crate) fn may_copy(&mut self, len: u64) -> Result<(), Failure> {
        self.left = self.left.checked_sub(len).ok_or(Failure)?;
        Ok(())
    }
}

/// What a value must offer to cross a bridge, in either direction: rkyv can archive it without allocating shared pointers,
/// validate the archive, and make the value from it again.
///
/// Implemented for every such type; derive `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` for yours. Types with
/// `Rc` or `Arc` in them, references and raw pointers cannot cross.
///
/// # Limits
///
/// Pointers nest at most 256 levels deep: a list of 256 boxes behind a first one. Fewer may be read on a thread with little stack, which must
/// have 2 KiB for each level left, so that the value can be dropped there. A value of more levels is refused once it has been written, for
/// which a thread has a stack of 64 MiB: tens of thousands of levels. One with more still overflows that stack, which ends the process
/// that writes it. In a process whose address space or data is limited (`RLIMIT_AS`, `RLIMIT_DATA`, a sandbox's memory), that stack has a
/// 64th of the limit, or the value is written on the thread's own.
///
/// A large array or struct is itself copied several times on the stack of whoever makes or takes it, and nothing looks before whether there
/// is room: beyond some 10 KiB, send a `Vec` or a `Box`. Elements whose archives have no size (`()`, a struct all of whose fields are skipped) may be
/// as many as the value's archive has bytes, and 65,536 in any case: a child could claim billions of them in a reply of 8 bytes. And right
/// behind an empty `IndexMap`, or a `Box` of such a type, an integer beyond that is taken for a number of elements. An integer beyond that in
/// front of more than 131,072 empty collections in one vector may be, too; and a vector in which one collection is empty may hold
/// 16,777,216 that have elements. A call with a value beyond these limits fails with [`CallError::TooDeep`](crate::CallError::TooDeep) or
/// [`CallError::TooMany`](crate::CallError::TooMany), which names the limit, and the bridge goes on.
///
/// A `RangeInclusive` that was iterated to its end arrives as a fresh range of the same ends, which yields the element that was taken last once
/// more: rkyv archives the ends alone.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a bridge to another process",
    label = "rkyv cannot archive this type",
    note = "derive `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` for it (see `callgate::Transfer`), or mark the method `#[bridge(skip)]`"
)]
pub trait Transfer: Sized + Encode + Archive<Archived: Checked + Decode<Self>> + 'static {}

#[diagnostic::do_not_recommend]
impl<T> Transfer for T
where
    T: Encode + Archive + 'static,
    T::Archived: Checked + Decode<T>,
{
}

/// An archived type that a `T` can be made of.
pub trait Decode<T>: for<'d> Deserialize<T, Decoding<'d>> {}

impl<T, A: for<'d> Deserialize<T, Decoding<'d>>> Decode<T> for A {}

/// An archived type that can be validated.
pub trait Checked: for<'a> CheckBytes<Validation<'a>> {}

impl<T: for<'a> CheckBytes<Validation<'a>>> Checked for T {}

/// The arguments of one method: a tuple of wrappers.
pub trait Request: Encode + Archive<Archived: Checked> {}

impl<T> Request for T
where
    T: Encode + Archive,
    T::Archived: Checked,
{
}

/// A request on its way through the callee, whose payload nobody writes while this exists.
///
/// Made by [`RequestSpan::trusted`]; holding it is the permission to read in place.
#[derive(Clone, Copy)]
pub(crate) struct RequestSpan<'a>(Span<'a>);

impl<'a> RequestSpan<'a> {
    /// The payload of a request that the peer sent.
    ///
    /// # Safety
    ///
    /// The peer must be one that this process trusts (its parent) not to write the bytes until the reply to this request is
    /// published, `'a` must end before that, and the span must be aligned to [`ALIGN`].
    #[inline(always)]
    pub(crate) unsafe fn trusted(span: Span<'a>) -> Self {
        Self(span)
    }

    /// No payload.
    pub(crate) fn none() -> Self {
        Self(Span::empty())
    }

    /// The payload of a request that has been copied.
    pub(crate) fn copied(bytes: &'a AlignedVec<ALIGN>) -> Self {
        Self(Span::of(bytes))
    }

    /// Makes an `A` of the payload.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn take<A: Transfer>(self) -> Result<A, Failure> {
        read_copy(self.bytes(), Decoder::of_child())
    }

    /// Makes an `A` of a payload that is no archive.
    ///
    /// # Errors
    ///
    /// If the bytes make no sense.
    #[inline]
    pub(crate) fn take_bare<A: Plain>(self) -> Result<A, Failure> {
        A::read(self.bytes(), Deadline::NEVER)
    }

    /// Reads the payload as an archived `A`, in place.
    ///
    /// Validated, though the peer is trusted: what it serialised is only as right as the `Serialize` of the user's types,
    /// which is safe code. For numbers that costs about a nanosecond, for text a look at each byte.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of `A`, or one that nests deeper than [`MAX_DEPTH`].
    #[inline(always)]
    pub(crate) fn read<A: Request>(self) -> Result<(&'a A::Archived, Need), Failure> {
        access_until(self.bytes(), Deadline::NEVER)
    }

    #[inline(always)]
    fn bytes(self) -> &'a [u8] {
        // SAFETY: nobody writes the bytes during `'a`: the duty of whoever called `trusted`; `copied` has borrowed them.
        unsafe { self.0.as_bytes() }
    }
}

/// What a reply becomes: a value, or the archive itself, [`Held`].
pub(crate) trait Reply: Sized {
    /// From a reply in a slot that the peer may be writing: `line` is the slot's first line, `payload` the whole payload.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of the type, or one that nests deeper than [`MAX_DEPTH`].
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// From a reply in a block of the peer's, which lends it under `loan_id`.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_block(block: Block, loan_id: u64, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// Where a reply goes that is copied while it is written.
    fn copy_buffer() -> CopyBuffer<Self>;

    /// From a reply, all of which has been copied.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure>;
}

impl<R: Transfer> Reply for R {
    #[inline(always)]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        decode_slot(line, payload, decoder)
    }

    #[inline(always)]
    fn from_block(block: Block, _: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        match decoder.trust {
            Some(trust) => decode_in_place(block.span(), decoder, trust),
            None => decode(block.span(), decoder),
        }
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_value()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.read(decoder)
    }
}

// ---- payloads that are no archives -----------------------------------------------------------------------------------

/// What writes and reads the bytes of a payload itself. Its reading is safe code that trusts none of them.
pub(crate) trait Plain: Sized {
    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or there is no room.
    fn write<W: Fallible<Error: Source> + Writer + ?Sized>(&self, to: &mut W) -> Result<(), W::Error>;

    /// Reads all of `bytes`, in vain if that takes beyond the deadline.
    ///
    /// # Errors
    ///
    /// If they make no sense, or for want of stack or time.
    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure>;
}

/// A value that is written as it likes instead of as an archive.
#[derive(Clone)]
pub(crate) struct Bare<T>(pub(crate) T);

/// An archive of no size, behind the bytes.
impl<T: Plain> Archive for Bare<T> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: ArchivePlace<()>) {}
}

impl<T: Plain, S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Bare<T> {
    #[inline]
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        self.0.write(serializer)
    }
}

impl<T: Plain> Bare<T> {
    #[inline]
    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure> {
        T::read(bytes, until).map(Self)
    }
}

impl<T: Plain> Reply for Bare<T> {
    #[inline]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        match Copied::of_line(line, payload.len()) {
            Some(copy) => Self::read(copy.first(payload.len()), decoder.until),
            None => Self::from_span(payload, decoder.until),
        }
    }

    fn from_block(block: Block, _: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        Self::from_span(block.span(), decoder.until)
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_bytes()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.with(|bytes| Self::read(bytes, decoder.until))
    }
}

impl<T: Plain> Bare<T> {
    fn from_span(span: Span<'_>, until: Deadline) -> Result<Self, Failure> {
        let mut copy_buffer = CopyBuffer::<Self>::of_bytes();
        copy_buffer.copy_up_to(span, until)?;
        copy_buffer.with(|bytes| Self::read(bytes, until))
    }
}

/// Makes the value from a reply where it lies. Looks at it before only for how much stack the value takes.
fn decode_in_place<R: Transfer>(span: Span<'_>, decoder: Decoder<'_>, _: TrustedPeer) -> Result<R, Failure> {
    // SAFETY: the peer is trusted to leave the block alone until it is released, and to have written a valid archive.
    let bytes = unsafe { span.as_bytes() };
    let root = root::<R::Archived>(bytes)?;
    // SAFETY: as above; `root` has found room for it, aligned.
    let archived = unsafe { &*root };
    let (decoder, is_flat) = (decoder.within(bytes), CopyBuffer::<R>::is_of_numbers());
    catch(|| {
        let need = if is_flat { Need::default() } else { access_until::<R::Archived>(bytes, decoder.until)?.1 };
        let need = Need { is_trusted: decoder.home.is_none(), ..need };
        need.run(|| decoder.make(archived))
    })
}

/// Copies a reply out of a slot, validates the copy, and makes the value from it.
#[inline(always)]
fn decode_slot<R: Transfer>(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    match Copied::of_line(line, payload.len()) {
        Some(copy) => read_copy(copy.first(payload.len()), decoder),
        None => decode(payload, decoder),
    }
}

/// Copies a reply, validates the copy, and makes the value from it.
fn decode<R: Transfer>(span: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    match Copied::of_small(span) {
        Some(copy) => read_copy(copy.first(span.len()), decoder),
        None => decode_large(span, decoder),
    }
}

/// Replies up to this many bytes are copied onto the stack.
const SMALL: usize = 128;

/// A copy of a reply on the stack, aligned as payloads are.
#[repr(align(16))]
struct Copied<const WORDS: usize>([u64; WORDS]);

impl Copied<{ INLINE / 8 }> {
    /// Of a slot's payload of `len` bytes, if that is within its first line.
    #[inline(always)]
    fn of_line(line: &SlotLine, len: usize) -> Option<Self> {
        // The words of the line whatever the length: cheaper than a copy of as many bytes as there are.
        (len <= INLINE).then(|| Self(std::array::from_fn(|at| line.inline[at].load(Relaxed))))
    }
}

impl Copied<{ SMALL / 8 }> {
    /// Of a span, if it is small.
    fn of_small(span: Span<'_>) -> Option<Self> {
        (span.len() <= SMALL).then(|| {
            let mut copy = Self([0; SMALL / 8]);
            // SAFETY: the copy has room for `SMALL` bytes, and is private.
            unsafe { span.copy_to(copy.0.as_mut_ptr().cast()) };
            copy
        })
    }
}

impl<const WORDS: usize> Copied<WORDS> {
    /// The first `len` bytes.
    #[inline(always)]
    fn first(&self, len: usize) -> &[u8] {
        assert!(len <= size_of_val(&self.0));
        // SAFETY: initialised, and no longer than the copy, as just checked.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), len) }
    }
}

fn decode_large<R: Transfer>(span: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    let mut copy_buffer = CopyBuffer::of_value();
    copy_buffer.copy_up_to(span, decoder.until)?;
    copy_buffer.read(decoder)
}

/// Reads a value from private bytes of any alignment; `None` if they are no valid archive of `R`.
pub(crate) fn decode_private<R: Transfer>(bytes: &[u8]) -> Option<R> {
    let mut copy = AlignedVec::<ALIGN>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    read_copy(&copy, Decoder::of_child()).ok()
}

/// Validates private bytes that are aligned as payloads are, and makes the value from them.
#[inline(always)]
pub(crate) fn read_copy<R: Transfer>(bytes: &[u8], decoder: Decoder<'_>) -> Result<R, Failure> {
    let decoder = decoder.within(bytes);
    catch(|| {
        let (archived, need) = access_until::<R::Archived>(bytes, decoder.until)?;
        let need = Need { is_trusted: decoder.home.is_none(), ..need };
        if need.levels == 0 || CopyBuffer::<R>::is_of_numbers() {
            return decoder.make(archived);
        }
        in_time(decoder.until)?;
        has_memory(bytes.len())?;
        need.run(|| decoder.make(archived))
    })
}

/// A type's own `CheckBytes` or `Deserialize` may panic at bytes that it did not expect; a lying peer must be an error all the same.
#[inline(always)]
fn catch<R>(read: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // Unwind safety: the closures of this file own nothing that outlives them.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(refuse(Refusal::Invalid)))
}

/// A reply that stays as it came: bytes that end in a valid `A`, and that nobody writes while this exists.
pub(crate) struct Held<A> {
    bytes: HeldBytes,
    /// Whether the peer is trusted to have written what its methods need.
    trusted: bool,
    /// As if the archive were in a box of its own.
    archive: PhantomData<Box<A>>,
}

/// Never changed, and not moved when a [`Held`] is.
enum HeldBytes {
    /// A private copy, which the peer cannot write.
    Private(AlignedVec<ALIGN>),
    /// The peer's own, which it is trusted not to write.
    BorrowedBlock(BorrowedBlock),
}

/// Between two looks at the clock, so many bytes are copied: some hundred microseconds, of memory that has never been touched.
pub(crate) const BYTES_A_LOOK: usize = 1 << 20;

/// Says that it is too late, if it is.
#[inline]
pub(crate) fn in_time(until: Deadline) -> Result<(), Failure> {
    if until.has_passed() { Err(refuse(Refusal::Late)) } else { Ok(()) }
}

/// Makes `copy` the bytes of the span, for which there must be memory.
pub(crate) fn copy_out(span: Span<'_>, copy: &mut AlignedVec<ALIGN>) {
    copy.clear();
    copy_behind(span, copy);
}

/// Adds the bytes of the span.
fn copy_behind(span: Span<'_>, copy: &mut AlignedVec<ALIGN>) {
    let len = copy.len();
    copy.reserve(span.len());
    // SAFETY: reserved just now.
    let end = unsafe { copy.as_mut_ptr().add(len) };
    // SAFETY: there is room, in private memory.
    unsafe { span.copy_to(end) };
    // SAFETY: initialised by the copy.
    unsafe { copy.set_len(len + span.len()) };
}

impl<A: Checked> Held<A> {
    /// Copies a reply out of memory that the peer may be writing, and validates the copy.
    fn copied(span: Span<'_>, decoder: &Decoder<'_>) -> Result<Self, Failure> {
        // Never without memory: an empty archive has its place too, which must be aligned for it.
        has_memory(span.len())?;
        let mut bytes = AlignedVec::with_capacity(span.len().max(1));
        while bytes.len() < span.len() {
            let end = span.len().min(bytes.len() + BYTES_A_LOOK);
            copy_behind(span.first(end).after(bytes.len()), &mut bytes);
            in_time(decoder.until)?;
        }
        Self::validated(bytes, decoder)
    }

    fn validated(bytes: AlignedVec<ALIGN>, decoder: &Decoder<'_>) -> Result<Self, Failure> {
        catch(|| access_until::<A>(&bytes, decoder.until).map(drop))?;
        Ok(Self { bytes: HeldBytes::Private(bytes), trusted: decoder.trust.is_some(), archive: PhantomData })
    }

    /// The archive. Its being valid is not enough to let it out: its own methods must need no more than that.
    #[inline]
    pub(crate) fn get(&self) -> &A
    where
        A: Viewable,
    {
        self.archived()
    }

    /// The archive, if the peer is trusted.
    pub(crate) fn trusted(&self) -> Option<&A> {
        self.trusted.then(|| self.archived())
    }

    #[inline]
    fn archived(&self) -> &A {
        let (start, len) = match &self.bytes {
            HeldBytes::Private(bytes) => (bytes.as_ptr(), bytes.len()),
            HeldBytes::BorrowedBlock(kept) => (kept.span().start().as_ptr().cast_const(), kept.span().len()),
        };
        let root = start.wrapping_add(len - size_of::<A>()).cast::<A>();
        // SAFETY: a valid `A` is there, as `copied` has found, or a trusted peer has promised, and the bytes have been neither changed
        // nor moved since.
        unsafe { &*root }
    }
}

impl<A: Checked> Reply for Held<A> {
    fn from_slot(_line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        Self::copied(payload, &decoder)
    }

    fn from_block(block: Block, loan_id: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        let kept =
            decoder.trust.and_then(|_| BorrowedBlock::take(block.clone(), LoanId::checked(loan_id)?, decoder.home?));
        let Some(kept) = kept else { return Self::copied(block.span(), &decoder) };
        // SAFETY: the peer is trusted to leave the block alone until it is let go.
        let bytes = unsafe { kept.span().as_bytes() };
        root::<A>(bytes)?;
        Ok(Self { bytes: HeldBytes::BorrowedBlock(kept), trusted: true, archive: PhantomData })
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_bytes()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.with(|bytes| {
            has_memory(bytes.len())?;
            let mut copy = AlignedVec::with_capacity(bytes.len().max(1));
            for piece in bytes.chunks(BYTES_A_LOOK) {
                copy.extend_from_slice(piece);
                in_time(decoder.until)?;
            }
            Self::validated(copy, &decoder)
        })
    }
}

/// Where in `bytes` the root of an archive is.
///
/// # Errors
///
/// If there is no room for it, or it is not aligned.
#[inline(always)]
fn root<A>(bytes: &[u8]) -> Result<*const A, Failure> {
    const { assert!(align_of::<A>() <= ALIGN, "an archive is aligned to more than 16 bytes") };
    let Some(at) = bytes.len().checked_sub(size_of::<A>()) else { return Err(refuse(Refusal::Invalid)) };
    // Of the whole buffer: the root points to its parts.
    let root = bytes.as_ptr().wrapping_add(at).cast::<A>();
    if root.is_aligned() { Ok(root) } else { Err(refuse(Refusal::Invalid)) }
}

/// Validates the archive that `bytes` end in, and its parts before it.
///
/// What `rkyv::access` does, but for one thing: the root's place is checked here, where its size is a constant, so that for types
/// without pointers nothing is left to do at run time.
///
/// # Errors
///
/// If the bytes are no valid archive of `A`, one that nests deeper than [`MAX_DEPTH`], or one with too many elements of no size.
#[inline(always)]
pub(crate) fn access<A: Checked>(bytes: &[u8]) -> Result<&A, Failure> {
    access_until(bytes, Deadline::NEVER).map(|(archived, _)| archived)
}

/// The same, in vain if it takes beyond the deadline; and what making the value needs.
///
/// # Errors
///
/// As [`access`], and if it takes too long.
#[inline(always)]
pub(crate) fn access_until<A: Checked>(bytes: &[u8], until: Deadline) -> Result<(&A, Need), Failure> {
    let root = root::<A>(bytes)?;
    // SAFETY: `root` has found it there, aligned.
    let need = unsafe { validate::<A>(root, bytes, until)? };
    // SAFETY: a valid `A`, as just checked, in memory that lives and stays as it is as long as `bytes`.
    Ok((unsafe { &*root }, need))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::segment::Slots;

    #[test]
    fn a_commit_word_says_what_was_put_in() {
        let slots = Slots::on_heap(2);
        let line = slots.line(0);
        for position in [0, 1, 0xffff_fffe, 0xffff_ffff, 1 << 32, u64::MAX] {
            for kind in [Kind::Construct, Kind::Call, Kind::Refused] {
                let commit = Commit { kind, place: Place::Slot(48) };
                let word = commit.encode(position);
                assert!(Commit::is_at(word, position));
                assert!(!Commit::is_at(word, position.wrapping_add(2)));
                assert_eq!(Commit::checked(word, line, 48), Ok(commit));
            }
        }
        assert!(!Commit::is_at(0, u64::from(u32::MAX)), "a slot never written is no frame");
    }

    #[test]
    fn a_commit_word_that_nobody_healthy_writes_is_refused() {
        let slots = Slots::on_heap(2);
        let line = slots.line(0);
        for len in [49u64, 1000, 0xff_ffff] {
            let word = 1 << 32 | len << 8 | Kind::Call as u64;
            assert!(Commit::checked(word, line, 48).is_err(), "length {len}");
        }
        for kind in (0..=255u64).filter(|kind| ![1, 2, 3, 4, 5, 6, 7, 9, 10, 11].contains(&(kind & 0x7f))) {
            assert!(Commit::checked(1 << 32 | kind, line, 48).is_err(), "kind {kind}");
        }
    }

    #[test]
    fn values_come_back_through_private_memory() {
        let value = (vec![String::from("one"), "two".repeat(1000)], Some(3u64));
        let bytes = encode_to_vec(&value, 1 << 20).unwrap();
        assert_eq!(read_copy::<(Vec<String>, Option<u64>)>(&bytes, Decoder::of_child()).unwrap(), value);
        assert!(encode_to_vec(&value, 1000).is_err(), "longer than the limit");
    }

    #[test]
    fn fault_03_truncated_archives_are_refused() {
        let bytes = encode_to_vec(&vec![String::from("a long enough string"); 4], 1 << 20).unwrap();
        for len in 0..bytes.len() {
            let mut copy = AlignedVec::<ALIGN>::new();
            copy.extend_from_slice(&bytes[..len]);
            assert!(read_copy::<Vec<String>>(&copy, Decoder::of_child()).is_err(), "{len} bytes");
        }
    }
}
