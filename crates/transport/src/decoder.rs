//! Makes values from validated archives, and defines which values can cross a bridge ([`Transfer`]).
//!
//! Relies on the archive having been validated. A decoder knows the limits of a reply: its deadline, the bytes of its boxes, and the pool that
//! they come from. Never reads memory that an untrusted peer may be writing.

use crate::doorbell::Deadline;
use crate::encode::Encode;
use crate::memory_pool::PoolHandle;
use crate::reading::{DecodeRefusal, refuse};
use crate::validator::Checked;
use rkyv::api::deserialize_using;
use rkyv::rancor::{Failure, Strategy};
use rkyv::{Archive, Deserialize};
use std::ops::Range;
use std::sync::Arc;

/// The context in which a value is made from its archive.
pub struct Decoder<'d> {
    /// The memory of the bridge that the archive came through; `None` in a child, which has only one.
    pool: Option<&'d Arc<dyn PoolHandle>>,
    /// Bytes of the peer's boxes that may still be copied.
    left: u64,
    /// The addresses of the frame: a box is made only from an archive inside them. `None` = from any.
    frame: Option<Range<usize>>,
    /// Whether a part of the value could not be made, and why.
    refused: Option<DecodeRefusal>,
    /// The deadline of the value.
    until: Deadline,
}

/// The user's promise that a peer does not write to what it has sent, and that what it sends is valid.
#[derive(Clone, Copy, Debug)]
pub struct TrustedPeer(());

impl TrustedPeer {
    /// # Safety
    ///
    /// The peer must not write to a block that it has lent or returned, nor to a frame that it has published, until it gets it back. Each of
    /// its frames must be a valid archive of the type that its reader expects.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// A [`Decoder`] as the deserializer that rkyv expects.
pub type Decoding<'d> = Strategy<Decoder<'d>, Failure>;

impl<'d> Decoder<'d> {
    /// For replies that came through a bridge, with boxes of at most `most` bytes together.
    #[inline(always)]
    pub fn of(pool: &'d Arc<dyn PoolHandle>, most: u64, until: Deadline) -> Self {
        Self { pool: Some(pool), left: most, frame: None, refused: None, until }
    }

    /// For frames in a child, and for private bytes: boxes come from the child's only pool.
    pub fn of_child() -> Self {
        Self { pool: None, left: u64::MAX, frame: None, refused: None, until: Deadline::NEVER }
    }

    /// The same, at another address: the compiler need not give the first one any.
    #[inline(always)]
    pub(crate) fn moved(self) -> Self {
        let Self { pool, left, frame, refused, until } = self;
        Self { pool, left, frame, refused, until }
    }

    /// The same decoder, for a frame in `bytes`.
    #[inline(always)]
    pub fn within(self, bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().addr();
        Self { frame: Some(start..start + bytes.len()), ..self }
    }

    /// Whether `part` lies in the frame that is being decoded.
    pub fn has<T>(&self, part: &T) -> bool {
        self.frame.as_ref().is_none_or(|frame| frame.contains(&std::ptr::from_ref(part).addr()))
    }

    pub fn pool(&self) -> Option<&'d Arc<dyn PoolHandle>> {
        self.pool
    }

    /// Notes that a part of the value cannot be made. The part's `Deserialize` calls this and returns a placeholder instead of an error: when an
    /// element of a vector or an array fails, rkyv leaks the elements before it, and with them their hold on the bridge.
    #[cold]
    pub fn refuse(&mut self, why: DecodeRefusal) {
        // `Invalid` is never overwritten: it convicts the peer, the others do not.
        if self.refused != Some(DecodeRefusal::Invalid) {
            self.refused = Some(why);
        }
    }

    /// The deadline of the value.
    pub fn until(&self) -> Deadline {
        self.until
    }

    /// The value of `archived`.
    ///
    /// # Errors
    ///
    /// If its own `Deserialize` fails, or a part of it was [refused](Self::refuse).
    #[inline(always)]
    pub fn make<R: Transfer>(mut self, archived: &R::Archived) -> Result<R, Failure> {
        match (deserialize_using::<R, _, Failure>(archived, &mut self), self.refused) {
            (Ok(value), None) => Ok(value),
            (_, why) => Err(refuse(why.unwrap_or_default())),
        }
    }

    /// # Errors
    ///
    /// If copying `len` more bytes exceeds the limit.
    pub(crate) fn may_copy(&mut self, len: u64) -> Result<(), Failure> {
        self.left = self.left.checked_sub(len).ok_or(Failure)?;
        Ok(())
    }
}

/// A value that can cross a bridge, in either direction: rkyv can archive it without shared pointers, validate the archive,
/// and make the value from it again.
///
/// Implemented for every such type; derive `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` for yours. Types with
/// `Rc` or `Arc` in them, references and raw pointers cannot cross.
///
/// # Limits
///
/// **Depth.** Pointers nest at most 256 levels deep: a list of 256 boxes behind a first one. The reading thread must also have 2 KiB of stack left
/// for each level, so that the value can be dropped there. A deeper value is refused after it has been written. The stack for writing has
/// 64 MiB, enough for tens of thousands of levels; a value that overflows it ends the process that writes it. In a process whose address
/// space or data is limited (`RLIMIT_AS`, `RLIMIT_DATA`, a sandbox's memory), that stack has a 64th of the limit, or the value is written on
/// the thread's own.
///
/// **Size on the stack.** A large array or struct is copied several times on the stacks of sender and receiver, without a check that there is
/// room. Beyond some 10 KiB, send a `Vec` or a `Box`.
///
/// **Elements without size.** Elements whose archives have no size (`()`, a struct all of whose fields are skipped) are limited to the
/// number of bytes in the value's archive, or 65,536 if that is more: otherwise a child could claim billions of them in a reply of 8 bytes.
/// Three other values can exceed this limit by mistake:
///
/// - an integer above the limit right behind an empty `IndexMap`, or behind a `Box` of a type without size: it is taken for a number of elements;
/// - such an integer in front of more than 131,072 empty collections in one vector;
/// - a vector with an empty collection and more than 16,777,216 collections that have elements.
///
/// A call with a value beyond these limits fails with [`CallError::TooDeep`](crate::error::CallError::TooDeep) or
/// [`CallError::TooMany`](crate::error::CallError::TooMany), which names the limit; the bridge stays usable.
///
/// **Exhausted ranges.** A `RangeInclusive` that was iterated to its end arrives as a fresh range, which yields its last element once more: rkyv
/// archives only the ends.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot cross a bridge to another process",
    label = "rkyv cannot archive this type",
    note = "derive `rkyv::Archive`, `rkyv::Serialize` and `rkyv::Deserialize` for it (see `callgate::Transfer`), or mark the method `#[bridge(skip)]`"
)]
pub trait Transfer: Sized + Send + Encode + Archive<Archived: Checked + Decode<Self> + Send> + 'static {}

#[diagnostic::do_not_recommend]
impl<T> Transfer for T
where
    T: Send + Encode + Archive + 'static,
    T::Archived: Checked + Decode<T> + Send,
{
}

/// An archived type from which a `T` can be made.
pub trait Decode<T>: for<'d> Deserialize<T, Decoding<'d>> {}

impl<T, A: for<'d> Deserialize<T, Decoding<'d>>> Decode<T> for A {}
