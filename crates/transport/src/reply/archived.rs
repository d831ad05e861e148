//! Replies that stay archives: bytes that are validated, or vouched for, once and then read for as long as the reply exists.
//!
//! Relies on [`untrusted`](super::untrusted) and [`trusted`](super::trusted) to have found a valid archive. Never writes to it.

use crate::commit::ALIGN;
use crate::decoder::TrustedPeer;
use crate::shared_box::bytes::BorrowedBlock;
use crate::validator::Checked;
use crate::viewable::Viewable;
use rkyv::util::AlignedVec;
use std::marker::PhantomData;

/// A reply that stays an archive: bytes that end in a valid `A`, and that nobody writes while this exists.
pub struct ArchivedReply<A> {
    bytes: HeldBytes,
    /// The promise that the archive has what the methods of `A` need, if the user gave it.
    trust: Option<TrustedPeer>,
    /// As if the archive were in a box of its own.
    archive: PhantomData<Box<A>>,
}

/// Never changed, and not moved when an [`ArchivedReply`] is.
enum HeldBytes {
    /// A private copy, which the peer cannot write.
    Private(AlignedVec<ALIGN>),
    /// The peer's own, which it is trusted not to write.
    BorrowedBlock(BorrowedBlock),
}

impl<A: Checked> ArchivedReply<A> {
    /// A private copy.
    ///
    /// # Safety
    ///
    /// The bytes must end in a valid `A`, aligned, as [`access`](crate::archive::access) finds it.
    pub(super) unsafe fn of_copy(bytes: AlignedVec<ALIGN>) -> Self {
        Self { bytes: HeldBytes::Private(bytes), trust: None, archive: PhantomData }
    }

    /// A block of a trusted peer.
    ///
    /// # Safety
    ///
    /// The block must end in a valid `A`, aligned, which nobody writes until the block is released.
    pub(super) unsafe fn of_block(block: BorrowedBlock, trust: TrustedPeer) -> Self {
        Self { bytes: HeldBytes::BorrowedBlock(block), trust: Some(trust), archive: PhantomData }
    }

    /// Notes whether the user vouches for the peer.
    pub(super) fn with_trust(self, trust: Option<TrustedPeer>) -> Self {
        Self { trust, ..self }
    }

    /// The archive. That it is valid does not suffice: its own methods must need no more than that.
    #[inline]
    pub fn get(&self) -> &A
    where
        A: Viewable,
    {
        self.archived()
    }

    /// The archive, if the peer is trusted.
    pub fn trusted(&self) -> Option<&A> {
        self.trust.map(|_| self.archived())
    }

    #[inline]
    fn archived(&self) -> &A {
        let (start, len) = match &self.bytes {
            HeldBytes::Private(bytes) => (bytes.as_ptr(), bytes.len()),
            HeldBytes::BorrowedBlock(block) => (block.span().start().as_ptr().cast_const(), block.span().len()),
        };
        let root = start.wrapping_add(len - size_of::<A>()).cast::<A>();
        // SAFETY: a valid `A` is there, the duty of whoever called `of_copy` or `of_block`, and the bytes have been neither changed nor
        // moved since.
        unsafe { &*root }
    }
}
