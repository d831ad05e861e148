//! Calls without any boundary: the counter behind a `dyn` call, in the calling thread.

#![forbid(unsafe_code)]

use crate::message::counter;
use crate::transports::StartedTransport;
use callgate_suite::bridge::CountService;
use callgate_suite::transport::Record;
use callgate_suite::{BoxError, Transport};
use std::hint::black_box;
use std::time::Duration;

pub const NAME: &str = "dyn call";

struct Direct(CountService);

pub fn start(_cpu: Option<usize>) -> StartedTransport {
    // Hides from the compiler which type is behind the `dyn`.
    Ok(black_box(Box::new(Direct(counter()?))))
}

impl Transport for Direct {
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        Ok(self.0.add(n))
    }

    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        Ok(self.0.greet(name))
    }

    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        Ok(self.0.sum(numbers))
    }

    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        Ok(self.0.record(record))
    }

    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.0.echo(bytes))
    }

    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        self.0.work(busy.as_nanos() as u64);
        Ok(())
    }

    fn peer(&self) -> Option<u32> {
        None
    }
}
