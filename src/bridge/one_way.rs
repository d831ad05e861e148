//! Calls whose results nobody wants.

#![forbid(unsafe_code)]

use super::target::Target;
use callgate_engine::service::{Method, Mode, sealed};
use callgate_transport::decoder::Transfer;
use callgate_transport::error::CallError;
use callgate_transport::request::Request;
use std::fmt;
use std::time::Duration;

/// The one-way mode: a method returns when its request is written, and its result is dropped in the child.
#[derive(Clone)]
pub struct OneWay {
    target: Target,
    timeout: Option<Duration>,
}

impl OneWay {
    pub(super) fn new(target: Target, timeout: Option<Duration>) -> Self {
        Self { target, timeout }
    }
}

impl sealed::Sealed for OneWay {}

impl Mode for OneWay {
    type Out<R: Transfer> = Result<(), CallError>;
    type Items<T: Transfer> = Result<(), CallError>;

    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Result<(), CallError> {
        self.target.send(method, args, self.timeout)
    }

    /// Refuses: items are results.
    fn open<A: Request, T: Transfer>(&self, method: &'static Method, _: A) -> Result<(), CallError> {
        let why = "a stream is all result, and a one-way call has none: call the method without `send()`".into();
        Err(CallError::Refused { call: method.call_name(), why })
    }
}

impl fmt::Debug for OneWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneWay").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
