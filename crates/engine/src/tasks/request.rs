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

struct Copied(AlignedVec<ALIGN>);

impl OwnedRequest for Copied {
    fn span(&self) -> RequestSpan<'_> {
        RequestSpan::copied(&self.0)
    }
}

/// A block stays the request's until it is answered.
struct InBlock(Block, TrustedParent);

impl OwnedRequest for InBlock {
    fn span(&self) -> RequestSpan<'_> {
        self.1.request(self.0.span())
    }
}

/// The request in a slot, which will be used again.
pub(super) fn copied(payload: Span<'_>) -> Rc<dyn OwnedRequest> {
    let mut bytes = AlignedVec::new();
    copy_out(payload, &mut bytes);
    Rc::new(Copied(bytes))
}

pub(super) fn in_block(block: Block, parent: TrustedParent) -> Rc<dyn OwnedRequest> {
    Rc::new(InBlock(block, parent))
}
