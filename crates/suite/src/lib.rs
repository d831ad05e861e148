//! What callgate's benchmarks measure, and how: one workload ([`Transport`]), its floors, and clocks that are read sparingly.
//!
//! Used by the criterion benchmarks in `benches/`, by the command `callgate bench`, and by `callgate-compare`, which puts other
//! ways of crossing a process boundary under the same workload.

#![forbid(unsafe_code)]

pub mod report;
pub mod transport;

pub use report::Report;
pub use transport::Transport;
