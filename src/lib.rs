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
//! of the same user. ARCHITECTURE.md in the repository describes the crates and the protocol.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// The documentation says of each item which feature it needs; where that is built, the compiler is a nightly one.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod guide;
pub mod call;

// A child: how it is started, what it does first, what went wrong.
mod spawn;
mod child;
mod start_error;

// What users hold.
mod bridge;
mod trust_child;

#[doc(hidden)]
#[path = "codegen.rs"]
pub mod __codegen;

pub use crate::bridge::{
    AsyncBridge, Bridge, Builder, Death, Event, ItemStream, Items, Pending, Restart, View, init, serve, serve_parallel,
};
pub use crate::spawn::{Output, TerminalSignals};
pub use crate::start_error::StartError;
pub use callgate_macros::{Viewable, bridge, main};
#[cfg(feature = "manager")]
#[doc(inline)]
pub use callgate_manager::{self as manager, args};
#[cfg(feature = "sandbox")]
#[doc(inline)]
pub use callgate_sandbox::{measure::Measure, plan::Sandbox, report::SandboxReport};
#[cfg(feature = "portable")]
#[doc(inline)]
pub use callgate_transport::portable::TrustedChild;
#[doc(inline)]
pub use callgate_transport::{
    backing::Segments,
    decoder::Transfer,
    doorbell::Wait,
    error::{CallError, Exit},
    shared_box::SharedBox,
    shared_writer::SharedWriter,
    viewable::Viewable,
    wake::Signal,
};

/// What errors are made of: which part of a call failed, and why.
pub mod error {
    #[doc(inline)]
    pub use callgate_transport::error::{Awaited, Fault, NoMemory, Started};
}

/// Types that stand in signatures, and that a program rarely names.
pub mod types {
    pub use crate::bridge::{Blocking, Calling, Conversing, Deferred, InPlace, OneWay, Opening};
    #[doc(inline)]
    pub use callgate_engine::{
        caller::Converse,
        service::{Mode, Service},
    };
    #[doc(inline)]
    pub use callgate_transport::{
        error::{CallName, Payload},
        shared_box::{Contents, Memory, archived::ArchivedSharedBox},
    };
}

// By their short names, too.
#[doc(hidden)]
pub use {error::*, types::*};

pub use {bytemuck, rkyv};

/// Steps of the protocol at which a test has a process killed, stopped or delayed. For tests only.
#[cfg(feature = "failpoints")]
pub mod failpoints {
    #[doc(inline)]
    pub use callgate_transport::failpoints::{Point, STEPS, Side, call, clear, set};
}

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
#[path = "../tests/support/mod.rs"]
mod support;
