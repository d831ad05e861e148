//! Writes the bytes of a frame: onto a stage, straight into shared memory behind it, and into a block when the frame outgrows its slot
//! ([`OutgoingFrame`]).
//!
//! Contains `unsafe` code: it writes through raw pointers. Never writes beyond the room that it has, and never publishes.
//!
//! # When lines are fetched and stored
//!
//! A line that the peer has read must come back before it can be stored to, and stores are made visible in order. So the lines of a short frame are
//! fetched all at once before its first byte is written, written on the stage meanwhile, and stored one right after the other, the first line last.
//! A longer frame takes too long for that: the peer, which polls the first line, would have it back before it is stored to. That is fetched by
//! its own stores, and the lines behind it are stored to as they are written.

use crate::bounds::MAX_DEPTH;
use crate::commit::ALIGN;
use crate::layout::{INLINE, LINE};
use crate::outgoing_frame::{OutgoingFrame, SendError};
use crate::segment::Span;
use crate::stage::Stage;
use callgate_os::cpu;
use callgate_os::sync::will_write;
use rkyv::rancor::Failure;
use rkyv::ser::{Positional, Writer, WriterExt};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Place as ArchivePlace};
use std::ptr::NonNull;

/// The writer of a frame's bytes: first onto the stage, then into the slot behind it, and, if they outgrow that, into a block.
pub struct FrameWriter<'e> {
    stage: &'e mut Stage,
    /// How many of the first bytes belong on the stage: its [`share`](Stage::share), the first line's in a longer frame, or none once the frame is in a
    /// block.
    staged: usize,
    start: NonNull<u8>,
    /// The length of the root.
    root: usize,
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
pub(crate) enum Overflow<'e> {
    /// Into a block of shared memory.
    Block(OutgoingFrame<'e>),
    /// Into private memory, from the first byte on.
    Private(&'e mut PrivateBytes),
}

/// A value that is serialised for this process or for a socket.
pub(crate) struct PrivateBytes {
    pub(crate) bytes: AlignedVec<ALIGN>,
    /// The most bytes that it may have.
    pub(crate) max: usize,
}

/// The result of writing a frame.
#[derive(Clone, Copy)]
pub(crate) struct Encoded {
    pub(crate) len: usize,
    /// Whether its reader may refuse it, so that it must be checked here.
    pub(crate) is_suspect: bool,
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

    /// The same, at another address.
    #[inline(always)]
    fn moved(self) -> Self {
        match self {
            Self::Block(frame) => Self::Block(frame.moved()),
            Self::Private(private) => Self::Private(private),
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
        if self.pieces == 0 {
            self.fetch_lines(end);
        }
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
    /// For a frame whose root has `root` bytes, and which begins in `slot`, or in private memory, where there is no room yet.
    #[inline(always)]
    pub(crate) fn new(stage: &'e mut Stage, slot: Span<'_>, overflow: Overflow<'e>, root: usize) -> Self {
        let (start, room) = (slot.start(), slot.len());
        let staged = match &overflow {
            // No slot is shorter than a line.
            Overflow::Block(_) => Stage::share(room),
            Overflow::Private(_) => 0,
        };
        let (capacity, written, pieces, has_empty, was_padding) = (room, 0, 0, false, false);
        Self { stage, staged, start, root, capacity, room, written, pieces, has_empty, was_padding, overflow }
    }

    /// Whether the frame may nest deeper than it may.
    #[inline(always)]
    pub(crate) fn may_be_deep(&self) -> bool {
        self.pieces > MAX_DEPTH
    }

    /// The frame that is being written; `None` for private memory, which no box can go to.
    pub(crate) fn frame(&mut self) -> Option<&mut OutgoingFrame<'e>> {
        match &mut self.overflow {
            Overflow::Block(frame) => Some(frame),
            Overflow::Private(_) => None,
        }
    }

    /// Fetches the lines of a frame whose parts are likely to end at `end`, if it belongs on the stage.
    #[inline(never)]
    fn fetch_lines(&self, end: usize) {
        let len = end + self.root;
        if len <= self.staged {
            fetch_lines(self.start, len);
        }
    }

    /// Fetches the lines of a frame that is all root.
    #[inline(always)]
    pub(crate) fn fetch_lines_of<T: Archive>(&self) {
        if fits::<T>(self.staged) {
            fetch_lines(self.start, size_of::<T::Archived>());
        }
    }

    /// Writes bytes that do not all fit onto the stage.
    fn write_behind(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.len() > self.capacity - self.written {
            return self.write_slow(bytes);
        }
        self.leave_stage();
        let (staged, bytes) = bytes.split_at(bytes.len().min(self.staged.saturating_sub(self.written)));
        self.stage.0[self.written.min(Stage::LEN)..][..staged.len()].copy_from_slice(staged);
        self.written += staged.len();
        self.put(bytes);
        Ok(())
    }

    /// Puts what is on the stage where it belongs, except for the first line, because the frame is longer than the stage.
    fn leave_stage(&mut self) {
        // SAFETY: `staged` is the stage's share of the slot that begins at `start`, or less.
        unsafe { put_behind(self.stage, self.staged, self.start, self.written) };
        self.staged = self.staged.min(INLINE);
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

    /// Ends a frame whose parts have been written, or could not be.
    ///
    /// If the compiler sees that a value has no parts, as numbers and structs of them, all that is left here is to write the root. Nothing on that
    /// way may take the writer's address: the writer would have to exist.
    #[inline(always)]
    pub(crate) fn end_without_parts<T: Archive>(
        self,
        value: &T,
        written: Result<T::Resolver, Failure>,
    ) -> Result<Encoded, SendError> {
        let Self { stage, staged, start, root, capacity, room, written: len, pieces, has_empty, was_padding, overflow } =
            self;
        match written {
            Ok(resolver) if pieces == 0 && fits::<T>(staged) => {
                put_root(value, resolver, stage, 0);
                // SAFETY: `staged` is the stage's share of the slot that begins at `start`.
                unsafe { put_behind(stage, staged, start, size_of::<T::Archived>()) };
                Ok(Encoded { len: size_of::<T::Archived>(), is_suspect: false })
            }
            resolver => {
                let (overflow, written) = (overflow.moved(), len);
                let writer = FrameWriter {
                    stage,
                    staged,
                    start,
                    root,
                    capacity,
                    room,
                    written,
                    pieces,
                    has_empty,
                    was_padding,
                    overflow,
                };
                writer.end_slow(value, resolver)
            }
        }
    }

    #[inline(never)]
    fn end_slow<T: Archive>(mut self, value: &T, written: Result<T::Resolver, Failure>) -> Result<Encoded, SendError> {
        self.end(value, written)
    }

    /// Ends a frame whose parts have been written, or could not be. By reference: a copy of what has just been stored would wait for those stores, and they
    /// for the slot's lines.
    #[inline(always)]
    pub(crate) fn end<T: Archive>(
        &mut self,
        value: &T,
        written: Result<T::Resolver, Failure>,
    ) -> Result<Encoded, SendError> {
        let is_suspect = self.may_be_deep() || self.has_empty || self.was_padding;
        match written.and_then(|resolver| self.finish(value, resolver)) {
            Ok(len) => {
                // SAFETY: `staged` is the stage's share of the slot that begins at `start`, or less.
                unsafe { put_behind(self.stage, self.staged, self.start, len) };
                Ok(Encoded { len, is_suspect })
            }
            Err(Failure) => Err(self.overflow.fail_slow()),
        }
    }

    /// Writes the root of the archive, whose parts have been written. Returns the frame's length.
    #[inline(always)]
    fn finish<T: Archive>(&mut self, value: &T, resolver: T::Resolver) -> Result<usize, Failure> {
        let at = self.written.next_multiple_of(align_of::<T::Archived>());
        let end = at + size_of::<T::Archived>();
        if end > self.staged {
            return self.finish_behind(value, resolver);
        }
        // Bytes between the parts and the root must not show what was there before.
        if at > self.written {
            self.stage.0[self.written..at].fill(0);
        }
        put_root(value, resolver, self.stage, at);
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

/// Whether the root of a payload of which `staged` bytes belong on the stage fits there if it is all of the payload. A constant for the smallest.
#[inline(always)]
fn fits<T: Archive>(staged: usize) -> bool {
    staged > 0 && (size_of::<T::Archived>() <= INLINE || size_of::<T::Archived>() <= staged)
}

/// Writes the root of an archive onto the stage, at `at`, which is aligned for it.
///
/// # Panics
///
/// If it does not fit there.
#[inline(always)]
fn put_root<T: Archive>(value: &T, resolver: T::Resolver, stage: &mut Stage, at: usize) {
    const { assert!(align_of::<T::Archived>() <= ALIGN, "an archive is aligned to more than 16 bytes") };
    assert!(at.is_multiple_of(align_of::<T::Archived>()));
    let place = &mut stage.0[at..at + size_of::<T::Archived>()];
    // The root's padding must not show what was there before.
    place.fill(0);
    // SAFETY: as many initialised bytes as the archive has, aligned: the stage is, and the archive's alignment is no larger.
    let root = unsafe { ArchivePlace::new_unchecked(at, place.as_mut_ptr().cast::<T::Archived>()) };
    value.resolve(resolver, root);
}

/// Copies what of the first `len` bytes of a payload is on the stage into the slot at `start`, except for the first line: whole lines, which is
/// cheaper.
///
/// # Safety
///
/// Of the slot's payload, which begins at `start` and may be written, `staged` bytes belong on the stage, or more.
#[inline(always)]
unsafe fn put_behind(stage: &Stage, staged: usize, start: NonNull<u8>, len: usize) {
    let put = |at: usize| {
        let line = &stage.0[at..at + LINE];
        // SAFETY: more than the first line belongs on the stage, as checked below, and so the slot has room for all of it.
        let target = unsafe { start.add(at) };
        will_write(target, LINE);
        // SAFETY: room, as above; the stage is private memory, so nothing overlaps.
        unsafe { target.copy_from_nonoverlapping(NonNull::from(line).cast(), LINE) };
    };
    if len > INLINE && staged > INLINE {
        put(INLINE);
        if len > INLINE + LINE {
            put(INLINE + LINE);
        }
    }
}

/// Has the processor get the lines of the first `len` bytes of a slot's payload, no more than a stage's, to write them soon.
#[inline(always)]
fn fetch_lines(start: NonNull<u8>, len: usize) {
    let fetch = |at| cpu::fetch_to_write(start.as_ptr().wrapping_add(at));
    fetch(0);
    if len > INLINE {
        fetch(INLINE);
    }
    if len > INLINE + LINE {
        fetch(INLINE + LINE);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backing::heap::Heap;
    use crate::commit::{Kind, Place};
    use crate::decoder::{Decoder, Transfer};
    use crate::encode::write_frame;
    use crate::layout::Geometry;
    use crate::loans::Attachments;
    use crate::no_memory::no_memory;
    use crate::reply::UntrustedReply;
    use crate::ring::{Consumer, Producer};
    use crate::segment::Segment;

    /// A ring of slots of so many lines.
    fn ring(slot_lines: u32) -> (Producer, Consumer, usize) {
        let geometry = Geometry { lanes: 1, slots: 2, slot_lines, workers: 1 };
        let (segment, _) = Segment::create(geometry, &Heap::default()).unwrap();
        let capacity = slot_lines as usize * LINE - (LINE - INLINE);
        (Producer::new(segment.replies(0), 0), Consumer::new(segment.replies(0), 0), capacity)
    }

    /// Sends a value of which it is known that it fits its slot.
    fn send<R: Transfer + PartialEq + std::fmt::Debug>(
        value: &R,
        (producer, consumer, _): &mut (Producer, Consumer, usize),
    ) {
        let len = write_frame(value, producer, no_memory(), &mut Attachments::default(), None).unwrap();
        producer.publish(Kind::Call, 0, Place::Slot(len));
        let frame = consumer.take().unwrap().expect("a frame");
        assert_eq!(R::from_slot(frame.line, frame.payload, Decoder::of_child()).as_ref(), Ok(value));
        consumer.release();
    }

    #[test]
    fn parts_arrive_whole_wherever_lines_begin() {
        for slot_lines in [1, 3, 9] {
            let mut ring = ring(slot_lines);
            for len in 0..=ring.2 - 24 {
                let text: String = ('a'..='z').cycle().skip(len).take(len).collect();
                send(&text, &mut ring);
            }
            for (first, second) in (0..80).flat_map(|first| (0..130).map(move |second| (first, second))) {
                if first + second + 64 <= ring.2 {
                    send(&vec!["x".repeat(first), "y".repeat(second)], &mut ring);
                }
            }
        }
    }

    #[test]
    fn roots_without_parts_arrive_whole_on_any_number_of_lines() {
        for slot_lines in [1, 3, 9] {
            let mut ring = ring(slot_lines);
            for number in 1..=3u64 {
                send(&number, &mut ring);
                send(&[number; 6], &mut ring);
                send(&(number as u8, Some(number as u32), true), &mut ring);
                if slot_lines > 1 {
                    send(&[number; 7], &mut ring);
                    send(&[number; 14], &mut ring);
                    send(&[number; 15], &mut ring);
                    send(&[number; 22], &mut ring);
                }
                if slot_lines > 3 {
                    send(&[number; 23], &mut ring);
                    send(&[number; 70], &mut ring);
                }
            }
        }
    }
}
