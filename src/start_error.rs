//! Why a bridge did not start.

#![forbid(unsafe_code)]

use callgate_macros::Sentence;
use callgate_transport::error::{CallError, Exit, LastWordsText};
use std::time::Duration;

/// Why a bridge did not start. Nothing of it is left: no process, no descriptor, no memory.
#[derive(Sentence, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The program has no [`#[callgate::main]`](crate::main) and never called [`init`](crate::init), so a child would run its `main` a second time.
    #[error(
        "bridge to `{service}` not started: the program's main has no #[callgate::main] above it \
         (put it there, or call callgate::init() first in main; in tests and benches: callgate::test_support!())"
    )]
    NotInitialised {
        /// The service that was to be started.
        service: &'static str,
    },

    /// A value given to the builder is out of range.
    #[error("bridge to `{service}` not started: {option} is {value} but must be {range}")]
    Option {
        /// The service that was to be started.
        service: &'static str,
        /// The builder's method, or the environment variable that stands in for it.
        option: &'static str,
        /// What it was given.
        value: String,
        /// What it accepts.
        range: String,
    },

    /// The constructor's arguments could not be encoded.
    #[error("bridge to `{service}` not started: the arguments of its constructor cannot be encoded ({why})")]
    Arguments {
        /// The service that was to be started.
        service: &'static str,
        /// The reason, in words.
        why: String,
    },

    /// The operating system refused a resource or an operation that a bridge needs.
    #[error("bridge to `{service}` not started: {what}: {error}")]
    System {
        /// The service that was to be started.
        service: &'static str,
        /// The operation that failed.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },

    /// The child did not complete the handshake in time, and has been killed.
    #[error(
        "bridge to `{service}` not started: `{executable}` did not answer within {timeout:?} \
         (does its main have #[callgate::main] above it, or begin with callgate::init() or callgate::serve()?)"
    )]
    NoAnswer {
        /// The service that was to be started.
        service: &'static str,
        /// What was executed.
        executable: String,
        /// The time that the child was given.
        timeout: Duration,
    },

    /// The child ended before the service existed.
    #[error("bridge to `{service}` not started: child {pid} {exit} {when}{}", LastWordsText(.last_words))]
    Died {
        /// The service that was to be started.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// How the child ended.
        exit: Exit,
        /// `during the handshake` or `in its constructor`.
        when: &'static str,
        /// The child's own account of its end, if it left one: see [`CallError::Died`].
        last_words: Option<String>,
    },

    /// The child is not what this program expects: another build, version or service.
    #[error("bridge to `{service}` not started: child {pid} does not match: {what} (here {here}, there {there})")]
    Mismatch {
        /// The service that was to be started.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// What differs.
        what: &'static str,
        /// The value in this process.
        here: String,
        /// The value in the child.
        there: String,
    },

    /// The child said why it cannot serve, or wrote what no healthy child writes.
    #[error("bridge to `{service}` not started: child {pid}: {why}")]
    Handshake {
        /// The service that was to be started.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// The reason, in words.
        why: String,
    },

    /// The child reached [`init`](crate::init) with other threads or an async runtime already running, and has ended.
    #[error("bridge to `{service}` not started: child {pid} could not be used: {why}")]
    InitTooLate {
        /// The service that was to be started.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// What was already running, and the cure, in words.
        why: String,
    },

    /// The constructor returned an error.
    #[error("bridge to `{service}` not started: its constructor failed: {message}")]
    Constructor {
        /// The service that was to be started.
        service: &'static str,
        /// The constructor's error, as it displays.
        message: String,
    },

    /// The call of the constructor failed: it panicked, died or took too long.
    #[error("bridge to `{service}` not started: {error}")]
    Call {
        /// The service that was to be started.
        service: &'static str,
        /// What happened.
        error: CallError,
    },
    /// The child could not be put into its [`Sandbox`](crate::Sandbox), and has ended.
    #[cfg(feature = "sandbox")]
    #[error("bridge to `{service}` not started: child {pid} could not enter its sandbox: {measure}: {why}")]
    Sandbox {
        /// The service that was to be started.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// What could not be applied.
        measure: callgate_sandbox::measure::Measure,
        /// The reason, in words.
        why: String,
    },
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_transport::error::{CallName, Started};

    /// `unwrap`, `expect`, and a `main` that returns the error show it by `{:?}`.
    #[test]
    fn fault_38_debug_of_an_error_is_its_sentence_and_alternate_its_structure() {
        let call = CallName { service: "Adder", method: "add" };
        let timeout = Duration::from_secs(1);
        let late = CallError::TimedOut {
            call,
            pid: 7,
            timeout,
            awaited: callgate_transport::error::Awaited::Answer,
            started: Started::No,
        };
        for (error, part) in [
            (StartError::Call { service: "Adder", error: late }, "error: TimedOut {"),
            (
                StartError::System { service: "Adder", what: "it".into(), error: std::io::Error::other("full") },
                "System {",
            ),
            (StartError::NotInitialised { service: "Adder" }, "service: \"Adder\""),
        ] {
            assert_eq!(format!("{error:?}"), error.to_string());
            let alternate = format!("{error:#?}");
            assert!(alternate.contains(part) && alternate.contains('\n'), "{alternate}");
        }
        assert!(StartError::NotInitialised { service: "Adder" }.to_string().contains("#[callgate::main]"));
    }
}
