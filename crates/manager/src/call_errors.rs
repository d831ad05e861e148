//! The errors of callback calls, and which of them a call is retried after.
//!
//! Errors name the callback by a `&'static str` that is never freed. A table bounds how many names are kept: at most the number that a hub may
//! have at one time.

#![forbid(unsafe_code)]

use callgate_engine::service::Method;
use callgate_os::text::{beginning, shown};
use callgate_transport::bounds::hub::{MAX_NAME, MAX_NAMES};
use callgate_transport::error::{self, CallName, CallbackError, Payload, Started, TooDeep};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Why the call of a named callback gave no value.
#[derive(Clone, callgate_macros::Sentence, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The callback returned an error of its own. It stays registered.
    #[error("call `{call}` failed: {message}")]
    Callback {
        /// The call that failed.
        call: CallName,
        /// The callback's error, as it displays.
        message: String,
    },

    /// The callback takes other arguments than the caller passed, or returns another type than the caller asked for.
    #[error("call `{call}` failed: expected {expected}, found {found}")]
    Mismatch {
        /// The call that failed.
        call: CallName,
        /// The type that was required.
        expected: String,
        /// What was there instead.
        found: String,
    },

    /// The process that registered the callback has ended or disconnected.
    #[error("call `{call}` failed: process {pid}, which had registered it, is gone; {started}")]
    Gone {
        /// The call that failed.
        call: CallName,
        /// The process's number.
        pid: u32,
        /// Whether the callback can have run.
        started: Started,
    },

    /// No hub could say where the callback is: this process is not connected to a hub, or the hub does not answer.
    #[error("call `{call}` failed: {why}; the call had not started")]
    NoHub {
        /// The call that failed.
        call: CallName,
        /// The reason, in words.
        why: String,
    },

    /// An error that calls through a bridge have too: a panic in the callback, a timeout, a payload that is too large.
    #[error(transparent)]
    Call(#[from] error::CallError),
}

/// What to do about a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// Forget where the callback was, ask the hub, and call again: it is no longer there, and the call had not started.
    AskHub,
    /// Forget where the callback was, so that the next call asks the hub, but return the error: this call may have run.
    ForgetLocation,
    /// Return the error. The callback's location stays good.
    No,
}

/// The retry policy.
///
/// | error | had the call started? | retry |
/// |---|---|---|
/// | `Gone`, `Died`, `Stopped` | no | `AskHub` |
/// | `Gone`, `Died`, `Stopped` | yes | `ForgetLocation` |
/// | `Corrupt` | perhaps | `ForgetLocation` |
/// | any other | | `No` |
///
/// A timeout is never retried, even of a call that had not started: its request is still in the lane, and may yet run.
pub(super) fn classify(error: &CallError) -> Retry {
    use error::CallError::{Corrupt, Died, Stopped};
    match error {
        CallError::Gone { started, .. } | CallError::Call(Died { started, .. } | Stopped { started, .. }) => {
            match started {
                Started::No => Retry::AskHub,
                Started::Yes | Started::Unknown => Retry::ForgetLocation,
            }
        }
        CallError::Call(Corrupt { .. }) => Retry::ForgetLocation,
        _ => Retry::No,
    }
}

/// The same error in the words for callbacks: an owner's death or stop is `Gone`.
pub(super) fn as_gone(error: CallError) -> CallError {
    use error::CallError::{Died, Stopped};
    match error {
        CallError::Call(Died { call, pid, started, .. } | Stopped { call, pid, started }) => {
            CallError::Gone { call, pid, started }
        }
        other => other,
    }
}

/// The error of a call to process `pid`, whose callback reported `failure`.
pub(super) fn of_failure(failure: CallbackError, call: CallName, pid: u32) -> CallError {
    match failure {
        CallbackError::Failed(message) => CallError::Callback { call, message },
        CallbackError::Mismatch { expected, found } => CallError::Mismatch { call, expected, found },
        CallbackError::Gone => CallError::Gone { call, pid, started: Started::No },
        CallbackError::TooDeep => {
            error::CallError::TooDeep { call, what: Payload::Reply, limit: TooDeep.to_string() }.into()
        }
    }
}

/// A failure that another process wrote, with its control characters escaped.
pub(super) fn failure_shown(failure: CallbackError) -> CallbackError {
    match failure {
        CallbackError::Failed(message) => CallbackError::Failed(shown(message)),
        CallbackError::Mismatch { expected, found } => {
            CallbackError::Mismatch { expected: shown(expected), found: shown(found) }
        }
        other @ (CallbackError::Gone | CallbackError::TooDeep) => other,
    }
}

pub(super) fn too_deep(name: &str, why: TooDeep) -> CallError {
    error::CallError::TooDeep { call: name_of(name), what: Payload::Request, limit: why.to_string() }.into()
}

