//! Calls as messages, for transports that carry messages: everything that is neither RPC nor a method call by itself.

#![forbid(unsafe_code)]

use crate::peer::Peer;
use callgate_suite::bridge::Counter;
use callgate_suite::pin::{self, Pinned};
use callgate_suite::transport::Record;
use callgate_suite::{Failure, Transport};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One call.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Add(u64),
    Greet(String),
    Sum(Vec<u64>),
    Record(Record),
    Echo(#[serde(with = "serde_bytes")] Vec<u8>),
    Work(u64),
}

/// Its answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Number(u64),
    Text(String),
    Record(Record),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    Done,
}

/// A counter, which leaves the calling thread on the CPU where it is.
pub fn counter() -> Result<Counter, Failure> {
    Ok(Pinned::nowhere(|| Counter::new(pin::allowed().to_vec()))??)
}

/// What the service answers to a request.
pub fn answer(counter: &mut Counter, request: Request) -> Reply {
    match request {
        Request::Add(n) => Reply::Number(counter.add(n)),
        Request::Greet(name) => Reply::Text(counter.greet(&name)),
        Request::Sum(numbers) => Reply::Number(counter.sum(&numbers)),
        Request::Record(record) => Reply::Record(counter.record(&record)),
        Request::Echo(bytes) => Reply::Bytes(counter.echo(&bytes)),
        Request::Work(nanos) => {
            counter.work(nanos);
            Reply::Done
        }
    }
}

/// What carries one message there and one back.
pub trait Exchange {
    fn exchange(&mut self, request: Request) -> Result<Reply, Failure>;
    fn peer(&self) -> Option<&Peer>;
}

/// A transport made of messages.
pub struct Messages<E>(pub E);

impl<E: Exchange> Transport for Messages<E> {
    fn add(&mut self, n: u64) -> Result<u64, Failure> {
        match self.0.exchange(Request::Add(n))? {
            Reply::Number(total) => Ok(total),
            other => Err(unexpected(&other)),
        }
    }

    fn greet(&mut self, name: &str) -> Result<String, Failure> {
        match self.0.exchange(Request::Greet(name.to_owned()))? {
            Reply::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, Failure> {
        match self.0.exchange(Request::Sum(numbers.to_vec()))? {
            Reply::Number(sum) => Ok(sum),
            other => Err(unexpected(&other)),
        }
    }

    fn record(&mut self, record: &Record) -> Result<Record, Failure> {
        match self.0.exchange(Request::Record(record.clone()))? {
            Reply::Record(record) => Ok(record),
            other => Err(unexpected(&other)),
        }
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        match self.0.exchange(Request::Echo(bytes.to_vec()))? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        }
    }

    fn work(&mut self, busy: Duration) -> Result<(), Failure> {
        match self.0.exchange(Request::Work(busy.as_nanos() as u64))? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer().map(Peer::pid)
    }
}

#[cold]
fn unexpected(reply: &Reply) -> Failure {
    format!("the reply belongs to another call: {reply:?}").into()
}
