//! What the segments of one side add up to, against its budget.
//!
//! A segment that was given to an untrusted peer counts until no process has it, whatever the peer says; the kernel reports that
//! ([`watcher::when_released`]). Where it cannot, the segment counts until the peer is dead. A trusted peer's word is enough.

#![forbid(unsafe_code)]

use crate::watcher::{self, Releasing};
use callgate_transport::bounds::RELEASE_TIMEOUT;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Weak;
use std::time::Instant;

/// The segments of one side's arena, in use or not yet released.
#[derive(Default)]
pub struct Account(HashMap<u64, AccountEntry>);

struct AccountEntry {
    len: u64,
    until: Until,
    /// When it was given back.
    left: Option<Instant>,
}

/// How long a segment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it is given back.
    GivenBack,
    /// Until the kernel says that no process has it.
    Released,
    /// Until the peer is dead, and this account gone with it.
    Death,
}

impl Until {
    /// For a segment that the peer is about to get as `object`. No process may have it yet.
    pub fn of(object: Option<&OwnedFd>, is_trusted: bool, owner: Weak<dyn Releasing>, segment: u64) -> Self {
        match object {
            // Only backends for trusted peers have none.
            Some(object) if !is_trusted => match watcher::when_released(object, owner, segment) {
                Ok(()) => Until::Released,
                Err(_) => Until::Death,
            },
            _ => Until::GivenBack,
        }
    }
}

impl Account {
    pub fn add(&mut self, segment: u64, len: u64, until: Until) {
        self.0.insert(segment, AccountEntry { len, until, left: None });
    }

    /// Takes out a segment that was never given to the peer.
    pub fn forget(&mut self, segment: u64) {
        self.0.remove(&segment);
    }

    /// Notes that the segment's user says it is no longer used. Returns whether it was in use.
    pub fn given_back(&mut self, segment: u64) -> bool {
        let Some(entry) = self.0.get_mut(&segment).filter(|entry| entry.left.is_none()) else { return false };
        entry.left = Some(Instant::now());
        if entry.until == Until::GivenBack {
            self.0.remove(&segment);
        }
        true
    }

    /// Notes that no process has the segment any more.
    pub fn released(&mut self, segment: u64) {
        self.0.remove(&segment);
    }

    /// The number of segments that count.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The number of bytes that count.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|entry| entry.len).sum()
    }

    /// The number of segments in use.
    pub(crate) fn bytes_in_use(&self) -> u64 {
        self.0.values().filter(|entry| entry.left.is_none()).map(|entry| entry.len).sum()
    }

    /// Whether more memory will probably be free soon.
    pub(crate) fn is_being_released(&self) -> bool {
        self.0.values().any(|entry| {
            entry.until == Until::Released && entry.left.is_some_and(|left| left.elapsed() < RELEASE_TIMEOUT)
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fault_39_what_is_given_back_counts_until_it_is_released() {
        let mut account = Account::default();
        for (segment, until) in [(1, Until::GivenBack), (2, Until::Released), (3, Until::Death)] {
            account.add(segment, 10, until);
        }
        assert_eq!((account.count(), account.bytes(), account.bytes_in_use()), (3, 30, 30));
        assert!(!account.is_being_released());
        assert!((1..4).all(|segment| account.given_back(segment)));
        assert!(!(0..5).any(|segment| account.given_back(segment)), "nobody has it, or it was given back");
        assert_eq!((account.count(), account.bytes(), account.bytes_in_use()), (2, 20, 0));
        assert!(account.is_being_released());
        account.released(2);
        account.released(2);
        assert!(!account.is_being_released(), "what counts until a death is not waited for");
        assert_eq!((account.count(), account.bytes()), (1, 10));
    }
}
