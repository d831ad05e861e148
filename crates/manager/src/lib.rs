//! Named callbacks between unrelated processes: one registers a function under a name, others call it, and **it runs in the process that
//! registered it**.
//!
//! One process is the **hub**, at a known address and with a shared key; the others are its clients. The hub only introduces them: at the first
//! call from one process to another it makes shared memory for the two. From then on they talk directly, as fast as a bridge and its child.
//! Neither trusts what the other writes: each copies the other's payloads, and validates the copy.
//!
//! A process whose callbacks others call gets a panic hook, see [`Manager::register`]: panics in callbacks are returned to their callers, all
//! others go to the previous hook.
//!
//! # Examples
//!
//! ```
//! use callgate::args;
//! use callgate::manager::{AuthKey, Manager, Value};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let address = format!("@callgate-doc-{}", std::process::id());
//! let key = AuthKey::new("a secret that both have");
//! let plenty = Duration::from_secs(10);
//! let hub = Manager::new(&address, &key);
//! hub.start(plenty)?;
//! let _add = hub.register_fn("add", |a: i64, b: i64| a + b)?;
//!
//! // In another process, as a rule.
//! let other = Manager::new(&address, &key);
//! other.connect(plenty)?;
//! assert_eq!(other.call_as::<i64>("add", (1i64, 2i64))?, Some(3));
//! assert_eq!(other.call("add", args![1, 2])?, Some(Value::I64(3)));
//! assert_eq!(other.call("subtract", args![1, 2])?, None); // nobody has registered it
//! # Ok(())
//! # }
//! ```
//!
//! (The crate is a part of [callgate](https://docs.rs/callgate), and for it alone: use it as `callgate::manager`.)

#![forbid(unsafe_code)]
#![cfg_attr(loom, allow(dead_code, unused_imports))]

// What crosses.
mod value;
mod args;
mod typed;
mod callback;
mod codec;

// The way to the hub, and what is said there.
mod error;
mod address;
mod authkey;
mod auth;
pub(crate) mod protocol;

// The hub.
pub(crate) mod hub;

// A client.
mod callbacks;
mod call_errors;
mod client;
mod connection;
mod handle;
mod locks;
mod registration;
pub use self::address::Address;
pub use self::args::{Args, RepeatedKeyword};
pub use self::authkey::{AuthKey, KeyReference};
pub use self::call_errors::CallError;
pub use self::callback::Callback;
pub use self::connection::{Manager, Name};
pub use self::error::ManagerError;
pub use self::handle::{CallOnlyClient, Handle, ParseHandleError};
pub use self::hub::HubOptions;
pub use self::locks::{Lock, Permit, Semaphore};
pub use self::registration::{Registration, RegistrationBuilder};
pub use self::typed::{Arguments, Item, Outcome, Signature, TypeMismatch};
pub use self::value::Value;

#[cfg(all(test, not(loom)))]
#[path = "../../../tests/support/mod.rs"]
mod support;
