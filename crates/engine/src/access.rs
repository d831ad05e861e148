//! How methods reach the service of a child: as `&mut T`, or through a lock that several workers share.
//!
//! Methods with `&self` run side by side, those with `&mut self` alone. Arguments are read before the lock is taken, and results are written after it
//! is released.

#![forbid(unsafe_code)]

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use parking_lot::Mutex;
use std::sync::{PoisonError, TryLockError};

/// The panic message of a child without a service: it was never built, or has been dropped.
pub(crate) const NO_SERVICE: &str = "the child has no service";

/// How a method reaches the service that it is called on.
pub trait Access<T> {
    /// Runs a method with `&self`.
    ///
    /// # Errors
    ///
    /// If the service is in use in a way that would last for ever.
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse>;

    /// Runs a method with `&mut self`.
    ///
    /// # Errors
    ///
    /// As [`shared`](Self::shared).
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, InUse>;

    /// Runs a function without a receiver.
    ///
    /// # Errors
    ///
    /// None so far: it needs no service.
    fn function<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse>;
}

/// Why the service cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse(pub &'static str);

impl<T> Access<T> for &mut T {
    #[inline(always)]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse> {
        Ok(method(self))
    }

    #[inline(always)]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        Ok(method(self))
    }

    #[inline(always)]
    fn function<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse> {
        Ok(function())
    }
}

/// The service within a method that calls back, for calls that come from the callback: what the method itself has of it.
pub struct Lent<'a, T>(pub Option<&'a T>);

const EXCLUSIVE: InUse =
    InUse("a callback calls a method with `&mut self`, but the method that called back has the service meanwhile");
const HELD: InUse =
    InUse("a callback calls a method of the service, but the method that called back has `&mut self` meanwhile");

impl<T> Clone for Lent<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lent<'_, T> {}

impl<T> Access<T> for Lent<'_, T> {
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse> {
        self.0.map(method).ok_or(HELD)
    }

    fn exclusive<R>(self, _: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        Err(if self.0.is_some() { EXCLUSIVE } else { HELD })
    }

    fn function<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse> {
        Ok(function())
    }
}

/// The service as the dispatch function of a trait gets it, which is the same for every way.
pub enum AnyAccess<'a, T> {
    Alone(&'a mut T),
    Parallel(&'a SharedService<T>),
    Lent(Lent<'a, T>),
}

impl<T> Access<T> for AnyAccess<'_, T> {
    #[inline(always)]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse> {
        match self {
            Self::Alone(service) => service.shared(method),
            Self::Parallel(service) => service.shared(method),
            Self::Lent(service) => service.shared(method),
        }
    }

    #[inline(always)]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        match self {
            Self::Alone(service) => service.exclusive(method),
            Self::Parallel(service) => service.exclusive(method),
            Self::Lent(service) => service.exclusive(method),
        }
    }

    #[inline(always)]
    fn function<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse> {
        match self {
            Self::Alone(service) => Access::<T>::function(service, function),
            Self::Parallel(service) => service.function(function),
            Self::Lent(service) => service.function(function),
        }
    }
}

/// A service that several workers share.
pub struct SharedService<T> {
    /// Up to eight readers each lock a cache line of their own; a writer locks them all.
    service: ShardedLock<Option<T>>,
    /// The queue of threads that cannot have the service at once: only its head, which holds this, waits at the lock.
    ///
    /// So the head gets the lock next, whether it reads or writes. Without the queue, writers that follow each other closely would keep out readers,
    /// because the lock prefers writers. The queue itself is fair, if not at every step.
    queue: Mutex<()>,
}

impl<T> SharedService<T> {
    pub fn new(service: Option<T>) -> Self {
        Self { service: ShardedLock::new(service), queue: Mutex::new(()) }
    }

    /// The service, shared with other readers. A method's panic poisons nothing, as with one worker.
    #[inline]
    fn read(&self) -> ShardedLockReadGuard<'_, Option<T>> {
        match self.service.try_read() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.read_slow(),
        }
    }

    #[cold]
    fn read_slow(&self) -> ShardedLockReadGuard<'_, Option<T>> {
        let _head = self.queue.lock();
        self.service.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service, for this thread alone: after the methods that run now, and before those that queue behind this one.
    pub fn write(&self) -> ShardedLockWriteGuard<'_, Option<T>> {
        let _head = self.queue.lock();
        self.service.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Access<T> for &SharedService<T> {
    #[inline]
    fn shared<R>(self, method: impl FnOnce(&T) -> R) -> Result<R, InUse> {
        match &*self.read() {
            Some(service) => Ok(method(service)),
            None => absent(),
        }
    }

    #[inline]
    fn exclusive<R>(self, method: impl FnOnce(&mut T) -> R) -> Result<R, InUse> {
        match &mut *self.write() {
            Some(service) => Ok(method(service)),
            None => absent(),
        }
    }

    /// Like a method with `&self`: it needs the service to be there.
    fn function<R>(self, function: impl FnOnce() -> R) -> Result<R, InUse> {
        match &*self.read() {
            Some(_) => Ok(function()),
            None => absent(),
        }
    }
}

/// Panics: there is no service to run the method on. Its caller gave up before the child was told to stop, or the service would still be here.
#[cold]
fn absent() -> ! {
    panic!("{NO_SERVICE}")
}
