//! Checks for `callgate chaos` that every call ends with its true outcome while children are killed and stopped.
//!
//! [`load`] kills at random moments under load; `sweep` (feature `failpoints`) kills at every named step of the protocol. Both make the calls
//! of [`victim`], one by one and in [`groups`], which count their runs in a file, and have [`ledger`] compare the callers' outcomes with that count. [`processes`] finds what the
//! process keeps but must not keep, so a process can do only one such run at a time.

pub mod ledger;
pub mod load;
#[cfg(feature = "failpoints")]
mod orders;
pub mod processes;
#[cfg(feature = "failpoints")]
pub mod sweep;
pub mod victim;
pub mod groups;

pub use load::{Chaos, Tally};
