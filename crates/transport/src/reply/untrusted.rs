//! Replies of a peer that may lie, and may write to its memory at any time. This file is the whole way from its bytes to a value; nothing in it
//! depends on whether the peer is trusted.
//!
//! 1. The payload is copied to private memory: up to 48 bytes as the words of the slot's line, up to [`SMALL`] bytes on the stack, more in a
//!    [`CopyBuffer`]. No reference to the peer's bytes ever exists.
//! 2. The copy is validated (`archive::access_until`): the root aligned and inside, its parts before it, at most `MAX_DEPTH` levels deep, a
//!    bounded number of elements without size. A type's own code that panics is an error.
//! 3. The value is made from the copy ([`Decoder::make`]), on a stack with room for its depth; or the copy is kept ([`ArchivedReply`]).
//!
//! Steps 2 and 3 for values are [`read_copy`]. Blocks arrive here checked (`segment::Block`), boxes inside a reply are opened in
//! `shared_box/archived.rs`.

use super::archived::ArchivedReply;
use crate::archive::{access_until, catch, copy_behind};
use crate::bare::{Bare, Plain};
use crate::bounds::BYTES_A_LOOK;
use crate::commit::ALIGN;
use crate::copy_buffer::{CopyBuffer, read_copy};
use crate::decoder::{Decoder, Transfer};
use crate::doorbell::Deadline;
use crate::encode::is_flat;
use crate::error::CallbackError;
use crate::layout::{INLINE, SlotLine};
use crate::reading::{has_memory, in_time};
use crate::segment::{Block, Span};
use crate::validator::Checked;
use callgate_os::sync::Ordering::Relaxed;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

/// What the reply of an untrusted peer becomes: a value, or the archive itself ([`ArchivedReply`]).
pub trait UntrustedReply: Sized {
    /// From a reply in a slot that the peer may be writing: `line` is the slot's first line, `payload` the whole payload.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of the type, or one that nests deeper than [`MAX_DEPTH`](crate::bounds::MAX_DEPTH).
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// From a reply in a block that the peer may be writing.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_block(block: Block, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// What the copy of a reply becomes first.
    type Buffered;

    /// An empty buffer for a reply that is copied while the peer writes it.
    fn copy_buffer() -> CopyBuffer<Self::Buffered>;

    /// From a reply that has been copied completely.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_copy_buffer(copy_buffer: CopyBuffer<Self::Buffered>, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// From the failure that a callback reports; `None` if only callbacks may report one, and this is no callback's reply.
    fn from_failure(_: CallbackError) -> Option<Self> {
        None
    }
}

// ---- values --------------------------------------------------------------------------------------------------------

impl<R: Transfer> UntrustedReply for R {
    type Buffered = Self;

    #[inline(always)]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        if !is_flat::<R>() {
            return from_slot_of_any_length(line, payload, decoder);
        }
        // A value without parts is all root, so that its length, and with it the place of the root, is a constant.
        let len = size_of::<R::Archived>();
        if payload.len() != len || len > INLINE {
            return from_slot_slow(line, payload, decoder.moved());
        }
        read_copy(Copied::of_words(line, len.div_ceil(8)).first(len), decoder)
    }

    #[inline(always)]
    fn from_block(block: Block, decoder: Decoder<'_>) -> Result<Self, Failure> {
        decode(block.span(), decoder)
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_value()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.read(decoder)
    }
}

/// From a slot's payload, whose length says whether it fits into the slot's first line.
#[inline(always)]
fn from_slot_of_any_length<R: Transfer>(
    line: &SlotLine,
    payload: Span<'_>,
    decoder: Decoder<'_>,
) -> Result<R, Failure> {
    match Copied::of_line(line, payload.len()) {
        Some(copy) => read_copy(copy.first(payload.len()), decoder),
        None => decode(payload, decoder),
    }
}

#[inline(never)]
fn from_slot_slow<R: Transfer>(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    from_slot_of_any_length(line, payload, decoder)
}

