//! A part of [callgate](https://docs.rs/callgate), for it alone: what a child gives up before its service exists.
//!
//! The parent makes a [`Plan`](plan::Plan) of what the user asked for; the child carries it out ([`apply`]) and says what came of it ([`report`]).
//! Sends nothing itself, and knows nothing of bridges.

// No interface for others: nothing of it is built without being used.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

// What the kernel offers.
pub mod landlock;
pub mod limits;
pub mod rights;
pub mod seccomp;

// What is asked for, what comes of it, and doing it.
pub mod measure;
pub mod plan;
pub mod report;
pub mod apply;
