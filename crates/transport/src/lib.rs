//! Internal part of [callgate](https://docs.rs/callgate): frames in shared memory, their layout, and how one process notifies the other.
//!
//! A file imports only files above it in the list below. Knows nothing of methods, children or hubs.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// Not an interface for other crates.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

// What a peer can take.
pub mod bounds;

// Errors, and failpoints for tests.
pub mod error;
pub mod failpoints;
#[cfg(feature = "portable")]
pub mod portable;

// Shared memory.
pub mod backing;
pub mod layout;
pub mod segment;

// Waiting.
pub mod wake;
pub mod doorbell;

// Writing frames: their place, their memory, their bytes.
pub mod reading;
pub mod commit;
pub mod bare;
pub mod format;
pub mod validator;
pub mod archive;
pub mod arena;
pub mod loans;
pub mod memory_pool;
#[cfg(any(test, feature = "testkit"))]
pub mod no_memory;
pub mod stage;
pub mod ring;
pub mod moved_reply;
pub mod outgoing_frame;
pub mod frame_writer;
pub mod scratch;
pub mod encode;
pub mod written_frame;

// Reading frames.
pub mod decoder;
pub mod copy_buffer;
pub mod shared_box;
pub mod shared_writer;
pub mod viewable;
pub mod request;
pub mod reply;
