//! How methods reach the service of a child: as `&mut T`, through a lock that several workers share, or beside streams that borrow it.
//!
//! Methods with `&self` run side by side, those with `&mut self` alone. Arguments are read before the lock is taken, and results are written after it
//! is released.

#![forbid(unsafe_code)]

use crate::shared_service::SharedService;
use crate::streamed_service::{Borrowed, StreamedService};
use std::convert::Infallible;
use std::fmt::Display;
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

    fn lender(self) -> Option<Arc<StreamedService<T>>> {
        Some(self.clone())
    }
}

/// Panics: there is no service to run the method on. Its caller gave up before the child was told to stop, or the service would still be here.
#[cold]
fn absent() -> ! {
    panic!("{NO_SERVICE}")
}
