//! Reports when no process holds a memory object any more: no descriptor, no mapping, none in flight through a socket.
//!
//! The last holder to release an unnamed object removes its directory entry, which inotify reports as a deletion. Nothing else causes that report, so
//! a peer can neither hide that it still holds an object nor pretend that it has released one. Needs procfs, which gives an object a path.

#![forbid(unsafe_code)]

use crate::descriptor::apart;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The objects being watched for their release.
#[derive(Debug)]
pub struct Releases {
    queue: OwnedFd,
    /// The kernel's event queue overflowed, and the list of watches has not been read since.
    has_lost: AtomicBool,
}

/// Identifies a watched object.
pub type WatchId = i32;

impl Releases {
    /// # Errors
    ///
    /// `EMFILE` if the processes of this user have as many instances as they may (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let queue = apart(|| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK))?;
        Ok(Self { queue, has_lost: AtomicBool::new(false) })
    }

    /// Watches `object`. Its release is reported under the returned number.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if this user has reached its limit of watches (`fs.inotify.max_user_watches`); other errors without procfs.
    pub fn watch(&self, object: impl AsFd) -> io::Result<WatchId> {
        let path = format!("/proc/self/fd/{}", object.as_fd().as_raw_fd());
        Ok(inotify::add_watch(&self.queue, path, WatchFlags::DELETE_SELF)?)
    }

    /// Appends the objects that were released; never blocks. `known` lists every watch: if the kernel's queue overflowed
    /// (`fs.inotify.max_queued_events`), those that are missing from its list of watches have been released.
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
        // If no descriptor is free for reading the list, the next call tries again.
        if self.has_lost.load(Relaxed)
            && let Ok(held) = self.held()
        {
            self.has_lost.store(false, Relaxed);
            released.extend(known.filter(|watch| !held.contains(watch)));
        }
    }

    /// The watches that the kernel still lists. It drops a watch when its object is released.
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

    /// Each kind of holder delays the report, and releasing the last one triggers it.
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
            // An object in flight through a socket is released a little later.
            let begin = std::time::Instant::now();
            let mut released = read(&releases);
            while released.is_empty() && begin.elapsed().as_secs() < 10 {
                std::thread::sleep(std::time::Duration::from_millis(1));
                released = read(&releases);
            }
            assert_eq!(released, [watch]);
        }
    }

    /// More objects are released at once than the kernel's queue holds.
    #[test]
    fn fault_39_none_that_is_gone_is_forgotten_when_the_kernel_loses_count() {
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let most: usize = most.trim().parse().unwrap();
        let releases = Releases::new().unwrap();
        let object = || memfd::create_sealed("callgate-test", 4096, Protection::ReadWrite).unwrap().1;
        let kept = object();
        let kept_watch = releases.watch(&kept).unwrap();
        // Each release queues at least one event, so the last one overflows the queue.
        let gone: HashSet<_> = (0..=most).map(|_| releases.watch(object()).unwrap()).collect();
        let mut released = Vec::new();
        releases.read(gone.iter().copied().chain([kept_watch]), &mut released);
        assert_eq!(released.into_iter().collect::<HashSet<_>>(), gone);
    }
}
