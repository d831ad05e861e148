//! The limits of a hub, each with its range.

#![forbid(unsafe_code)]

use super::super::error::ManagerError;
use callgate_engine::pair;
use callgate_transport::bounds::hub::MAX_CLIENTS;
use callgate_transport::layout::Geometry;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The limits of a hub. The defaults suit most programs.
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

impl HubOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a connecting process may take to prove that it knows the key: 1 millisecond to 1 hour. Default: 5 seconds.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How many clients the hub has at most: 1 to 1,024, and at most 12 of one process. Default: 1,024. Each client takes two of the hub's
    /// descriptors, and each pair of a caller and an owner two more.
    pub fn max_clients(mut self, count: u32) -> Self {
        self.max_clients = count;
        self
    }

    /// How many bytes of shared memory one client's messages to all others may use: 1 MiB to 1 TiB, and at least four times the initial size of
    /// a pair (252 KiB with 48 lanes). Default: 256 MiB. Messages to one other client may use half of what the rest leaves free. Memory is
    /// created on demand.
    pub fn memory_per_client(mut self, bytes: u64) -> Self {
        self.memory_per_client = bytes;
        self
    }

    /// How many calls from one process to another can run at a time: 1 to 64. Default: 48, so that callbacks that call each other can nest 64
    /// deep. Each takes a thread in the owner, from its first use on.
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
