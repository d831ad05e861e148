//! Callbacks with types: what may be an argument or a result, how it becomes a [`Value`] and comes out of one, and signatures as text.
//!
//! If caller and callback have the same [`Signature`], arguments cross as the tuple that they are; otherwise as [`Args`](crate::Args), and each
//! is converted. Texts of types are made while compiling: calls only compare them.

#![forbid(unsafe_code)]

mod item;
mod arguments;
mod signature;
#[cfg(all(test, not(loom)))]
mod tests;

pub use self::arguments::{Arguments, Outcome};
pub(super) use self::arguments::{shallow, shallow_args, shallow_item};
pub(super) use self::item::shortened;
pub use self::item::{Item, TypeMismatch};
pub use self::signature::Signature;
