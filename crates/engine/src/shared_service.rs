//! A service that several workers share, behind a lock.
//!
//! Methods with `&self` run side by side, those with `&mut self` alone, in the order in which they came.

#![forbid(unsafe_code)]

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use parking_lot::Mutex;
use std::sync::{PoisonError, TryLockError};

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
    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, Option<T>> {
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
