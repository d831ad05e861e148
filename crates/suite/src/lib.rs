//! What callgate's benchmarks measure, and how: one workload ([`Transport`]), its floors, and clocks that are read sparingly.
//!
//! Used by the criterion benchmarks in `benches/`, by the command `callgate bench`, and by `callgate-compare`, which puts other
//! ways of crossing a process boundary under the same workload.
//!
//! A program that measures calls [`init`] in the first line of `main` (benches and tests: [`test_support!`]), because the other
//! side of every floor is the program itself, executed again. Then each of `floor`, `latency`, `throughput`, `waiting`, `start`,
//! `payload`, `large`, `manager` and (with the feature of that name) `sandbox` has a function `measure`, which takes a [`Budget`] (`soak`: a number of calls) and returns its part of a [`BenchReport`]; [`targets::of`] says what the
//! whole report shows. They pin the calling thread, so call them from one thread at a time.

#![deny(unsafe_code)]

// What is called, and what it is compared with.
pub mod bridge;
pub mod bytes;
pub mod floor;
pub mod transport;
pub mod workload;

// How time is taken.
pub mod clock;
pub mod cpu_time;
pub mod interleave;
pub mod pin;
pub mod stats;

// What is measured: one file for each group of the report.
pub mod large;
pub mod latency;
pub mod manager;
pub mod payload;
pub mod restart;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod soak;
pub mod start;
pub mod throughput;
pub mod waiting;

// True outcomes when children die.
pub mod chaos;

// What it shows.
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

/// Where a measurement says what it is doing: a few words, for whoever watches.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Makes floors and bridges work in a test or bench binary, whose `main` is not yours: put it once at the top of the file.
///
/// It calls [`init`] before `main` runs, and stands in for [`callgate::test_support!`].
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
