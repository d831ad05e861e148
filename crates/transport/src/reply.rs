//! Replies, as the caller reads them: copied into private memory, validated there, and made into values; or kept as the archives that they are.
//!
//! Reads in place only what a trusted peer sends.

use crate::archive::{access_until, catch, copy_behind, root};
use crate::bare::{Bare, Plain};
use crate::commit::ALIGN;
use crate::copy_buffer::{CopyBuffer, read_copy};
use crate::decoder::{Decoder, Transfer, TrustedPeer};
use crate::doorbell::Deadline;
use crate::error::CallbackError;
use crate::layout::{INLINE, SlotLine};
use crate::loans::LoanId;
use crate::reading::{BYTES_A_LOOK, Need, has_memory, in_time};
use crate::segment::{Block, Span};
use crate::shared_box::bytes::BorrowedBlock;
use crate::validator::Checked;
use crate::viewable::Viewable;
use callgate_os::sync::Ordering::Relaxed;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::marker::PhantomData;

/// What a reply becomes: a value, or the archive itself, [`ArchivedReply`].
pub trait Reply: Sized {
    /// From a reply in a slot that the peer may be writing: `line` is the slot's first line, `payload` the whole payload.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of the type, or one that nests deeper than [`MAX_DEPTH`](crate::reading::MAX_DEPTH).
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// From a reply in a block of the peer's, which lends it under `loan_id`.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_block(block: Block, loan_id: u64, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// What the copy of a reply becomes first.
    type Copied;

    /// Where a reply goes that is copied while it is written.
    fn copy_buffer() -> CopyBuffer<Self::Copied>;

    /// From a reply, all of which has been copied.
    ///
    /// # Errors
    ///
    /// As [`from_slot`](Self::from_slot).
    fn from_copy_buffer(copy_buffer: CopyBuffer<Self::Copied>, decoder: Decoder<'_>) -> Result<Self, Failure>;

    /// From the failure that a callback reports; `None` if only callbacks may report one, and this is no callback's reply.
    fn from_failure(_: CallbackError) -> Option<Self> {
        None
    }
}

impl<R: Transfer> Reply for R {
    type Copied = Self;

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

impl<T: Plain> Reply for Bare<T> {
    type Copied = Self;

    #[inline]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        match Copied::of_line(line, payload.len()) {
            Some(copy) => Self::read(copy.first(payload.len()), decoder.until()),
            None => Self::from_span(payload, decoder.until()),
        }
    }

    fn from_block(block: Block, _: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        Self::from_span(block.span(), decoder.until())
    }

    fn copy_buffer() -> CopyBuffer<Self> {
        CopyBuffer::of_bytes()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<Self>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        copy_buffer.with(|bytes| Self::read(bytes, decoder.until()))
    }
}

/// The reply of a callback: its result, or the failure that it reports instead. Bridges have no such failures.
pub struct CallbackReply<R>(pub Result<R, CallbackError>);

impl<R: Reply> Reply for CallbackReply<R> {
    type Copied = R::Copied;

    #[inline(always)]
    fn from_slot(line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_slot(line, payload, decoder).map(|value| Self(Ok(value)))
    }

    #[inline(always)]
    fn from_block(block: Block, loan_id: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_block(block, loan_id, decoder).map(|value| Self(Ok(value)))
    }

    fn copy_buffer() -> CopyBuffer<R::Copied> {
        R::copy_buffer()
    }

    fn from_copy_buffer(copy_buffer: CopyBuffer<R::Copied>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        R::from_copy_buffer(copy_buffer, decoder).map(|value| Self(Ok(value)))
    }

    fn from_failure(failure: CallbackError) -> Option<Self> {
        Some(Self(Err(failure)))
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
        let need = if is_flat { Need::default() } else { access_until::<R::Archived>(bytes, decoder.until())?.1 };
        let need = Need { is_trusted: decoder.pool().is_none(), ..need };
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
    copy_buffer.copy_up_to(span, decoder.until())?;
    copy_buffer.read(decoder)
}

// ---- replies that stay as they came ----------------------------------------------------------------------------------

/// A reply that stays as it came: bytes that end in a valid `A`, and that nobody writes while this exists.
pub struct ArchivedReply<A> {
    bytes: HeldBytes,
    /// Whether the peer is trusted to have written what its methods need.
    trusted: bool,
    /// As if the archive were in a box of its own.
    archive: PhantomData<Box<A>>,
}

/// Never changed, and not moved when a [`ArchivedReply`] is.
enum HeldBytes {
    /// A private copy, which the peer cannot write.
    Private(AlignedVec<ALIGN>),
    /// The peer's own, which it is trusted not to write.
    BorrowedBlock(BorrowedBlock),
}

impl<A: Checked> ArchivedReply<A> {
    /// Copies a reply out of memory that the peer may be writing, and validates the copy.
    fn copied(span: Span<'_>, decoder: &Decoder<'_>) -> Result<Self, Failure> {
        // Never without memory: an empty archive has its place too, which must be aligned for it.
        has_memory(span.len())?;
        let mut bytes = AlignedVec::with_capacity(span.len().max(1));
        while bytes.len() < span.len() {
            let end = span.len().min(bytes.len() + BYTES_A_LOOK);
            copy_behind(span.first(end).after(bytes.len()), &mut bytes);
            in_time(decoder.until())?;
        }
        Self::validated(bytes, decoder)
    }

    fn validated(bytes: AlignedVec<ALIGN>, decoder: &Decoder<'_>) -> Result<Self, Failure> {
        catch(|| access_until::<A>(&bytes, decoder.until()).map(drop))?;
        Ok(Self { bytes: HeldBytes::Private(bytes), trusted: decoder.trust.is_some(), archive: PhantomData })
    }

    /// The archive. Its being valid is not enough to let it out: its own methods must need no more than that.
    #[inline]
    pub fn get(&self) -> &A
    where
        A: Viewable,
    {
        self.archived()
    }

    /// The archive, if the peer is trusted.
    pub fn trusted(&self) -> Option<&A> {
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

impl<A: Checked> Reply for ArchivedReply<A> {
    type Copied = Self;

    fn from_slot(_line: &SlotLine, payload: Span<'_>, decoder: Decoder<'_>) -> Result<Self, Failure> {
        Self::copied(payload, &decoder)
    }

    fn from_block(block: Block, loan_id: u64, decoder: Decoder<'_>) -> Result<Self, Failure> {
        let kept =
            decoder.trust.and_then(|_| BorrowedBlock::take(block.clone(), LoanId::checked(loan_id)?, decoder.pool()?));
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
                in_time(decoder.until())?;
            }
            Self::validated(copy, &decoder)
        })
    }
}
