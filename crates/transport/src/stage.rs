//! The first bytes of a frame that is being written, in private memory. Never shared: publishing copies them into the slot.

#![forbid(unsafe_code)]

use crate::commit::ALIGN;
use crate::layout::{INLINE, LINE};
use std::ops::Range;

/// The payload bytes of a slot's first lines, in private memory until the frame is complete.
///
/// The consumer polls the first of these lines, and fetches the others meanwhile. If its first store and the commit word were tens of nanoseconds
/// apart, the consumer would fetch the line in between, and the producer would have to get it back: two trips instead of one.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub struct Stage(pub(crate) [u8; Stage::LEN]);

const _: () = assert!(align_of::<Stage>() == ALIGN);

impl Stage {
    /// Bytes of payload in three lines.
    pub(crate) const LEN: usize = INLINE + 2 * LINE;

    pub const fn new() -> Self {
        Self([0; Self::LEN])
    }

    /// How much of a payload belongs on the stage if a slot holds `capacity` bytes, which are the first line's or more.
    #[inline(always)]
    pub(crate) fn share(capacity: usize) -> usize {
        debug_assert!(capacity >= INLINE);
        if capacity < Self::LEN { INLINE } else { Self::LEN }
    }

    /// How many of the first bytes of a complete payload of `len` bytes are on the stage: all, or the first line's if it is longer than its
    /// [`share`](Self::share).
    pub(crate) fn held(len: usize, capacity: usize) -> usize {
        if len > Self::share(capacity) { INLINE } else { len }
    }

    /// A payload of one number, for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of(number: u64) -> Self {
        let mut stage = Self::new();
        stage.0[..8].copy_from_slice(&number.to_ne_bytes());
        stage
    }

    /// These of the words of `SlotLine::inline`.
    #[inline(always)]
    pub fn words(&self, these: Range<usize>) -> impl Iterator<Item = u64> {
        let (words, _) = self.0.as_chunks::<8>();
        words[these].iter().map(|word| u64::from_ne_bytes(*word))
    }
}
