//! Validates archives before they are read. Its parts, the most important first:
//!
//! - `bounds`: where the parts of an archive may lie, and how deep. It alone accepts anything that has bytes, and its fields are private.
//! - `zst_budget`: how many elements without size there may be, which bounds cannot limit. It opens with an example.
//! - `tables`: hash tables without an end, which are read beyond the bytes that they ask for.
//! - `archived_slices`, `marks`, `asking`: which words of an archive look like collections, and how the type is asked whether they are.
//! - `validate`: one walk through the archive if nothing is doubtful, and the steps to take otherwise.
//!
//! Contains `unsafe` code: bytes that it accepts are read as their type. Never writes to the archive. Allocates only for frames in
//! which an empty collection lies beside ones with elements, in memory that the thread keeps.
//!
//! The parts after `bounds` only add refusals, with one exception: on a marked copy, an object without bytes may lie at a mark, where
//! nothing is read. No copy decides what is read: the archive itself is validated afterwards, without marks.

mod bounds;
mod archived_slices;
mod zst_budget;
mod tables;
mod marks;
mod root_type;
mod asking;
pub(crate) mod validate;

use self::archived_slices::{ArchivedSlice, COUNT};
use self::bounds::Bounds;
use self::marks::Marks;
use self::tables::{RUNAWAY, Tables, runaways};
use self::zst_budget::ZstBudget;
use crate::bounds::{MAX_TABLES, PARTS_A_LOOK};
use crate::doorbell::Deadline;
use crate::reading::DecodeRefusal;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{self, Failure};
use rkyv::validation::ArchiveContext;
use std::alloc::Layout;
use std::ops::Range;

/// A [`Validator`] as the context that rkyv expects.
pub(crate) type Validation<'v> = rancor::Strategy<Validator<'v>, Failure>;

/// Validates one archive, by the rules of rkyv's own validator: a part lies before the object that it belongs to, and no two parts share a byte.
pub struct Validator<'v> {
    bytes: &'v [u8],
    bounds: Bounds,
    /// Parts left to enter before the next look at the clock.
    unclocked: u32,
    until: Deadline,
    /// Why validation failed, if not because the archive is invalid.
    refusal: DecodeRefusal,
    /// Where an object begins in which no pair has elements; 0 = none is known.
    clean: usize,
    claims: ZstBudget,
    tables: Tables,
    marks: Option<&'v Marks>,
}

impl<'v> Validator<'v> {
    /// For an archive whose root is the last `root` bytes of `bytes`.
    #[inline(always)]
    pub(crate) fn new(bytes: &'v [u8], root: usize) -> Self {
        Self {
            bytes,
            bounds: Bounds::new(bytes, root),
            unclocked: PARTS_A_LOOK,
            until: Deadline::NEVER,
            refusal: DecodeRefusal::Invalid,
            clean: 0,
            claims: ZstBudget::new(bytes.len()),
            tables: Tables::Unknown,
            marks: None,
        }
    }

    /// Drops it. Of a type without parts nothing was noted: then the compiler sees that it holds nothing, and never makes it, where the drop that it would
    /// write may be a call (50 instructions).
    #[inline(always)]
    fn end(self) {
        if matches!(self.tables, Tables::Suspects(_)) || self.claims.has_scans() {
            drop(self);
        } else {
            std::mem::forget(self);
        }
    }

    /// Looks at the clock.
    #[cold]
    fn look_at_clock_slow(&mut self) -> Result<(), Failure> {
        self.unclocked = PARTS_A_LOOK;
        if self.until.has_passed() {
            self.refusal = DecodeRefusal::Late;
            return Err(Failure);
        }
        Ok(())
    }

    /// Why validation failed.
    #[inline(always)]
    fn why(&self) -> Why {
        match self.tables {
            Tables::Doubtful(at) => Why::Runaway(at),
            _ if self.claims.is_over() => Why::Over,
            _ => Why::Refused(self.refusal),
        }
    }

