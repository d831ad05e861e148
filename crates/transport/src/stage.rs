//! The first bytes of a frame that is being written, in private memory. Never shared: publishing copies them into the slot.

#![forbid(unsafe_code)]

use crate::commit::ALIGN;
use crate::layout::INLINE;

/// The payload bytes of a slot's first line, in private memory until the frame is published.
///
/// The consumer polls that line. If its first store and the commit word were tens of nanoseconds apart, the consumer would
/// fetch the line in between, and the producer would have to get it back: two trips instead of one.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
pub struct Stage(pub(crate) [u8; INLINE]);

const _: () = assert!(align_of::<Stage>() == ALIGN);

impl Stage {
    pub const fn new() -> Self {
        Self([0; INLINE])
    }

    /// A payload of one number, for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub fn of(number: u64) -> Self {
        let mut stage = Self::new();
        stage.0[..8].copy_from_slice(&number.to_ne_bytes());
        stage
    }

    /// The bytes as the words of `SlotLine::inline`.
    #[inline(always)]
    pub fn words(&self) -> [u64; INLINE / 8] {
        let (words, _) = self.0.as_chunks::<8>();
        std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
    }
}
