//! Megabytes without a copy, and how much memory a bridge may use.
//!
//! A [`SharedBox`](crate::SharedBox) is a box whose contents lie in the bridge's shared memory. To pass it by value hands it over; no byte of the contents
//! moves, whatever their size. To pass it by reference lends it for the call. It holds plain data: `[u8]`, `[f32]`, structs that derive
//! [bytemuck](https://docs.rs/bytemuck)'s `Pod`. It may stand wherever a value may: in arguments, results, structs, lists.
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
//!     // SAFETY: the child runs safe code only, so it leaves memory alone that it has given away.
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
//! contained; memory corruption in the child does not.
//!
//! | a frame passes as | what is copied |
//! |---|---|
//! | `SharedBox`, trusted child | nothing |
//! | `SharedBox`, untrusted child | the frame, when the child first writes to it, and when the parent gets back what was written |
//! | `Vec<u8>`, untrusted child | the frame, into shared memory and out of it, both ways |
//!
//! # Filling a box
//!
//! [`SharedWriter`](crate::SharedWriter) fills one piece by piece, or straight from a file or socket. The memory returns to the bridge when the box is
//! dropped, on either side; a box outlives its bridge.
//!
//! # Bounds
//!
//! | [`Builder`](crate::Builder) | bounds |
//! |---|---|
//! | `max_payload` | one argument list, one result, one box |
//! | `memory` | all payloads and boxes of the bridge together, half for each side |
//! | `retained` | what stays allocated for the next payload while nothing is in use; new memory costs much more |
//!
//! A call that finds all memory in use waits until its timeout, and then returns [`CallError::Exhausted`](crate::CallError::Exhausted) or
//! [`NoMemory`](crate::NoMemory).
