//! When the watcher is to look for memory that is idle: while there is more than may be kept, and once it has rested.

#![forbid(unsafe_code)]

use crate::watcher;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// [`TIDY`], [`USED`] or [`RESTED`]; only a hint about when to look.
pub(crate) struct Reclaim(AtomicU32);

/// There is no more idle memory than may be kept, as far as was seen.
///
/// | from | to | who | when |
/// |---|---|---|---|
/// | any | USED | whoever uses memory | there is more than may be kept |
/// | USED | RESTED | the watcher | its next look |
/// | RESTED | TIDY | the watcher | the look after that, before it gives memory back |
const TIDY: u32 = 0;
/// There is more, and it has been used since the watcher looked.
const USED: u32 = 1;
/// It has not been used for one look of the watcher's.
const RESTED: u32 = 2;

/// What the watcher is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Give memory back.
    Now,
    /// Look again.
    Later,
    /// Nothing.
    Never,
}

impl Reclaim {
    pub const fn new() -> Self {
        Self(AtomicU32::new(TIDY))
    }

    /// Memory has been used, and there is more than may be kept: has the watcher look in a while.
    pub fn used(&self) {
        if self.0.swap(USED, Relaxed) == TIDY {
            // Without a watcher there is no peer either.
            let _ = watcher::tidy_soon();
        }
    }

    /// The watcher looks.
    pub fn look(&self) -> Look {
        if self.0.compare_exchange(USED, RESTED, Relaxed, Relaxed).is_ok() {
            return Look::Later;
        }
        // First, so that who uses memory from now on has it looked at again.
        if self.0.swap(TIDY, Relaxed) == TIDY { Look::Never } else { Look::Now }
    }

    /// The watcher could not give all back: it looks again.
    pub fn again(&self) {
        self.0.store(USED, Relaxed);
    }

    /// Whether the watcher is to look again.
    pub fn is_untidy(&self) -> bool {
        self.0.load(Relaxed) != TIDY
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_left_alone_until_it_has_rested() {
        let reclaim = Reclaim::new();
        assert_eq!(reclaim.look(), Look::Never);
        for _ in 0..3 {
            reclaim.used();
            assert_eq!(reclaim.look(), Look::Later);
        }
        assert!(reclaim.is_untidy());
        assert_eq!(reclaim.look(), Look::Now);
        assert!(!reclaim.is_untidy());
        reclaim.again();
        assert_eq!([reclaim.look(), reclaim.look(), reclaim.look()], [Look::Later, Look::Now, Look::Never]);
    }
}
