//! File locks (`flock`) that end with the process that holds them. Never blocks.

#![forbid(unsafe_code)]

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Locks `file`. Returns `false` if another process holds the lock.
///
/// # Errors
///
/// If the file system has no locks, or the kernel has no memory for one.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unlocks `file` for every process that shares this descriptor.
pub fn unlock(file: &File) {
    // Unlocking an open descriptor cannot fail.
    let _ = flock(file, FlockOperation::Unlock);
}
