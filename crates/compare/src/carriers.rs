//! Lists every way to carry large payloads, in the order of the report, with the loads under which it is compared.

#![forbid(unsafe_code)]

use crate::transports::ServeFn;
use crate::{iceoryx2_loaned, ipc_memory};
use callgate_suite::BoxError;
use callgate_suite::large::{Carry, Load};

/// A carrier that is ready to carry, or why it is not.
pub type StartedCarrier = Result<Box<dyn Carry>, BoxError>;

/// One way to carry large payloads.
pub struct PayloadCarrier {
    /// The name in the report.
    pub name: &'static str,
    /// The loads and lengths under which it is compared.
    pub loads: &'static [(Load, usize)],
    /// Starts it for payloads of one length, with its peer pinned to the CPU, if given.
    pub start: fn(Option<usize>, Load, usize) -> StartedCarrier,
    /// Runs the peer, given the address from `start`.
    pub serve: ServeFn,
    /// Whether the peer polls even when nobody calls.
    pub polls: bool,
}

/// All carriers.
pub const CARRIERS: &[PayloadCarrier] = &[
    PayloadCarrier {
        name: iceoryx2_loaned::NAME,
        loads: &[
            (Load::Touched, 1 << 20),
            (Load::Touched, 16 << 20),
            (Load::Edited, 1 << 20),
            (Load::Edited, 16 << 20),
        ],
        start: iceoryx2_loaned::start,
        serve: iceoryx2_loaned::serve,
        polls: true,
    },
    PayloadCarrier {
        name: ipc_memory::NAME,
        loads: &[(Load::OneWay, 1 << 20)],
        start: ipc_memory::start,
        serve: ipc_memory::serve,
        polls: false,
    },
];

/// Finds the carrier of that name.
pub fn find(name: &str) -> Option<&'static PayloadCarrier> {
    CARRIERS.iter().find(|carrier| carrier.name == name)
}
