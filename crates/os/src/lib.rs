//! Internal to [callgate](https://docs.rs/callgate): a safe interface to each kernel facility, one file each.
//!
//! A file imports only files above it in the list below. It knows nothing of rings, calls or services, and sets no policy.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// Internal: callgate alone uses this crate.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("callgate runs on Linux on x86-64 and little-endian aarch64 only");

// Words and atomics.
pub mod text;
pub mod const_text;
#[cfg(all(any(test, feature = "testkit"), debug_assertions, not(loom)))]
pub mod trace;
pub mod sync;
pub mod barrier;

// This process.
pub mod clock;
pub mod cpu;
pub mod fork;
pub mod selfproc;
pub mod stack;
pub mod exit;
mod signal_set;
pub mod fatal;
pub mod signals;
pub mod limits;
pub mod lock;

// Memory and descriptors.
pub mod mapping;
#[cfg(feature = "portable")]
pub mod event;
pub mod futex;
pub mod descriptor;
pub mod private_file;
pub mod close;
pub mod eventfd;
pub mod memfd;
#[cfg(feature = "portable")]
pub mod named;

// Other processes.
pub mod poll;
pub mod inotify;
pub mod image;
pub mod program;
pub mod pidfd;
pub mod socket;
pub mod listener;
pub mod sole_listener;
pub mod toll;

#[cfg(all(test, not(loom)))]
#[path = "../../../tests/support/mod.rs"]
mod support;
