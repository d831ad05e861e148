//! Child processes: started, watched, and what a child does to itself before anything else.
//!
//! Layer 4. Knows nothing of rings or calls.

pub(crate) mod child;
pub(crate) mod spawn;
pub(crate) mod watch;
