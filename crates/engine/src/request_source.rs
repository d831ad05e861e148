//! Who makes a worker's requests.

#![forbid(unsafe_code)]

use crate::peer_status::PeerStatus;
use callgate_transport::commit::{ALIGN, BlockRef};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::request::RequestSpan;
use callgate_transport::segment::{Block, Span};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

/// The peer that makes a worker's requests: how far it is trusted, and the memory that it shares.
pub trait RequestSource {
    /// The memory.
    fn pool(&self) -> &dyn PoolHandle;

    /// Whether it lives; `None` for a caller that this process does not outlive.
    fn peer_status(&self) -> Option<&PeerStatus>;

    /// The block that a request names, or what is wrong with it.
    fn block(&self, block: BlockRef) -> Result<Block, &'static str>;

    /// The payload of a request, as it may be read; `copy` has room for a copy.
    ///
    /// # Errors
    ///
    /// If it cannot be read, for a reason that has been [noted](callgate_transport::reading::refuse). Call [`answering`](Self::answering) then, too.
    fn request<'a>(&self, payload: Span<'a>, copy: &'a mut AlignedVec<ALIGN>) -> Result<RequestSpan<'a>, Failure>;

    /// Notes that the request of `len` bytes has been carried out, and its reply is about to be published.
    fn answering(&self, _len: usize) {}

    /// Notes that the reply to the request in `copy` has been published.
    fn done(&self, _copy: &mut AlignedVec<ALIGN>) {}

    /// Keeps what the reply carries that is about to be published at `position` of `lane`, until its caller is done with it.
    fn publishing(&self, lane: u32, position: u64, attachments: Attachments);
}
