//! POSIX shared memory by name.

#![forbid(unsafe_code)]

use super::Backing;
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::named;
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Named memory. The names of a bridge's objects share a prefix.
pub(crate) struct Named {
    place: String,
    /// Objects that this side made.
    made: Mutex<HashSet<u64>>,
}

impl Named {
    /// Memory for a new bridge.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::of_peer(&format!("/callgate-{}-{number}", std::process::id()))
    }

    /// Memory that the peer makes.
    pub(crate) fn of_peer(place: &str) -> Self {
        Self { place: place.to_owned(), made: Mutex::default() }
    }

    fn name(&self, number: u64) -> String {
        match number {
            super::SEGMENT => format!("{}-segment", self.place),
            super::EVENTS => format!("{}-events", self.place),
            _ => format!("{}-arena-{number}", self.place),
        }
    }
}

impl Backing for Named {
    fn place(&self) -> &str {
        &self.place
    }

    fn create(&self, number: u64, len: usize, _: Protection) -> io::Result<(Mapping, Option<OwnedFd>)> {
        let mapping = named::create(&self.name(number), len)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        Ok((mapping, None))
    }

    fn attach(&self, number: u64, _: &mut dyn Iterator<Item = OwnedFd>, access: Protection) -> io::Result<Mapping> {
        Ok(named::open(&self.name(number))?.only_for(access))
    }

    /// The memory itself goes with the last mapping.
    fn peer_ended(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        made.into_iter().for_each(|number| named::unlink(&self.name(number)));
    }
}

/// Removes the names also after a failed start, whose memory may stay mapped for a moment.
impl Drop for Named {
    fn drop(&mut self) {
        self.peer_ended();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::backing::{EVENTS, SEGMENT};
    use std::path::PathBuf;

    fn path(named: &Named, number: u64) -> PathBuf {
        PathBuf::from(format!("/dev/shm{}", named.name(number)))
    }

    #[test]
    fn what_one_side_makes_the_other_finds() {
        let parent = Named::new();
        let child = Named::of_peer(parent.place());
        let (ours, descriptor) = parent.create(SEGMENT, 8192, Protection::ReadWrite).unwrap();
        assert!(descriptor.is_none());
        let theirs = child.attach(SEGMENT, &mut std::iter::empty(), Protection::ReadWrite).unwrap();
        assert_eq!((ours.len(), theirs.len()), (8192, 8192));
        assert!(child.attach(7, &mut std::iter::empty(), Protection::ReadWrite).is_err());
        drop(theirs);
        assert!(path(&parent, SEGMENT).exists(), "who only found it leaves it there");
        drop(ours);
        assert!(!path(&parent, SEGMENT).exists());

        let (still_mapped, _) = parent.create(EVENTS, 4096, Protection::ReadWrite).unwrap();
        let events = path(&parent, EVENTS);
        drop(child);
        assert!(events.exists());
        drop(parent);
        assert!(!events.exists());
        drop(still_mapped);
    }

    #[test]
    fn names_go_when_the_peer_has_ended() {
        let parent = Named::new();
        let held: Vec<_> =
            [SEGMENT, 1, EVENTS].map(|number| parent.create(number, 4096, Protection::ReadWrite).unwrap()).into();
        parent.peer_ended();
        assert!(![SEGMENT, 1, EVENTS].iter().any(|&number| path(&parent, number).exists()));
        drop(held);
    }
}
