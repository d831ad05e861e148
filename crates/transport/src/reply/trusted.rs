//! Replies of a peer that the user vouches for ([`TrustedPeer`]): those in a block are read where they lie, without validation.
//!
//! Replies in a slot take the way of [`untrusted`](super::untrusted), which costs less than a block. Nothing here runs without a [`TrustedPeer`].

use super::archived::ArchivedReply;
use super::untrusted::UntrustedReply;
use crate::archive::{access_until, catch, root};
use crate::bare::{Bare, Plain};
use crate::copy_buffer::CopyBuffer;
use crate::decoder::{Decoder, Transfer, TrustedPeer};
use crate::loans::LoanId;
use crate::reading::Need;
use crate::segment::Block;
use crate::shared_box::bytes::BorrowedBlock;
use crate::validator::Checked;
use rkyv::rancor::Failure;

/// What the reply of a trusted peer becomes.
pub trait TrustedReply: UntrustedReply {
    /// From a reply in a block of the peer's, which lends it under `loan_id`.
    ///
    /// # Errors
    ///
    /// If there is no room for the type's archive, or its own code refuses it.
    fn from_trusted_block(
        block: Block,
        loan_id: u64,
        decoder: Decoder<'_>,
        trust: TrustedPeer,
    ) -> Result<Self, Failure>;

    /// Notes, in a reply that was copied, whether the user vouches for the peer. Values make no use of that.
    #[inline(always)]
    fn with_trust(self, _: Option<TrustedPeer>) -> Self {
        self
    }
}

impl<R: Transfer> TrustedReply for R {
    /// Validates only what has pointers, and for how much stack the value takes.
    #[inline(always)]
    fn from_trusted_block(block: Block, _: u64, decoder: Decoder<'_>, _: TrustedPeer) -> Result<Self, Failure> {
        // SAFETY: the peer is trusted to leave the block alone until it is released.
        let bytes = unsafe { block.span().as_bytes() };
        let root = root::<R::Archived>(bytes)?;
        // SAFETY: `root` has found room for it, aligned; the peer is trusted to have written a valid archive, and to leave it alone.
        let archived = unsafe { &*root };
        let (decoder, is_flat) = (decoder.within(bytes), CopyBuffer::<R>::is_of_numbers());
        catch(|| {
            let need = if is_flat { Need::default() } else { access_until::<R::Archived>(bytes, decoder.until())?.1 };
            need.run(|| decoder.make(archived))
        })
    }
}

impl<T: Plain> TrustedReply for Bare<T> {
    fn from_trusted_block(block: Block, _: u64, decoder: Decoder<'_>, _: TrustedPeer) -> Result<Self, Failure> {
        Self::from_block(block, decoder)
    }
}

impl<A: Checked> TrustedReply for ArchivedReply<A> {
    /// Keeps the block, or a copy if the peer did not lend it.
    fn from_trusted_block(
        block: Block,
        loan_id: u64,
        decoder: Decoder<'_>,
        trust: TrustedPeer,
    ) -> Result<Self, Failure> {
        let lent = LoanId::checked(loan_id).zip(decoder.pool());
        let Some(held) = lent.and_then(|(loan_id, pool)| BorrowedBlock::take(block.clone(), loan_id, pool)) else {
            return Ok(Self::from_block(block, decoder)?.with_trust(Some(trust)));
        };
        // SAFETY: the peer is trusted to leave the block alone until it is released.
        let bytes = unsafe { held.span().as_bytes() };
        root::<A>(bytes)?;
        // SAFETY: `root` has found room for it, aligned; the peer is trusted to have written a valid archive, and to leave it alone.
        Ok(unsafe { Self::of_block(held, trust) })
    }

    fn with_trust(self, trust: Option<TrustedPeer>) -> Self {
        ArchivedReply::with_trust(self, trust)
    }
}
