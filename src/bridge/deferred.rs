//! Calls that do not wait: the request is sent, and the result is taken later.

#![forbid(unsafe_code)]

use super::target::Target;
use callgate_engine::caller::Begun;
use callgate_engine::service::{Method, Mode, sealed};
use callgate_transport::decoder::Transfer;
use callgate_transport::error::CallError;
use callgate_transport::request::Request;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// The mode that does not wait: a method returns a [`Pending`] as soon as its request is sent.
#[derive(Clone)]
pub struct Deferred {
    target: Target,
    timeout: Option<Duration>,
}

impl Deferred {
    pub(super) fn new(target: Target, timeout: Option<Duration>) -> Self {
        Self { target, timeout }
    }
}

impl sealed::Sealed for Deferred {}

impl Mode for Deferred {
    type Out<R: Transfer> = Result<Pending<R>, CallError>;

    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Result<Pending<R>, CallError> {
        let begun = self.target.begin(method, args, self.timeout)?;
        Ok(Pending { begun: Some(begun), result: PhantomData })
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A call whose request has been sent, see [`Bridge::begin`](crate::Bridge::begin).
///
/// Dropping it abandons the call: the child still runs it, and its result is dropped.
#[must_use = "its result is lost with it"]
pub struct Pending<R> {
    /// `None` once the result has been taken.
    begun: Option<Begun>,
    result: PhantomData<fn() -> R>,
}

impl<R: Transfer> Pending<R> {
    /// Returns the result if it has arrived; never waits. The bridge's timeout counts from the start of the call.
    ///
    /// # Errors
    ///
    /// The same as those of a call that waits, see [`CallError`].
    ///
    /// # Panics
    ///
    /// If the result has been taken before.
    pub fn poll(&mut self) -> Option<Result<R, CallError>> {
        let Some(begun) = &mut self.begun else { panic!("a pending call's result can be taken once") };
        let result = begun.poll()?;
        self.begun = None;
        Some(result)
    }

    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// The same as those of any call, see [`CallError`].
    ///
    /// # Panics
    ///
    /// If [`poll`](Self::poll) has returned the result.
    pub fn wait(mut self) -> Result<R, CallError> {
        let Some(mut begun) = self.begun.take() else { panic!("a pending call's result can be taken once") };
        begun.finish()
    }
}

impl<R> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.begun.as_ref().map(|begun| begun.method().name);
        f.debug_struct("Pending").field("method", &method).finish_non_exhaustive()
    }
}
