//! Why there is no hub, or no way to one: sentences that say who, what and where.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// Why a hub could not be started or joined.
#[derive(callgate_macros::Sentence, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// Another hub, or another program, listens there already.
    #[error("no hub started at `{address}`: {} listens there already", who(*pid))]
    InUse {
        /// The address.
        address: String,
        /// The process that listens, where the kernel tells.
        pid: Option<u32>,
    },

    /// No hub is there.
    #[error("nobody listens at `{address}`")]
    NobodyListens {
        /// The address.
        address: String,
    },

    /// No hub took this process in within the time that it was given.
    #[error("no answer at `{address}` after {waited:?}: {what}")]
    TimedOut {
        /// The address.
        address: String,
        /// How long it was waited for.
        waited: Duration,
        /// What did not come.
        what: &'static str,
    },

    /// Hub and client do not have the same key.
    #[error("{} at `{address}` has another key than this process", who(*pid))]
    WrongKey {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
    },

    /// Who is at the other end runs as another user, who is not root.
    #[error("{} at `{address}` is of user {theirs}, and this process of user {ours}", who(*pid))]
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

    /// Others than this user could put another socket in the place of this one.
    #[error("`{address}` is not safe: {} {why}", path.display())]
    Squatted {
        /// The address.
        address: String,
        /// What is not as it must be.
        path: PathBuf,
        /// How it is.
        why: String,
    },

    /// Something is there that is no socket. It is left alone.
    #[error("`{address}` is no socket, but {what}; it is left as it is")]
    NotASocket {
        /// The address.
        address: String,
        /// What it is.
        what: &'static str,
    },

    /// Who listens does not speak as a hub does.
    #[error("{} at `{address}` is no hub: {why}", who(*pid))]
    NotAHub {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
        /// What it did.
        why: String,
    },

    /// The hub is of another version of this library, whose messages are others.
    #[error("the hub at `{address}` speaks version {theirs}, and this process version {ours}")]
    Version {
        /// The address.
        address: String,
        /// This process's version of the protocol.
        ours: u32,
        /// The hub's.
        theirs: u32,
    },

    /// The hub that has this process's key sees another process at the other end than this one: one that stands between the two. (Before Linux 6.9
    /// also one of another pid namespace.)
    #[error("{} at `{address}` is not the hub, and passes on what the hub says (before Linux 6.9, also a hub in another pid namespace)", who(*pid))]
    Relayed {
        /// The address.
        address: String,
        /// The process that listens.
        pid: Option<u32>,
    },

    /// The hub takes no more clients, or no more of this process.
    #[error("the hub at `{address}` takes no more clients, or no more of this process")]
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

    /// The address cannot be one.
    #[error("`{address}` is no address: {why}")]
    Address {
        /// The address.
        address: String,
        /// The reason, in words.
        why: String,
    },

    /// There is no key to be had where it was looked for, or not one that may be used.
    #[error("no key from {from}: {why}")]
    Key {
        /// Where it was looked for: a file, an environment variable, or what the program gave.
        from: String,
        /// The reason, in words.
        why: String,
    },

    /// A value given to [`HubOptions`](super::HubOptions) is out of range.
    #[error("no hub started: {option} is {value}, and must be {range}")]
    Option {
        /// The option.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it accepts.
        range: String,
    },

    /// This manager has a hub already.
    #[error("this process is connected to the hub at `{address}` already")]
    Connected {
        /// The address.
        address: String,
    },

    /// There is no hub, or it does not answer.
    #[error("no hub at `{address}`: {why}")]
    NoHub {
        /// The address.
        address: String,
        /// What there is instead, in words.
        why: String,
    },

    /// The name is registered already, by another process or by this one.
    #[error("`{name}` is registered at `{address}` already, by process {pid}")]
    Taken {
        /// The address.
        address: String,
        /// The name.
        name: String,
        /// The process that has it.
        pid: u32,
    },

    /// The hub, or this process, does not do what it was asked for.
    #[error("{what} at `{address}` was refused: {why}")]
    Refused {
        /// The address.
        address: String,
        /// What was asked for.
        what: String,
        /// The reason, in words.
        why: String,
    },

    /// The operating system refused something.
    #[error("`{address}`: {what}: {error}")]
    System {
        /// The address.
        address: String,
        /// What was being done.
        what: String,
        /// The system's answer.
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
        assert_eq!(format!("{taken:?}"), "`add` is registered at `@here` already, by process 7");
        assert!(format!("{taken:#?}").starts_with("Taken {\n"), "{taken:#?}");
        let repeated = RepeatedKeyword { keyword: "a".into() };
        assert_eq!(format!("{repeated:?}"), repeated.to_string());
        assert_eq!(
            (format!("{ParseHandleError:?}"), format!("{ParseHandleError:#?}")),
            (ParseHandleError.to_string(), "ParseHandleError".into())
        );
    }
}
