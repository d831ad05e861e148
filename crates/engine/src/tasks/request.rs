//! Requests that their tasks own.

#![forbid(unsafe_code)]

use crate::service::task::OwnedRequest;
use crate::trusted::TrustedParent;
use callgate_transport::archive::copy_out;
use callgate_transport::commit::ALIGN;
use callgate_transport::request::RequestSpan;
use callgate_transport::segment::{Block, Span};
use rkyv::util::AlignedVec;
use std::rc::Rc;

struct CopiedRequest(AlignedVec<ALIGN>);

impl OwnedRequest for CopiedRequest {
    fn span(&self) -> RequestSpan<'_> {
        RequestSpan::copied(&self.0)
    }
}

/// A block stays the request's until it is answered.
struct RequestInBlock(Block, TrustedParent);

impl OwnedRequest for RequestInBlock {
    fn span(&self) -> RequestSpan<'_> {
        self.1.request(self.0.span())
    }
}

/// The request in a slot, which will be used again.
pub(super) fn copied(payload: Span<'_>) -> Rc<dyn OwnedRequest> {
    let mut bytes = AlignedVec::new();
    copy_out(payload, &mut bytes);
    Rc::new(CopiedRequest(bytes))
}

pub(super) fn in_block(block: Block, parent: TrustedParent) -> Rc<dyn OwnedRequest> {
    Rc::new(RequestInBlock(block, parent))
}
