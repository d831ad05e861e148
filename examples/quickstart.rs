//! A counter in a child process: `cargo run --release --example quickstart`

use callgate::bridge;
use std::{error::Error, process, time::Instant};

/// Counts.
pub struct Counter(u64);

#[bridge]
#[rustfmt::skip] // a method a line
impl Counter {
    /// `Counter::bridge(start)` starts a child and makes the counter there.
    pub fn new(start: u64) -> Self { Counter(start) }
    /// Changes what the child holds.
    pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
    /// Borrowed arguments are read in place.
    pub fn greet(&self, name: &str) -> String { format!("{name}: {}", self.0) }
    /// No receiver: also runs in the child.
    pub fn pid() -> u32 { process::id() }
}

fn main() -> Result<(), Box<dyn Error>> {
    callgate::init(); // first line of main: a child goes no further
    let counter = Counter::bridge(40).start()?;
    println!("parent {}, child {}", process::id(), counter.pid()?);
    println!("40 + 2 = {}; {}", counter.add(2)?, counter.greet("total")?);
    let (start, calls) = (Instant::now(), 100_000);
    for _ in 0..calls {
        counter.add(1)?;
    }
    println!("{:?} per call", start.elapsed() / calls);
    counter.stop()?;
    Ok(())
}
