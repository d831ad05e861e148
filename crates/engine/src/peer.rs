//! The process at the other end, as its caller knows it: whether it lives, how it is woken, and how much it is trusted.
//!
//! A child's is part of its [`Link`](crate::link::Link), a remote process's of its [`Pair`](crate::pair::PairEndpoint). [`PeerLink`] hides how the
//! two differ.

#![forbid(unsafe_code)]

use crate::peer_status::{Cause, PeerStatus};
use callgate_os::fork;
use callgate_transport::decoder::TrustedPeer;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::wake::Bells;
use std::any::Any;
use std::time::Duration;

/// The process at the other end.
pub struct Peer {
    pub pid: u32,
    /// The longest payload, in bytes.
    pub max_payload: u64,
    /// The user's promise that the peer can be trusted.
    pub trust: Option<TrustedPeer>,
    /// The process that talks to the peer; its forks must not touch what the two share.
    generation: u32,
    pub peer_status: PeerStatus,
    pub bells: Bells,
    /// What the starter of the peer keeps beside it.
    pub kept: Option<Kept>,
}

/// A value that the engine knows nothing about.
pub type Kept = Box<dyn Any + Send + Sync>;

/// The parts of a [`Peer`].
pub struct PeerParts {
    pub pid: u32,
    pub max_payload: u64,
    pub trust: Option<TrustedPeer>,
    pub peer_status: PeerStatus,
    pub bells: Bells,
    pub kept: Option<Kept>,
}

impl Peer {
    pub fn new(parts: PeerParts) -> Self {
        let PeerParts { pid, max_payload, trust, peer_status, bells, kept } = parts;
        fork::count_forks();
        Self { pid, max_payload, trust, generation: fork::generation(), peer_status, bells, kept }
    }

    /// Whether this process is a fork of the one that began to talk to the peer. A fork has no watcher, and its calls would overwrite those of the
    /// process that it was forked from.
    #[inline]
    pub fn is_in_fork(&self) -> bool {
        self.generation != fork::generation()
    }
}

/// The link of this process to a peer: the memory that they share, and how to end it.
pub trait PeerLink: PoolHandle {
    /// Ends the conversation for `cause`: a child is killed; of any other process nothing more is read.
    fn end(&self, cause: Cause);

    /// Kills the peer if it is a child, `because` of something that its callers learn. A child that this process may not kill is told to end itself.
    fn kill(&self, _because: &str) {}

    /// Kills a child in that way once `time` has passed, unless it has ended by then. Does not wait.
    fn kill_after(&self, _time: Duration) {}

    /// Announces that the lane `index` is about to be used for the first time, so that its thread can be started.
    fn begin(&self, _index: u32) {}

    /// Notes that memory has been used, so that idle memory may exceed `retained`.
    fn used(&self);
}
