//! Named callbacks between unrelated processes: one registers a callback under a name, another calls it, and it runs in the first.

#![forbid(unsafe_code)]

// The hub, and the way to it. (Until a member's side uses all of it, some is dead.)
#[allow(dead_code)]
mod address;
#[allow(dead_code)]
pub(crate) mod auth;
#[allow(dead_code)]
mod authkey;
mod error;
#[allow(dead_code)]
pub(crate) mod hub;
#[allow(dead_code)]
pub(crate) mod protocol;

pub use self::address::Address;
pub use self::authkey::{AuthKey, KeyReference};
pub use self::error::ManagerError;
pub use self::hub::HubOptions;
