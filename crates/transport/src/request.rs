//! Requests, as the callee reads them: in place, because the caller is trusted not to write to them meanwhile.
//!
//! Relies on `archive` to validate them: the bytes are only as correct as the `Serialize` of the caller's types. Never copies.

use crate::archive::{access_until, copy_out};
use crate::bare::Plain;
use crate::commit::ALIGN;
use crate::copy_buffer::read_copy;
use crate::decoder::{Decoder, Transfer};
use crate::doorbell::Deadline;
use crate::encode::Encode;
use crate::reading::Need;
use crate::segment::Span;
use crate::validator::Checked;
use rkyv::Archive;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

/// The arguments of one method: a tuple of wrappers.
pub trait Request: Encode + Archive<Archived: Checked> {}

impl<T> Request for T
where
    T: Encode + Archive,
    T::Archived: Checked,
{
}

/// The payload of a request, which nobody writes while this exists.
///
/// Made by [`RequestSpan::trusted`]; holding it is the permission to read in place.
#[derive(Clone, Copy)]
pub struct RequestSpan<'a>(Span<'a>);

impl<'a> RequestSpan<'a> {
    /// The payload of a request that the peer sent.
    ///
    /// # Safety
    ///
    /// The peer must be one that this process trusts (its parent) not to write the bytes until the reply to this request is
    /// published, `'a` must end before that, and the span must be aligned to [`ALIGN`].
    #[inline(always)]
    pub unsafe fn trusted(span: Span<'a>) -> Self {
        Self(span)
    }

    /// No payload.
    pub fn none() -> Self {
        Self(Span::empty())
    }

    /// The payload of a request that has been copied.
    pub fn copied(bytes: &'a AlignedVec<ALIGN>) -> Self {
        Self(Span::of(bytes))
    }

    /// A private copy of the payload, which [`copied`](Self::copied) reads as this does.
    pub fn to_private(self) -> AlignedVec<ALIGN> {
        let mut copy = AlignedVec::new();
        copy_out(self.0, &mut copy);
        copy
    }

    /// Makes an `A` from the payload.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn take<A: Transfer>(self) -> Result<A, Failure> {
        read_copy(self.bytes(), Decoder::of_child())
    }

    /// Makes an `A` from a payload that is no archive.
    ///
    /// # Errors
    ///
    /// If the bytes make no sense.
    #[inline]
    pub fn take_bare<A: Plain>(self) -> Result<A, Failure> {
        A::read(self.bytes(), Deadline::NEVER)
    }

    /// Reads the payload as an archived `A`, in place.
    ///
    /// Validates it although the peer is trusted: the bytes are only as correct as the `Serialize` of the user's types,
    /// which is safe code. That costs about a nanosecond for numbers, and reads each byte of a text.
    ///
    /// # Errors
    ///
    /// If the bytes are no valid archive of `A`, or one that nests deeper than [`MAX_DEPTH`](crate::bounds::MAX_DEPTH).
    #[inline(always)]
    pub fn read<A: Request>(self) -> Result<(&'a A::Archived, Need), Failure> {
        access_until(self.bytes(), Deadline::NEVER)
    }

    #[inline(always)]
    fn bytes(self) -> &'a [u8] {
        // SAFETY: nobody writes the bytes during `'a`: the duty of whoever called `trusted`; `copied` has borrowed them.
        unsafe { self.0.as_bytes() }
    }
}