/// Copies a reply, validates the copy, and makes the value from it.
fn decode<R: Transfer>(span: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    match Copied::of_small(span) {
        Some(copy) => read_copy(copy.first(span.len()), decoder),
        None => decode_large(span, decoder),
    }
}

fn decode_large<R: Transfer>(span: Span<'_>, decoder: Decoder<'_>) -> Result<R, Failure> {
    let mut copy_buffer = CopyBuffer::of_value();
    copy_buffer.copy_up_to(span, decoder.until())?;
    copy_buffer.read(decoder)
}

// ---- bytes that are no archive -------------------------------------------------------------------------------------

impl<T: Plain> UntrustedReply for Bare<T> {
    type Buffered = Self;

    #[inline]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        match Copied::of_line(line, payload.len()) {
            Some(copy) => Self::read(copy.first(payload.len()), decoder.until()),
            None => Self::from_span(payload, decoder.until()),
        }
    }

    fn from_block(block: Block, decoder: Decoder<'_>) -> Result<Self, Failure> {
        Self::from_span(block.span(), decoder.until())
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_bytes()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.with(|bytes| Self::read(bytes, decoder.until()))
    }
}

impl<T: Plain> Bare<T> {
    fn from_span(span: Span<'_>, until: Deadline) -> Result<Self, Failure> {
        let mut copy_buffer = CopyBuffer::<Self>::of_bytes();
        copy_buffer.copy_up_to(span, until)?;
        copy_buffer.with(|bytes| Self::read(bytes, until))
    }
}

// ---- archives ------------------------------------------------------------------------------------------------------

impl<A: Checked> UntrustedReply for ArchivedReply<A> {
    type Buffered = Self;

    fn from_slot(_line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copied(payload, decoder.until())
    }

    fn from_block(block: Block, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copied(block.span(), decoder.until())
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
                in_time(decoder.until())?;
            }
            validated(copy, decoder.until())
        })
    }
}

/// Copies a reply and validates the copy.
fn copied<A: Checked>(span: Span<'_>, until: Deadline) -> Result<ArchivedReply<A>, Failure> {
    has_memory(span.len())?;
    // Never without memory: even an archive of no bytes needs an aligned address.
    let mut bytes = AlignedVec::with_capacity(span.len().max(1));
    while bytes.len() < span.len() {
        let end = span.len().min(bytes.len() + BYTES_A_LOOK);
        copy_behind(span.first(end).after(bytes.len()), &mut bytes);
        in_time(until)?;
    }
    validated(bytes, until)
}

fn validated<A: Checked>(bytes: AlignedVec<ALIGN>, until: Deadline) -> Result<ArchivedReply<A>, Failure> {
    catch(|| access_until::<A>(&bytes, until).map(drop))?;
    // SAFETY: a valid archive, as just found.
    Ok(unsafe { ArchivedReply::of_copy(bytes) })
}

// ---- small copies --------------------------------------------------------------------------------------------------

/// Replies up to this many bytes are copied onto the stack.
const SMALL: usize = 176;

/// A copy of a reply on the stack, aligned as payloads are.
#[repr(align(16))]
struct Copied<const WORDS: usize>([u64; WORDS]);

impl Copied<{ INLINE / 8 }> {
    /// A slot's payload of `len` bytes, if it fits into the slot's first line.
    #[inline(always)]
    fn of_line(line: &SlotLine, len: usize) -> Option<Self> {
        // All words of the line, whatever the length: cheaper than a copy of `len` bytes.
        (len <= INLINE).then(|| Self::of_words(line, INLINE / 8))
    }

    /// The first `count` words of a slot's payload, a constant; zeros behind them.
    #[inline(always)]
    fn of_words(line: &SlotLine, count: usize) -> Self {
        Self(std::array::from_fn(|at| if at < count { line.inline[at].load(Relaxed) } else { 0 }))
    }
}

impl Copied<{ SMALL / 8 }> {
    /// The bytes of a span, if it is small.
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
