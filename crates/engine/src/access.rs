//! How methods reach the service of a child: as `&mut T`, through a lock that several workers share, or beside streams that borrow it.
//!
//! Methods with `&self` run side by side, those with `&mut self` alone. Arguments are read before the lock is taken, and results are written after it
//! is released.

#![forbid(unsafe_code)]

use crate::shared_service::SharedService;
use crate::streamed_service::{Borrowed, StreamedService};
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::sync::Arc;

/// The panic message of a child without a service: it was never built, or has been dropped.
pub(crate) const NO_SERVICE: &str = "the child has no service";

/// How a method reaches the service that it is called on.
pub trait Access<T>: Sized {
    /// Why a method may not have the service now.
    type Refusal: Display;

    /// Runs a method with `&self`.
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, Self::Refusal>;

    /// Runs a method with `&mut self`.
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, Self::Refusal>;

    /// Runs one without a receiver.
    #[inline(always)]
    fn free<R>(self, function: impl FnOnce() -> R) -> Result<R, Self::Refusal> {
        self.shared(|_| function())
    }

    /// Runs one without a receiver that calls back. `function` gets what there is of the service, for calls that come from its callbacks.
    #[inline]
    fn free_lending<R>(self, function: impl FnOnce(Option<&T>) -> R) -> Result<R, Self::Refusal> {
        self.shared(|service| function(Some(service)))
    }

    /// What streams may borrow beyond the call; `None` where no method returns one that does.
    fn lender(self) -> Option<Arc<StreamedService<T>>> {
        None
    }
}

impl<T> Access<T> for &mut T {
    type Refusal = Infallible;

    #[inline(always)]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, Infallible> {
        Ok(method(self))
    }

    #[inline(always)]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, Infallible> {
        Ok(method(self))
    }
}

impl<T> Access<T> for &SharedService<T> {
    type Refusal = Infallible;

    #[inline]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, Infallible> {
        match &*self.read() {
            Some(service) => Ok(method(service)),
            None => absent(),
        }
    }

    #[inline]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, Infallible> {
        match &mut *self.write() {
            Some(service) => Ok(method(service)),
            None => absent(),
        }
    }
}

impl<T> Access<T> for &Arc<StreamedService<T>> {
    type Refusal = Borrowed;

    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, Borrowed> {
        Ok(self.read(method)?.unwrap_or_else(|| absent()))
    }

    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, Borrowed> {
        Ok(self.write(method)?.unwrap_or_else(|| absent()))
    }

    fn free<R>(self, function: impl FnOnce() -> R) -> Result<R, Borrowed> {
        Ok(function())
    }

    fn free_lending<R>(self, function: impl FnOnce(Option<&T>) -> R) -> Result<R, Borrowed> {
        Ok(self.read_if_free(function).unwrap_or_else(|| absent()))
    }

    fn lender(self) -> Option<Arc<StreamedService<T>>> {
        Some(self.clone())
    }
}

/// The service within a method that calls back, for calls that come from the callback: what the method itself has of it.
pub struct LentService<'a, T>(pub Option<&'a T>);

/// Why a callback cannot have the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse(&'static str);

const EXCLUSIVE: InUse =
    InUse("a callback calls a method with `&mut self`, but the method that called back has the service meanwhile");
const HELD: InUse = InUse(
    "a callback calls a method of the service, but the method that called back, or a stream, has `&mut self` meanwhile",
);

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<T> Clone for LentService<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for LentService<'_, T> {}

impl<T> Access<T> for LentService<'_, T> {
    type Refusal = InUse;

    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse> {
        self.0.map(method).ok_or(HELD)
    }

    fn exclusive<R>(self, _: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        Err(if self.0.is_some() { EXCLUSIVE } else { HELD })
    }

    fn free<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse> {
        Ok(function())
    }

    fn free_lending<R>(self, function: impl FnOnce(Option<&T>) -> R) -> Result<R, InUse> {
        Ok(function(self.0))
    }
}

/// The service as the dispatch function of a trait gets it, which is the same for every way.
pub enum AnyAccess<'a, T> {
    Alone(&'a mut T),
    Parallel(&'a SharedService<T>),
    Streamed(&'a Arc<StreamedService<T>>),
    Lent(LentService<'a, T>),
}

/// A refusal in words.
fn in_words<R>(outcome: Result<R, impl Display>) -> Result<R, String> {
    outcome.map_err(|why| why.to_string())
}

impl<T> Access<T> for AnyAccess<'_, T> {
    type Refusal = String;

    #[inline(always)]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, String> {
        match self {
            Self::Alone(service) => in_words(service.shared(method)),
            Self::Parallel(service) => in_words(service.shared(method)),
            Self::Streamed(service) => in_words(service.shared(method)),
            Self::Lent(service) => in_words(service.shared(method)),
        }
    }

    #[inline(always)]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, String> {
        match self {
            Self::Alone(service) => in_words(service.exclusive(method)),
            Self::Parallel(service) => in_words(service.exclusive(method)),
            Self::Streamed(service) => in_words(service.exclusive(method)),
            Self::Lent(service) => in_words(service.exclusive(method)),
        }
    }

    #[inline(always)]
    fn free<R>(self, function: impl FnOnce() -> R) -> Result<R, String> {
        match self {
            Self::Alone(service) => in_words(Access::<T>::free(service, function)),
            Self::Parallel(service) => in_words(service.free(function)),
            Self::Streamed(service) => in_words(service.free(function)),
            Self::Lent(service) => in_words(service.free(function)),
        }
    }

    #[inline(always)]
    fn free_lending<R>(self, function: impl FnOnce(Option<&T>) -> R) -> Result<R, String> {
        match self {
            Self::Alone(service) => in_words(service.free_lending(function)),
            Self::Parallel(service) => in_words(service.free_lending(function)),
            Self::Streamed(service) => in_words(service.free_lending(function)),
            Self::Lent(service) => in_words(service.free_lending(function)),
        }
    }

    fn lender(self) -> Option<Arc<StreamedService<T>>> {
        match self {
            Self::Streamed(service) => service.lender(),
            _ => None,
        }
    }
}

/// Panics: there is no service to run the method on. Its caller gave up before the child was told to stop, or the service would still be here.
#[cold]
fn absent() -> ! {
    panic!("{NO_SERVICE}")
}
