//! Makes values of validated archives, and says which values can cross at all.
//!
//! Relies on the archive having been validated. A decoder knows what a reply may take: time, bytes of boxes, the memory that it came by. Never
//! reads memory that an untrusted peer may be writing.

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

/// What values are made with of their archives.
pub struct Decoder<'d> {
    /// The memory of the bridge that the archive came by; `None` in a child, which has but one.
    pool: Option<&'d Arc<dyn PoolHandle>>,
    /// Bytes that may yet be copied out of what the peer lends.
    left: u64,
    /// The addresses of the frame, so that boxes are made of what came with it and nothing else; `None` in a child.
    frame: Option<Range<usize>>,
    /// Whether a part of the value could not be made, and why.
    refused: Option<DecodeRefusal>,
    /// When nobody wants the value any more.
    until: Deadline,
}

/// The word that a peer keeps its hands off what it has given away, and that what it sends is valid.
#[derive(Clone, Copy, Debug)]
pub struct TrustedPeer(());

impl TrustedPeer {
    /// # Safety
    ///
    /// The peer that it is used for must not write to a block that it has lent or sent home, nor to a frame that it has published, until it
    /// is given back; and every frame of it must be a valid archive of what its reader takes it for.
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// A [`Decoder`] as rkyv wants it.
pub type Decoding<'d> = Strategy<Decoder<'d>, Failure>;

impl<'d> Decoder<'d> {
    /// Of replies that came by a bridge, whose boxes together have at most `most` bytes, and which are wanted until a deadline.
    #[inline(always)]
    pub fn of(pool: &'d Arc<dyn PoolHandle>, most: u64, until: Deadline) -> Self {
        Self { pool: Some(pool), left: most, frame: None, refused: None, until }
    }

    /// Of what a child got from its parent.
    pub fn of_child() -> Self {
        Self { pool: None, left: u64::MAX, frame: None, refused: None, until: Deadline::NEVER }
    }

    /// The same, of a frame that lies in `bytes`.
    #[inline(always)]
    pub fn within(self, bytes: &[u8]) -> Self {
        let start = bytes.as_ptr().addr();
        Self { frame: Some(start..start + bytes.len()), ..self }
    }

    /// Whether `part` is of the frame that is being decoded.
    pub fn has<T>(&self, part: &T) -> bool {
        self.frame.as_ref().is_none_or(|frame| frame.contains(&std::ptr::from_ref(part).addr()))
    }

    pub fn pool(&self) -> Option<&'d Arc<dyn PoolHandle>> {
        self.pool
    }

    /// A part of the value cannot be made. To be said instead of returning an error, with a part that stands for it: when a part of
    /// a vector or an array fails, rkyv forgets those before it, and with them what they hold of the bridge.
    #[cold]
    pub fn refuse(&mut self, why: DecodeRefusal) {
        // What no honest peer sends outweighs what any may.
        if self.refused != Some(DecodeRefusal::Invalid) {
            self.refused = Some(why);
        }
    }

    /// When nobody wants the value any more.
    pub fn until(&self) -> Deadline {
        self.until
    }

    /// The value that `archived` stands for.
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
/// 16,777,216 that have elements. A call with a value beyond these limits fails with [`CallError::TooDeep`](crate::error::CallError::TooDeep) or
/// [`CallError::TooMany`](crate::error::CallError::TooMany), which names the limit, and the bridge goes on.
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
