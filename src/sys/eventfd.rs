//! Eventfds that two processes share.
//!
//! Both have the same file description, so neither may trust its flags: what must not block is read with `RWF_NOWAIT`.

#![forbid(unsafe_code)]

use super::descriptor::apart;
use rustix::event::EventfdFlags;
use rustix::io::{ReadWriteFlags, preadv2, write};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

/// The position of a descriptor that has none.
const NO_OFFSET: u64 = u64::MAX;

/// A new eventfd that nobody has rung, closed on exec.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(apart(|| rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))?)
}

/// Makes the eventfd readable. Blocks if the count is full and somebody has cleared `O_NONBLOCK`: for a trusted peer only.
pub(crate) fn ring(eventfd: impl AsFd) {
    // The only failure is a full count, and then it is readable anyway.
    let _ = write(eventfd, &1u64.to_ne_bytes());
}

/// Makes the eventfd quiet, if it is not. Never blocks, whatever a peer has done to its flags.
pub(crate) fn drain(eventfd: impl AsFd) {
    // Nothing to read, or a kernel that cannot read so: then it stays readable, and whoever waits for it looks in vain.
    let _ = preadv2(eventfd, &mut [IoSliceMut::new(&mut [0; 8])], NO_OFFSET, ReadWriteFlags::NOWAIT);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::poll::{Waker, readable_either};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::{Errno, pwritev2};
    use std::io::IoSlice;
    use std::time::Duration;

    fn is_readable(eventfd: &OwnedFd) -> bool {
        readable_either(eventfd, Waker::new().unwrap(), Some(Duration::ZERO))
    }

    #[test]
    fn what_was_rung_is_readable_until_it_is_drained() {
        let eventfd = create().unwrap();
        assert!(!is_readable(&eventfd));
        (0..3).for_each(|_| ring(&eventfd));
        assert!(is_readable(&eventfd));
        drain(&eventfd);
        assert!(!is_readable(&eventfd));
    }

    #[test]
    fn draining_an_empty_eventfd_does_not_block_though_its_flags_say_so() {
        let eventfd = create().unwrap();
        fcntl_setfl(&eventfd, fcntl_getfl(&eventfd).unwrap() - OFlags::NONBLOCK).unwrap();
        drain(&eventfd);
    }

    /// Why the parent does not ring its child through an eventfd. If this fails, the kernel has learnt it: think again.
    #[test]
    fn an_eventfd_cannot_be_written_without_trusting_its_flags() {
        let eventfd = create().unwrap();
        let one = 1u64.to_ne_bytes();
        let written = pwritev2(&eventfd, &[IoSlice::new(&one)], NO_OFFSET, ReadWriteFlags::NOWAIT);
        assert_eq!(written, Err(Errno::OPNOTSUPP));
    }
}
