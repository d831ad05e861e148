//! Values written into frames by rkyv: straight into shared memory, without allocating.
//!
//! The first bytes go onto a stage, which is published with the commit word; what outgrows a slot goes where a [`Spill`] says. Writes
//! nothing beyond what its writer was given.

use crate::archive::{access, catch, copy_out};
use crate::commit::ALIGN;
use crate::error::NoMemory;
use crate::layout::INLINE;
use crate::loans::{Attachments, BoxRef};
use crate::memory_pool::AllocContext;
use crate::reading::{DecodeRefusal, MAX_DEPTH, last_refusal};
use crate::segment::Span;
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

/// What a value is serialised with: straight into shared memory, without allocating.
///
/// The lifetime is that of one encoding: no value's `Serialize` can keep the encoder, or exchange it for another.
pub type Encoder<'e> = LowSerializer<FrameWriter<'e>, Scratch<'e>, Failure>;

/// Whatever can be serialised into a frame.
pub trait Encode: for<'e> Serialize<Encoder<'e>> {}

impl<T: for<'e> Serialize<Encoder<'e>>> Encode for T {}

/// Provides more room when a frame outgrows where it is being written.
pub trait Spill {
    /// A place for at least `need` bytes whose first `written` bytes are those written so far. `None` if there is no room;
    /// the implementor remembers why.
    fn spill(&mut self, written: usize, need: usize) -> Option<(NonNull<u8>, usize)>;

    /// Has `send` say which memory goes with the frame. `None` if the frame goes where none can be sent.
    ///
    /// # Errors
    ///
    /// If there was none to be had; the implementor remembers why.
    fn send_with(&mut self, send: &mut SendBox<'_>) -> Result<Option<BoxRef>, Failure>;

    /// Notes that the first `written` bytes of a frame, for which the last `spill` gave `room` bytes, are final as long as it stays
    /// there. The frame will have `need` bytes at least. Returns up to where, beyond `written`, it is written without asking again. `None` if
    /// nobody wants the frame any more; the implementor remembers why.
    fn progress(&mut self, _written: usize, _need: usize, room: usize) -> Option<usize> {
        Some(room)
    }
}

/// Says which memory goes with a frame.
pub type SendBox<'a> = dyn FnMut(&AllocContext<'_>, &mut Attachments) -> Result<BoxRef, NoMemory> + 'a;

/// The payload bytes of a slot's first line, in private memory until the frame is published.
///
/// The consumer polls that line. If its first store and the commit word were tens of nanoseconds apart, the consumer would
/// fetch the line in between, and the producer would have to get it back: two trips instead of one.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub struct Stage([u8; INLINE]);

const _: () = assert!(align_of::<Stage>() == ALIGN);

impl Stage {
    pub const fn new() -> Self {
        Self([0; INLINE])
    }

    /// A payload of one number, for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of(number: u64) -> Self {
        let mut stage = Self::new();
        stage.0[..8].copy_from_slice(&number.to_ne_bytes());
        stage
    }

    /// The bytes as the words of `SlotLine::inline`.
    #[inline(always)]
    pub fn words(&self) -> [u64; INLINE / 8] {
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
pub struct Encoded {
    pub len: usize,
    /// Whether it may be beyond what a reader accepts, so that it is to be looked at.
    pub is_suspect: bool,
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
    pub fn send_with(&mut self, send: &mut SendBox<'_>) -> Result<Option<BoxRef>, Failure> {
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
pub fn encode<T: Encode>(
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
pub fn look_at_reply<A: Checked>(
    len: usize,
    block: Option<Span<'_>>,
    stage: &Stage,
    slot: Span<'_>,
) -> Result<(), DecodeRefusal> {
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
pub fn encode_to_vec<T: Encode>(value: &T, max: usize) -> Result<AlignedVec<ALIGN>, Failure> {
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

    fn send_with(&mut self, _: &mut SendBox<'_>) -> Result<Option<BoxRef>, Failure> {
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
