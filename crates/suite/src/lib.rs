//! callgate's benchmarks: one workload ([`Transport`]), the floors to compare it with, and clocks that are read sparingly.
//!
//! Used by the criterion benchmarks in `benches/`, by the command `callgate bench`, and by `callgate-compare`, which puts other
//! ways of crossing a process boundary under the same workload.
//!
//! A program that measures calls [`init`] in the first line of `main` (benches and tests: [`test_support!`]), because the other side of every floor
//! is the program itself, executed again. Each of `floor`, `latency`, `pending`, `stream`, `asynchronous`, `throughput`, `waiting`, `start`, `payload`, `large`, `manager` and (with the
//! feature of that name) `sandbox` has a function `measure`, which takes a [`Budget`] (`soak`: a number of calls) and returns its part of a
//! [`BenchReport`]. [`targets::of`] compares the whole report with the project's targets. The functions pin the calling thread, so call them from
//! one thread at a time.

#![deny(unsafe_code)]

// The workload, callgate's way to carry it, and the floors.
pub mod bridge;
pub mod bytes;
pub mod executor;
pub mod floor;
pub mod transport;
pub mod workload;

// Taking time.
pub mod clock;
pub mod cpu_time;
pub mod interleave;
pub mod pin;
pub mod stats;

// The measurements: one file for each group of the report.
pub mod large;
pub mod latency;
pub mod manager;
pub mod payload;
pub mod pending;
// After `pending`, whose one-way calls it is compared with.
pub mod stream;
pub mod restart;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod soak;
// After `pending` and `soak`, which it takes its rounds and its look at memory from.
pub mod asynchronous;
pub mod start;
pub mod throughput;
pub mod waiting;

// Checks that callers get true outcomes when children die.
pub mod chaos;

// The results.
pub mod report;
pub mod targets;

mod child;
mod shared;
mod trust;

pub use bridge::BridgeTransport;
pub use child::init;
pub use clock::Clock;
pub use interleave::{Budget, Subject, interleave};
pub use report::BenchReport;
pub use transport::{BoxError, Transport};

/// Receives a few words about what a measurement is doing, to show to the user.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Makes floors and bridges work in a test or bench binary, whose `main` you cannot change. Put it once at the top of the file.
///
/// It calls [`init`] before `main` runs and replaces [`callgate::test_support!`].
#[macro_export]
macro_rules! test_support {
    () => {
        const _: () = {
            extern "C" fn callgate_suite_init() {
                $crate::init();
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static CALLGATE_SUITE_INIT: extern "C" fn() = callgate_suite_init;
        };
    };
}

#[cfg(test)]
#[allow(unsafe_code, reason = "the link section that makes floors work in tests")]
mod in_tests {
    crate::test_support!();
}
