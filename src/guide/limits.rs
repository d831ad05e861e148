//! What the parent is safe from, and what it is not.
//!
//! The parent copies and validates what a child answers. Its memory stays safe even if the child is fully compromised. Without a sandbox, the child is
//! still a process of the same user: it may open your files, look into your processes and signal them. That contains crashes; it is **not a security
//! boundary**. A [strict sandbox](super::sandboxes) makes it one, as far as the kernel is.
//!
//! - Arguments and results are encoded. They keep no identity, and nothing borrowed, no closure, no shared `Rc` or `Arc` crosses.
//! - A `SharedBox` holds plain data only. `String`, `Vec` and the like are copied.
//! - Before Linux 5.16 (`futex_waitv`), a parked caller wakes every 5 ms to see whether its child lives.
//! - A setuid program becomes a child only of a process that has the rights which the program would gain.
//! - Setting `CALLGATE_SIGNAL=eventfd` (or `futex`) changes how bridges wake each other, to try a backend without a rebuild. A name that is unknown, or one
//!   that takes trust, fails the start.
//!
//! # Backends that trust the child
//!
//! The feature `portable` adds memory with a name (`Segments::Named`) and doorbells of the crate `raw_sync` (`Signal::RawSync`). Both trust the child with
//! the parent's memory, so both ask for a `TrustedChild`, which is `unsafe` to make. `Segments::Named` leaves its names in `/dev/shm` if the parent is
//! killed. `Signal::RawSync` needs a thread for each lane in the parent; a child that is killed while it holds a lock leaves some of them behind.
//!
//! # Beside `multiprocessing`
//!
//! | | an object of Python's `multiprocessing` | `Bridge<T>` |
//! |---|---|---|
//! | start | a fork, a fork server, or an interpreter that imports the main module | this program executed again, up to `#[callgate::main]` |
//! | interface | looked up by name at run time | generated at compile time; a fingerprint is compared at the start |
//! | what crosses | any object that can be pickled; unpickling may run code | types that rkyv can archive; reading a reply runs no code of the sender's choice |
//! | a call's path | serialised, written to a pipe or socket, read, deserialised | serialised into shared memory; borrowed arguments and boxes are read in place |
//! | a call's cost | system calls and a wake-up on both sides | no system call while both sides poll, no allocation for types that need none |
//! | errors | the remote exception, raised again | a panic is a `CallError`; the method's own `Result` is a value |
//! | the child dies | noticed as a closed pipe, if nobody else holds it open | noticed at once, with exit code or signal and whether the call had started |
//! | the parent dies | the child may live on | the child dies too |
