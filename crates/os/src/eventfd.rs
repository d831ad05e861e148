//! Eventfds shared by two processes.
//!
//! Both share one file description, so neither may rely on its flags. The parent never reads it either, because a read notifies every waiter.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use rustix::event::EventfdFlags;
use rustix::io::write;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A new eventfd that nobody has rung, closed on exec.
pub fn create() -> io::Result<OwnedFd> {
    Ok(apart(|| rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK))?)
}

/// Makes the eventfd readable. Blocks if the count is full and a peer has cleared `O_NONBLOCK`: for a trusted peer only.
pub fn ring(eventfd: impl AsFd) {
    // The only failure is a full count, and then it is readable anyway.
    let _ = write(eventfd, &1u64.to_ne_bytes());
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::poll::PollSet;
    use rustix::io::{Errno, ReadWriteFlags, pwritev2};
    use std::io::IoSlice;

    /// The offset for a file without a position.
    const NO_OFFSET: u64 = u64::MAX;

    /// The parent never reads the eventfd: a read notifies every waiter, and the child may have a million of them.
    #[test]
    fn fault_40_each_ring_is_reported_once_and_nothing_is_read() {
        let (eventfd, set) = (create().unwrap(), PollSet::new().unwrap());
        set.add_edge(&eventfd, 7).unwrap();
        let reported = || {
            let mut keys = Vec::new();
            set.ready_now(&mut keys).unwrap();
            keys
        };
        assert!(reported().is_empty());
        for _ in 0..3 {
            (0..3).for_each(|_| ring(&eventfd));
            assert_eq!([reported(), reported()], [vec![7], vec![]]);
        }
    }

    /// Why the parent does not ring its child through an eventfd. If this fails, the kernel now supports it: reconsider.
    #[test]
    fn an_eventfd_cannot_be_written_without_trusting_its_flags() {
        let eventfd = create().unwrap();
        let one = 1u64.to_ne_bytes();
        let written = pwritev2(&eventfd, &[IoSlice::new(&one)], NO_OFFSET, ReadWriteFlags::NOWAIT);
        assert_eq!(written, Err(Errno::OPNOTSUPP));
    }
}
