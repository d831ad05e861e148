//! How a child starts, dies and is replaced.
//!
//! # Start
//!
//! A child is this program, executed again up to `#[callgate::main]`, which therefore comes before everything else in `main`. There is no fork, so a
//! program with threads may start one. A child inherits no descriptor but standard output and error. It is the program that runs, even if its file has
//! been upgraded, moved or removed since.
//!
//! `#[callgate::main]` stands above the attribute of an async runtime (`#[callgate::main] #[tokio::main] async fn main()`). If a child already has threads
//! when it gets there, it ends and the start says how to cure that.
//!
//! # End
//!
//! To drop a bridge stops its child without waiting. [`Bridge::stop`](crate::Bridge::stop) waits, and says how the child ended. A child dies with its
//! parent, however the parent dies. Ctrl-C reaches the parent alone, because a child has a session of its own;
//! `Builder::signals(TerminalSignals::Shared)` changes that.
//!
//! # Restarts
//!
//! With a restart policy, another child takes the place of one that failed. Its service is built from the same constructor arguments; what the service
//! held is lost.
//!
//! ```
//! use callgate::{Restart, bridge};
//! use std::time::Duration;
//!
//! struct Decoder;
//!
//! #[bridge]
//! impl Decoder {
//!     pub fn new() -> Self {
//!         Decoder
//!     }
//!     pub fn decode(&self, bytes: &[u8]) -> usize {
//!         if bytes.is_empty() {
//!             std::process::abort() // as native code does that meets a damaged file
//!         }
//!         bytes.len()
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let decoder = Decoder::bridge().timeout(Duration::from_secs(5)).restart(Restart::on_failure()).start()?;
//!     assert!(decoder.decode(&[]).is_err());
//!     assert_eq!(decoder.decode(&[1, 2, 3])?, 3);
//!     Ok(())
//! }
//! ```
//!
//! | | `Restart::on_failure()` | `Restart::on_death()` |
//! |---|---|---|
//! | replaces a child that died or broke the protocol | yes | yes |
//! | replaces one that still runs a call after its timeout (`kill_after`) | yes, after a quarter of the timeout, 10 to 100 ms | no |
//! | calls wait for the next child (`calls_wait`) | yes, as long as their timeout allows | no: `CallError::Down` |
//! | attempts (`at_most(n).within(d)`, `d` = 60 s) | unlimited | unlimited |
//! | rest before a start (`backoff`) | none after a child that answered a call; else 10 ms, doubling to 5 s | the same |
//! | spare child, started ahead (`spare(true)`) | none | none |
//!
//! Calls that had not started run again in the next child, and so do methods marked `#[bridge(idempotent)]`. All others return what is known of them.
//! [`Builder::on_event`](crate::Builder::on_event) reports each step, [`Bridge::restart`](crate::Bridge::restart) exchanges the child now, and
//! [`Bridge::generation`](crate::Bridge::generation) counts.
//!
//! # Separate executables
//!
//! [`Builder::executable`](crate::Builder::executable) starts another binary, whose `main` calls [`serve::<T>()`](crate::serve), or
//! [`serve_parallel`](crate::serve_parallel) for several workers. The handshake compares both sides' methods, types and version. The examples `parent` and
//! `worker` are such a pair.
