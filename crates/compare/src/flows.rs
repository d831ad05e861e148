//! Lists the peers that are compared by numbers alone: one call at a time, many in flight, and a stream.
//!
//! A call is `add(1)`. A stream is what one call returns: the numbers from 0 up, taken one by one. Every answer is checked.

#![forbid(unsafe_code)]

use crate::peer::PeerProcess;
#[cfg(feature = "tachyon")]
use crate::tachyon;
use crate::transports::ServeFn;
use crate::{iceoryx2_streamed, remoc, ringfire, tarpc};
use callgate_suite::BoxError;
use callgate_suite::workload::check;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// One call at a time.
    Single,
    /// [`DEPTH`] calls in flight: each answer makes room for the next.
    Pipelined,
    /// A stream of numbers.
    Stream,
}

use FlowKind::{Pipelined, Single, Stream};

/// How many calls are in flight.
pub const DEPTH: u32 = 32;

impl FlowKind {
    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Single => "add",
            Pipelined => "add 32 in flight",
            Stream => "stream",
        }
    }

    /// How many calls, or numbers of one stream, are measured together.
    pub fn count(self) -> u32 {
        match self {
            Single => 1,
            Pipelined => 1024,
            Stream => 4096,
        }
    }
}

/// A peer that carries calls or streams.
pub trait Flow {
    /// Makes `count` calls, or takes `count` numbers of one stream.
    fn carry(&mut self, kind: FlowKind, count: u32) -> Result<(), BoxError>;

    /// The process number of the callee.
    fn peer(&self) -> u32;
}

/// A flow that is ready to carry, or why it is not.
pub type StartedFlow = Result<Box<dyn Flow>, BoxError>;

/// One way to carry flows.
pub struct FlowWay {
    /// The name in the report.
    pub name: &'static str,
    /// What it carries.
    pub kinds: &'static [FlowKind],
    /// Starts it for one kind, with its peer pinned to the CPU, if given.
    pub start: fn(Option<usize>, FlowKind) -> StartedFlow,
    /// Runs the peer, given the address from `start`.
    pub serve: ServeFn,
    /// Whether the peer polls even when nobody calls.
    pub polls: bool,
}

/// All of them. tarpc's single call, and iceoryx2's, are among the transports.
pub const FLOWS: &[FlowWay] = &[
    FlowWay {
        name: iceoryx2_streamed::NAME,
        kinds: &[Pipelined, Stream],
        start: iceoryx2_streamed::start,
        serve: iceoryx2_streamed::serve,
        polls: true,
    },
    FlowWay {
        name: ringfire::NAME,
        kinds: &[Single, Pipelined, Stream],
        start: ringfire::start,
        serve: ringfire::serve,
        polls: true,
    },
    #[cfg(feature = "tachyon")]
    FlowWay {
        name: tachyon::NAME,
        kinds: &[Single, Pipelined, Stream],
        start: tachyon::start,
        serve: tachyon::serve,
        polls: true,
    },
    FlowWay { name: tarpc::NAME, kinds: &[Pipelined], start: tarpc::start_flow, serve: tarpc::serve, polls: false },
    FlowWay {
        name: remoc::NAME,
        kinds: &[Single, Pipelined, Stream],
        start: remoc::start,
        serve: remoc::serve,
        polls: false,
    },
];

/// Finds the way of that name.
pub fn find(name: &str) -> Option<&'static FlowWay> {
    FLOWS.iter().find(|way| way.name == name)
}

/// A peer that answers in the order of the calls.
pub trait InOrder {
    /// Sends a call of `add(1)`.
    fn send(&mut self) -> Result<(), BoxError>;

    /// Waits for the next answer.
    fn receive(&mut self) -> Result<u64, BoxError>;

    /// Asks for a stream of `count` numbers and hands each to `take`.
    fn stream(&mut self, count: u32, take: impl FnMut(u64) -> Result<(), BoxError>) -> Result<(), BoxError>;

    /// The peer's process.
    fn process(&self) -> &PeerProcess;
}

/// Calls that are answered in order, and the total so far.
pub struct Ordered<P> {
    calls: P,
    total: u64,
}

impl<P: InOrder + 'static> Ordered<P> {
    /// With a peer that has not been called yet.
    pub fn boxed(calls: P) -> Box<dyn Flow> {
        Box::new(Self { calls, total: 0 })
    }

    fn add(&mut self, count: u32, depth: u32) -> Result<(), BoxError> {
        let mut sent = 0;
        for answered in 0..count {
            while sent < count.min(answered + depth) {
                self.calls.send()?;
                sent += 1;
            }
            let total = self.calls.receive()?;
            self.total += 1;
            check(total == self.total, "add")?;
        }
        Ok(())
    }

    fn stream(&mut self, count: u32) -> Result<(), BoxError> {
        let mut expected = 0;
        self.calls.stream(count, |number| {
            expected += 1;
            check(number + 1 == expected, "stream")
        })?;
        check(expected == u64::from(count), "stream")
    }
}

impl<P: InOrder + 'static> Flow for Ordered<P> {
    fn carry(&mut self, kind: FlowKind, count: u32) -> Result<(), BoxError> {
        match kind {
            Single => self.add(count, 1),
            Pipelined => self.add(count, DEPTH),
            Stream => self.stream(count),
        }
    }

    fn peer(&self) -> u32 {
        self.calls.process().pid()
    }
}

/// The sum of the totals that `count` calls of `add(1)` return, in whatever order, after `before` calls.
pub fn totals(before: u64, count: u32) -> u64 {
    let count = u64::from(count);
    before * count + count * (count + 1) / 2
}
