//! How a child starts, dies and is replaced.
//!
//! # Start
//!
//! A child is the same program, executed again. `#[callgate::main]` takes over before the body of `main` runs, so nothing may come before it. Callgate never
//! forks, so a program with threads can start children safely. A child inherits standard output and error, and no other descriptor. It runs the parent's
//! exact binary, even if the file has since been replaced, moved or deleted.
//!
//! Where the program has closed descriptor 0, 1 or 2, callgate opens `/dev/null` there, so that no line is ever written into a socket of its own. A program
//! that redirects them uses `dup2`.
//!
//! `#[callgate::main]` stands above the attribute of an async runtime (`#[callgate::main] #[tokio::main] async fn main()`). If `main` has started threads
//! when it gets there, it exits, and `start()` returns an error that says how to cure that.
//!
//! # End
//!
//! Dropping a bridge stops its child without waiting for its end. [`Bridge::stop`](crate::Bridge::stop) waits, and says how the child ended. A child dies with its
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
//! | replaces one that still runs a call after its timeout (`kill_after`) | yes: a quarter of the timeout later, at least 10 and at most 100 ms | no |
//! | calls wait for the next child (`calls_wait`) | yes, until their timeout; without one, until a child serves or a start fails | no: `CallError::Down` |
//! | limit on restarts (`at_most(n)`, counted over `within(d)`, 60 s by default) | none | none |
//! | pause before a start (`backoff`) | none for the first, and after a child that answered a call; then 10 ms, doubling up to 5 s | the same |
//! | spare child, started ahead (`spare(true)`) | none | none |
//!
//! Calls that had not started run again in the next child, and so do methods marked `#[bridge(idempotent)]`, up to three times in all. Every other call
//! returns an error that says whether the method had started; so do calls made with `begin`, and calls that had already sent a box.
//! [`Builder::on_event`](crate::Builder::on_event) reports each step, [`Bridge::restart`](crate::Bridge::restart) replaces the child now, and
//! [`Bridge::generation`](crate::Bridge::generation) says how many children came before this one.
//!
//! # Separate executables
//!
//! [`Builder::executable`](crate::Builder::executable) starts another binary, whose `main` calls [`serve::<T>()`](crate::serve), or
//! [`serve_parallel`](crate::serve_parallel) for several workers. The handshake compares both sides' methods, types and version. The examples `parent` and
//! `worker` are such a pair.
