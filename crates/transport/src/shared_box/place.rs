//! Where boxes can be made, which is the memory of a bridge.
//!
//! Relies on `memory_pool`. Only bridges implement it.

#![forbid(unsafe_code)]

use crate::memory_pool::PoolHandle;
use std::sync::Arc;
use std::time::Duration;

/// Where boxes can be made: a bridge.
pub trait Memory: Sealed {}

/// What bridges have, and nothing else should.
pub trait Sealed {
    #[doc(hidden)]
    fn pool(&self) -> PoolOf;

    /// Takes back what calls that were given up have left behind.
    #[doc(hidden)]
    fn take_late_replies(&self);
}

/// A bridge's memory, and how long to wait for it.
pub struct PoolOf(pub(crate) Arc<dyn PoolHandle>, pub(crate) Option<Duration>);

impl PoolOf {
    /// For the bridge whose memory it is. Nobody else gets it out again: who has a pool can free what others use.
    pub fn new(pool: Arc<dyn PoolHandle>, timeout: Option<Duration>) -> Self {
        Self(pool, timeout)
    }
}
