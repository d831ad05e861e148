//! Where the parts of an archive may lie, and how deep they may nest.
//!
//! Relies on `reading` for the limits. Looks only at addresses, never at bytes, and knows nothing of the other checks. Its fields are
//! private, so no other part can widen the bounds.
//!
//! The rules are those of rkyv's own validator. A part lies before the object that it belongs to, and no two parts share a byte. So the free bytes
//! are one range, from the end of the last validated part to the object that is being validated: the next part must lie in it.

#![forbid(unsafe_code)]

use crate::bounds::MAX_DEPTH;
use crate::reading::{self, DecodeRefusal, LEVELS_AT_ONCE, Need, copies, copies_of_leaf};
use rkyv::rancor::Failure;
use std::ops::Range;

const _: () = assert!(MAX_DEPTH.is_multiple_of(LEVELS_AT_ONCE));

/// The object that is being validated, and the range that is left for its parts.
pub(super) struct Bounds {
    /// The address of the archive.
    start: usize,
    /// The end of the last validated part. The object's next part begins here or later.
    low: usize,
    /// The addresses of the object being validated. Its parts end before it.
    object: Range<usize>,
    /// How many more levels may be entered without a look at the stack, and how many were granted in all.
    depth_left: usize,
    granted: usize,
    /// [`copies`] of the objects that the one being validated is a part of.
    outer: usize,
    need: Need,
}

impl Bounds {
    /// For an archive whose root is the last `root` bytes of `bytes`.
    #[inline(always)]
    pub(super) fn new(bytes: &[u8], root: usize) -> Self {
        let start = bytes.as_ptr().addr();
        let end = start + bytes.len();
        Self {
            start,
            low: start,
            object: end - root..end,
            depth_left: LEVELS_AT_ONCE,
            granted: LEVELS_AT_ONCE,
            outer: 0,
            need: Need::default(),
        }
    }

    /// Whether the object may have a part of `size` bytes at an address.
    #[inline(always)]
    pub(super) fn check(&self, start: usize, size: usize, align: usize) -> Result<(), Failure> {
        let end = start.checked_add(size).ok_or(Failure)?;
        let fits = start >= self.low && end <= self.object.start && start.is_multiple_of(align);
        fits.then_some(()).ok_or(Failure)
    }

    /// Goes on with a part of the object, at these addresses. Returns where the object lies, for [`pop`](Self::pop).
    ///
    /// # Errors
    ///
    /// If it lies too deep, or there is no stack for it.
    #[inline(always)]
    pub(super) fn push(&mut self, part: Range<usize>) -> Result<Range<usize>, DecodeRefusal> {
        if self.depth_left == 0 {
            self.enter_more_slow()?;
        }
        self.depth_left -= 1;
        self.outer += copies(self.object.len());
        self.need.levels = self.need.levels.max(self.granted - self.depth_left);
        self.need.copies = self.need.copies.max(self.outer + copies_of_leaf(part.len()));
        Ok(std::mem::replace(&mut self.object, part))
    }

    /// Goes back to what the object is a part of.
    #[inline(always)]
    pub(super) fn pop(&mut self, outer: Range<usize>) -> Result<(), Failure> {
        if outer.start < self.object.end {
            return Err(Failure);
        }
        self.low = self.object.end;
        self.outer -= copies(outer.len());
        self.object = outer;
        self.depth_left += 1;
        Ok(())
    }

    /// Has more levels entered, if there may be more and the stack has room for them.
    #[cold]
    fn enter_more_slow(&mut self) -> Result<(), DecodeRefusal> {
        match self.granted {
            MAX_DEPTH => Err(DecodeRefusal::Depth),
            _ if !reading::may_enter_more() => Err(DecodeRefusal::Stack { needed: 0, left: 0 }),
            _ => {
                self.granted += LEVELS_AT_ONCE;
                self.depth_left += LEVELS_AT_ONCE;
                Ok(())
            }
        }
    }

    /// What making the value needs, as far as the archive has been validated.
    #[inline(always)]
    pub(super) fn need(&self) -> Need {
        self.need
    }

    /// The address of the archive.
    #[inline(always)]
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// The address of the object.
    #[inline(always)]
    pub(super) fn object_start(&self) -> usize {
        self.object.start
    }

    /// Where the object lies in the archive.
    pub(super) fn object(&self) -> Range<usize> {
        self.object.start - self.start..self.object.end - self.start
    }

    /// Where in the archive its parts may begin.
    pub(super) fn low(&self) -> usize {
        self.low - self.start
    }
}
