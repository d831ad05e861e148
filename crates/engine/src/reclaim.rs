//! When the watcher looks for idle memory: while there is more than `retained`, once that has gone unused for a while.

#![forbid(unsafe_code)]

use crate::watcher;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// [`TIDY`], [`USED`] or [`RESTED`]; only a hint about when to look.
pub(crate) struct Reclaim(AtomicU32);

/// As far as was seen, idle memory does not exceed `retained`.
///
/// | from | to | who | when |
/// |---|---|---|---|
/// | any | USED | whoever uses memory | idle memory exceeds `retained` |
/// | USED | RESTED | the watcher | its next look |
/// | RESTED | TIDY | the watcher | the look after that, before it gives memory back |
const TIDY: u32 = 0;
/// It does, and memory has been used since the watcher last looked.
const USED: u32 = 1;
/// It does, and memory has not been used for one look of the watcher's.
const RESTED: u32 = 2;

/// What the watcher does now.
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

    /// Notes that memory has been used and that idle memory exceeds `retained`: has the watcher look in a while.
    pub fn used(&self) {
        if self.0.swap(USED, Relaxed) == TIDY {
            // Without a watcher there is no peer either.
            let _ = watcher::tidy_soon();
        }
    }

    /// Called when the watcher looks.
    pub fn look(&self) -> Look {
        if self.0.compare_exchange(USED, RESTED, Relaxed, Relaxed).is_ok() {
            return Look::Later;
        }
        // First, so that memory used from now on gets another look.
        if self.0.swap(TIDY, Relaxed) == TIDY { Look::Never } else { Look::Now }
    }

    /// Notes that the watcher could not give everything back and looks again.
    pub fn again(&self) {
        self.0.store(USED, Relaxed);
    }

    /// Whether the watcher looks again.
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
