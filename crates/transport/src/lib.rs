//! A part of [callgate](https://docs.rs/callgate), for it alone: what goes from one process to another through shared memory, where it lies
//! there, and how the other side is told.
//!
//! A file imports only files above it in the list below. Knows nothing of methods, children or hubs.

#![cfg_attr(loom, allow(dead_code, unused_imports))]
// No interface for others: nothing of it is built without being used.
#![allow(missing_docs, rustdoc::private_intra_doc_links, clippy::len_without_is_empty, clippy::new_without_default)]

// Errors, and steps at which tests interfere.
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

// Frames that are written: their place, their memory, their bytes.
pub mod reading;
pub mod commit;
pub mod bare;
pub mod format;
pub mod validator;
pub mod archive;
pub mod arena;
pub mod loans;
pub mod memory_pool;
pub mod stage;
pub mod ring;
pub mod outgoing_frame;
pub mod encode;

// Frames that are read.
pub mod decoder;
pub mod copy_buffer;
pub mod shared_box;
pub mod shared_writer;
pub mod viewable;
pub mod request;
pub mod reply;
