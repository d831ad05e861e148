//! The type of an archive's root, reduced to its size and to the function that walks through it.
//!
//! With `unsafe` in it: every walk through an archive or a marked copy but the first, which `validate` inlines.

use super::{Checked, Validator};
use rkyv::rancor::{self, Failure};

/// The type of an archive's root, as everything but the first walk knows it: that is compiled once and not for each type.
#[derive(Clone, Copy)]
pub(super) struct RootType {
    pub(super) size: usize,
    align: usize,
    check: Check,
}

/// # Safety
///
/// The pointer must lead to the root of the archive that the validator was made for: in its bytes, and aligned.
type Check = unsafe fn(*const u8, &mut Validator<'_>) -> Result<(), Failure>;

impl RootType {
    pub(super) fn of<A: Checked>() -> Self {
        /// # Safety
        ///
        /// As [`Check`], of an `A`.
        unsafe fn check<A: Checked>(root: *const u8, validator: &mut Validator<'_>) -> Result<(), Failure> {
            // SAFETY: the caller's duty.
            unsafe { A::check_bytes(root.cast::<A>(), rancor::Strategy::wrap(validator)) }
        }
        Self { size: size_of::<A>(), align: align_of::<A>(), check: check::<A> }
    }

    /// Validates the archive that the validator was made for.
    ///
    /// # Errors
    ///
    /// If it is none of this type; the validator knows why.
    pub(super) fn walk(self, validator: &mut Validator<'_>) -> Result<(), Failure> {
        let bytes = validator.bytes;
        let root = bytes.as_ptr().wrapping_add(bytes.len().checked_sub(self.size).ok_or(Failure)?);
        if !root.addr().is_multiple_of(self.align) {
            return Err(Failure);
        }
        // SAFETY: the last bytes, as many as the root has, and aligned, as just checked.
        unsafe { (self.check)(root, validator) }
    }
}
