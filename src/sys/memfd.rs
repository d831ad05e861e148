//! Anonymous shared memory objects, sized once and sealed.

#![forbid(unsafe_code)]

use super::descriptor::apart;
use super::mapping::{Access, Mapping};
use super::signals::without_file_signal;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What no holder of the descriptor can undo: the size, and the seals themselves.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Creates and maps a memory object of `len` zero bytes that can neither shrink nor grow. If `peers` may only read it, no mapping made
/// after this one can be written through, nor can the object be, whoever has the descriptor. `name` shows in `/proc/<pid>/maps`.
pub(crate) fn create_sealed(name: &str, len: usize, peers: Access) -> io::Result<(Mapping, OwnedFd)> {
    let object = create(name, len as u64)?;
    // Mapped before it is sealed: what is mapped writable stays so.
    let mapping = Mapping::new(&object, len, Access::ReadWrite)?;
    let seals = match peers {
        Access::ReadWrite => SEALS,
        Access::ReadOnly => SEALS | SealFlags::FUTURE_WRITE,
    };
    fcntl_add_seals(&object, seals)?;
    Ok((mapping, object))
}

/// Creates a memory object of `len` zero bytes that can neither shrink nor grow, for others to map.
pub(crate) fn create_for_others(name: &str, len: u64) -> io::Result<OwnedFd> {
    let object = create(name, len)?;
    fcntl_add_seals(&object, SEALS)?;
    Ok(object)
}

/// A memory object of `len` zero bytes that is not yet sealed. A limit on the size of files holds for it, too.
fn create(name: &str, len: u64) -> io::Result<OwnedFd> {
    let object = apart(|| memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING))?;
    without_file_signal(|| Ok(ftruncate(&object, len)?))?;
    Ok(object)
}

/// Another descriptor of a memory object, through which it can only be read. A process of the same user can get around that, but not by
/// mistake. Needs procfs.
pub(crate) fn only_to_read(object: impl AsFd) -> io::Result<OwnedFd> {
    Ok(apart(|| File::open(format!("/proc/self/fd/{}", object.as_fd().as_raw_fd())))?.into())
}

/// The length of a sealed memory object, or an error if `object` is anything else.
pub(crate) fn sealed_len(object: impl AsFd) -> io::Result<usize> {
    let seals = fcntl_get_seals(&object)?;
    if !seals.contains(SEALS) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor that is no sealed memory object"));
    }
    usize::try_from(fstat(&object)?.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_read_cannot_write_in_any_way() {
        let (ours, object) = create_sealed("callgate-test", 8192, Access::ReadOnly).unwrap();
        assert!(Mapping::new(&object, 8192, Access::ReadWrite).is_err());
        assert!(rustix::io::write(&object, b"x").is_err());
        let theirs = Mapping::new(&object, sealed_len(&object).unwrap(), Access::ReadOnly).unwrap();
        assert!(ours.is_writable() && !theirs.is_writable());
        assert!(fcntl_add_seals(&object, SealFlags::WRITE).is_err());
    }

    #[test]
    fn what_is_for_others_is_sealed_and_one_of_them_can_only_read_it() {
        let object = create_for_others("callgate-test", 8192).unwrap();
        let to_read = only_to_read(&object).unwrap();
        assert_eq!((sealed_len(&object).unwrap(), sealed_len(&to_read).unwrap()), (8192, 8192));
        assert!(Mapping::new(&object, 8192, Access::ReadWrite).is_ok());
        assert!(Mapping::new(&to_read, 8192, Access::ReadWrite).is_err());
        assert!(Mapping::new(&to_read, 8192, Access::ReadOnly).is_ok());
        assert!(ftruncate(&object, 4096).is_err());
    }
}
