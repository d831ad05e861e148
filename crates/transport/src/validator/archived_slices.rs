//! Pairs {relative pointer, count} in the bytes of an archive, which is what a collection is there: where they may lie, and what they say.
//!
//! Reads words within the bytes, whatever these are. Knows nothing of types: numbers may look like a pair.

#![forbid(unsafe_code)]

use crate::bounds::BYTES_A_LOOK;
use crate::commit::ALIGN;
use crate::doorbell::Deadline;
use rkyv::boxed::ArchivedBox;
use rkyv::primitive::{ArchivedIsize, ArchivedUsize, FixedIsize, FixedUsize};
use rkyv::vec::ArchivedVec;
use std::ops::Range;

/// A slice as it is archived, in vectors and boxes.
pub(super) type ArchivedSlice = ArchivedVec<u8>;
pub(super) const POINTER: usize = size_of::<ArchivedIsize>();
pub(super) const COUNT: usize = size_of::<ArchivedUsize>();
/// Where pairs may lie.
pub(super) const STEP: usize = align_of::<ArchivedSlice>();

const _: () = assert!(size_of::<ArchivedSlice>() == POINTER + COUNT && POINTER == COUNT);
const _: () = assert!(size_of::<FixedIsize>() == POINTER && size_of::<FixedUsize>() == COUNT);
const _: () =
    assert!(size_of::<ArchivedBox<[u8]>>() == size_of::<ArchivedSlice>() && align_of::<ArchivedBox<[u8]>>() == STEP);
const _: () = assert!(STEP.is_power_of_two() && ALIGN.is_multiple_of(STEP) && POINTER.is_multiple_of(STEP));

/// The pair at offset `at`: where it points to, as an offset too, and how many elements it claims.
#[inline]
pub(super) fn pair(bytes: &[u8], at: usize) -> Option<(isize, usize)> {
    let pointer = bytes.get(at..)?.first_chunk::<POINTER>()?;
    let count = bytes.get(at + POINTER..)?.first_chunk::<COUNT>()?;
    let to = (at as isize).checked_add(FixedIsize::from_le_bytes(*pointer) as isize)?;
    Some((to, FixedUsize::from_le_bytes(*count) as usize))
}

/// Every place in `range` at which a pair may begin that lies wholly in it. Offsets count from an aligned address, or from one that is as much
/// off as every pair's. Ends when the deadline passes, looked at every [`BYTES_A_LOOK`].
pub(super) fn places(bytes: &[u8], range: Range<usize>, until: Deadline) -> impl Iterator<Item = usize> {
    let skew = bytes.as_ptr().addr() % STEP;
    let first = (range.start + skew).next_multiple_of(STEP) - skew;
    let end = (range.end + 1).saturating_sub(size_of::<ArchivedSlice>());
    let in_time = move |at: &usize| !(at - first).is_multiple_of(BYTES_A_LOOK) || !until.has_passed();
    (first..end.max(first)).step_by(STEP).take_while(in_time)
}
