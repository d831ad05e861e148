//! A type's instance in a child process, called over shared memory as if it were here.
//!
//! Put `#[bridge]` on an impl block; `T::bridge(args).start()` then builds a `T` in a child process, and the [`Bridge`] that
//! comes back has the same methods. A call moves one cache line each way; while both sides are busy it makes no system call and
//! allocates nothing. Whatever the child does (crash, hang, lie), the parent gets a [`CallError`] and goes on.
//!
//! ```
//! use callgate::{CallError, bridge};
//!
//! pub struct Counter {
//!     total: u64,
//! }
//!
//! #[bridge]
//! impl Counter {
//!     pub fn new(start: u64) -> Self {
//!         Counter { total: start }
//!     }
//!     pub fn add(&mut self, n: u64) -> u64 {
//!         self.total += n;
//!         self.total
//!     }
//!     pub fn crash(&self) {
//!         std::process::abort()
//!     }
//! }
//!
//! #[callgate::main] // a child goes no further than this
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let counter = Counter::bridge(40).start()?;
//!     assert_eq!(counter.add(2)?, 42);
//!     let error = counter.crash().unwrap_err();
//!     assert!(error.to_string().contains("SIGABRT"), "{error}");
//!     Ok(())
//! }
//! ```
//!
//! The [`guide`] has a page for each topic: [what crosses](guide::types), [ways of calling](guide::calls), [large payloads](guide::large_payloads),
//! [errors](guide::errors), [children and restarts](guide::children), [sandboxes](guide::sandboxes), [named callbacks](guide::callbacks) and
//! [limits](guide::limits).
//!
//! Without a sandbox a bridge contains crashes, and is **no security boundary** against a child that somebody else has taken over: the child is a process
//! of the same user. ARCHITECTURE.md in the repository describes the layers and the protocol.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// The documentation says of each item which feature it needs; where that is built, the compiler is a nightly one.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("callgate runs on Linux on x86-64 and little-endian aarch64 only");

// Layer 5: what users hold.
mod bridge;
pub mod guide;
pub mod manager;
mod trust_child;

// Layer 4: calls and processes.
mod call;
mod process;
mod trusted;

// Layer 3: conversations.
mod control;
mod handshake;
mod lane;
mod peer_status;

// Layer 2: frames, where they go, and waiting for them.
mod archive;
mod arena;
mod bare;
mod commit;
mod copy_buffer;
mod decoder;
mod doorbell;
mod encode;
mod loans;
mod memory_pool;
mod reading;
mod reply;
mod request;
mod ring;
mod shared_box;
mod shared_writer;
mod validator;
mod viewable;
mod wake;

// Layer 1: shared memory.
mod backing;
mod layout;
mod segment;

// Layer 0: what everything stands on.
mod error;
#[cfg(feature = "failpoints")]
pub mod failpoints;
#[cfg(not(feature = "failpoints"))]
mod failpoints;
mod format;
#[cfg(feature = "sandbox")]
mod measure;
#[cfg(feature = "portable")]
mod portable;
mod sync;
mod sys;
#[cfg(all(test, debug_assertions, not(loom)))]
mod trace;

#[doc(hidden)]
#[path = "codegen.rs"]
pub mod __codegen;

pub use crate::backing::Segments;
pub use crate::bridge::{
    Blocking, Bridge, Builder, Calling, Death, Deferred, Event, InPlace, Pending, Restart, View, init, serve,
    serve_parallel,
};
pub use crate::call::service::{Mode, Service};
pub use crate::decoder::Transfer;
pub use crate::doorbell::Wait;
pub use crate::error::{Awaited, CallError, CallName, Exit, Fault, NoMemory, Payload, StartError, Started};
#[cfg(feature = "sandbox")]
pub use crate::measure::Measure;
#[cfg(feature = "portable")]
pub use crate::portable::TrustedChild;
#[cfg(feature = "sandbox")]
pub use crate::process::sandbox::{Sandbox, report::SandboxReport};
pub use crate::process::spawn::{Output, TerminalSignals};
pub use crate::shared_box::{ArchivedSharedBox, Contents, Memory, SharedBox};
pub use crate::shared_writer::SharedWriter;
pub use crate::viewable::Viewable;
pub use crate::wake::Signal;
pub use callgate_macros::{Viewable, bridge, main};
pub use {bytemuck, rkyv};

/// Makes [`Bridge`]s work in a test or bench binary, whose `main` is not yours: put it once at the top of the file.
///
/// It calls [`init`] before `main` runs.
///
/// # Examples
///
/// ```
/// callgate::test_support!();
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! test_support {
    () => {
        const _: () = {
            extern "C" fn callgate_init() {
                $crate::__codegen::init_before_main();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static CALLGATE_INIT: extern "C" fn() = callgate_init;
        };
    };
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[cfg(all(test, not(loom)))]
mod in_process;
#[cfg(all(test, not(loom)))]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(all(test, debug_assertions, not(loom)))]
mod lines;

/// What `fuzz/` feeds. Not part of the library but in a build for that.
#[cfg(any(fuzzing, all(test, not(loom))))]
#[doc(hidden)]
#[path = "fuzz/mod.rs"]
pub mod __fuzz;

// For the macro's paths in the library's own tests.
#[cfg(any(test, fuzzing))]
extern crate self as callgate;
