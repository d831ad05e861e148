//! A shared box as part of a frame: how it is written, and how the other side reads it.
//!
//! Relies on `bytes` for where the contents lie. Checks what a frame says: which loan it names, and how long its contents are.

use super::SharedBox;
use super::bytes::{BorrowedBlock, Bytes, HERE, HOMEWARD, OwnBlock, Store};
use super::contents::Contents;
use crate::commit::BlockRef;
use crate::decoder::{Decoder, Decoding};
use crate::encode::Encoder;
use crate::loans::{BoxRef, LoanId, Returning};
use crate::memory_pool::PoolHandle;
use crate::reading::last_refusal;
use rkyv::boxed::{ArchivedBox, BoxResolver};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::rend::u64_le;
use rkyv::{Archive, Deserialize, Place, Portable, Serialize, munge::munge};
use std::marker::PhantomData;
use std::sync::Arc;

/// A box in a frame.
///
/// Its contents cannot be read from here: take the value, a [`SharedBox`], and not its archive.
#[derive(Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedSharedBox<T: Contents + ?Sized> {
    /// The contents themselves, if no memory can be lent.
    inline: ArchivedBox<[u8]>,
    segment: u64_le,
    offset: u64_le,
    len: u64_le,
    /// 0 = the contents are inline.
    loan_id: u64_le,
    /// Gives each type of box its own archived type, so that the compiler can tell their requirements apart.
    contents: PhantomData<T>,
}

/// Where a box's contents are, between serialising and resolving it.
pub struct SharedBoxResolver {
    inline: BoxResolver,
    inline_len: usize,
    box_ref: Option<BoxRef>,
}

impl<T: Contents + ?Sized> ArchivedSharedBox<T> {
    /// The bytes, as the frame's receiver has them from now on.
    fn open(&self, pool: &Arc<dyn PoolHandle>, decoder: &mut Decoder<'_>) -> Result<Bytes, Failure> {
        let len = usize::try_from(self.len.to_native()).map_err(|_| Failure)?;
        let loan_id = LoanId::checked(self.loan_id.to_native()).ok_or(Failure)?;
        if self.segment == HOMEWARD {
            return Self::open_returned(loan_id, len, pool, decoder);
        }
        let (segment, offset) = (self.segment.into(), self.offset.into());
        let place = BlockRef { segment, offset, len: len as u64, loan_id: 0 };
        let block = pool.peer_block(place).ok_or(Failure)?;
        if !pool.trusts_peer() {
            decoder.may_copy(len as u64)?;
            return Bytes::copy_of(block.span(), len, pool, decoder.until());
        }
        let kept = BorrowedBlock::take(block, loan_id, pool).ok_or(Failure)?;
        Ok(Bytes { store: Store::Peer(kept), len })
    }

    fn open_returned(
        loan_id: LoanId,
        len: usize,
        pool: &Arc<dyn PoolHandle>,
        decoder: &mut Decoder<'_>,
    ) -> Result<Bytes, Failure> {
        match pool.on(|pool, _| pool.take_returned(loan_id)).ok_or(Failure)? {
            Returning::Whole(allocation, lent) if len as u64 <= lent => {
                Ok(Bytes { store: Store::OwnBlock(OwnBlock::new(allocation, pool)), len })
            }
            Returning::Whole(allocation, _) => {
                pool.on(|pool, source| pool.free(allocation, source));
                Err(Failure)
            }
            Returning::Shared(block, lent) => {
                let is_within = (len as u64 <= lent).then_some(()).ok_or(Failure);
                let may_copy = is_within.and_then(|()| decoder.may_copy(len as u64));
                let copy = may_copy.and_then(|()| Bytes::copy_of(block.span(), len, pool, decoder.until()));
                pool.on(|pool, source| pool.copied(loan_id, source));
                copy
            }
        }
    }

    fn bytes(&self, decoder: &mut Decoder<'_>) -> Result<Bytes, Failure> {
        if self.loan_id == 0 {
            let mut bytes = Bytes::private(self.inline.len());
            bytes.as_mut_slice().copy_from_slice(&self.inline);
            return Ok(bytes);
        }
        // A box that came with another frame may name what belongs to someone else by now.
        if !decoder.has(self) {
            return Err(Failure);
        }
        let pool = decoder.pool().or(HERE.get()).ok_or(Failure)?.clone();
        self.open(&pool, decoder)
    }
}

impl<T: Contents + ?Sized> Archive for SharedBox<T> {
    type Archived = ArchivedSharedBox<T>;
    type Resolver = SharedBoxResolver;

    fn resolve(&self, resolver: SharedBoxResolver, out: Place<ArchivedSharedBox<T>>) {
        let SharedBoxResolver { inline: resolver, inline_len, box_ref } = resolver;
        let (place, loan_id) = match box_ref {
            Some(BoxRef { place, loan_id }) => (place, loan_id.to_word()),
            None => (BlockRef { segment: 0, offset: 0, len: 0, loan_id: 0 }, 0),
        };
        munge!(let ArchivedSharedBox { inline, segment, offset, len, loan_id: loan_id_out, contents: _ } = out);
        ArchivedBox::resolve_from_ref(&self.bytes.as_slice()[..inline_len], resolver, inline);
        segment.write(place.segment.into());
        offset.write(place.offset.into());
        len.write(place.len.into());
        loan_id_out.write(loan_id.into());
    }
}

impl<'e, T: Contents + ?Sized> Serialize<Encoder<'e>> for SharedBox<T> {
    fn serialize(&self, encoder: &mut Encoder<'e>) -> Result<SharedBoxResolver, Failure> {
        let bytes = &self.bytes;
        let box_ref = match encoder.writer.frame() {
            Some(frame) if bytes.len > 0 => Some(frame.attach(|alloc, attachments| bytes.box_ref(alloc, attachments))?),
            _ => None,
        };
        let inline_len = if box_ref.is_some() { 0 } else { bytes.len };
        let inline = ArchivedBox::serialize_from_ref(&bytes.as_slice()[..inline_len], encoder)?;
        Ok(SharedBoxResolver { inline, inline_len, box_ref })
    }
}

impl<T: Contents + ?Sized> Deserialize<SharedBox<T>, Decoding<'_>> for ArchivedSharedBox<T> {
    fn deserialize(&self, decoder: &mut Decoding<'_>) -> Result<SharedBox<T>, Failure> {
        // Clears what was noted before: the next refusal is about this box.
        last_refusal();
        let made = self.bytes(decoder).ok().filter(|bytes| T::of(bytes.as_slice()).is_some());
        let bytes = made.unwrap_or_else(|| {
            decoder.refuse(last_refusal());
            Bytes::private(T::LEAST)
        });
        Ok(SharedBox::new_of(bytes))
    }
}
