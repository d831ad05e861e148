//! Ways of calling.
//!
//! # Many threads
//!
//! A [`Bridge`](crate::Bridge) is `Send + Sync`. Threads that call concurrently use different lanes of the shared memory
//! ([`Builder::concurrent_callers`](crate::Builder::concurrent_callers)). The service answers one call at a time. With
//! [`Builder::workers`](crate::Builder::workers), a service that is `Sync` answers several `&self` methods at once; `&mut self` methods run alone.
//!
//! # Calls that do not wait
//!
//! `bridge.begin().method(..)` sends the request and returns a [`Pending`](crate::Pending), which is polled or waited for. Each one keeps its lane until
//! its result is taken; without a free lane, `begin` fails at once with [`CallError::Refused`](crate::CallError::Refused).
//!
//! ```
//! use callgate::bridge;
//!
//! struct Squares;
//!
//! #[bridge]
//! impl Squares {
//!     pub fn new() -> Self {
//!         Squares
//!     }
//!     pub fn square(&self, n: u64) -> u64 {
//!         n * n
//!     }
//! }
//!
//! #[callgate::main]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let squares = Squares::bridge().start()?;
//!     let (three, four) = (squares.begin().square(3), squares.begin().square(4));
//!     assert_eq!(three.wait()? + four.wait()?, 25);
//!     Ok(())
//! }
//! ```
//!
//! # Timeouts
//!
//! [`Builder::timeout`](crate::Builder::timeout) sets one for all calls, `bridge.with_timeout(..)` for some. A call that times out returns
//! [`CallError::TimedOut`](crate::CallError::TimedOut); the child works on, and its late answer is dropped. [`Bridge::kill`](crate::Bridge::kill) ends a
//! child that does not come back, and a [restart policy](super::children#restarts) does so by itself.
//!
//! # Results read in place
//!
//! `bridge.view().method(..)` returns a [`View`](crate::View) of the result's archive: a private, validated copy, from which nothing is built that is not
//! looked at. The result's archive must be [`Viewable`](crate::Viewable); derive it on your types with `#[rkyv(derive(callgate::Viewable))]`. Maps and
//! sets are not viewable, and the compiler says so.
//!
//! # Waiting
//!
//! Both sides poll for up to 50 µs and then sleep. They sleep at once if waits usually take longer, or if both run on one CPU. An idle bridge uses no CPU.
//! [`Builder::wait`](crate::Builder::wait) chooses another policy.
//!
//! # An epoll loop of your own
//!
//! With `Builder::signal(Signal::EventFd)`, [`Bridge::doorbell_fd`](crate::Bridge::doorbell_fd) is a descriptor that becomes readable when a pending call
//! may have been answered, or the child has ended. Call [`Bridge::clear_doorbell`](crate::Bridge::clear_doorbell), then poll each pending call. A bridge
//! with a restart policy has no such descriptor. [`Pending`](crate::Pending) is not a `Future`.
//!
//! # Tests and benches
//!
//! Their harness owns `main`. [`test_support!`](crate::test_support) at the top of the file takes the place of `#[callgate::main]`.
