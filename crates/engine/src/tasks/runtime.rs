//! The runtime that async methods find: tokio's with the feature `tokio`, otherwise none.
//!
//! Methods are polled by the child's workers, not by the runtime, so that a request reaches its method without another thread. The runtime has one
//! thread of its own, which drives timers and I/O, runs what methods spawn, and wakes their tasks.

#![forbid(unsafe_code)]

/// Enters the runtime for as long as this thread lives.
#[cfg(not(feature = "tokio"))]
pub(super) fn enter() {}

#[cfg(feature = "tokio")]
pub(super) fn enter() {
    // The guard would leave it.
    std::mem::forget(the_runtime().enter());
}

#[cfg(feature = "tokio")]
fn the_runtime() -> &'static tokio::runtime::Runtime {
    use crate::child_memory::CONFUSED;
    use crate::last_words;
    use std::sync::OnceLock;

    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("callgate-tokio").enable_all();
        builder.build().unwrap_or_else(|error| {
            let why = format!("callgate: child {} ends: starting its runtime: {error}", std::process::id());
            last_words::say(&why);
            eprintln!("{why}");
            std::process::exit(CONFUSED)
        })
    })
}
