//! A counter in a child process: `cargo run --release -p quickstart`
use callgate::bridge;
use std::{error::Error, process, time::Instant};

struct Counter(u64);

#[bridge]
#[rustfmt::skip] // one method per line
impl Counter {
    pub fn new(start: u64) -> Self { Counter(start) }
    pub fn add(&mut self, n: u64) -> u64 { self.0 += n; self.0 }
    pub fn greet(&self, name: &str) -> String { format!("{name}: {}", self.0) }
    pub fn pid() -> u32 { process::id() } // no receiver: also runs in the child
}

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    let counter = Counter::bridge(40).start()?;
    println!("parent {}, child {}", process::id(), counter.pid()?);
    println!("40 + 2 = {}; {}", counter.add(2)?, counter.greet("total")?);
    let (start, calls) = (Instant::now(), 100_000);
    (0..calls).try_for_each(|_| counter.add(1).map(drop))?;
    println!("{:?} per call; the child {}", start.elapsed() / calls, counter.stop()?);
    Ok(())
}
