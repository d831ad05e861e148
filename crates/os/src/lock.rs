//! Locks on files that end with the process that holds them (`flock`). Never blocks.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io;

/// Locks `file`. `false` if somebody else has it locked.
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

/// Unlocks `file`, for every process that has this very descriptor.
pub fn unlock(file: &File) {
    // A descriptor that is open and locked can be unlocked.
    let _ = flock(file, FlockOperation::Unlock);
}
