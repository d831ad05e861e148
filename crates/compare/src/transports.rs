//! Every transport that is compared, in the order of the report.

#![forbid(unsafe_code)]

use crate::{direct, iceoryx2, ipc_channel, stream, tarpc, threads};
use callgate_suite::transport::Record;
use callgate_suite::{Failure, Transport};
use std::time::Duration;

/// A transport that is ready to carry calls, or why it is not.
pub type Started = Result<Box<dyn Transport>, Failure>;

/// Answers calls until the caller is gone.
pub type Serve = fn(&str) -> Result<(), Failure>;

/// One transport.
pub struct Way {
    /// As the report calls it.
    pub name: &'static str,
    /// Starts it with its peer on a CPU, or on any.
    pub start: fn(Option<usize>) -> Started,
    /// What the peer does, given the address that `start` has handed over; `None` if there is no other process.
    pub serve: Option<Serve>,
    /// Whether the peer polls even when nobody calls.
    pub polls: bool,
}

/// All of them. callgate itself is measured beside each.
pub const WAYS: &[Way] = &[
    Way { name: direct::NAME, start: direct::start, serve: None, polls: false },
    Way { name: threads::NAME, start: threads::start, serve: None, polls: false },
    Way { name: iceoryx2::POLLING, start: iceoryx2::start_polling, serve: Some(iceoryx2::serve_polling), polls: true },
    Way { name: iceoryx2::EVENT, start: iceoryx2::start_event, serve: Some(iceoryx2::serve_event), polls: false },
    Way { name: stream::SOCKET, start: stream::start_socket, serve: Some(stream::serve_socket), polls: false },
    Way { name: stream::PIPE, start: stream::start_pipe, serve: Some(stream::serve_pipe), polls: false },
    Way { name: ipc_channel::NAME, start: ipc_channel::start, serve: Some(ipc_channel::serve), polls: false },
    Way { name: tarpc::NAME, start: tarpc::start, serve: Some(tarpc::serve), polls: false },
];

/// The transport of that name.
pub fn find(name: &str) -> Option<&'static Way> {
    WAYS.iter().find(|way| way.name == name)
}

/// A transport whose type is not known here, as one whose type is.
pub struct Boxed(pub Box<dyn Transport>);

impl Transport for Boxed {
    fn add(&mut self, n: u64) -> Result<u64, Failure> {
        self.0.add(n)
    }

    fn greet(&mut self, name: &str) -> Result<String, Failure> {
        self.0.greet(name)
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, Failure> {
        self.0.sum(numbers)
    }

    fn record(&mut self, record: &Record) -> Result<Record, Failure> {
        self.0.record(record)
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        self.0.echo(bytes)
    }

    fn work(&mut self, busy: Duration) -> Result<(), Failure> {
        self.0.work(busy)
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer()
    }
}
