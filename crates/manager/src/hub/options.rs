//! What a hub takes in and gives out: limits, each with its range.

#![forbid(unsafe_code)]

use super::super::error::ManagerError;
use callgate_engine::pair;
use callgate_transport::layout::Geometry;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a hub takes in and gives out. The defaults suit most.
///
/// # Examples
///
/// ```
/// use callgate::manager::HubOptions;
/// use std::time::Duration;
///
/// let options = HubOptions::new().max_clients(16).handshake_timeout(Duration::from_secs(1));
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a hub is started with them"]
pub struct HubOptions {
    pub(super) handshake_timeout: Duration,
    pub(super) max_clients: u32,
    pub(super) memory_per_client: u64,
    pub(super) lanes: u32,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            max_clients: MAX_CLIENTS,
            memory_per_client: 256 << 20,
            lanes: 48,
        }
    }
}

/// Clients that a hub can have.
pub(super) const MAX_CLIENTS: u32 = 1024;

impl HubOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a process that has connected may take to show that it has the key: 1 millisecond to 1 hour. Default: 5 seconds.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many clients there may be at a time: 1 to 1,024, of which 12 of one process. Default: 1,024. Each takes two of the hub's descriptors, and each pair of a
    /// caller and an owner two more.
    pub fn max_clients(mut self, count: u32) -> Self {
        self.max_clients = count;
        self
    }

    /// How many bytes of shared memory may be made for what one client sends, to all others together: 1 MiB to 1 TiB, and at least four
    /// times what a connection of two processes begins with (252 KiB with 48 lanes). Default: 256 MiB. What it sends to one of the others must
    /// fit into half of what is not in use for the rest; memory is made when it is needed.
    pub fn memory_per_client(mut self, bytes: u64) -> Self {
        self.memory_per_client = bytes;
        self
    }

    /// How many calls from one process to another can be under way at a time: 1 to 64. Default: 48, so that callbacks that call each other may
    /// be nested 64 deep. Each takes a thread of the process that is called, from its first use on.
    pub fn concurrent_calls(mut self, count: u32) -> Self {
        self.lanes = count;
        self
    }

    pub(super) fn check(&self) -> Result<(), ManagerError> {
        check("handshake_timeout", self.handshake_timeout, Duration::from_millis(1)..=Duration::from_secs(3600))?;
        check("max_clients", self.max_clients, 1..=MAX_CLIENTS)?;
        check("concurrent_calls", self.lanes, Geometry::LANES)?;
        let least = (4 * self.geometry().segment_len() as u64).max(1 << 20);
        check("memory_per_client", self.memory_per_client, least..=1 << 40)
    }

    pub(super) fn geometry(&self) -> Geometry {
        pair::geometry(self.lanes)
    }
}

fn check<V: PartialOrd + std::fmt::Debug>(
    option: &'static str,
    value: V,
    range: RangeInclusive<V>,
) -> Result<(), ManagerError> {
    if range.contains(&value) {
        return Ok(());
    }
    let range = format!("{:?} to {:?}", range.start(), range.end());
    Err(ManagerError::Option { option, value: format!("{value:?}"), range })
}
