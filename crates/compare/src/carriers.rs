//! Every way that carries large payloads, in the order of the report, and under which loads it is compared.

#![forbid(unsafe_code)]

use crate::transports::ServeFn;
use crate::{iceoryx2_loaned, ipc_memory};
use callgate_suite::BoxError;
use callgate_suite::large::{Carry, Load};

/// A carrier that is ready to carry, or why it is not.
pub type StartedCarrier = Result<Box<dyn Carry>, BoxError>;

/// One way.
pub struct Carrier {
    /// As the report calls it.
    pub name: &'static str,
    /// What it is compared under.
    pub loads: &'static [(Load, usize)],
    /// Starts it with its peer on a CPU, or on any, for payloads of one length.
    pub start: fn(Option<usize>, Load, usize) -> StartedCarrier,
    /// What the peer does, given the address that `start` has handed over.
    pub serve: ServeFn,
    /// Whether the peer polls even when nobody calls.
    pub polls: bool,
}

/// All of them.
pub const CARRIERS: &[Carrier] = &[
    Carrier {
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
    Carrier {
        name: ipc_memory::NAME,
        loads: &[(Load::OneWay, 1 << 20)],
        start: ipc_memory::start,
        serve: ipc_memory::serve,
        polls: false,
    },
];

/// The carrier of that name.
pub fn find(name: &str) -> Option<&'static Carrier> {
    CARRIERS.iter().find(|carrier| carrier.name == name)
}