pub(super) fn refused(name: &str, why: String) -> CallError {
    error::CallError::Refused { call: name_of(name), why }.into()
}

pub(super) fn no_hub(name: &str, why: String) -> CallError {
    CallError::NoHub { call: name_of(name), why }
}

fn name_of(name: &str) -> CallName {
    method_named(name).call_name()
}

/// The method that stands for the callback `name` in errors.
pub(super) fn method_named(name: &str) -> &'static Method {
    static METHODS: Methods = Methods(OnceLock::new());
    // As many names as a hub may have at one time. Errors of further callbacks do not name them.
    METHODS.of(name, MAX_NAMES)
}

/// The methods of [`method_named`], by name. Errors borrow them, so each is made once and never freed.
struct Methods(OnceLock<Mutex<HashMap<&'static str, &'static Method>>>);

impl Methods {
    fn of(&self, name: &str, most: usize) -> &'static Method {
        static ANY: Method =
            Method { service: "", name: "(a callback)", index: 0, interface: None, idempotent: false, lends: false };
        // No callback has a longer name, but a program may call one.
        let name = beginning(name, MAX_NAME);
        let mut methods = self.0.get_or_init(Mutex::default).lock();
        if let Some(method) = methods.get(name) {
            return method;
        }
        if methods.len() >= most {
            return &ANY;
        }
        let name: &'static str = Box::leak(name.into());
        let method: &'static Method = Box::leak(Box::new(Method { name, ..ANY }));
        methods.insert(name, method);
        method
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CALL: CallName = CallName { service: "", method: "add" };

    fn ends(started: Started) -> [CallError; 3] {
        let exit = error::Exit::Code(1);
        [
            CallError::Gone { call: CALL, pid: 7, started },
            error::CallError::Died { call: CALL, pid: 7, exit, because: None, started, last_words: None }.into(),
            error::CallError::Stopped { call: CALL, pid: 7, started }.into(),
        ]
    }

    #[test]
    fn only_a_call_that_had_not_started_is_retried() {
        for error in ends(Started::No) {
            assert_eq!(classify(&error), Retry::AskHub, "{error}");
        }
        for error in ends(Started::Yes) {
            assert_eq!(classify(&error), Retry::ForgetLocation, "{error}");
        }
        let corrupt = error::CallError::Corrupt { call: CALL, pid: 7, what: "a lie" };
        assert_eq!(classify(&corrupt.into()), Retry::ForgetLocation);
    }

    #[test]
    fn an_error_of_a_callback_that_is_still_there_is_final() {
        let (timeout, awaited) = (std::time::Duration::from_secs(1), error::Awaited::Answer);
        let timed_out = |started| error::CallError::TimedOut { call: CALL, pid: 7, timeout, awaited, started }.into();
        let errors: [CallError; 7] = [
            CallError::Callback { call: CALL, message: "no".into() },
            CallError::Mismatch { call: CALL, expected: "i64".into(), found: "str".into() },
            no_hub("add", "none".into()),
            refused("add", "no".into()),
            too_deep("add", TooDeep),
            timed_out(Started::No),
            timed_out(Started::Yes),
        ];
        for error in errors {
            assert_eq!(classify(&error), Retry::No, "{error}");
        }
    }

    #[test]
    fn an_owners_end_is_said_in_the_words_for_callbacks() {
        for started in [Started::No, Started::Yes] {
            for error in ends(started) {
                assert_eq!(as_gone(error), CallError::Gone { call: CALL, pid: 7, started });
            }
        }
    }

    /// One that calls through a bridge have too reads as it does there.
    #[test]
    fn debug_of_a_callbacks_error_is_its_sentence() {
        let refused = error::CallError::Refused { call: CALL, why: "no".into() };
        let held = CallError::from(refused.clone());
        assert_eq!((held.to_string(), format!("{held:?}")), (refused.to_string(), refused.to_string()));
        let failed = CallError::Callback { call: CALL, message: "why".into() };
        assert_eq!(format!("{failed:?}"), "call `add` failed: why");
        assert!(format!("{failed:#?}").starts_with("Callback {\n"), "{failed:#?}");
    }

    #[test]
    fn what_another_process_reports_is_escaped() {
        let failed = failure_shown(CallbackError::Failed("\u{1b}[2J".into()));
        assert_eq!(failed, CallbackError::Failed(r"\u{1b}[2J".into()));
    }

    #[test]
    fn the_names_kept_for_errors_are_bounded() {
        let methods = Methods(OnceLock::new());
        for round in 0..2 {
            for number in 0..10 {
                let name = format!("name {number}");
                assert_eq!(methods.of(&name, 10).name, name, "{round}");
            }
            assert_eq!(methods.of("another", 10).name, "(a callback)");
        }
        let long = "é".repeat(1 << 20);
        assert_eq!(Methods(OnceLock::new()).of(&long, 10).name, "é".repeat(127));
    }
}
