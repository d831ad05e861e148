//! Asks the type which pairs of an archive are collections, when more elements of no size were counted than there may be.
//!
//! Relies on `marks`, and validates marked copies. Never says that an archive is valid: whoever asks validates it once more, for bounds and depth.
//!
//! # An example
//!
//! `{ id: 0, count: 100_000, items: [] }` is an archive of 32 bytes:
//!
//! | offset | word | |
//! |---|---|---|
//! | 0 | 0 | `id` |
//! | 8 | 100,000 | `count` |
//! | 16 | -16 | the pointer of `items`: to offset 16 - 16 |
//! | 24 | 0 | the count of `items` |
//!
//! `items` comes up as 0 bytes at offset 0. The first two words look like a pair that points there too, with 100,000 elements, and that is more than
//! there may be (`zst_budget`). So on a copy the pair at 16, which has no elements and shares its address, is made to point to a place before
//! the copy. The copy is validated, and what comes up is that place: what is being validated is the pair at 16, which is empty. A list of 100,000
//! would have come up at offset 0, unmarked, and would have been refused.
//!
//! # How, and why nobody gets around it
//!
//! It may be that a pair is no collection but numbers that look like one: `{ id: 0, count: 100_000,
//! items: [] }`. Bytes alone cannot tell, so the type is asked, on a copy ([`Marks`]): every pair *without* elements that shares its
//! address with one that has some is made to point to a place of its own. If what comes up has such a place, then what is being
//! validated is that pair, which has no elements (or a few). If what comes up is unmarked still, it is counted, and refused. A mark
//! may spoil what chooses a variant (0, at the start of an object, looks like a pointer to there): then that is not marked, and it is
//! asked again, a few times at most ([`ROUNDS`]).
//!
//! **Why nobody gets around that.** A liar may lay a pair without elements over, say, the tag of an enum, so that marking it leads
//! validation to another variant. So it is done twice: the second time, only the pairs that came up are marked, on a fresh copy, and
//! all must come up again, in places to which no other word of the copy points. Then each marked word was read as the pointer of a
//! collection at least once; in one walk through typed memory, no word is read as two things; so no marked word was read as anything
//! else, what the walk did never depended on the marks, and the walk through the frame itself is the same, with the same collections at each step.
//! Should that be wrong after all, then only a count is wrong: the frame itself is validated once more, for bounds and depth, in any case.
//!
//! What is refused though it is honest: more elements of no size than [`ZERO_SIZED`](crate::bounds::ZERO_SIZED) and the frame's bytes; a number
//! above that right behind a pointer that is not a slice's, to something without bytes (`Box<()>`, an empty `IndexMap`); in frames in which
//! numbers look like too many, more than [`MAX_MARKS`](crate::bounds::MAX_MARKS) empty collections at the addresses in question, or more than [`ROUNDS`] objects
//! each of which must be marked differently; and beside something empty, more collections of more than a few elements than `MAX_PAIRS` of `zst_budget`.

#![forbid(unsafe_code)]

use super::Validator;
use super::marks::{Marks, PLACE, Suspects, Trial, suspects};
use super::root_type::RootType;
use super::zst_budget::SMALL;
use crate::doorbell::Deadline;
use rkyv::rancor::Failure;
use std::collections::{BTreeMap, BTreeSet};

/// How often what to mark is made better before something else is tried. The frame is copied and validated no more than 4 x this + 1 times.
const ROUNDS: usize = 6;

/// Why a marked copy failed validation.
struct Spoilt {
    /// The objects in which elements were counted, if the count was too high; `None` for any other failure.
    counted_in: Option<BTreeMap<usize, usize>>,
    /// The start of the object under validation.
    object: usize,
}

