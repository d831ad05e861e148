//! Which reactor wakes a task that awaits a call: that of the task's own runtime, if there is one and a feature says so; otherwise the process's watcher.
//!
//! A reactor is no task and no thread: the runtime's driver calls a waker when the child rings, and that looks for replies at once. So the reply's task
//! is the next thing to run. When the runtime is shut down, or the child rings for nothing again and again, the watcher takes over.

#![forbid(unsafe_code)]

use callgate_engine::caller::Caller;
use std::sync::Arc;

#[cfg(feature = "async-io")]
mod async_io;
#[cfg(any(feature = "tokio", feature = "async-io"))]
mod listener;
#[cfg(feature = "tokio")]
mod tokio;

/// Sees to it that the task that is being polled is woken when its call, which `caller` has made, is answered.
#[inline]
pub(super) fn attend(caller: &Arc<Caller>) {
    #[cfg(feature = "tokio")]
    if tokio::attend(caller) {
        return;
    }
    #[cfg(feature = "async-io")]
    async_io::attend(caller);
    #[cfg(not(feature = "async-io"))]
    caller.rely_on_watcher();
}
