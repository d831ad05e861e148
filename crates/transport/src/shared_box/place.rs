//! Where boxes can be made: in the memory of a bridge.
//!
//! Relies on `memory_pool`. Only bridges implement it.

#![forbid(unsafe_code)]

use crate::memory_pool::PoolHandle;
use std::sync::Arc;
use std::time::Duration;

/// Where boxes can be made: a bridge.
pub trait Memory: Sealed {}

/// The memory of a bridge, for the library only: bridges implement this, and nothing else does.
pub trait Sealed {
    #[doc(hidden)]
    fn pool(&self) -> PoolOf;

    /// Takes back what calls that gave up have left behind.
    #[doc(hidden)]
    fn take_late_replies(&self);
}

/// A bridge's memory, and how long to wait for it.
pub struct PoolOf(pub(crate) Arc<dyn PoolHandle>, pub(crate) Option<Duration>);

impl PoolOf {
    /// The memory of a bridge, for the bridge itself. Only this crate gets it out again: a holder of a pool can free blocks that others use.
    pub fn new(pool: Arc<dyn PoolHandle>, timeout: Option<Duration>) -> Self {
        Self(pool, timeout)
    }
}
