//! When nobody has a memory object any more: no descriptor, no mapping, none on its way through a socket, in whatever process.
//!
//! The last to let go of an object that has no name takes its directory entry with it, which inotify reports as deleted. Nothing else does, so
//! a peer can neither hide that it still has an object nor pretend that it has not. Needs procfs, through which an object has a path.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Objects that are waited for.
#[derive(Debug)]
pub struct Releases {
    queue: OwnedFd,
    /// More has happened than the kernel had room to note, and nobody has looked up since what is gone.
    has_lost: AtomicBool,
}

/// Names an object that is waited for.
pub type WatchId = i32;

impl Releases {
    /// # Errors
    ///
    /// `EMFILE` if the processes of this user have as many instances as they may (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let queue = apart(|| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK))?;
        Ok(Self { queue, has_lost: AtomicBool::new(false) })
    }

    /// Has the end of `object` reported under the number that is returned.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if this user watches as much as it may (`fs.inotify.max_user_watches`); others without procfs.
    pub fn watch(&self, object: impl AsFd) -> io::Result<WatchId> {
        let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
        Ok(inotify::add_watch(&self.queue, path, WatchFlags::DELETE_SELF)?)
    }

    /// Appends those that nobody has any more; never waits. `known` = all that are waited for: where more has happened than the kernel had room
    /// to note (`fs.inotify.max_queued_events`), those are looked up.
    pub fn read(&self, known: impl Iterator<Item = WatchId>, released: &mut Vec<WatchId>) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.queue, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.has_lost.store(true, Relaxed);
            }
            if event.events().contains(ReadFlags::DELETE_SELF) {
                released.push(event.wd());
            }
        }
        // Without a descriptor to be had for that, at the next time.
        if self.has_lost.load(Relaxed)
            && let Ok(held) = self.held()
        {
            self.has_lost.store(false, Relaxed);
            released.extend(known.filter(|watch| !held.contains(watch)));
        }
    }

    /// What is watched, as the kernel lists it: what nobody has is not.
    fn held(&self) -> io::Result<HashSet<WatchId>> {
        let list = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.queue.as_raw_fd()))?;
        let numbers = list.lines().filter_map(|line| line.strip_prefix("inotify wd:")?.split(' ').next());
        Ok(numbers.filter_map(|number| WatchId::from_str_radix(number, 16).ok()).collect())
    }
}

impl AsFd for Releases {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::mapping::{Mapping, Protection};
    use crate::{memfd, socket};

    fn read(releases: &Releases) -> Vec<WatchId> {
        let mut released = Vec::new();
        releases.read(std::iter::empty(), &mut released);
        released
    }

    /// Whatever keeps an object keeps it from being reported, and the last that lets go of it does not.
    #[test]
    fn fault_39_an_object_is_reported_when_the_last_holder_lets_go() {
        type Holder = fn(OwnedFd) -> Box<dyn Send>;
        let holders: [Holder; 4] = [
            |object| Box::new(object),
            |object| Box::new(Mapping::new(&object, 4096, Protection::ReadOnly).unwrap()),
            |object| Box::new(memfd::only_to_read(&object).unwrap()),
            |object| {
                let (one, other) = socket::pair().unwrap();
                socket::send(&one, b"x", &[object.as_fd()]).unwrap();
                Box::new((one, other))
            },
        ];
        let releases = Releases::new().unwrap();
        for hold in holders {
            let (mapping, object) = memfd::create_sealed("callgate-test", 4096, Protection::ReadWrite).unwrap();
            let watch = releases.watch(&object).unwrap();
            let held = hold(object);
            drop(mapping);
            assert!(read(&releases).is_empty());
            drop(held);
            // What is on its way through a socket is let go of a little later.
            let begin = std::time::Instant::now();
            let mut released = read(&releases);
            while released.is_empty() && begin.elapsed().as_secs() < 10 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                released = read(&releases);
            }
            assert_eq!(released, [watch]);
        }
    }

    /// More are let go of at once than the kernel notes.
    #[test]
    fn fault_39_none_that_is_gone_is_forgotten_when_the_kernel_loses_count() {
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let releases = Releases::new().unwrap();
        let object = || memfd::create_sealed("callgate-test", 4096, Protection::ReadWrite).unwrap().1;
        let kept = object();
        let kept_watch = releases.watch(&kept).unwrap();
        // Each is good for a note at least, and the last for one that says that some are missing.
        let gone: HashSet<_> = (0..=most).map(|_| releases.watch(object()).unwrap()).collect();
        let mut released = Vec::new();
        releases.read(gone.iter().copied().chain([kept_watch]), &mut released);
        assert_eq!(released.into_iter().collect::<HashSet<_>>(), gone);
    }
}
