//! The ledger of memory that no pair needs any more and processes may still hold.
//!
//! An object made for a pair counts for its two processes until the kernel reports that nobody holds it, whatever the two say and even after
//! the pair has ended. Where the kernel reports nothing, it counts until one of the two has ended. The hub cannot tell which of them keeps the
//! object, so it counts for both: for one as written, for the other as read, and most strictly for pairs of those two.

#![forbid(unsafe_code)]

use callgate_os::inotify::{Releases, WatchId};
use callgate_os::pidfd::Identity;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

/// A process, across all its connections. The kernel may reuse its number, so that alone does not identify it.
pub(super) type Process = Identity;

/// The ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None` if the kernel reports nothing.
    releases: Option<Releases>,
    /// The watched objects; `None` while a pair uses the object.
    watched: HashMap<WatchId, Option<Left>>,
    /// Objects that could not be watched, and that their pair has left.
    unwatched: Vec<Left>,
    of: HashMap<Process, ProcessUsage>,
    between: HashMap<(Process, Process), Between>,
}

/// How an object is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watch(Option<WatchId>);

/// An object that its pair no longer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) len: u64,
    /// The process that it was made for, and the one that reads it.
    pub(super) writer: Process,
    pub(super) reader: Process,
}

impl Left {
    fn is_of(&self, process: Process) -> bool {
        [self.writer, self.reader].contains(&process)
    }
}

/// What one process may still hold: objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessUsage {
    /// Objects made for it to write.
    pub(super) written: usize,
    pub(super) written_bytes: u64,
    /// Objects made for it to read.
    pub(super) read: usize,
    pub(super) read_bytes: u64,
}

/// What was made for one process to write and another to read, and either may still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) objects: usize,
    pub(super) bytes: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let (watched, unwatched, of, between) = Default::default();
        Self { releases: Releases::new().ok(), watched, unwatched, of, between }
    }

    /// The descriptor to poll; call [`read`](Self::read) when it is readable.
    pub(super) fn releases(&self) -> Option<BorrowedFd<'_>> {
        self.releases.as_ref().map(AsFd::as_fd)
    }

    /// Watches an object, before anybody is given it.
    pub(super) fn watch(&mut self, object: impl AsFd) -> Watch {
        let watch = self.releases.as_ref().and_then(|releases| releases.watch(object).ok());
        watch.map(|watch| self.watched.insert(watch, None));
        Watch(watch)
    }

    /// Notes that its pair no longer uses an object.
    pub(super) fn left(&mut self, Watch(watch): Watch, left: Left) {
        match watch {
            // Nobody holds it.
            Some(watch) if !self.watched.contains_key(&watch) => return,
            Some(watch) => drop(self.watched.insert(watch, Some(left))),
            None => self.unwatched.push(left),
        }
        let Left { len, writer, reader } = left;
        let by_writer = self.of.entry(writer).or_default();
        (by_writer.written, by_writer.written_bytes) = (by_writer.written + 1, by_writer.written_bytes + len);
        let by_reader = self.of.entry(reader).or_default();
        (by_reader.read, by_reader.read_bytes) = (by_reader.read + 1, by_reader.read_bytes + len);
        let between = self.between.entry((writer, reader)).or_default();
        (between.objects, between.bytes) = (between.objects + 1, between.bytes + len);
    }

    /// Reads which objects nobody holds any more. Returns whether one of them was on the ledger.
    pub(super) fn read(&mut self) -> bool {
        let mut released = Vec::new();
        self.releases.iter().for_each(|releases| releases.read(self.watched.keys().copied(), &mut released));
        let mut is_one = false;
        for watch in released {
            if let Some(Some(left)) = self.watched.remove(&watch) {
                self.settle(left);
                is_one = true;
            }
        }
        is_one
    }

    fn settle(&mut self, Left { len, writer, reader }: Left) {
        if let Some(kept) = self.of.get_mut(&writer) {
            (kept.written, kept.written_bytes) =
                (kept.written.saturating_sub(1), kept.written_bytes.saturating_sub(len));
        }
        if let Some(kept) = self.of.get_mut(&reader) {
            (kept.read, kept.read_bytes) = (kept.read.saturating_sub(1), kept.read_bytes.saturating_sub(len));
        }
        if let Some(between) = self.between.get_mut(&(writer, reader)) {
            (between.objects, between.bytes) = (between.objects.saturating_sub(1), between.bytes.saturating_sub(len));
        }
        self.of.retain(|_, kept| *kept != ProcessUsage::default());
        self.between.retain(|_, between| *between != Between::default());
    }

    /// Whether an object counts until this process ends.
    pub(super) fn awaits_end_of(&self, process: Process) -> bool {
        self.unwatched.iter().any(|left| left.is_of(process))
    }

    /// Removes the unwatched objects of a process that has ended.
    pub(super) fn process_ended(&mut self, process: Process) {
        let gone: Vec<_> = self.unwatched.extract_if(.., |left| left.is_of(process)).collect();
        gone.into_iter().for_each(|left| self.settle(left));
    }

    /// What a process may still hold.
    pub(super) fn of(&self, process: Process) -> ProcessUsage {
        self.of.get(&process).copied().unwrap_or_default()
    }

    /// What was made for `writer` to write and `reader` to read, and either may still hold.
    pub(super) fn between(&self, writer: Process, reader: Process) -> Between {
        self.between.get(&(writer, reader)).copied().unwrap_or_default()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_os::memfd;

    #[test]
    fn fault_39_what_is_left_counts_for_both_until_nobody_has_it() {
        let mut ledger = Ledger::new();
        let objects = [10, 20].map(|len| (len, memfd::create_for_others("callgate-test", len).unwrap()));
        let [first, second] = objects.each_ref().map(|(_, object)| ledger.watch(object));
        let [one, two, three] = [1, 2, 3].map(Identity::of_nobody);
        let left = |len| Left { len, writer: one, reader: two };
        ledger.left(first, left(10));
        assert!(!ledger.read());
        assert_eq!(ledger.of(one), ProcessUsage { written: 1, written_bytes: 10, read: 0, read_bytes: 0 });
        assert_eq!(ledger.of(two), ProcessUsage { written: 0, written_bytes: 0, read: 1, read_bytes: 10 });
        assert_eq!(ledger.between(one, two), Between { objects: 1, bytes: 10 });
        assert_eq!(ledger.between(two, one), Between::default());
        drop(objects);
        assert!(ledger.read());
        // Nobody had the other when it was left.
        ledger.left(second, left(20));
        assert_eq!((ledger.of(one), ledger.of(two), ledger.between(one, two)), Default::default());
        // What nobody reports counts until one of the two is gone.
        ledger.left(Watch(None), left(30));
        assert_eq!([one, two, three].map(|process| ledger.awaits_end_of(process)), [true, true, false]);
        ledger.process_ended(three);
        assert_eq!(ledger.of(one).written_bytes, 30);
        ledger.process_ended(two);
        assert_eq!((ledger.of(one), ledger.awaits_end_of(one)), (ProcessUsage::default(), false));
    }
}