/// Asks the type which pairs of the archive are collections. `Ok` if those that come up where there are no bytes, and that share their
/// address with ones that would be too many, have no elements, or few.
pub(super) fn ask(root: RootType, bytes: &[u8], until: Deadline) -> Result<(), Failure> {
    // Few marks are better than many, as each that is none of a collection may spoil something that is needed on the way: those in the
    // objects in question first. And those of a few elements only if need be: if they are of a size, they are looked for where they are not.
    let by_object = || [0, SMALL].into_iter().find_map(|most| marked(root, bytes, most, Suspects::new(), until));
    let everywhere = |most| {
        let mut found = Suspects::new();
        suspects(bytes, 0..bytes.len(), most, &mut found, until)?;
        (!found.is_empty()).then(|| marked(root, bytes, most, found, until)).flatten()
    };
    let marked = by_object().or_else(|| [0, SMALL].into_iter().find_map(everywhere));
    confirm(root, bytes, marked.ok_or(Failure)?, until)
}

/// Marks what may be without elements, or with `most`: what has been found, and what there is in objects that were counted in, until nothing is
/// too many any more. The marks that came up.
fn marked(root: RootType, bytes: &[u8], most: usize, mut found: Suspects, until: Deadline) -> Option<Marks> {
    let is_everywhere = !found.is_empty();
    let mut spared = BTreeSet::new();
    for _ in 0..ROUNDS {
        if until.has_passed() {
            return None;
        }
        let spoilt = match marked_with(root, bytes, Marks::new(&found), until)? {
            Ok(marks) => return Some(marks),
            Err(spoilt) => spoilt,
        };
        let before = found.len();
        for (start, end) in spoilt.counted_in.into_iter().flatten() {
            suspects(bytes, start..end, most, &mut found, until)?;
        }
        found.retain(|at, _| !spared.contains(at));
        if found.len() == before {
            // What chooses a variant is 0 in many a value, and at the start of an object looks like a pointer to what is there.
            let is_spared = |at, target| at == target && (is_everywhere || at == spoilt.object);
            found.retain(|at, target| !is_spared(*at, *target) || !spared.insert(*at));
            if found.len() == before {
                return None;
            }
        }
    }
    None
}

/// Validates a copy that is marked so: the marks that came up if it is valid. None if there is no memory for it.
fn marked_with(root: RootType, bytes: &[u8], mut marks: Marks, until: Deadline) -> Option<Result<Marks, Spoilt>> {
    let mut trial = Trial::of(bytes, marks.marks.len(), until)?;
    marks.start = trial.bytes().as_ptr().addr();
    marks.write(&mut trial)?;
    if let Err((is_over, object)) = walk(root, &trial, &marks, until) {
        return Some(Err(Spoilt { counted_in: is_over.then(|| marks.counted_in.take()), object }));
    }
    marks.marks.retain(|mark| mark.has_come_up.take());
    Some(Ok(marks))
}

/// Validates a copy on which only what came up is marked, in places that nothing else points to. All must come up again.
fn confirm(root: RootType, bytes: &[u8], mut marks: Marks, until: Deadline) -> Result<(), Failure> {
    let mut trial = Trial::of(bytes, marks.marks.len(), until).ok_or(Failure)?;
    marks.start = trial.bytes().as_ptr().addr();
    marks.gap = marks.free_gap(bytes, trial.skip * PLACE, until).ok_or(Failure)?;
    marks.write(&mut trial).ok_or(Failure)?;
    walk(root, &trial, &marks, until).map_err(|_| Failure)?;
    marks.marks.iter().all(|mark| mark.has_come_up.get()).then_some(()).ok_or(Failure)
}

/// Validates the copy. What comes up unmarked is counted as ever. If it is not valid: whether for something counted, and in which object.
fn walk(root: RootType, trial: &Trial, marks: &Marks, until: Deadline) -> Result<(), (bool, usize)> {
    let mut validator = Validator { marks: Some(marks), until, ..Validator::new(trial.bytes(), root.size) };
    let checked = root.walk(&mut validator);
    checked.map_err(|Failure| (validator.claims.is_over(), validator.bounds.object().start))
}
