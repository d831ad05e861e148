//! An internal part of [callgate](https://docs.rs/callgate): lanes, and the caller and the callee at their ends.
//!
//! A file imports only files above it in the list below. Knows nothing of how a child is started, of restarts, or of a hub.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// Not a public interface: the crate is only built for its users.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

// What two processes tell each other.
pub mod control;
pub mod handshake;
pub mod peer_status;
pub mod lane;
pub mod gate;
pub mod current;

// The process at the other end.
pub mod watcher;
pub mod account;
pub mod reclaim;
pub mod last_words;
pub mod panic;
pub mod nest;
pub mod peer;
pub mod child_memory;
pub mod link;

// The service that is called.
pub mod shared_service;
pub mod streamed_service;
pub mod access;
pub mod request_source;
pub mod block_on;
pub mod async_access;
pub mod saved_args;
pub mod service;
mod stream_cell;
pub mod streams;
pub mod bridged_traits;
pub mod trusted;
pub mod host;
pub mod asker;

// The callee and the caller.
pub mod callee;
pub mod tasks;
pub mod overdue;
pub mod caller;
pub mod follow;
pub mod pair;

#[cfg(all(test, not(loom)))]
#[path = "../../../tests/support/mod.rs"]
mod support;
