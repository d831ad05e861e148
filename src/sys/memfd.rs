//! Anonymous shared memory objects, sized once and sealed.

#![forbid(unsafe_code)]

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What no holder of the descriptor can undo: the size, and the seals themselves.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Creates a memory object of `len` zero bytes that can neither shrink nor grow. `name` shows in `/proc/<pid>/maps`.
pub(crate) fn create_sealed(name: &str, len: usize) -> io::Result<OwnedFd> {
    let object = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&object, len as u64)?;
    fcntl_add_seals(&object, SEALS)?;
    Ok(object)
}

/// The length of a sealed memory object, or an error if `object` is anything else.
pub(crate) fn sealed_len(object: impl AsFd) -> io::Result<usize> {
    let seals = fcntl_get_seals(&object)?;
    if !seals.contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor that is no sealed memory object"));
    }
    usize::try_from(fstat(&object)?.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}
