//! Errors of calls of callbacks, and what stands for a callback in them.
//!
//! They say which callback it was by a name that is kept for good: no more of those are kept than a hub has names at a time.

#![forbid(unsafe_code)]

use super::protocol::MAX_NAME;
use callgate_engine::service::Method;
use callgate_os::text::beginning;
use callgate_transport::error::TooDeep;
use callgate_transport::error::{CallError, CallName, Payload, Started};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::OnceLock;

/// Whether a call came to nothing because its callback is no longer where it was.
pub(super) fn is_moved(error: &CallError) -> bool {
    match error {
        CallError::Gone { started, .. } | CallError::Died { started, .. } | CallError::Stopped { started, .. } => {
            *started == Started::No
        }
        _ => false,
    }
}

/// The same error, in words that are about callbacks.
pub(super) fn as_gone(error: CallError) -> CallError {
    match error {
        CallError::Died { call, pid, started, .. } | CallError::Stopped { call, pid, started } => {
            CallError::Gone { call, pid, started }
        }
        other => other,
    }
}

pub(super) fn too_deep(name: &str, why: TooDeep) -> CallError {
    CallError::TooDeep { call: name_of(name), what: Payload::Request, limit: why.to_string() }
}

pub(super) fn refused(name: &str, why: String) -> CallError {
    CallError::Refused { call: name_of(name), why }
}

pub(super) fn no_hub(name: &str, why: String) -> CallError {
    CallError::NoHub { call: name_of(name), why }
}

fn name_of(name: &str) -> CallName {
    method_named(name).call_name()
}

/// What stands for the callback `name` in errors.
pub(super) fn method_named(name: &str) -> &'static Method {
    static METHODS: Methods = Methods(OnceLock::new());
    METHODS.of(name, MOST_METHODS)
}

/// So many names are remembered for errors, as many as a hub has at a time. Names of later callbacks are not in errors.
const MOST_METHODS: usize = 1 << 16;

/// What stands for callbacks in errors, which have no memory of their own: made once for each name, and for good.
struct Methods(OnceLock<Mutex<HashMap<&'static str, &'static Method>>>);

impl Methods {
    fn of(&self, name: &str, most: usize) -> &'static Method {
        static ANY: Method = Method { service: "", name: "(a callback)", index: 0, interface: None, idempotent: false };
        // No callback's name is longer, but somebody may call such a one.
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

    #[test]
    fn so_many_names_are_remembered_and_no_more() {
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
