//! Calls: a method's name and arguments on one side, its body on the other, and what can come between.
//!
//! Layer 4. Knows nothing of rings and futexes; sends and takes frames through `lane`.

#![forbid(unsafe_code)]

pub(crate) mod access;
mod account;
pub(crate) mod callee;
pub(crate) mod caller;
mod follow;
pub(crate) mod host;
pub(crate) mod interfaces;
mod last_words;
pub(crate) mod link;
mod memory;
pub(crate) mod nest;
pub(crate) mod overdue;
pub(crate) mod pair;
pub(crate) mod panic;
pub(crate) mod peer;
mod reclaim;
pub(crate) mod saved_args;
pub(crate) mod service;
