//! Writes values into frames with rkyv, without allocating: with a [`FrameWriter`], on a stack that is large enough.
//!
//! Contains `unsafe` code: it reads a reply that this side has just written. Never publishes.

use crate::archive::{access, catch, copy_out};
use crate::arena::Allocation;
use crate::commit::ALIGN;
use crate::frame_writer::{Encoded, FrameWriter, Overflow, PrivateBytes};
use crate::loans::Attachments;
use crate::memory_pool::AllocContext;
use crate::outgoing_frame::{CallerBell, OutgoingFrame, SendError};
use crate::reading::{DecodeRefusal, last_refusal};
use crate::ring::Producer;
use crate::scratch::Scratch;
use crate::segment::Span;
use crate::stage::Stage;
use crate::validator::Checked;
use callgate_os::stack;
use rkyv::api::low::LowSerializer;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::Serializer;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};
use std::mem::MaybeUninit;

/// The serialiser: writes straight into shared memory, without allocating.
///
/// The lifetime is that of one encoding: no value's `Serialize` can keep the encoder, or exchange it for another.
pub type Encoder<'e> = LowSerializer<FrameWriter<'e>, Scratch<'e>, Failure>;

/// A value that can be serialised into a frame.
pub trait Encode: for<'e> Serialize<Encoder<'e>> {}

impl<T: for<'e> Serialize<Encoder<'e>>> Encode for T {}

/// Whether writing a value of the type recurses no deeper than the type nests. A resolver that leads to a part stores its position as a `usize`, so a
/// resolver aligned to less leads to none. Known at compile time.
pub(crate) const fn is_flat<T: Archive>() -> bool {
    align_of::<T::Resolver>() < align_of::<usize>()
}

/// Serialises `value` into the slot that `ring` has claimed, or into a block, left in `attachments`, if it outgrows that. Returns its length.
/// `reader` is told of a large frame while it is written.
#[inline(always)]
pub fn write_frame<T: Encode + Archive<Archived: Checked>>(
    value: &T,
    ring: &mut Producer,
    alloc: &AllocContext<'_>,
    attachments: &mut Attachments,
    reader: Option<&CallerBell>,
) -> Result<usize, SendError> {
    let (stage, claim) = ring.claim();
    let slot = claim.payload();
    if attachments.is_loaded {
        OutgoingFrame::new(claim, alloc, attachments, reader).discard_slow();
    }
    let frame = OutgoingFrame::new(claim, alloc, attachments, reader);
    let Encoded { len, is_suspect } = encode(value, stage, slot, Overflow::Block(frame))?;
    // A callee refuses a request that it does not accept, and goes on. A caller takes such a reply for a breach.
    if is_suspect && reader.is_some() {
        let block = attachments.block.as_ref().map(Allocation::span);
        look_at_reply::<T::Archived>(len, block, stage, slot).map_err(SendError::Beyond)?;
    }
    Ok(len)
}

/// Serialises `value` into private memory.
///
/// # Errors
///
/// If the value's own `Serialize` fails, or it is longer than `max` bytes.
pub fn encode_to_vec<T: Encode>(value: &T, max: usize) -> Result<AlignedVec<ALIGN>, Failure> {
    let mut private = PrivateBytes { bytes: AlignedVec::new(), max };
    // No room at first, so everything is written into the vector, which moves as it grows.
    let encoded = encode(value, &mut Stage::new(), Span::empty(), Overflow::Private(&mut private));
    let Encoded { len, .. } = encoded.map_err(|_| Failure)?;
    private.bytes.resize(len, 0);
    Ok(private.bytes)
}

/// Serialises `value`: its first bytes onto `stage`, the rest into `slot` (which leaves room for the first), or everything into `overflow` if it
/// outgrows that.
///
/// Writing recurses along the value's pointers, and rkyv offers no check on the way down. So a value that has pointers is written on the thread's
/// large stack, and checked afterwards.
#[inline(always)]
fn encode<'e, T: Encode>(
    value: &T,
    stage: &'e mut Stage,
    slot: Span<'_>,
    overflow: Overflow<'e>,
) -> Result<Encoded, SendError> {
    let writer = FrameWriter::new(stage, slot, overflow, size_of::<T::Archived>());
    let has_parts = size_of::<T::Resolver>() >= size_of::<usize>();
    if !has_parts {
        writer.fetch_lines_of::<T>();
    }
    let mut buffer = MaybeUninit::uninit();
    let mut serializer = Serializer::new(writer, Scratch::new(&mut buffer), ());
    if is_flat::<T>() {
        let written = value.serialize(Strategy::wrap(&mut serializer));
        return match has_parts {
            false => serializer.writer.end_without_parts(value, written),
            true => serializer.writer.end(value, written),
        };
    }
    let written = stack::on_large(|| value.serialize(Strategy::wrap(&mut serializer)));
    if serializer.writer.may_be_deep() {
        stack::give_back_slow();
    }
    serializer.writer.end(value, written)
}

/// Reads a reply that this process has written, and whose reader may refuse it, as that reader will: in its own block, or on the stage and in the
/// slot.
///
/// # Errors
///
/// Why it would be refused.
#[cold]
fn look_at_reply<A: Checked>(
    len: usize,
    block: Option<Span<'_>>,
    stage: &Stage,
    slot: Span<'_>,
) -> Result<(), DecodeRefusal> {
    let mut copy = AlignedVec::<ALIGN>::new();
    let bytes = match block {
        // SAFETY: a block of this side's own arena, which the peer can only read, or is trusted not to write meanwhile: the rules of `shared_box`.
        // This side has just written it, and waits here until it has been read.
        Some(block) => unsafe { block.first(len).as_bytes() },
        None => {
            // The peer may write to the slot.
            copy_out(slot.first(len), &mut copy);
            let staged = Stage::held(len, slot.len());
            copy[..staged].copy_from_slice(&stage.0[..staged]);
            &copy
        }
    };
    let looked = catch(|| access::<A>(bytes).map(drop));
    looked.map_err(|Failure| last_refusal())
}
