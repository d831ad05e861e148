//! callgate as a [`Transport`]: the counter behind a bridge.

#![forbid(unsafe_code)]

use crate::bytes;
use crate::pin::{self, Pinned};
use crate::transport::{BoxError, Record, Transport};
use crate::trust::trusted;
use callgate::{Bridge, Builder, Restart, SharedBox, Signal, Wait, bridge};
use std::time::{Duration, Instant};

/// The service of the workload.
#[derive(Debug)]
pub struct CountService {
    total: u64,
}

#[bridge]
impl CountService {
    /// Pins the serving thread to `cpus`, regardless of where the parent was pinned when it started the child.
    pub fn new(cpus: Vec<usize>) -> Result<Self, String> {
        pin::this_thread(&cpus).map_err(|error| format!("pinning to the CPUs {cpus:?}: {error}"))?;
        Ok(Self { total: 0 })
    }

    /// See [`Transport::add`].
    pub fn add(&mut self, n: u64) -> u64 {
        self.total = self.total.wrapping_add(n);
        self.total
    }

    /// See [`Transport::greet`].
    pub fn greet(&self, name: &str) -> String {
        // Not `format!`, which would cost more than everything else the child does.
        let mut text = String::with_capacity(name.len() + 1);
        text.push_str(name);
        text.push('!');
        text
    }

    /// See [`Transport::sum`].
    pub fn sum(&self, numbers: &[u64]) -> u64 {
        numbers.iter().fold(0, |sum, number| sum.wrapping_add(*number))
    }

    /// See [`Transport::record`].
    pub fn record(&self, record: &Record) -> Record {
        Record { id: record.id.wrapping_add(1), ..record.clone() }
    }

    /// See [`Transport::echo`].
    pub fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    /// The sum of a large payload, read in place.
    pub fn sum_bytes(&self, bytes: &[u8]) -> u64 {
        bytes::sum(bytes)
    }

    /// Reads all of a box that is filled with one byte, and returns a new box filled with the next byte.
    pub fn touch(&self, frame: SharedBox<[u8]>) -> Result<SharedBox<[u8]>, String> {
        let mut answer = SharedBox::<[u8]>::for_overwrite(frame.len()).map_err(|error| error.to_string())?;
        bytes::fill(&mut answer, bytes::next(&frame));
        Ok(answer)
    }

    /// Changes one cache line of a box.
    pub fn edit(&self, mut frame: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes::edit(&mut frame);
        frame
    }

    /// Sums the bytes it gets, and returns the sum with `len` bytes that are all `byte`.
    pub fn trade(&self, bytes: &[u8], len: u64, byte: u8) -> (u64, Vec<u8>) {
        (bytes::sum(bytes), vec![byte; len as usize])
    }

    /// Takes bytes and says how many. For requests of a certain length.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }

    /// Returns so many bytes. For replies of a certain length.
    pub fn get(&self, len: u64) -> Vec<u8> {
        vec![1; len as usize]
    }

    /// See [`Transport::work`].
    pub fn work(&self, nanos: u64) {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_nanos(nanos) {
            std::hint::spin_loop();
        }
    }
}

/// A bridge to a [`CountService`], as a transport.
#[derive(Debug)]
pub struct BridgeTransport {
    /// The typed proxy, for callers that want to bypass [`Transport`].
    pub bridge: Bridge<CountService>,
}

impl BridgeTransport {
    /// Starts a child that waits as `wait` says, pinned to `cpu`, or on all allowed CPUs if that is `None`.
    ///
    /// # Errors
    ///
    /// If the child does not start.
    pub fn start(wait: Wait, cpu: Option<usize>) -> Result<Self, BoxError> {
        Self::woken_by(None, wait, cpu)
    }

    /// Like [`start`](Self::start), with a trusted child, so that boxes come back without a copy.
    pub fn trusting(wait: Wait, cpu: Option<usize>) -> Result<Self, BoxError> {
        Self::built(trusted(CountService::bridge(cpus(cpu)).wait(wait)))
    }

    /// Like [`start`](Self::start), woken by `signal`, or by the default if that is `None`.
    pub fn woken_by(signal: Option<Signal>, wait: Wait, cpu: Option<usize>) -> Result<Self, BoxError> {
        let builder = CountService::bridge(cpus(cpu)).wait(wait);
        Self::built(match signal {
            Some(signal) => builder.signal(signal),
            None => builder,
        })
    }

    /// Starts a bridge that replaces a dead child, with a timeout for its calls.
    pub fn restarting(restart: Restart, timeout: Duration) -> Result<Self, BoxError> {
        Self::built(CountService::bridge(cpus(None)).restart(restart).timeout(timeout))
    }

    /// Like [`start`](Self::start), in the strictest sandbox.
    #[cfg(feature = "sandbox")]
    pub fn sandboxed(wait: Wait, cpu: Option<usize>) -> Result<Self, BoxError> {
        Self::built(CountService::bridge(cpus(cpu)).wait(wait).sandbox(callgate::Sandbox::strict()))
    }

    fn built(builder: Builder<CountService>) -> Result<Self, BoxError> {
        // The first start in a process also starts callgate's watcher, and all children inherit its CPUs.
        let bridge = Pinned::nowhere(|| builder.start())??;
        Ok(Self { bridge })
    }
}

fn cpus(cpu: Option<usize>) -> Vec<usize> {
    cpu.map_or_else(|| pin::allowed().to_vec(), |cpu| vec![cpu])
}

impl Transport for BridgeTransport {
    #[inline(always)]
    fn add(&mut self, n: u64) -> Result<u64, BoxError> {
        Ok(self.bridge.add(n)?)
    }

    #[inline(always)]
    fn greet(&mut self, name: &str) -> Result<String, BoxError> {
        Ok(self.bridge.greet(name)?)
    }

    #[inline(always)]
    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError> {
        Ok(self.bridge.sum(numbers)?)
    }

    #[inline(always)]
    fn record(&mut self, record: &Record) -> Result<Record, BoxError> {
        Ok(self.bridge.record(record)?)
    }

    #[inline(always)]
    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(self.bridge.echo(bytes)?)
    }

    #[inline(always)]
    fn work(&mut self, busy: Duration) -> Result<(), BoxError> {
        Ok(self.bridge.work(busy.as_nanos() as u64)?)
    }

    fn peer(&self) -> Option<u32> {
        Some(self.bridge.child_pid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload;

    #[test]
    fn it_carries_the_workload() {
        for wait in [Wait::Adaptive, Wait::Park] {
            workload::verify(&mut BridgeTransport::start(wait, None).expect("a start")).expect("true answers");
        }
    }
}
