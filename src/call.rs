//! The call that a thread of a child is carrying out: what its method may want to know of it.
//!
//! Valid only inside a method that the bridge calls, and inside a callback, on its own thread. Elsewhere they answer `false` and `None`.

pub use callgate_engine::current::{caller, deadline, is_cancelled};
