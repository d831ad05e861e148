//! Anonymous shared memory objects, sized once and sealed.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use crate::mapping::{Mapping, Protection};
use crate::signals::without_file_signal;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Fixes the size for every holder of the descriptor.
const SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Prevents holes, through the object and through any mapping, even an old one, and seals the seals themselves.
const CONTENTS: SealFlags = SealFlags::FUTURE_WRITE.union(SealFlags::SEAL);

/// Creates and maps a memory object of `len` zero bytes that can neither shrink nor grow. If `peers` may only read it, neither later mappings nor
/// writes to the descriptor can change it. Otherwise call [`seal`] once they have mapped it. `name` appears in `/proc/<pid>/maps`.
pub fn create_sealed(name: &str, len: usize, peers: Protection) -> io::Result<(Mapping, OwnedFd)> {
    let object = create(name, len as u64)?;
    // Mapped before it is sealed: an existing writable mapping stays writable.
    let mapping = Mapping::new(&object, len, Protection::ReadWrite)?;
    let seals = match peers {
        Protection::ReadWrite => SIZE,
        Protection::ReadOnly => SIZE | CONTENTS,
    };
    fcntl_add_seals(&object, seals)?;
    Ok((mapping, object))
}

/// Creates a memory object of `len` zero bytes that can neither shrink nor grow, for others to map.
pub fn create_for_others(name: &str, len: u64) -> io::Result<OwnedFd> {
    let object = create(name, len)?;
    fcntl_add_seals(&object, SIZE)?;
    Ok(object)
}

/// Creates a memory object of `len` zero bytes, not yet sealed. The limit on file size (`RLIMIT_FSIZE`) applies to it, too.
fn create(name: &str, len: u64) -> io::Result<OwnedFd> {
    let object = apart(|| memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING))?;
    without_file_signal(|| Ok(ftruncate(&object, len)?))?;
    Ok(object)
}

/// Prevents further holes and further writable mappings in `object`, once every writer has mapped it. A thread that touches a page while a hole is
/// punched there blocks until that is done, and a peer with many threads can draw that out at will.
///
/// Blocks while another process punches a hole, so do not call it on a thread that others wait for.
///
/// # Errors
///
/// If another process sealed it first in a different way, or the kernel does not know the seal (it needs Linux 5.1).
pub fn seal(object: impl AsFd) -> io::Result<()> {
    let added = fcntl_add_seals(&object, CONTENTS);
    if fcntl_get_seals(&object)?.contains(CONTENTS) {
        Ok(())
    } else {
        Err(added.err().map_or_else(|| io::ErrorKind::Other.into(), Into::into))
    }
}

/// Opens another descriptor of a memory object, for reading only. A process of the same user can circumvent that, but not by accident. Needs procfs.
pub fn only_to_read(object: impl AsFd) -> io::Result<OwnedFd> {
    Ok(apart(|| File::open(format!("/proc/self/fd/{}", object.as_fd().as_raw_fd())))?.into())
}

/// Returns the length of a sealed memory object; fails for anything else.
pub fn sealed_len(object: impl AsFd) -> io::Result<usize> {
    let seals = fcntl_get_seals(&object)?;
    if !seals.contains(SIZE) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor that is not a sealed memory object"));
    }
    usize::try_from(fstat(&object)?.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_may_only_read_cannot_write_in_any_way() {
        let (ours, object) = create_sealed("callgate-test", 8192, Protection::ReadOnly).unwrap();
        assert!(Mapping::new(&object, 8192, Protection::ReadWrite).is_err());
        assert!(rustix::io::write(&object, b"x").is_err());
        let theirs = Mapping::new(&object, sealed_len(&object).unwrap(), Protection::ReadOnly).unwrap();
        assert!(ours.is_writable() && !theirs.is_writable());
        assert!(fcntl_add_seals(&object, SealFlags::WRITE).is_err());
    }

    #[test]
    fn what_is_for_others_is_sealed_and_one_of_them_can_only_read_it() {
        let object = create_for_others("callgate-test", 8192).unwrap();
        let to_read = only_to_read(&object).unwrap();
        assert_eq!((sealed_len(&object).unwrap(), sealed_len(&to_read).unwrap()), (8192, 8192));
        assert!(Mapping::new(&object, 8192, Protection::ReadWrite).is_ok());
        assert!(Mapping::new(&to_read, 8192, Protection::ReadWrite).is_err());
        assert!(Mapping::new(&to_read, 8192, Protection::ReadOnly).is_ok());
        assert!(ftruncate(&object, 4096).is_err());
    }

    fn punch(object: impl AsFd) -> rustix::io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        fallocate(object, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096)
    }

    #[test]
    fn fault_41_in_what_is_sealed_nobody_makes_holes() {
        let (ours, object) = create_sealed("callgate-test", 8192, Protection::ReadWrite).unwrap();
        let theirs = Mapping::new(&object, 8192, Protection::ReadWrite).unwrap();
        punch(&object).unwrap();
        seal(&object).unwrap();
        assert_eq!(punch(&object), Err(rustix::io::Errno::PERM));
        assert!(theirs.remove_for_test(4096).is_err() && ours.remove_for_test(4096).is_err());
        assert!(Mapping::new(&object, 8192, Protection::ReadWrite).is_err());
        assert!(theirs.is_writable() && Mapping::new(&object, 8192, Protection::ReadOnly).is_ok());
        seal(&object).unwrap();
    }

    /// A seal that another process added first does not pass for the requested one.
    #[test]
    fn fault_41_a_seal_that_somebody_else_has_put_on_first_is_found() {
        let (_ours, object) = create_sealed("callgate-test", 8192, Protection::ReadWrite).unwrap();
        fcntl_add_seals(&object, SealFlags::FUTURE_WRITE).unwrap();
        seal(&object).unwrap();
        let (_ours, object) = create_sealed("callgate-test", 8192, Protection::ReadWrite).unwrap();
        assert!(fcntl_add_seals(&object, SealFlags::WRITE).is_err(), "it is mapped to be written");
        fcntl_add_seals(&object, SealFlags::SEAL).unwrap();
        assert!(seal(&object).is_err());
    }
}
