//! The caller of a pair as a source of requests: each is copied before it is read.
//!
//! Nothing that it says is trusted. A lane keeps room for small copies; copies of large requests together are limited to the caller's own memory.

#![forbid(unsafe_code)]

use super::{PairEndpoint, RemoteCaller};
use crate::peer_status::{Cause, PeerStatus};
use crate::request_source::RequestSource;
use callgate_transport::archive::copy_out;
use callgate_transport::bounds::PAIR_COPY_KEPT;
use callgate_transport::commit::{ALIGN, BlockRef};
use callgate_transport::loans::Attachments;
use callgate_transport::memory_pool::PoolHandle;
use callgate_transport::reading::{DecodeRefusal, has_memory, refuse};
use callgate_transport::request::RequestSpan;
use callgate_transport::segment::{Block, Span};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

impl PairEndpoint {
    /// Counts another copy of a request, of `len` bytes. Each request lies in memory of its own, so requests under way have no more bytes in all than
    /// the caller's memory: beyond that, it has named some memory twice.
    ///
    /// # Errors
    ///
    /// If the copy would exceed that, and then the pair is over; or if there is no memory for it.
    #[cold]
    pub(super) fn admit_copy(&self, len: usize) -> Result<(), Failure> {
        let lent: u64 = self.inbox.lock().segments.values().map(|segment| segment.len() as u64).sum();
        // A caller reuses a block only after it has heard of the answer, and `answering` has subtracted the block before that.
        let mut copied = self.copied.lock();
        *copied += len as u64;
        if *copied > lent {
            drop(copied);
            self.over(Some(Cause::Corrupt("requests in flight with more bytes than its memory has")));
            return Err(refuse(DecodeRefusal::Invalid));
        }
        drop(copied);
        has_memory(len)
    }
}

impl RequestSource for RemoteCaller {
    fn pool(&self) -> &dyn PoolHandle {
        &*self.0
    }

    #[inline(always)]
    fn peer_status(&self) -> Option<&PeerStatus> {
        Some(&self.0.peer.peer_status)
    }

    fn block(&self, block: BlockRef) -> Result<Block, &'static str> {
        self.0.peer_block(block).ok_or("a request in memory that it does not have")
    }

    #[inline(always)]
    fn request<'a>(&self, payload: Span<'a>, copy: &'a mut AlignedVec<ALIGN>) -> Result<RequestSpan<'a>, Failure> {
        if payload.len() > PAIR_COPY_KEPT {
            self.0.admit_copy(payload.len())?;
        }
        copy_out(payload, copy);
        Ok(RequestSpan::copied(copy))
    }

    #[inline(always)]
    fn answering(&self, len: usize) {
        if len > PAIR_COPY_KEPT {
            *self.0.copied.lock() -= len as u64;
        }
    }

    #[inline(always)]
    fn done(&self, copy: &mut AlignedVec<ALIGN>) {
        if copy.capacity() > PAIR_COPY_KEPT {
            *copy = AlignedVec::new();
        }
    }

    fn publishing(&self, lane: u32, position: u64, carried: Attachments) {
        let mut own = self.0.own.lock();
        own.published.push((lane, position, carried));
        // The caller does not say when it is done with it.
        if own.pool.is_beyond_retained() {
            self.0.reclaim.used();
        }
    }
}
