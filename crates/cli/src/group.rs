//! The groups of measurements, in the order in which they are taken.

use crate::compare::CompareProgram;
use crate::progress::ProgressLine;
use callgate::Wait;
use callgate_suite::interleave::Budget;
use callgate_suite::{BenchReport, BoxError};
use callgate_suite::{
    asynchronous, floor, large, latency, manager, payload, pending, restart, sandbox, soak, start, stream, throughput,
    waiting,
};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// The minimal costs on this machine: cache line, futex, eventfd, pipe, memcpy
    Floor,
    /// One call after another
    Latency,
    /// Calls that overlap: 32 deep, in batches, one-way
    Pending,
    /// Items of a stream, beside one-way calls
    Stream,
    /// Awaited calls: short, of 50 us, 10,000 at once
    Async,
    /// Calls per second from several threads
    Throughput,
    /// Busy callees, idle gaps, one CPU, busy CPUs
    Waiting,
    /// From nothing to the first reply
    Start,
    /// From the death of a child to the first reply of the next
    Restart,
    /// Payloads up to many megabytes
    Payload,
    /// Payloads of a megabyte and more: one way, for the first time, in boxes
    Large,
    /// Named callbacks in another process, compared with a bridge's call
    Manager,
    /// A child in the strictest sandbox, compared with one without
    Sandbox,
    /// A million calls with payloads of random sizes, and the memory that both processes keep
    Soak,
    /// Other ways of crossing a process boundary; only on request
    Compare,
}

/// Ways of waiting: the one that is judged, and those it is judged against.
const STRATEGIES: [(&str, Wait); 4] = [
    ("adaptive", Wait::Adaptive),
    ("park", Wait::Park),
    ("spin 20 us", Wait::SpinFor(Duration::from_micros(20))),
    ("spin 50 us", Wait::SpinFor(Duration::from_micros(50))),
];

/// The number of calls of the soak. They take some minutes.
const SOAK: u64 = 1_000_000;

/// The number of calls with `--quick`.
const SOAK_QUICK: u64 = 500;

impl Group {
    pub const ALL: [Self; 15] = [
        Self::Floor,
        Self::Latency,
        Self::Pending,
        Self::Stream,
        Self::Async,
        Self::Throughput,
        Self::Waiting,
        Self::Start,
        Self::Restart,
        Self::Payload,
        Self::Large,
        Self::Manager,
        Self::Sandbox,
        Self::Soak,
        Self::Compare,
    ];

    /// The name of the group in its rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Latency => "latency",
            Self::Pending => "pending",
            Self::Stream => "stream",
            Self::Async => "async",
            Self::Throughput => "throughput",
            Self::Waiting => "waiting",
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Payload => "payload",
            Self::Large => "large",
            Self::Manager => "manager",
            Self::Sandbox => "sandbox",
            Self::Soak => "soak",
            Self::Compare => "compare",
        }
    }

    pub fn measure(self, quick: bool, progress: &mut ProgressLine) -> Result<BenchReport, BoxError> {
        let measure: fn(Budget, callgate_suite::Progress<'_>) -> Result<BenchReport, BoxError> = match self {
            Self::Floor => floor::measure,
            Self::Latency => latency::measure,
            Self::Pending => pending::measure,
            Self::Stream => stream::measure,
            Self::Async => asynchronous::measure,
            Self::Throughput => throughput::measure,
            Self::Waiting => |budget, progress| waiting::measure(budget, &STRATEGIES, progress),
            Self::Start => start::measure,
            Self::Restart => restart::measure,
            Self::Payload => payload::measure,
            Self::Large => large::measure,
            Self::Manager => manager::measure,
            Self::Sandbox => sandbox::measure,
            Self::Soak => {
                return soak::measure(if quick { SOAK_QUICK } else { SOAK }, &mut |words| progress.say(words));
            }
            Self::Compare => return progress.pause(|| CompareProgram::find()?.run(quick)),
        };
        let budget = if quick { Budget::quick() } else { Budget::full() };
        measure(budget, &mut |words| progress.say(words))
    }
}
