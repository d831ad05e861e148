//! The limit on zero-sized elements that an archive may claim: its length in bytes, or [`ZERO_SIZED`] if that is more.
//!
//! Reads words of the archive, and counts. Only ever refuses: whether a part lies where it may is said by `bounds`, whatever is counted here.
//! Allocates once something without bytes comes up, in memory that the thread keeps.
//!
//! # An example
//!
//! A `Vec<()>` of three elements is an archive of 16 bytes. It is one pair {relative pointer, count}, and its elements are nowhere:
//!
//! | offset | word | |
//! |---|---|---|
//! | 0 | 0 | the pointer: to offset 0 + 0 |
//! | 8 | 3 | the count |
//!
//! rkyv asks the validator whether 0 bytes may be at offset 0, and goes through 3 elements. Now somebody writes 2^64 - 1 over the 3. The question is
//! the same, 0 bytes at offset 0, and so is the answer of `bounds`: nothing is outside of the archive. So we look for the count:
//!
//! - The object that is being validated is bytes 0 to 16. The one place in it for a pair is offset 0.
//! - The pair there points to offset 0, which is what we are asked about. It claims 2^64 - 1 elements, which is more than the few that are not counted.
//! - Counted are now 2^64 - 1. The archive may have 65,536 + 16 ([`ZERO_SIZED`], and its bytes). It is refused, before rkyv goes through any.
//!
//! A number may look like such a pair, beside an honest list that is empty. How that is told apart is shown in `asking`.
//!
//! # Why, and how
//!
//! Whoever validates a collection asks whether its bytes lie within the frame. 2^64 elements of no size have no bytes, so the answer is
//! yes, for 16 bytes of reply; then each is validated and made a value. A value need not be as small as its archive
//! (`#[rkyv(with = Skip)]`), and the parent would ask for gigabytes. The count is not told to us: we see an address and a size of 0,
//! which is also what an honest empty collection looks like. But the count lies in the object that is being validated, behind a relative
//! pointer to that address. So when something without bytes comes up, the object is searched, once, for pairs {relative pointer to
//! that address, count}. Each element counts as a byte: there may be as many as the frame has bytes (or [`ZERO_SIZED`]). Collections with bytes that begin at the same address are counted too, but
//! never are more than those bytes, so that is added to the bound. All this before anything is done with the elements.
//!
//! Hash tables and B-trees need no such care: each of their buckets, and each node of at most a few entries, has bytes, whatever the elements.

#![forbid(unsafe_code)]

use super::archived_slices::{ArchivedSlice, pair, places};
use crate::bounds::{MAX_PAIRS, ZERO_SIZED};
use crate::doorbell::Deadline;
use rkyv::primitive::FixedUsize;
use std::cell::Cell;
use std::ops::Range;

/// Pairs with no more elements are not counted: each has as many bytes itself.
pub(super) const SMALL: usize = size_of::<ArchivedSlice>();

/// The budget of zero-sized elements of an archive.
pub(super) struct ZstBudget {
    pub(super) counted: usize,
    pub(super) most: usize,
    /// Whether more pairs were found than [`MAX_PAIRS`] or memory allows.
    pub(super) is_full: bool,
    /// Once there was something to look for.
    scans: Option<Box<Scans>>,
}

/// The pairs found in the objects under validation, outermost first.
#[derive(Default)]
struct Scans {
    objects: Vec<Scan>,
    /// Sorted by target within each object, object after object.
    found: Vec<Found>,
}

struct Scan {
    object: usize,
    /// Where in `found` its pairs begin.
    from: usize,
}

/// A pair with more than [`SMALL`] elements: its target and its count, which is 0 once counted.
#[derive(Clone, Copy)]
struct Found {
    target: FixedUsize,
    count: FixedUsize,
}

thread_local! {
    /// What this thread's last scans were written to. Taken while in use, so that a type's own code may validate something else.
    static KEPT: Cell<Option<Box<Scans>>> = const { Cell::new(None) };
}

/// The maximum number of pairs for which a thread keeps memory.
const KEPT_PAIRS: usize = 1 << 12;

impl ZstBudget {
    /// The budget of an archive of `len` bytes.
    #[inline(always)]
    pub(super) fn new(len: usize) -> Self {
        Self { counted: 0, most: len.max(ZERO_SIZED) + len, is_full: false, scans: None }
    }

    /// Whether it holds memory.
    #[inline(always)]
    pub(super) fn has_scans(&self) -> bool {
        self.scans.is_some()
    }

    /// Whether more elements were counted than allowed.
    #[inline(always)]
    pub(super) fn is_over(&self) -> bool {
        self.counted > self.most
    }

    /// Counts what `object` may have at `target`, where there are no bytes. Whether there is nothing to count anywhere in it.
    #[cold]
    pub(super) fn count_slow(&mut self, bytes: &[u8], object: Range<usize>, low: usize, target: usize) -> bool {
        let scans = self.scans.get_or_insert_with(|| KEPT.try_with(Cell::take).ok().flatten().unwrap_or_default());
        let (Some(found), Ok(target)) = (scans.of(bytes, object, low), FixedUsize::try_from(target)) else {
            self.is_full = true;
            return false;
        };
        let first = found.partition_point(|found| found.target < target);
        // All that point to one address are counted together, and none was 0: each is looked at once, and once more as the first.
        for found in found[first..].iter_mut().take_while(|found| found.target == target && found.count > 0) {
            self.counted = self.counted.saturating_add(std::mem::take(&mut found.count) as usize);
        }
        found.is_empty()
    }
}

impl Drop for ZstBudget {
    // Inlined, so that nothing of a validator is left where there is nothing to validate.
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(scans) = self.scans.take() {
            scans.keep_slow();
        }
    }
}

impl Scans {
    /// Keeps the allocation for the thread's next scan, unless it is large.
    #[cold]
    fn keep_slow(mut self: Box<Self>) {
        if self.found.capacity() <= KEPT_PAIRS {
            self.objects.clear();
            self.found.clear();
            let _ = KEPT.try_with(|kept| kept.set(Some(self)));
        }
    }

    /// The pairs of `object`, the innermost, that may matter from now on: those that point to `low` or behind, and before it. None if they
    /// are too many to note.
    fn of(&mut self, bytes: &[u8], object: Range<usize>, low: usize) -> Option<&mut [Found]> {
        // What has been validated lies before what is being validated; what that is part of, behind it.
        while let Some(scan) = self.objects.pop_if(|scan| scan.object < object.start) {
            self.found.truncate(scan.from);
        }
        if self.objects.last().is_none_or(|scan| scan.object != object.start) {
            let from = self.found.len();
            self.objects.push(Scan { object: object.start, from });
            let allowed = low as isize..=object.start as isize;
            let pairs = places(bytes, object, Deadline::NEVER).filter_map(|at| pair(bytes, at));
            let mattering = pairs.filter(|(to, count)| *count > SMALL && allowed.contains(to));
            let most = MAX_PAIRS.min(ZERO_SIZED.max(bytes.len() / size_of::<ArchivedSlice>()));
            for (to, count) in mattering {
                (self.found.len() < most && self.found.try_reserve(1).is_ok()).then_some(())?;
                self.found.push(Found { target: to.try_into().ok()?, count: count.try_into().ok()? });
            }
            self.found[from..].sort_unstable_by_key(|found| found.target);
        }
        let from = self.objects.last().map_or(0, |scan| scan.from);
        Some(&mut self.found[from..])
    }
}
