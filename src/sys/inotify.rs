//! When nobody has a memory object any more: no descriptor, no mapping, none on its way through a socket, in whatever process.
//!
//! The last to let go of an object that has no name takes its directory entry with it, which inotify reports as deleted. Nothing else does, so
//! a peer can neither hide that it still has an object nor pretend that it has not. Needs procfs, through which an object has a path.

#![forbid(unsafe_code)]

use super::descriptor::apart;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Objects that are waited for.
#[derive(Debug)]
pub(crate) struct Releases(OwnedFd);

/// Names an object that is waited for.
pub(crate) type WatchId = i32;

/// What has been read of what has happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Nobody has this one any more.
    Object(WatchId),
    /// More has happened than the kernel had room to note: some that are gone will never be reported.
    Lost,
}

impl Releases {
    /// # Errors
    ///
    /// `EMFILE` if the processes of this user have as many instances as they may (`fs.inotify.max_user_instances`).
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(apart(|| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK))?))
    }

    /// Has the end of `object` reported under the number that is returned.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if this user watches as much as it may (`fs.inotify.max_user_watches`); others without procfs.
    pub(crate) fn watch(&self, object: impl AsFd) -> io::Result<WatchId> {
        let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
        Ok(inotify::add_watch(&self.0, path, WatchFlags::DELETE_SELF)?)
    }

    /// Appends what has happened; never waits.
    pub(crate) fn read(&self, released: &mut Vec<Released>) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.0, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                released.push(Released::Lost);
            } else if event.events().contains(ReadFlags::DELETE_SELF) {
                released.push(Released::Object(event.wd()));
            }
        }
    }
}

impl AsFd for Releases {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::mapping::{Access, Mapping};
    use crate::sys::{memfd, socket};

    fn read(releases: &Releases) -> Vec<Released> {
        let mut released = Vec::new();
        releases.read(&mut released);
        released
    }

    /// Whatever keeps an object keeps it from being reported, and the last that lets go of it does not.
    #[test]
    fn fault_39_an_object_is_reported_when_the_last_holder_lets_go() {
        type Holder = fn(OwnedFd) -> Box<dyn Send>;
        let holders: [Holder; 4] = [
            |object| Box::new(object),
            |object| Box::new(Mapping::new(&object, 4096, Access::ReadOnly).unwrap()),
            |object| Box::new(memfd::only_to_read(&object).unwrap()),
            |object| {
                let (one, other) = socket::pair().unwrap();
                socket::send(&one, b"x", &[object.as_fd()]).unwrap();
                Box::new((one, other))
            },
        ];
        let releases = Releases::new().unwrap();
        for hold in holders {
            let (mapping, object) = memfd::create_sealed("callgate-test", 4096, Access::ReadWrite).unwrap();
            let watch = releases.watch(&object).unwrap();
            let held = hold(object);
            drop(mapping);
            assert_eq!(read(&releases), []);
            drop(held);
            // What is on its way through a socket is let go of a little later.
            let begin = std::time::Instant::now();
            let mut released = read(&releases);
            while released.is_empty() && begin.elapsed().as_secs() < 10 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                released = read(&releases);
            }
            assert_eq!(released, [Released::Object(watch)]);
        }
    }
}
