//! Archives in bytes: finds the root, validates it, and gives access to it.
//!
//! Relies on `validator`. `access_until` reads only bytes that nobody writes: a copy, a request, a trusted peer's block. `copy_out` makes copies
//! of bytes that a peer may be writing. A panic in a type's own code becomes an error.

use crate::commit::ALIGN;
use crate::doorbell::Deadline;
use crate::reading::{DecodeRefusal, Need, refuse};
use crate::segment::Span;
use crate::validator::Checked;
use crate::validator::validate::validate;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `read`, and turns a panic into an error: a type's own `CheckBytes` or `Deserialize` may panic at a lying peer's bytes.
#[inline(always)]
pub fn catch<R>(read: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // Unwind safety: the callers' closures change only a decoder, which they own and which ends with them.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(refuse(DecodeRefusal::Invalid)))
}

/// Replaces the contents of `copy` by the bytes of the span, for which there must be memory.
pub fn copy_out(span: Span<'_>, copy: &mut AlignedVec<ALIGN>) {
    copy.clear();
    copy_behind(span, copy);
}

/// Appends the bytes of the span to `copy`.
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
    // Derived from the whole buffer, because the root points to its parts.
    let root = bytes.as_ptr().wrapping_add(at).cast::<A>();
    if root.is_aligned() { Ok(root) } else { Err(refuse(DecodeRefusal::Invalid)) }
}

/// Validates the archive at the end of `bytes`, and its parts before it.
///
/// As `rkyv::access`, except that the root's place is checked here, where its size is a constant. So for types without
/// pointers nothing is left to do at run time.
///
/// # Errors
///
/// If the bytes are no valid archive of `A`, one that nests deeper than [`MAX_DEPTH`](crate::bounds::MAX_DEPTH), or one with too many elements of no size.
#[inline(always)]
pub fn access<A: Checked>(bytes: &[u8]) -> Result<&A, Failure> {
    access_until(bytes, Deadline::NEVER).map(|(archived, _)| archived)
}

/// [`access`] with a deadline. Also returns what making the value needs.
///
/// # Errors
///
/// As [`access`], and if the deadline passes.
#[inline(always)]
pub(crate) fn access_until<A: Checked>(bytes: &[u8], until: Deadline) -> Result<(&A, Need), Failure> {
    let root = root::<A>(bytes)?;
    // SAFETY: `root` has found it there, aligned.
    let need = unsafe { validate::<A>(root, bytes, until)? };
    // SAFETY: a valid `A`, as just checked, in memory that lives and stays as it is as long as `bytes`.
    Ok((unsafe { &*root }, need))
}
