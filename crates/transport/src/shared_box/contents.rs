//! What a shared box may hold: plain data, for which any bytes are a value.
//!
//! Relies on `bytemuck` for what counts as plain data. Knows how to view bytes, not where they lie.

#![forbid(unsafe_code)]

use bytemuck::Pod;

/// The alignment of every box's contents, in bytes.
pub(super) const ALIGN: usize = 64;

/// What a [`SharedBox`](super::SharedBox) may hold: `T` or `[T]`, of plain data.
///
/// Plain data is everything that implements [`Pod`]: numbers, arrays of them, and structs that derive it (`repr(C)`, without padding).
#[diagnostic::on_unimplemented(
    message = "a `SharedBox` cannot hold `{Self}`",
    label = "not plain data, nor a slice of it",
    note = "plain data are numbers, arrays of them, and structs of these that derive `bytemuck::Pod` and `Zeroable`, with `repr(C)` and no padding",
    note = "no `bool` or `char`, and nothing with a `String`, a `Vec` or a reference in it: such types cross a bridge as values, encoded"
)]
pub trait Contents: sealed::Sealed {
    #[doc(hidden)]
    const SIZE_AND_ALIGN_ARE_FINE: ();

    /// The least number of bytes that such contents have.
    #[doc(hidden)]
    const LEAST: usize;

    #[doc(hidden)]
    fn of(bytes: &[u8]) -> Option<&Self>;

    #[doc(hidden)]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut Self>;
}

mod sealed {
    /// Only `T` and `[T]`.
    pub trait Sealed {}
    impl<T: bytemuck::Pod> Sealed for T {}
    impl<T: bytemuck::Pod> Sealed for [T] {}
}

const fn check<T>() {
    assert!(align_of::<T>() <= ALIGN, "the contents of a SharedBox are aligned to 64 bytes at most");
    assert!(size_of::<T>() > 0, "a SharedBox holds something");
}

#[diagnostic::do_not_recommend]
impl<T: Pod> Contents for T {
    const SIZE_AND_ALIGN_ARE_FINE: () = check::<T>();
    const LEAST: usize = size_of::<T>();

    #[inline]
    fn of(bytes: &[u8]) -> Option<&T> {
        bytemuck::try_from_bytes(bytes).ok()
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut T> {
        bytemuck::try_from_bytes_mut(bytes).ok()
    }
}

#[diagnostic::do_not_recommend]
impl<T: Pod> Contents for [T] {
    const SIZE_AND_ALIGN_ARE_FINE: () = check::<T>();
    const LEAST: usize = 0;

    #[inline]
    fn of(bytes: &[u8]) -> Option<&[T]> {
        // An empty slice needs no alignment.
        if bytes.is_empty() { Some(&[]) } else { bytemuck::try_cast_slice(bytes).ok() }
    }

    #[inline]
    fn of_mut(bytes: &mut [u8]) -> Option<&mut [T]> {
        if bytes.is_empty() { Some(&mut []) } else { bytemuck::try_cast_slice_mut(bytes).ok() }
    }
}
