//! Calls a service in a separate executable, the example `worker`:
//! `cargo build --release --examples && cargo run --release --example parent`
//!
//! The two are built separately, so the handshake checks that they agree on the service's methods and types. A parent that
//! starts only separate executables does not need `#[callgate::main]`.

use std::env;
use std::error::Error;

mod tally;
use tally::Tally;

#[callgate::main]
fn main() -> Result<(), Box<dyn Error>> {
    let worker = env::current_exe()?.with_file_name("worker");
    let tally = Tally::bridge(3).executable(worker).start()?;
    let words = tally.add("the gate is the bridge, and the bridge is the gate")?;
    println!("{words} words of 3 bytes or more, counted by {}", tally.executable()?);
    for (word, count) in tally.counts()? {
        println!("{count} {word}");
    }
    tally.stop()?;
    Ok(())
}
