//! Replies, as the caller reads them. Whether the peer is trusted decides which of two ways the caller takes, in one place: where it calls these
//! traits.
//!
//! [`untrusted`] is complete in itself and the file to audit; [`trusted`] has what a user's promise adds.

mod archived;
mod trusted;
mod untrusted;
mod callback;

pub use self::archived::ArchivedReply;
pub use self::callback::CallbackReply;
pub use self::trusted::TrustedReply;
pub use self::untrusted::UntrustedReply;

/// What a reply becomes: a value, or the archive itself ([`ArchivedReply`]). Any thread that has its lane may take it, and its caller may be another.
pub trait Reply: TrustedReply + Send + 'static {}

impl<R: TrustedReply + Send + 'static> Reply for R {}
