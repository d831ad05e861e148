//! Handles: text that tells another process where a hub and its key are. Clients that connect through one can call, but not register.

#![forbid(unsafe_code)]

use super::address::Address;
use super::args::Args;
use super::auth::ClientRights;
use super::authkey::{AuthKey, KeyReference};
use super::call_errors::CallError;
use super::connection::{Manager, Name};
use super::error::ManagerError;
use super::typed::{Arguments, Item};
use super::value::Value;
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A hub's address and the place of its key, but never the key itself: see [`Manager::handle`].
///
/// A small value to pass to other processes: as text ([`Display`](fmt::Display), [`FromStr`]), or across a bridge or by a call
/// (`rkyv`).
///
/// # Examples
///
/// ```
/// # use callgate::manager::{AuthKey, Handle, Manager};
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let address = format!("@callgate-doc-handle-{}", std::process::id());
/// # let plenty = Duration::from_secs(10);
/// let key = AuthKey::new("a secret that both have");
/// let hub = Manager::new(&address, &key);
/// hub.start(plenty)?;
/// let _double = hub.register_fn("double", |n: i64| 2 * n)?;
/// let text = hub.handle().to_string();
///
/// // In another process, as a rule.
/// let handle: Handle = text.parse()?;
/// let client = handle.connect_with(&key, plenty)?;
/// assert_eq!(client.call_as::<i64>("double", (21i64,))?, Some(42));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Archive, Serialize, Deserialize)]
pub struct Handle {
    address: String,
    /// `file:` and a path, `env:` and a variable, or nothing.
    key: String,
}

/// Why a text is not a [`Handle`].
#[derive(Clone, Copy, callgate_macros::Sentence, PartialEq, Eq, thiserror::Error)]
#[error(
    "the text is not a manager's handle: `callgate:<length of the key's place>:<the key's place>:<address>` is expected"
)]
pub struct ParseHandleError;

impl Manager {
    /// A handle for other processes to call through this hub: its address, and where the key is. Never the key itself.
    pub fn handle(&self) -> Handle {
        Handle::of(&self.shared.address, self.shared.key.reference())
    }
}

impl Handle {
    pub(super) fn of(address: &Address, key: &KeyReference) -> Self {
        let key = match key {
            KeyReference::File(path) => path.to_str().map(|path| format!("file:{path}")),
            KeyReference::Environment(variable) => Some(format!("env:{variable}")),
            KeyReference::Given => None,
        };
        Self { address: address.to_string(), key: key.unwrap_or_default() }
    }

    /// The hub's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects to the hub to call callbacks, with the key from the place that the handle names.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Key`] if the key is not there, or if the handle names no place (then use [`connect_with`](Self::connect_with)); others as
    /// [`Manager::connect`].
    pub fn connect(&self, timeout: Duration) -> Result<CallOnlyClient, ManagerError> {
        let key = match self.key.split_once(':') {
            Some(("file", path)) => AuthKey::from_file(path)?,
            Some(("env", variable)) => AuthKey::from_env(variable)?,
            _ => {
                let why = "the handle names no file or variable to read it from; use Handle::connect_with".into();
                return Err(ManagerError::Key { from: KeyReference::Given.to_string(), why });
            }
        };
        self.connect_with(&key, timeout)
    }

    /// Connects as [`connect`](Self::connect) does, with this key.
    ///
    /// # Errors
    ///
    /// As [`Manager::connect`].
    pub fn connect_with(&self, key: &AuthKey, timeout: Duration) -> Result<CallOnlyClient, ManagerError> {
        let manager = Manager::new(self.address.as_str(), key);
        manager.connect_as(ClientRights::CallerOnly, timeout)?;
        Ok(CallOnlyClient { manager })
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "callgate:{}:{}:{}", self.key.len(), self.key, self.address)
    }
}

impl FromStr for Handle {
    type Err = ParseHandleError;

    fn from_str(text: &str) -> Result<Self, ParseHandleError> {
        let (len, rest) =
            text.strip_prefix("callgate:").and_then(|rest| rest.split_once(':')).ok_or(ParseHandleError)?;
        let (key, rest) = len.parse().ok().and_then(|len| rest.split_at_checked(len)).ok_or(ParseHandleError)?;
        let address = rest.strip_prefix(':').filter(|address| !address.is_empty()).ok_or(ParseHandleError)?;
        Ok(Self { address: address.into(), key: key.into() })
    }
}

/// A client that connected through a [`Handle`]. It can call; the hub refuses its registrations.
///
/// Clones are the same. When the last is dropped, the process leaves the hub.
#[derive(Clone, Debug)]
pub struct CallOnlyClient {
    manager: Manager,
}

impl CallOnlyClient {
    /// As [`Manager::call`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn call(&self, name: &str, args: Args) -> Result<Option<Value>, CallError> {
        self.manager.call(name, args)
    }

    /// As [`Manager::call_as`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn call_as<R: Item>(&self, name: &str, args: impl Arguments) -> Result<Option<R>, CallError> {
        self.manager.call_as(name, args)
    }

    /// As [`Manager::names`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn names(&self) -> Result<Vec<Name>, ManagerError> {
        self.manager.names()
    }

    /// As [`Manager::is_connected`].
    pub fn is_connected(&self) -> bool {
        self.manager.is_connected()
    }

    /// A handle for the same hub.
    pub fn handle(&self) -> Handle {
        self.manager.handle()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_handles_text_makes_the_same_handle() {
        for (key, address) in [("", "@a:b"), ("file:/a: b:/c", "/run/x y/hub"), ("env:KEY", "@7:é")] {
            let handle = Handle { address: address.into(), key: key.into() };
            assert_eq!(handle.to_string().parse(), Ok(handle));
        }
        for text in
            ["", "callgate:", "callgate:0:", "callgate:0::", "callgate:9:env:K:@a", "callgate:1:é:@a", "x:0::@a"]
        {
            assert_eq!(text.parse::<Handle>(), Err(ParseHandleError), "{text}");
        }
    }
}
