//! Copies of an archive in which pairs are marked: each points to a place of its own, by which one sees whether it comes up as a collection.
//!
//! Relies on `pairs`. Writes to the copy alone; nothing is ever read at a place. Which pairs to mark, and what follows, is decided in `asking`.

#![forbid(unsafe_code)]

use super::archived_slices::{POINTER, STEP, pair, places};
use super::zst_budget::SMALL;
use crate::bounds::{BYTES_A_LOOK, MAX_MARKS, MAX_TARGETS};
use crate::commit::ALIGN;
use crate::doorbell::Deadline;
use rkyv::primitive::FixedIsize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// Places outside of a copied archive, before it, that pairs of it point to: the n-th from the end is that of the n-th mark.
pub(super) struct Marks {
    /// The address of the copy. What is before it is never touched.
    pub(super) start: usize,
    /// How far before the copy the places end.
    pub(super) gap: usize,
    pub(super) marks: Vec<Mark>,
    /// Objects, from where to where, in which something unmarked was counted.
    pub(super) counted_in: RefCell<BTreeMap<usize, usize>>,
}

pub(super) struct Mark {
    /// Where the pair is, and where it pointed to.
    at: usize,
    target: usize,
    pub(super) has_come_up: Cell<bool>,
}

/// How far apart the places are: aligned for everything.
pub(super) const PLACE: usize = ALIGN;

/// Ways to arrange the places that are tried.
const ARRANGEMENTS: usize = 32;

/// Where pairs are that are to be marked, and where they point to.
pub(super) type Suspects = BTreeMap<usize, usize>;

impl Marks {
    pub(super) fn new(suspects: &Suspects) -> Self {
        let marks = suspects.iter().map(|(&at, &target)| Mark { at, target, has_come_up: Cell::new(false) });
        Self { start: 0, gap: 0, marks: marks.collect(), counted_in: RefCell::default() }
    }

    /// Which mark has its place at `address`.
    fn at(&self, address: usize) -> Option<&Mark> {
        let distance = self.start.checked_sub(self.gap)?.checked_sub(address)?;
        let number = (distance / PLACE).checked_sub(1)?;
        distance.is_multiple_of(PLACE).then(|| self.marks.get(number)).flatten()
    }

    /// Notes that something at `address` is being validated. Whether that is the place of a mark.
    pub(super) fn comes_up(&self, address: usize) -> bool {
        self.at(address).is_some_and(|mark| !mark.has_come_up.replace(true))
    }

    /// Notes that something was counted in `object`.
    pub(super) fn counted_in(&self, object: Range<usize>) {
        let mut counted_in = self.counted_in.borrow_mut();
        if counted_in.len() < MAX_MARKS {
            counted_in.insert(object.start, object.end);
        }
    }

    /// Where the pair pointed to whose place is at `address`.
    pub(super) fn target(&self, address: usize) -> Option<usize> {
        self.at(address).map(|mark| mark.target)
    }

    /// Has every marked pair point to its place.
    pub(super) fn write(&self, trial: &mut Trial) -> Option<()> {
        for (number, mark) in (1..).zip(&self.marks) {
            let to = -((self.gap + number * PLACE) as isize);
            let pointer = FixedIsize::try_from(to.checked_sub(mark.at as isize)?).ok()?;
            trial.bytes_mut()[mark.at..][..POINTER].copy_from_slice(&pointer.to_le_bytes());
        }
        Some(())
    }

    /// A gap that leaves room for all places before the copy, none of which a word of it points to but the pair's that is marked for it. (A
    /// text's pointer counts from the word before.) Marks are in the order of their pairs.
    pub(super) fn free_gap(&self, bytes: &[u8], room: usize, until: Deadline) -> Option<usize> {
        // Gap after gap, the places are other ones: each word is in the way of one gap.
        let count = self.marks.len().max(1);
        let gap_of = |from: isize, pointer: FixedIsize| {
            let distance = usize::try_from(from.checked_add(pointer as isize)?.checked_neg()?).ok()?;
            let number = (distance / PLACE).checked_sub(1)?;
            distance.is_multiple_of(PLACE).then_some(number / count)
        };
        let is_marked = |at| self.marks.binary_search_by_key(&at, |mark| mark.at).is_ok();
        let mut taken = [false; ARRANGEMENTS];
        for at in (0..bytes.len()).step_by(STEP) {
            if at.is_multiple_of(BYTES_A_LOOK) && until.has_passed() {
                return None;
            }
            let Some(pointer) = bytes[at..].first_chunk::<POINTER>() else { break };
            let pointer = FixedIsize::from_le_bytes(*pointer);
            for from in [at as isize, at as isize - POINTER as isize] {
                if let Some(gap) = gap_of(from, pointer)
                    && gap < ARRANGEMENTS
                    && !is_marked(at)
                {
                    taken[gap] = true;
                }
            }
        }
        let gaps = (0..ARRANGEMENTS).map(|gap| gap * count * PLACE).zip(taken);
        let mut free = gaps.filter(|(gap, taken)| !taken && gap + count * PLACE <= room);
        free.next().map(|(gap, _)| gap)
    }
}

/// Adds pairs in `object` with `most` elements or fewer that point to where one with more than a few does too. None if they are too many. Not all of
/// them after the deadline.
pub(super) fn suspects(
    bytes: &[u8],
    object: Range<usize>,
    most: usize,
    found: &mut Suspects,
    until: Deadline,
) -> Option<()> {
    let is_all = object == (0..bytes.len());
    let pairs = || {
        let start = object.start;
        let pairs = places(bytes, object.clone(), until).filter_map(|at| Some((at, pair(bytes, at)?)));
        // Parts lie before what they are part of.
        pairs.filter(move |(at, (to, _))| (0..=if is_all { *at } else { start } as isize).contains(to))
    };
    let claimed = pairs().filter(|(_, (_, count))| *count > SMALL);
    let mut targets: Vec<isize> = claimed.map(|(_, (to, _))| to).take(MAX_TARGETS + 1).collect();
    targets.sort_unstable();
    let mut suspects = pairs().filter(|(_, (to, count))| *count <= most && targets.binary_search(to).is_ok());
    // Those that are known already are no more than the rest.
    found.extend(suspects.by_ref().take(MAX_MARKS + 1).map(|(at, (to, _))| (at, to as usize)));
    (targets.len() <= MAX_TARGETS && found.len() <= MAX_MARKS).then_some(())
}

/// A copy of an archive, with room for places before it, in one allocation: pointers to either may be formed.
pub(super) struct Trial {
    memory: Vec<u128>,
    /// Where the copy begins.
    pub(super) skip: usize,
    len: usize,
}

impl Trial {
    /// None if there is no memory for it, or no time.
    pub(super) fn of(bytes: &[u8], marks: usize, until: Deadline) -> Option<Self> {
        let skip = marks + (ARRANGEMENTS * marks).min(1 << 16);
        let units = skip + bytes.len().div_ceil(PLACE);
        let mut memory = Vec::new();
        memory.try_reserve_exact(units).ok()?;
        memory.resize(skip, 0);
        for piece in bytes.chunks(BYTES_A_LOOK) {
            let from = memory.len();
            memory.resize(from + piece.len().div_ceil(PLACE), 0);
            bytemuck::cast_slice_mut(&mut memory[from..])[..piece.len()].copy_from_slice(piece);
            if until.has_passed() {
                return None;
            }
        }
        Some(Self { memory, skip, len: bytes.len() })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory[self.skip..])[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory[self.skip..])[..self.len]
    }
}
