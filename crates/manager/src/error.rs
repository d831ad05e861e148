//! Errors of starting, joining and asking a hub: sentences that say who, what and where.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// Why a hub could not be started, joined or asked.
#[derive(callgate_macros::Sentence, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// Another hub, or another program, already listens at the address.
    #[error("no hub started at `{address}`: {} already listens there", who(*pid))]
    InUse {
        /// The address.
        address: String,
        /// The listening process, if the kernel says it.
        pid: Option<u32>,
    },

    /// No process listens at the address.
    #[error("nobody listens at `{address}`")]
    NobodyListens {
        /// The address.
        address: String,
    },

    /// No hub accepted this process in time.
    #[error("no answer at `{address}` after {waited:?}: {what}")]
    TimedOut {
        /// The address.
        address: String,
        /// How long this process waited.
        waited: Duration,
        /// What was missing.
        what: &'static str,
    },

    /// Hub and client do not have the same key.
    #[error("{} at `{address}` has a different key than this process", who(*pid))]
    WrongKey {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
    },

    /// The process at the other end runs as another user, who is not root.
    #[error("{} at `{address}` runs as user {theirs}, this process as user {ours}", who(*pid))]
    OtherUser {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
        /// Its effective user.
        theirs: u32,
        /// This process's.
        ours: u32,
    },

    /// Other users could replace the socket.
    #[error("`{address}` is not safe: {} {why}", path.display())]
    Squatted {
        /// The address.
        address: String,
        /// The unsafe file or directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },

    /// The path exists and is not a socket. It is left unchanged.
    #[error("`{address}` is {what}, not a socket; it was left unchanged")]
    NotASocket {
        /// The address.
        address: String,
        /// What it is.
        what: &'static str,
    },

    /// The listening process does not follow a hub's protocol.
    #[error("{} at `{address}` is not a hub: {why}", who(*pid))]
    NotAHub {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
        /// What it did.
        why: String,
    },

    /// The hub has another version of this library, with another protocol.
    #[error("the hub at `{address}` speaks version {theirs} of the protocol, this process version {ours}")]
    Version {
        /// The address.
        address: String,
        /// This process's version of the protocol.
        ours: u32,
        /// The hub's.
        theirs: u32,
    },

    /// A process between the two relays the messages: the hub sees another process at the other end than this one. (Before Linux 6.9 also if the
    /// hub is in another pid namespace.)
    #[error(
        "{} at `{address}` is not the hub but relays its messages (before Linux 6.9, a hub in another pid namespace also looks like this)",
        who(*pid)
    )]
    Relayed {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
    },

    /// The hub accepts no more clients, or no more connections of this process.
    #[error("the hub at `{address}` accepts no more clients, or no more connections of this process")]
    TooMany {
        /// The address.
        address: String,
    },

    /// The hub closed the connection, or has ended.
    #[error("the hub at `{address}` closed the connection")]
    Closed {
        /// The address.
        address: String,
    },

    /// The address is invalid.
    #[error("`{address}` is not a valid address: {why}")]
    Address {
        /// The address.
        address: String,
        /// The reason, in words.
        why: String,
    },

    /// The key could not be read, or is not safe to use.
    #[error("no key from {from}: {why}")]
    Key {
        /// The source of the key: a file, an environment variable, or the program.
        from: String,
        /// The reason, in words.
        why: String,
    },

    /// A value given to [`HubOptions`](super::HubOptions) is out of range.
    #[error("no hub started: {option} is {value} but must be {range}")]
    Option {
        /// The option.
        option: &'static str,
        /// The value given.
        value: String,
        /// What it accepts.
        range: String,
    },

    /// This manager is already connected.
    #[error("this process is already connected to the hub at `{address}`")]
    Connected {
        /// The address.
        address: String,
    },

    /// There is no hub, or it does not answer.
    #[error("no hub at `{address}`: {why}")]
    NoHub {
        /// The address.
        address: String,
        /// The reason, in words.
        why: String,
    },

    /// The name is already registered, by another process or by this one.
    #[error("`{name}` is already registered at `{address}`, by process {pid}")]
    Taken {
        /// The address.
        address: String,
        /// The name.
        name: String,
        /// The process that registered it.
        pid: u32,
    },

    /// The hub, or this process, refused the request.
    #[error("{what} at `{address}` was refused: {why}")]
    Refused {
        /// The address.
        address: String,
        /// The request.
        what: String,
        /// The reason, in words.
        why: String,
    },

    /// The operating system refused something.
    #[error("`{address}`: {what}: {error}")]
    System {
        /// The address.
        address: String,
        /// What was attempted.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
}

fn who(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{ParseHandleError, RepeatedKeyword};

    #[test]
    fn fault_38_debug_of_a_managers_error_is_its_sentence() {
        let taken = ManagerError::Taken { address: "@here".into(), name: "add".into(), pid: 7 };
        assert_eq!(format!("{taken:?}"), "`add` is already registered at `@here`, by process 7");
        assert!(format!("{taken:#?}").starts_with("Taken {\n"), "{taken:#?}");
        let repeated = RepeatedKeyword { keyword: "a".into() };
        assert_eq!(format!("{repeated:?}"), repeated.to_string());
        assert_eq!(
            (format!("{ParseHandleError:?}"), format!("{ParseHandleError:#?}")),
            (ParseHandleError.to_string(), "ParseHandleError".into())
        );
    }
}
