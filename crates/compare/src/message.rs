//! Turns calls into messages, for transports that carry messages rather than calls.

#![forbid(unsafe_code)]

use crate::peer::PeerProcess;
use callgate_suite::bridge::CountService;
use callgate_suite::pin::{self, Pinned};
use callgate_suite::transport::Record;
use callgate_suite::{BoxError, Transport};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One call.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Add(u64),
    Greet(String),
    Sum(Vec<u64>),
    Record(Record),
    Echo(#[serde(with = "serde_bytes")] Vec<u8>),
    Work(u64),
}

/// The answer to a call.
#[derive(Debug, Serialize, Deserialize)]
pub enum OrderReply {
    Number(u64),
    Text(String),
    Record(Record),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    Done,
}

/// Makes a counter without changing where the calling thread is pinned.
pub fn counter() -> Result<CountService, BoxError> {
    Ok(Pinned::nowhere(|| CountService::new(pin::allowed().to_vec()))??)
}

/// Has the service answer a request.
pub fn answer(counter: &mut CountService, request: Order) -> OrderReply {
    match request {
        Order::Add(n) => OrderReply::Number(counter.add(n)),
        Order::Greet(name) => OrderReply::Text(counter.greet(&name)),
        Order::Sum(numbers) => OrderReply::Number(counter.sum(&numbers)),
        Order::Record(record) => OrderReply::Record(counter.record(&record)),
        Order::Echo(bytes) => OrderReply::Bytes(counter.echo(&bytes)),
        Order::Work(nanos) => {
            counter.work(nanos);
            OrderReply::Done
        }
    }
}

/// Carries one message there and one back.
pub trait Carrier {
    fn exchange(&mut self, request: Order) -> Result<OrderReply, BoxError>;
    fn peer(&self) -> Option<&PeerProcess>;
}

/// A transport made of messages.
pub struct Messages<E>(pub E);

impl<E: Carrier> Transport for Messages<E> {
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        match self.0.exchange(Order::Add(n))? {
            OrderReply::Number(total) => Ok(total),
            other => Err(unexpected(&other)),
        }
    }

    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        match self.0.exchange(Order::Greet(name.to_owned()))? {
            OrderReply::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        match self.0.exchange(Order::Sum(numbers.to_vec()))? {
            OrderReply::Number(sum) => Ok(sum),
            other => Err(unexpected(&other)),
        }
    }

    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        match self.0.exchange(Order::Record(record.clone()))? {
            OrderReply::Record(record) => Ok(record),
            other => Err(unexpected(&other)),
        }
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        match self.0.exchange(Order::Echo(bytes.to_vec()))? {
            OrderReply::Bytes(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        }
    }

    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        match self.0.exchange(Order::Work(busy.as_nanos() as u64))? {
            OrderReply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn peer(&self) -> Option<u32> {
        self.0.peer().map(PeerProcess::pid)
    }
}

#[cold]
fn unexpected(reply: &OrderReply) -> BoxError {
    format!("the reply belongs to another call: {reply:?}").into()
}
