//! Hash tables without end: what in an archive may be one.
//!
//! Reads words of the archive within its bytes. Only names suspects, and never says yes to a part: `check_table_slow` of the validator stops at one, and
//! `validate` then asks the type, on a copy.
//!
//! # What they are, and why none gets through
//!
//! rkyv reads a hash table of up to its capacity, after asking for its entries and its control bytes: as many as the capacity, rounded up to 16, and
//! 15. From a capacity of 2^64 - 15 on, the rounding wraps to 0 if overflow is not checked. Entries of some size are too many before that. A
//! table whose entries have none asks for 15 bytes, gets them, and reads on beyond the frame. No honest table asks for fewer than 31; but 15
//! bytes may be a list or a box, too. So when 15 bytes come up, the object that is being validated is searched (in fact the archive, once) for three
//! words {relative pointer to them, anything, 2^64 - 15 or more}, which is what such a table is ([`runaways`]). Without them it is none. With
//! them, it may still be something honest, as `(vec![1u8; 15], -1i64)`, or a vector before an empty text. So the type is asked, on a
//! copy, in which bit 32 of such third words is cleared, and where no unmarked one may come up:
//!
//! - The copy has no such table, so it can be validated. A table that was one has a capacity of some 2^64 - 2^32 there, whose control bytes are
//!   more than a [`Layout`](std::alloc::Layout) may have: the copy is not valid, and the archive is refused.
//! - If the copy is valid, the walk through the archive is the same, and meets no such table. For what a walk does depends on words in these ways
//!   only, and none tells one of -15 ..= -1 from the same less 2^32. As a pointer, or as how many bytes or elements of some size there are, both are
//!   beyond every archive of less than 4 GiB (others are refused), or the one points into the object that it is part of: the archive is not valid, with or without the copy.
//!   As how many of no size, both are counted alike. As what chooses a variant: who has parts is aligned to [`STEP`](super::archived_slices::STEP), as they are behind
//!   pointers, and begins with what chooses, of 4 bytes at most. As what stands for `None`: neither is 0, or a pointer to nowhere; both are NaN,
//!   and neither is a bool. As control bytes: none of either is that of an entry. As a text in place: it ends before.
//!
//! That argument is about the types of rkyv and what is derived from them. Who writes a `Niching` or a `CheckBytes` by hand that takes -1 and -1 - 2^32 to
//! begin with different parts, one of them a table whose entries have no size, is not protected. What is refused though it is
//! honest: more than [`TABLE_ROUNDS`](crate::bounds::TABLE_ROUNDS) lists of 15 bytes before numbers from -15 to -2; and in an archive with such a list before -1 or an empty
//! text, a pointer of -1 (a part of one byte, at an odd address) two words behind what looks like a pointer.

#![forbid(unsafe_code)]

use super::archived_slices::{ArchivedSlice, COUNT, pair, places};
use crate::doorbell::Deadline;
use rkyv::primitive::FixedUsize;

/// What in an archive may be a hash table without end.
pub(super) enum Tables {
    /// Not looked for.
    Unknown,
    /// Nothing is.
    Bounded,
    /// [`runaways`], in order.
    Suspects(Vec<(usize, usize)>),
    /// This has come up: where its capacity is.
    Doubtful(usize),
}

/// What a hash table asks for whose capacity wraps, if its entries have no size: so many bytes.
pub(super) const RUNAWAY: usize = 15;

const _: () =
    assert!(size_of::<rkyv::collections::swiss_table::ArchivedHashSet<()>>() == size_of::<ArchivedSlice>() + COUNT);

/// What may be tables without end: where they point to, and where the capacity is. Not all of it after the deadline.
pub(super) fn runaways(bytes: &[u8], until: Deadline) -> impl Iterator<Item = (usize, usize)> {
    places(bytes, 0..bytes.len(), until).filter_map(|at| {
        let capacity = FixedUsize::from_le_bytes(*bytes.get(at + size_of::<ArchivedSlice>()..)?.first_chunk()?);
        if capacity <= FixedUsize::MAX - RUNAWAY as FixedUsize {
            return None;
        }
        let to = usize::try_from(pair(bytes, at)?.0).ok()?;
        (to + RUNAWAY <= at).then_some((to, at + size_of::<ArchivedSlice>()))
    })
}
