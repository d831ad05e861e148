//! Lists every transport that is compared, in the order of the report.

#![forbid(unsafe_code)]

use crate::{direct, iceoryx2, ipc_channel, stream, tarpc, threads};
use callgate_suite::transport::Record;
use callgate_suite::{BoxError, Transport};
use std::time::Duration;

/// A transport that is ready to carry calls, or why it is not.
pub type StartedTransport = Result<Box<dyn Transport>, BoxError>;

/// Answers calls until the caller is gone.
pub type ServeFn = fn(&str) -> Result<(), BoxError>;

/// One transport.
pub struct TransportWay {
    /// The name in the report.
    pub name: &'static str,
    /// Starts it with its peer pinned to the CPU, if given.
    pub start: fn(Option<usize>) -> StartedTransport,
    /// Runs the peer, given the address from `start`; `None` if there is no other process.
    pub serve: Option<ServeFn>,
    /// Whether the peer polls even when nobody calls.
    pub polls: bool,
}

/// All transports. callgate itself is measured in turn with them.
pub const WAYS: &[TransportWay] = &[
    TransportWay { name: direct::NAME, start: direct::start, serve: None, polls: false },
    TransportWay { name: threads::NAME, start: threads::start, serve: None, polls: false },
    TransportWay {
        name: iceoryx2::POLLING,
        start: iceoryx2::start_polling,
        serve: Some(iceoryx2::serve_polling),
        polls: true,
    },
    TransportWay {
        name: iceoryx2::EVENT,
        start: iceoryx2::start_event,
        serve: Some(iceoryx2::serve_event),
        polls: false,
    },
    TransportWay { name: stream::SOCKET, start: stream::start_socket, serve: Some(stream::serve_socket), polls: false },
    TransportWay { name: stream::PIPE, start: stream::start_pipe, serve: Some(stream::serve_pipe), polls: false },
    TransportWay { name: ipc_channel::NAME, start: ipc_channel::start, serve: Some(ipc_channel::serve), polls: false },
    TransportWay { name: tarpc::NAME, start: tarpc::start, serve: Some(tarpc::serve), polls: false },
];

/// Finds the transport of that name.
pub fn find(name: &str) -> Option<&'static TransportWay> {
    WAYS.iter().find(|way| way.name == name)
}

/// Gives a transport of unknown type a type of its own.
pub struct Boxed(pub Box<dyn Transport>);

impl Transport for Boxed {
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        self.0.add(n)
    }

    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        self.0.greet(name)
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        self.0.sum(numbers)
    }

    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        self.0.record(record)
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        self.0.echo(bytes)
    }

    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        self.0.work(busy)
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer()
    }
}
