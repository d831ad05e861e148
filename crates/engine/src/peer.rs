//! The process at the other end, as whoever calls it knows it: whether it lives, how it is woken, and what it may be told.
//!
//! A child's is part of its [`Link`](crate::link::Link), a stranger's of its [`Pair`](crate::pair::PairEndpoint): what differs between the two is
//! behind [`PeerLink`].

#![forbid(unsafe_code)]

use crate::peer_status::{Cause, PeerStatus};
use callgate_os::fork;
use callgate_transport::decoder::TrustedPeer;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::wake::{Bells, Door};
use std::any::Any;
use std::time::Duration;

/// The process at the other end.
pub struct Peer {
    pub pid: u32,
    /// The longest payload, in bytes.
    pub max_payload: u64,
    /// The programmer's word for it.
    pub trust: Option<TrustedPeer>,
    /// The process that holds on; forks of it must not touch what the two share.
    generation: u32,
    pub peer_status: PeerStatus,
    pub bells: Bells,
    pub door: Option<Door>,
    /// What whoever started it keeps beside it.
    pub kept: Option<Kept>,
}

/// Something that the engine knows nothing of.
pub type Kept = Box<dyn Any + Send + Sync>;

/// What a [`Peer`] is made of.
pub struct PeerParts {
    pub pid: u32,
    pub max_payload: u64,
    pub trust: Option<TrustedPeer>,
    pub peer_status: PeerStatus,
    pub bells: Bells,
    pub door: Option<Door>,
    pub kept: Option<Kept>,
}

impl Peer {
    pub fn new(parts: PeerParts) -> Self {
        let PeerParts { pid, max_payload, trust, peer_status, bells, door, kept } = parts;
        fork::count_forks();
        Self { pid, max_payload, trust, generation: fork::generation(), peer_status, bells, door, kept }
    }

    /// Whether this process is a fork of the one that began to talk to the peer. It has no watcher, and its calls would be written over
    /// those of the process that it was forked from.
    #[inline]
    pub fn is_in_fork(&self) -> bool {
        self.generation != fork::generation()
    }
}

/// What this process holds of a peer: the memory that the two share, and its end.
pub trait PeerLink: PoolHandle {
    /// Ends the conversation, for `cause`: a child is killed, a stranger is listened to no longer.
    fn end(&self, cause: Cause);

    /// Ends the process if it is a child's, `because` of something; those who call it learn that it has died, and of what. One that this process may not kill is told
    /// to end itself.
    fn kill(&self, _because: &str) {}

    /// Ends a child in that way when `time` has passed, unless it has ended by then. Does not wait for that.
    fn kill_after(&self, _time: Duration) {}

    /// The lane `index` is about to be used for the first time: whoever has threads for lanes only then starts one.
    fn begin(&self, _index: u32) {}

    /// Notes that memory has been used, which may be more than may be kept when it is not.
    fn used(&self);
}
