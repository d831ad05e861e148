//! Internal to [callgate](https://docs.rs/callgate): what a child gives up before its service exists.
//!
//! The parent makes a [`Plan`](plan::Plan) of the user's requests; the child carries it out ([`apply`]) and reports the outcome ([`report`]). Sends
//! nothing itself, and knows nothing of bridges.

// Internal: callgate alone uses this crate.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

// What the kernel offers.
pub mod landlock;
pub mod limits;
pub mod rights;
pub mod seccomp;

// The request, the outcome, and carrying it out.
pub mod measure;
pub mod plan;
pub mod report;
pub mod apply;
