//! A hub's address, a path or an abstract name, as users write it.
//!
//! Relies on `callgate_os::sole_listener` for the one process that listens there.

#![forbid(unsafe_code)]

use super::error::ManagerError;
use callgate_os::limits::{self, Wanted};
use callgate_os::listener::{self, Connected, MAX_NAME, SocketName};
use callgate_os::selfproc;
use callgate_os::sole_listener::{self, SocketError, SoleListener};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a hub listens.
///
/// | text | what it is |
/// |---|---|
/// | `@name` | an abstract name: not in the file system, the same for all in one network namespace |
/// | with a `/` | the path of a socket; relative ones from the working directory at the time |
/// | any other | `$XDG_RUNTIME_DIR/callgate/<text>`, without that variable `/tmp/callgate-<uid>/<text>` |
///
/// A missing directory is created for this user alone (0700). The directory must belong to this user or root, and only its owner may be able to
/// write to it: `/tmp/name` is refused, `/tmp/mine/name` is not. While the hub runs, `<path>.lock` lies beside the socket. A name or path is
/// UTF-8, and has at most 107 bytes.
///
/// Can be made from any text. It is checked when it is used.
///
/// # Examples
///
/// ```
/// use callgate::manager::Address;
///
/// assert_eq!(Address::from("@metrics"), Address::abstract_name("metrics"));
/// assert_eq!(Address::from("@metrics").to_string(), "@metrics");
/// assert_eq!(Address::from("/run/user/1000/metrics").to_string(), "/run/user/1000/metrics");
/// assert!(Address::from("metrics").to_string().ends_with("/metrics"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(AddressKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum AddressKind {
    /// Absolute, unless there is no working directory.
    Path(PathBuf),
    Abstract(String),
}

impl Address {
    /// The abstract name `name`, of 1 to 107 bytes: as `Address::from("@name")`.
    pub fn abstract_name(name: impl Into<String>) -> Self {
        Self(AddressKind::Abstract(name.into()))
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => Self::abstract_name(name),
            // Stays empty, and is refused when it is used.
            None if text.is_empty() => Self(AddressKind::Path(PathBuf::new())),
            None if text.contains('/') => Self::from(Path::new(text)),
            None => Self(AddressKind::Path(default_directory().join(text))),
        }
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self(AddressKind::Path(std::path::absolute(path).unwrap_or_else(|_| path.into())))
    }
}

impl From<&PathBuf> for Address {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&Address> for Address {
    fn from(address: &Address) -> Self {
        address.clone()
    }
}

/// Text from which the same address can be made. (Paths that are not UTF-8 cannot be used as addresses.)
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            AddressKind::Path(path) => write!(f, "{}", path.display()),
            AddressKind::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

fn default_directory() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join("callgate"),
        _ => PathBuf::from(format!("/tmp/callgate-{}", selfproc::effective_ids().0)),
    }
}

// ---- connecting and listening --------------------------------------------------------------------------------------

impl Address {
    /// Connects to the listening process; `None` if its backlog is full.
    ///
    /// # Errors
    ///
    /// `NobodyListens` among others.
    pub(super) fn connect(&self) -> Result<Option<OwnedFd>, ManagerError> {
        match sole_listener::connect(self.checked()?).map_err(|error| self.refused(error))? {
            Connected::Yes(socket) => Ok(Some(socket)),
            Connected::Full => Ok(None),
            Connected::Nobody => Err(ManagerError::NobodyListens { address: self.to_string() }),
        }
    }

    /// Listens here; `None` if another process does.
    pub(super) fn listen(&self) -> Result<Option<SoleListener>, ManagerError> {
        SoleListener::listen(self.checked()?).map_err(|error| self.refused(error))
    }

    /// The listening process, if the kernel says it.
    pub(super) fn listener(&self) -> Option<u32> {
        let Ok(Connected::Yes(socket)) = listener::connect(self.checked().ok()?) else { return None };
        listener::peer(socket).ok().map(|peer| peer.pid).filter(|pid| *pid != 0)
    }

    /// The name for the kernel, if the address is valid.
    fn checked(&self) -> Result<SocketName<'_>, ManagerError> {
        let (bytes, name) = match &self.0 {
            AddressKind::Path(path) => (path.as_os_str().as_bytes(), SocketName::Path(path)),
            AddressKind::Abstract(name) => (name.as_bytes(), SocketName::Abstract(name.as_bytes())),
        };
        let why = match bytes {
            [] => "it is empty".into(),
            _ if bytes.contains(&0) => "it contains a zero byte".into(),
            // Handles and command lines pass it on as text.
            _ if std::str::from_utf8(bytes).is_err() => "it is not UTF-8".into(),
            _ if bytes.len() > MAX_NAME => format!("it is {} bytes long, and the limit is {MAX_NAME}", bytes.len()),
            _ => return Ok(name),
        };
        Err(ManagerError::Address { address: self.to_string(), why })
    }

    pub(super) fn failed(&self, what: impl Into<String>, error: io::Error) -> ManagerError {
        let what = what.into() + &limits::behind(&error, Wanted::Task);
        ManagerError::System { address: self.to_string(), what, error }
    }

    fn refused(&self, error: SocketError) -> ManagerError {
        let address = self.to_string();
        match error {
            SocketError::Squatted { path, why } => ManagerError::Squatted { address, path, why },
            SocketError::NotASocket(what) => ManagerError::NotASocket { address, what },
            SocketError::System(what, error) => self.failed(what, error),
        }
    }
}
