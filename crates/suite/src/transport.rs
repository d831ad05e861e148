//! The workload, as a trait that every way of calling implements.

#![forbid(unsafe_code)]

use callgate::rkyv;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::time::Duration;

/// Why a transport failed, in its own words.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A struct of ten fields of common types.
#[derive(
    Clone, Debug, Default, PartialEq, Serialize, Deserialize, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize,
)]
#[rkyv(crate = callgate::rkyv)]
#[allow(missing_docs, reason = "the fields mean nothing")]
pub struct Record {
    pub id: u64,
    pub parent: Option<u64>,
    pub x: f64,
    pub y: f64,
    pub width: u32,
    pub height: u32,
    pub visible: bool,
    pub layer: i16,
    pub name: String,
    pub tag: [u8; 8],
}

/// One way to call a counter that lives elsewhere: in another process, unless the transport's name says otherwise.
///
/// Every transport is set up as its own documentation recommends for low latency. It must really do the work: the callers of this trait
/// check the answers.
pub trait Transport {
    /// Adds `n` to a running total and returns the total.
    fn add(&mut self, n: u64) -> Result<u64, BoxError>;

    /// Returns `name` with one `!` after it.
    fn greet(&mut self, name: &str) -> Result<String, BoxError>;

    /// The wrapping sum of `numbers`.
    fn sum(&mut self, numbers: &[u64]) -> Result<u64, BoxError>;

    /// Returns the record with its `id` increased by one.
    fn record(&mut self, record: &Record) -> Result<Record, BoxError>;

    /// Returns `bytes` unchanged.
    fn echo(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BoxError>;

    /// Keeps the callee's CPU busy for `busy`, without sleeping, then returns.
    fn work(&mut self, busy: Duration) -> Result<(), BoxError>;

    /// The process number of the callee; `None` if it is this process.
    fn peer(&self) -> Option<u32>;
}