    /// Whether something without bytes may be at `address`.
    #[inline(never)]
    fn check_empty(&mut self, address: usize, align: usize) -> Result<(), Failure> {
        if self.marks.is_some_and(|marks| marks.comes_up(address)) {
            return Ok(());
        }
        self.bounds.check(address, 0, align)?;
        if self.clean == self.bounds.object_start() {
            return Ok(());
        }
        let (object, low) = (self.bounds.object(), self.bounds.low());
        let before = self.claims.counted;
        if self.claims.count_slow(self.bytes, object.clone(), low, address - self.bounds.start()) {
            self.clean = self.bounds.object_start();
        }
        if let Some(marks) = self.marks
            && self.claims.counted > before
        {
            marks.counted_in(object);
        }
        if self.claims.is_over() || self.claims.is_full { Err(Failure) } else { Ok(()) }
    }

    /// Whether 15 bytes may come up at `address`: not if they may be those of a table without end that lies in the object.
    #[cold]
    fn check_table_slow(&mut self, address: usize) -> Result<(), Failure> {
        if matches!(self.tables, Tables::Unknown) {
            let mut suspects: Vec<_> = runaways(self.bytes, self.until).take(MAX_TABLES + 1).collect();
            let is_late = self.until.has_passed();
            if is_late || suspects.len() > MAX_TABLES {
                self.refusal = if is_late { DecodeRefusal::Late } else { DecodeRefusal::Elements };
                return Err(Failure);
            }
            suspects.sort_unstable();
            self.tables = if suspects.is_empty() { Tables::Bounded } else { Tables::Suspects(suspects) };
        }
        let suspects = match &self.tables {
            Tables::Suspects(suspects) => suspects,
            Tables::Unknown | Tables::Bounded => return Ok(()),
            Tables::Doubtful(_) => return Err(Failure),
        };
        let target = address.checked_sub(self.bounds.start()).ok_or(Failure)?;
        let object = self.bounds.object();
        let at_target = &suspects[suspects.partition_point(|(to, _)| *to < target)..];
        let mut inside = at_target.iter().take_while(|(to, _)| *to == target).map(|(_, at)| *at);
        // Those that point there are looked at one after another: parts share no byte, so it comes up once.
        match inside.find(|at| object.start + size_of::<ArchivedSlice>() <= *at && at + COUNT <= object.end) {
            Some(at) => {
                self.tables = Tables::Doubtful(at);
                Err(Failure)
            }
            None => Ok(()),
        }
    }
}

// SAFETY: `check_subtree_ptr` says yes only to addresses within the archive's bytes that are aligned and belong to nothing validated
// before or now under way; or, of something without bytes, to the place of a mark, which is aligned for every archive and not null. What
// reads on beyond what it has asked for, a hash table without end, is not told yes: see `tables`.
unsafe impl ArchiveContext<Failure> for Validator<'_> {
    #[inline]
    fn check_subtree_ptr(&mut self, part: *const u8, layout: &Layout) -> Result<(), Failure> {
        let (start, size) = (part.addr(), layout.size());
        if size == 0 {
            return self.check_empty(start, layout.align());
        }
        if size == RUNAWAY && !matches!(self.tables, Tables::Bounded) {
            self.check_table_slow(start)?;
        }
        self.bounds.check(start, size, layout.align())
    }

    #[inline]
    unsafe fn push_subtree_range(&mut self, root: *const u8, end: *const u8) -> Result<Range<usize>, Failure> {
        let mut part = root.addr()..end.addr();
        if let Some(target) = self.marks.and_then(|marks| marks.target(part.start)) {
            // Something without bytes. It is validated as if it lay where the pair pointed to.
            part = self.bounds.start() + target..self.bounds.start() + target;
        }
        if self.unclocked == 0 {
            self.look_at_clock_slow()?;
        }
        self.unclocked -= 1;
        self.bounds.push(part).map_err(|refusal| {
            self.refusal = refusal;
            Failure
        })
    }

    #[inline]
    unsafe fn pop_subtree_range(&mut self, outer: Range<usize>) -> Result<(), Failure> {
        self.bounds.pop(outer)
    }
}

/// Why validation stopped.
#[derive(Clone, Copy)]
enum Why {
    /// There may be too many elements without size.
    Over,
    /// There may be a hash table without end, whose capacity is there.
    Runaway(usize),
    Refused(DecodeRefusal),
}

/// An archived type that can be validated.
pub trait Checked: for<'a> CheckBytes<Validation<'a>> {}

impl<T: for<'a> CheckBytes<Validation<'a>>> Checked for T {}

#[cfg(all(test, not(loom)))]
mod tests;
