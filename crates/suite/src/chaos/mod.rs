//! Checks for `callgate chaos` that every call ends with its true outcome while children are killed and stopped.
//!
//! [`load`] kills at random moments under load; `sweep` (feature `failpoints`) at every named step of the protocol. Both make the calls
//! of [`victim`], which count their runs in a file, and have [`ledger`] compare what callers were told with that. What a process may not keep
//! is looked at in [`processes`]: so one such run at a time in a process.

pub mod ledger;
pub mod load;
#[cfg(feature = "failpoints")]
mod orders;
pub mod processes;
#[cfg(feature = "failpoints")]
pub mod sweep;
pub mod victim;

pub use load::{Chaos, Tally};
