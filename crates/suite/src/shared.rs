//! Shared memory for the floors: two lines through which a token goes back and forth, and two areas for bytes or a ring of numbers.
//!
//! Both sides are this program and trust each other: the side with the token writes, and the other side reads nothing meanwhile.
//! A reference to bytes exists only while the side with the token sums them.

#![allow(unsafe_code, reason = "the memory is another process's too")]

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::{ptr, slice};

/// A line that one side writes and the other awaits. Aligned to two cache lines, because prefetchers fetch lines in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(crate) struct SharedLine {
    /// Changes with each turn.
    pub(crate) token: AtomicU32,
    /// The number of bytes of the area that belong to this turn.
    pub(crate) len: AtomicU32,
    /// The answer of this turn, if it is a number.
    pub(crate) sum: AtomicU64,
}

/// A number in a ring, with its place in the stream.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SharedNumber {
    /// One more than how many numbers came before it; 0 if there is none yet.
    pub(crate) sequence: AtomicU64,
    pub(crate) number: AtomicU64,
}

/// The two directions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    There = 0,
    Back = 1,
}

/// The offset of the areas, in bytes: the lines come before them.
const LINES: usize = 4096;

/// One mapping of the memory.
#[derive(Debug)]
pub(crate) struct SharedMapping {
    map: MmapRaw,
    /// Bytes of one area.
    area: usize,
}

impl SharedMapping {
    /// Creates memory with `area` bytes each way, all 0. Also returns the descriptor with which another process maps it.
    pub(crate) fn create(area: usize) -> io::Result<(Self, OwnedFd)> {
        let object = memfd_create("callgate-suite", MemfdFlags::CLOEXEC)?;
        let area = area.next_multiple_of(LINES);
        ftruncate(&object, (LINES + 2 * area) as u64)?;
        Ok((Self::map(&object)?, object))
    }

    /// Maps the memory behind `object`.
    pub(crate) fn map(object: impl AsFd) -> io::Result<Self> {
        let len = fstat(&object)?.st_size as usize;
        let map = MmapOptions::new().len(len.max(LINES)).map_raw(object.as_fd().as_raw_fd())?;
        Ok(Self { map, area: len.saturating_sub(LINES) / 2 })
    }

    pub(crate) fn line(&self, way: Direction) -> &SharedLine {
        let at = self.map.as_mut_ptr().cast::<SharedLine>().wrapping_add(way as usize);
        // SAFETY: inside the mapping's first page, aligned, alive as long as `self`; atomics are valid for all bytes.
        unsafe { &*at }
    }

    /// The number at that index of an area.
    ///
    /// # Panics
    ///
    /// If the area is too short for it.
    #[inline(always)]
    pub(crate) fn number(&self, way: Direction, index: usize) -> &SharedNumber {
        let at = self.at(way, (index + 1) * size_of::<SharedNumber>()).cast::<SharedNumber>().wrapping_add(index);
        // SAFETY: `at` has checked the length; areas are aligned to pages and live as long as `self`; atomics are valid for all bytes.
        unsafe { &*at }
    }

    /// Copies `bytes` into an area.
    pub(crate) fn write(&self, way: Direction, bytes: &[u8]) {
        let at = self.at(way, bytes.len());
        // SAFETY: `at` has checked the length, and `bytes` is private memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
    }

    /// Copies what is in an area into `bytes`.
    pub(crate) fn read(&self, way: Direction, bytes: &mut [u8]) {
        let at = self.at(way, bytes.len());
        // SAFETY: `at` has checked the length, and `bytes` is private memory.
        unsafe { ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies `len` bytes from one area into the other.
    pub(crate) fn copy(&self, from: Direction, to: Direction, len: usize) {
        let (from, to) = (self.at(from, len), self.at(to, len));
        // SAFETY: `at` has checked the length; if the areas are the same, `copy` may overlap.
        unsafe { ptr::copy(from, to, len) };
    }

    /// Calls `look` with the first `len` bytes of an area. Only for the side that has the token.
    pub(crate) fn with<R>(&self, way: Direction, len: usize, look: impl FnOnce(&[u8]) -> R) -> R {
        let at = self.at(way, len);
        // SAFETY: `at` has checked the length; the other side does not write before this one has handed the token back.
        look(unsafe { slice::from_raw_parts(at, len) })
    }

    /// The address of an area.
    ///
    /// # Panics
    ///
    /// If the area is shorter than `len` bytes.
    fn at(&self, way: Direction, len: usize) -> *mut u8 {
        assert!(len <= self.area, "{len} bytes for an area of {}", self.area);
        self.map.as_mut_ptr().wrapping_add(LINES + way as usize * self.area)
    }
}
