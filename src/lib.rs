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
//! # What crosses
//!
//! Arguments and returned values are archived by [`rkyv`]: whatever implements [`Transfer`]. `&str`, `&[u8]` and slices of
//! other numbers are read by the method in place, in shared memory. `&Archived<T>` parameters are read in place too; the
//! caller passes a `&T`. All others arrive as owned values.
//!
//! A result is made into a value, unless it is asked for with [`Bridge::view`]: then it stays an archive, to be read in place.
//!
//! # Large payloads
//!
//! All that is archived is copied. What is large and plain data goes into a [`SharedBox`]: its contents lie in the bridge's shared memory,
//! and passing it hands them over where they are. [`SharedWriter`] fills one from a file or socket. By default the child is not trusted:
//! it can only read its parent's memory, and what it makes or changes is copied before the parent looks at it. With
//! [`Builder::trust_child`], which is `unsafe`, boxes pass both ways without a copy, and so do [views](Bridge::view) of large results.
//!
//! ```
//! use callgate::{SharedBox, bridge};
//!
//! struct Mixer;
//!
//! #[bridge]
//! impl Mixer {
//!     pub fn new() -> Self { Mixer }
//!     pub fn halve(&self, mut samples: SharedBox<[f32]>) -> SharedBox<[f32]> {
//!         samples.iter_mut().for_each(|sample| *sample /= 2.0);
//!         samples
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mixer = Mixer::bridge().max_payload(64 << 20).memory(512 << 20).start()?;
//!     let mut samples = SharedBox::<[f32]>::zeroed_in(&mixer, 1_000_000)?;
//!     samples.fill(1.0);
//!     let samples = mixer.halve(samples)?; // moved away, and another came back
//!     assert!(samples.iter().all(|&sample| sample == 0.5));
//!     Ok(())
//! }
//! ```
//!
//! [`Builder::max_payload`] is the longest that one box, request or reply may be, [`Builder::memory`] what all together may have, half of it
//! for each side; who finds it in use waits until the timeout, and gets [`CallError::Exhausted`] or [`NoMemory`]. Memory comes back
//! when a box is dropped, on whichever side; [`Builder::retained`] bytes of it stay ready on each side, for new memory costs much more.
//!
//! # Several calls at once
//!
//! A bridge takes calls from many threads, and its child carries them out one at a time. With [`Builder::workers`] a service that is
//! `Send + Sync` carries out several methods with `&self` at once; one with `&mut self` still runs alone. [`Bridge::begin`]
//! calls without waiting for the result.
//!
//! # When a child dies
//!
//! Calls fail with [`CallError::Died`], which says how it ended and whether the method can have run. [`Builder::restart`] starts another
//! child, builds the service there from the same arguments, and makes those calls again that may be.
//!
//! # What the child can do
//!
//! What it cannot do is harm the parent through the bridge: no reply, however malformed, is undefined behaviour in the safe interface.
//!
//! Beside the bridge it is a process of the same user, which may open that user's files, look into and signal that user's
//! processes, connect to anybody and start programs. So **without a sandbox a bridge contains crashes, and is no security boundary** against a child that
//! somebody else has taken over.
//!
//! The feature `sandbox` makes it one: `Builder::sandbox(Sandbox::strict())` has the child give up, before the service exists, all that a
//! service which only computes can live without: files, network, processes, capabilities, rare system calls, and every hand on its
//! parent. What can still be done is said there: above all to use up CPU time and shared memory, as far as there are no limits. A child that
//! is another user as well (`Sandbox::uid`) is held off by both.
//!
//! The layers and the protocol are described in ARCHITECTURE.md in the repository.

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
