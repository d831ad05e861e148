//! Megabytes without a copy, and how much memory a bridge may use.
//!
//! A [`SharedBox`](crate::SharedBox) is a box whose contents lie in the bridge's shared memory. Passing it by value transfers
//! ownership; passing it by reference lends it for the call. With a trusted child nothing is copied, whatever the size; otherwise see the table below. It holds plain data: `[u8]`, `[f32]`, structs that derive
//! [bytemuck](https://docs.rs/bytemuck)'s `Pod`. It can appear anywhere a value can: in arguments, results, structs, lists.
//!
//! ```
//! use callgate::{SharedBox, bridge};
//!
//! struct Inverter;
//!
//! #[bridge]
//! impl Inverter {
//!     pub fn new() -> Self {
//!         Inverter
//!     }
//!     pub fn invert(&self, mut frame: SharedBox<[u8]>) -> SharedBox<[u8]> {
//!         frame.iter_mut().for_each(|byte| *byte = !*byte);
//!         frame
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // SAFETY: the child runs safe code only, so it never touches memory that it has given away.
//!     let inverter = unsafe { Inverter::bridge().trust_child() }.start()?;
//!     let frame = SharedBox::<[u8]>::zeroed_in(&inverter, 3840 * 2160 * 4)?;
//!     let frame = inverter.invert(frame)?; // there and back, and no byte was copied
//!     assert!(frame.iter().all(|&byte| byte == 255));
//!     Ok(())
//! }
//! ```
//!
//! # Trusted and untrusted children
//!
//! Without `trust_child` the same program runs, and the parent's memory is safe whatever the child does; copies are the price.
//! [`Builder::trust_child`](crate::Builder::trust_child) is `unsafe`: the parent then reads in place what the child wrote. Crashes and hangs stay
//! contained; memory corruption in the child does not. Never trust a child that runs C code.
//!
//! | a frame passes as | what is copied |
//! |---|---|
//! | `SharedBox`, trusted child | nothing |
//! | `SharedBox`, untrusted child | the frame twice: at the child's first write, and when the parent takes the changed frame back |
//! | `Vec<u8>`, untrusted child | the frame four times: into and out of shared memory, in each direction |
//!
//! # Filling a box
//!
//! [`SharedWriter`](crate::SharedWriter) fills one piece by piece, or straight from a file or socket. The memory is returned when
//! either side drops the box. A box may outlive its bridge.
//!
//! # Bounds
//!
//! | [`Builder`](crate::Builder) | bounds | default |
//! |---|---|---|
//! | `max_payload` | one argument list, one result, one box | 1 GiB |
//! | `memory` | all payloads and boxes of the bridge together, half for each side | 4 times `max_payload`, and 128 MiB |
//! | `retained` | what each side keeps while nothing is in use; new memory costs much more | 64 MiB |
//!
//! A request that finds all memory in use waits until its timeout; without a timeout, only as long as other calls may free some. A reply fails at once.
//! One that needs new memory waits likewise, at most a second without a timeout, for a child that does not read its control socket.
//! The error is [`CallError::Exhausted`](crate::CallError::Exhausted), or [`NoMemory`](crate::NoMemory) for a box.
