//! The default way of calling: the caller waits for the value.

#![forbid(unsafe_code)]

use super::Items;
use super::target::Target;
use callgate_engine::caller::{Answered, Converse, Question};
use callgate_engine::service::{Method, Mode, sealed};
use callgate_transport::decoder::Transfer;
use callgate_transport::error::CallError;
use callgate_transport::request::Request;
use std::time::Duration;

/// The default mode: the caller waits for the value.
#[derive(Clone)]
pub struct Blocking {
    target: Target,
    timeout: Option<Duration>,
}

impl Blocking {
    pub(super) fn new(target: Target, timeout: Option<Duration>) -> Self {
        Self { target, timeout }
    }
}

impl sealed::Sealed for Blocking {}

impl Mode for Blocking {
    type Out<R: Transfer> = Result<R, CallError>;
    type Items<T: Transfer> = Result<Items<T>, CallError>;

    #[inline]
    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Result<R, CallError> {
        self.target.call(method, args, self.timeout)
    }

    fn open<A: Request, T: Transfer>(&self, method: &'static Method, args: A) -> Result<Items<T>, CallError> {
        Items::open(self.target.open_waiting(method, args, self.timeout)?, self.timeout)
    }
}

impl Converse for Blocking {
    type Conversed<'c, R: Transfer> = Result<R, CallError>;

    fn converse<'c, A: Request, R: Transfer, C: FnMut(Question<'_, '_>) -> Answered + 'c>(
        &self,
        method: &'static Method,
        args: A,
        mut callbacks: C,
    ) -> Result<R, CallError> {
        self.target.converse(method, args, self.timeout, &mut callbacks)
    }
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
