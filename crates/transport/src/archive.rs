//! Archives in bytes: where the root lies, and what is behind it once that is known to be valid.
//!
//! Relies on `validator`. Copies what a peer may be writing before anybody looks at it; `access_until` itself reads bytes that nobody writes: a
//! copy, a request, a trusted peer's block. A type's own code never panics through it: that is an error.

use crate::commit::ALIGN;
use crate::doorbell::Deadline;
use crate::reading::{DecodeRefusal, Need, refuse};
use crate::segment::Span;
use crate::validator::Checked;
use crate::validator::validate::validate;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A type's own `CheckBytes` or `Deserialize` may panic at bytes that it did not expect; a lying peer must be an error all the same.
#[inline(always)]
pub fn catch<R>(read: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // Unwind safety: what the closures of the callers change (a decoder) they own, and it ends with them.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(refuse(DecodeRefusal::Invalid)))
}

/// Makes `copy` the bytes of the span, for which there must be memory.
pub fn copy_out(span: Span<'_>, copy: &mut AlignedVec<ALIGN>) {
    copy.clear();
    copy_behind(span, copy);
}

/// Adds the bytes of the span.
pub(crate) fn copy_behind(span: Span<'_>, copy: &mut AlignedVec<ALIGN>) {
    let len = copy.len();
    copy.reserve(span.len());
    // SAFETY: reserved just now.
    let end = unsafe { copy.as_mut_ptr().add(len) };
    // SAFETY: there is room, in private memory.
    unsafe { span.copy_to(end) };
    // SAFETY: initialised by the copy.
    unsafe { copy.set_len(len + span.len()) };
}

/// Where in `bytes` the root of an archive is.
///
/// # Errors
///
/// If there is no room for it, or it is not aligned.
#[inline(always)]
pub fn root<A>(bytes: &[u8]) -> Result<*const A, Failure> {
    const { assert!(align_of::<A>() <= ALIGN, "an archive is aligned to more than 16 bytes") };
    let Some(at) = bytes.len().checked_sub(size_of::<A>()) else { return Err(refuse(DecodeRefusal::Invalid)) };
    // Of the whole buffer: the root points to its parts.
    let root = bytes.as_ptr().wrapping_add(at).cast::<A>();
    if root.is_aligned() { Ok(root) } else { Err(refuse(DecodeRefusal::Invalid)) }
}

/// Validates the archive that `bytes` end in, and its parts before it.
///
/// What `rkyv::access` does, but for one thing: the root's place is checked here, where its size is a constant, so that for types
/// without pointers nothing is left to do at run time.
///
/// # Errors
///
/// If the bytes are no valid archive of `A`, one that nests deeper than [`MAX_DEPTH`](crate::reading::MAX_DEPTH), or one with too many elements of no size.
#[inline(always)]
pub fn access<A: Checked>(bytes: &[u8]) -> Result<&A, Failure> {
    access_until(bytes, Deadline::NEVER).map(|(archived, _)| archived)
}

/// The same, in vain if it takes beyond the deadline; and what making the value needs.
///
/// # Errors
///
/// As [`access`], and if it takes too long.
#[inline(always)]
pub(crate) fn access_until<A: Checked>(bytes: &[u8], until: Deadline) -> Result<(&A, Need), Failure> {
    let root = root::<A>(bytes)?;
    // SAFETY: `root` has found it there, aligned.
    let need = unsafe { validate::<A>(root, bytes, until)? };
    // SAFETY: a valid `A`, as just checked, in memory that lives and stays as it is as long as `bytes`.
    Ok((unsafe { &*root }, need))
}
