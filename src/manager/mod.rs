//! Named callbacks between unrelated processes: one registers a function under a name, others call it.
//!
//! Layer 5.

#![forbid(unsafe_code)]

mod args;
#[cfg_attr(not(test), expect(dead_code, reason = "for the member's side, which is not there yet"))]
mod callback;
#[cfg_attr(not(test), expect(dead_code, reason = "for the member's side, which is not there yet"))]
mod typed;
mod value;

pub use args::{Args, RepeatedKeyword};
pub use callback::Callback;
pub use typed::{Arguments, Item, Mismatch, Outcome, Signature};
pub use value::Value;
