//! Ways of calling: what a proxy's methods return, and when.

#![forbid(unsafe_code)]

use super::caller::Caller;
use super::service::Method;
use crate::error::CallError;
use crate::frame::{Request, Transfer};
use std::sync::Arc;
use std::time::Duration;

/// A way of calling a service's methods. One proxy is generated for all of them.
///
/// Implemented by this crate only.
pub trait Mode: sealed::Sealed + Clone + Send + Sync + 'static {
    /// What a method that returns `R` returns when called this way.
    type Out<R: Transfer>;

    /// Calls a method.
    #[doc(hidden)]
    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: &A) -> Self::Out<R>;
}

mod sealed {
    /// Ways of calling of this crate's making only.
    pub trait Sealed {}

    impl Sealed for super::Blocking {}
}

/// The plain way: the caller waits for the value.
#[derive(Clone)]
pub struct Blocking {
    caller: Arc<Caller>,
    timeout: Option<Duration>,
}

impl Blocking {
    pub(crate) fn new(caller: Arc<Caller>, timeout: Option<Duration>) -> Self {
        Self { caller, timeout }
    }
}

impl Mode for Blocking {
    type Out<R: Transfer> = Result<R, CallError>;

    #[inline]
    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: &A) -> Result<R, CallError> {
        self.caller.call(method, args, self.timeout)
    }
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
