//! How to use callgate, one page for each topic.
//!
//! | page | answers |
//! |---|---|
//! | [`types`] | what can cross, which methods can be bridged, how to bridge a trait |
//! | [`calls`] | many threads, several workers, calls that do not wait, methods that call back, streams, timeouts, an epoll loop |
//! | [`large_payloads`] | megabytes without a copy, and how much memory a bridge may use |
//! | [`errors`] | what a failed call says, and what to do about it |
//! | [`children`] | how a child starts, dies and is replaced; separate executables |
//! | [`sandboxes`] | what a child can be made to give up |
//! | [`callbacks`] | named functions that unrelated processes call |
//! | [`limits`] | what the parent is safe from, and what it is not |

pub mod callbacks;
pub mod calls;
pub mod children;
pub mod errors;
pub mod large_payloads;
pub mod limits;
pub mod sandboxes;
pub mod types;
