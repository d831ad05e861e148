//! One file per kernel facility, each a safe face over what the kernel offers.
//!
//! Layer 0. Knows nothing of rings, calls or services; holds no policy.

pub(crate) mod close;
pub(crate) mod cpu;
pub(crate) mod descriptor;
#[cfg(feature = "portable")]
pub(crate) mod event;
pub(crate) mod eventfd;
pub(crate) mod fatal;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod image;
pub(crate) mod inotify;
#[cfg(feature = "sandbox")]
pub(crate) mod landlock;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod memfd;
#[cfg(feature = "portable")]
pub(crate) mod named;
pub(crate) mod pidfd;
pub(crate) mod poll;
pub(crate) mod program;
#[cfg(feature = "sandbox")]
pub(crate) mod rights;
#[cfg(feature = "sandbox")]
pub(crate) mod seccomp;
pub(crate) mod selfproc;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod stack;
pub(crate) mod toll;
