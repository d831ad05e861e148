//! Where shared memory comes from, and how the peer gets it.
//!
//! A bridge's memory objects have numbers: 0 is its segment, [`EVENTS`] holds its doorbells if they need memory of their
//! own, and the rest belong to the arenas.

#![forbid(unsafe_code)]

#[cfg(all(any(test, feature = "testkit"), not(loom)))]
pub mod heap;
#[cfg(feature = "portable")]
mod named;

#[cfg(feature = "portable")]
use crate::portable::TrustedChild;
use callgate_os::mapping::{Mapping, Protection};
use callgate_os::memfd;
#[cfg(feature = "portable")]
use named::Named;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The number of a bridge's first segment.
pub const SEGMENT: u64 = 0;

/// The number of the object that holds doorbells.
pub(crate) const EVENTS: u64 = u64::MAX;

/// The kind of a bridge's shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Segments {
    /// Anonymous memory of a fixed (sealed) size, passed as descriptors. Leaves nothing behind, whichever process dies.
    #[default]
    Sealed,
    /// POSIX shared memory of the crate `shared_memory`, in `/dev/shm/callgate-PID-N-..` (the parent's process number, and a
    /// number for the bridge), readable and writable for the same user. For a child that is trusted: it can shrink the memory
    /// under its parent.
    ///
    /// The names go when the bridge does or the child ends. They **stay if the parent is killed**, and go when it
    /// exits; whoever finds such a name of a process that is gone may remove it. A descriptor stays open for
    /// each piece of memory, in both processes; descriptors 0 to 2 must be open in the parent.
    #[cfg(feature = "portable")]
    Named(TrustedChild),
}

impl Segments {
    /// The name by which the environment variable `CALLGATE_SEGMENTS` knows it.
    #[doc(hidden)]
    pub fn name(self) -> &'static str {
        match self {
            Segments::Sealed => "sealed",
            #[cfg(feature = "portable")]
            Segments::Named(_) => "named",
        }
    }

    #[doc(hidden)]
    pub const ALL: &[Segments] = &[
        Segments::Sealed,
        #[cfg(feature = "portable")]
        Segments::Named(TrustedChild::for_lists()),
    ];

    /// Whether choosing it takes a `TrustedChild`.
    #[doc(hidden)]
    pub fn trusts_the_child(self) -> bool {
        self != Segments::Sealed
    }

    /// A parent's memory for a new bridge.
    #[doc(hidden)]
    pub fn of_parent(self) -> Arc<dyn Backing> {
        match self {
            Segments::Sealed => Arc::new(SealedMemfds),
            #[cfg(feature = "portable")]
            Segments::Named(_) => Arc::new(Named::new()),
        }
    }
}

/// The child's memory, as its parent described it; `None` if the child was built without that backend.
pub fn of_child(place: &str) -> Option<Arc<dyn Backing>> {
    match place {
        "" => Some(Arc::new(SealedMemfds)),
        #[cfg(feature = "portable")]
        place => Some(Arc::new(Named::of_peer(place))),
        #[cfg(not(feature = "portable"))]
        _ => None,
    }
}

/// A source of shared memory objects: the parent creates them, the child attaches them.
pub trait Backing: Send + Sync {
    /// The place of the objects, for the peer; empty if they are sent as descriptors.
    fn place(&self) -> &str {
        ""
    }

    /// Creates and maps object `number`, of `len` zero bytes. Returns also the descriptor to send to the peer, if there is one. `peer` limits the
    /// peer's access; backends that are for trusted peers only need not enforce it.
    fn create(&self, number: u64, len: usize, peer: Protection) -> io::Result<(Mapping, Option<OwnedFd>)>;

    /// Maps object `number` of the trusted peer. Takes the next of `descriptors` if the backend needs one.
    fn attach(
        &self,
        number: u64,
        descriptors: &mut dyn Iterator<Item = OwnedFd>,
        access: Protection,
    ) -> io::Result<Mapping>;

    /// The peer is gone: no object will be attached any more.
    fn peer_ended(&self) {}
}

/// Sealed memfds.
pub struct SealedMemfds;

impl Backing for SealedMemfds {
    fn create(&self, number: u64, len: usize, peer: Protection) -> io::Result<(Mapping, Option<OwnedFd>)> {
        let name = match number {
            SEGMENT => "callgate",
            EVENTS => "callgate-events",
            _ => "callgate-arena",
        };
        let (mapping, object) = memfd::create_sealed(name, len, peer)?;
        Ok((mapping, Some(object)))
    }

    fn attach(
        &self,
        _: u64,
        descriptors: &mut dyn Iterator<Item = OwnedFd>,
        access: Protection,
    ) -> io::Result<Mapping> {
        let object = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
        Mapping::new(&object, memfd::sealed_len(&object)?, access)
    }
}
