//! Boxes whose contents lie in a bridge's shared memory, so that passing one moves no byte of them.
//!
//! Contents are plain data: whatever bytes lie there are a value, and sending them tells the peer nothing but them. Here is what users see; `bytes`
//! has the rules of who may look at which memory, and `archived` is a box in a frame.

mod contents;
pub mod place;
pub(crate) mod bytes;
pub mod archived;

use self::bytes::Bytes;
pub use self::bytes::set_pool;
pub use self::contents::Contents;
pub use self::place::Memory;
use crate::doorbell::Deadline;
use crate::error::NoMemory;
use crate::memory_pool::PoolHandle;
use bytemuck::Pod;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A box whose contents lie in a bridge's shared memory: passing it to a method, or returning it from one, moves the box and
/// no byte of what is in it, so that costs the same whatever its size.
///
/// It holds plain data ([`Pod`]): `SharedBox<[u8]>`, `SharedBox<[f32]>`, `SharedBox<Header>`. Make it with one of the functions ending in `_in`,
/// in the memory of the bridge that it is to pass; fill it in place; pass it by value, by itself or inside of other values.
/// In a child, the functions without `_in` make it in the memory of the child's bridge.
///
/// # Who may touch what
///
/// - A box passed by value is the child's. Passed by reference, it is lent for the call; if the child is still at it when the
///   caller writes to it (because the call timed out), the caller's box moves to a copy first.
/// - A child that is not trusted can only read its parent's memory. Where it writes to a box that came from there, the box moves
///   to a copy first; given back unchanged, the parent has the very memory again.
/// - What an untrusted child made arrives at the parent as a copy. All boxes in one reply together may have as many bytes as
///   `Builder::max_payload` says.
/// - Between a parent and a child that it vouches for (`Builder::trust_child`), boxes pass both ways without a copy.
///
/// Passed to another bridge than its own, a box is copied into that one's memory; so is one in private memory. A child can read all
/// memory of its bridge at any time: what it must not see does not belong into a box of that bridge. A box outlives its bridge. One
/// passed by value to a call that fails is gone.
///
/// # Examples
///
/// ```
/// use callgate::{SharedBox, bridge};
///
/// struct Adder;
///
/// #[bridge]
/// impl Adder {
///     pub fn new() -> Self { Adder }
///     pub fn sum(&self, numbers: SharedBox<[u64]>) -> u64 { numbers.iter().sum() }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let adder = Adder::bridge().start()?;
///     let mut numbers = SharedBox::<[u64]>::zeroed_in(&adder, 1_000_000)?;
///     numbers.iter_mut().enumerate().for_each(|(at, number)| *number = at as u64);
///     assert_eq!(adder.sum(numbers)?, 499_999_500_000);
///     Ok(())
/// }
/// ```
pub struct SharedBox<T: Contents + ?Sized> {
    bytes: Bytes,
    contents: PhantomData<Box<T>>,
}

impl<T: Pod> SharedBox<[T]> {
    /// A box of `len` zeros in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// If there is none: `len` elements are more than `Builder::max_payload` bytes, or so much is in use that
    /// none came back within the bridge's timeout (or, if it has none, could not come back by itself).
    pub fn zeroed_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite_in(bridge, len)?;
        new.bytes.as_mut_slice().fill(0);
        Ok(new)
    }

    /// A box of `len` elements in the memory of `bridge`, to be overwritten: they hold whatever lay there before, which is
    /// something that passed this bridge, or zeros.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](Self::zeroed_in).
    pub fn for_overwrite_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        Bytes::stale_in(bridge, Self::size(len)?).map(Self::new_of)
    }

    /// A box with a copy of `contents` in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](Self::zeroed_in).
    pub fn copied_in(bridge: &impl Memory, contents: &[T]) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite_in(bridge, contents.len())?;
        new.copy_from_slice(contents);
        Ok(new)
    }

    /// A box of `len` zeros: in a child, in the memory of its bridge; elsewhere in private memory.
    ///
    /// # Errors
    ///
    /// In a child, if its half of the bridge's memory is in use.
    pub fn zeroed(len: usize) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite(len)?;
        new.bytes.as_mut_slice().fill(0);
        Ok(new)
    }

    /// As [`zeroed`](Self::zeroed), but the elements hold whatever lay there before.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn for_overwrite(len: usize) -> Result<Self, NoMemory> {
        Bytes::stale_here(Self::size(len)?).map(Self::new_of)
    }

    /// A box with a copy of `contents`, in the same place as [`zeroed`](Self::zeroed).
    ///
    /// # Errors
    ///
    /// As [`zeroed`](Self::zeroed).
    pub fn copied(contents: &[T]) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite(contents.len())?;
        new.copy_from_slice(contents);
        Ok(new)
    }

    /// Keeps the first `len` elements. Does nothing if there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len.saturating_mul(size_of::<T>()));
    }

    /// Bytes in `len` elements.
    fn size(len: usize) -> Result<usize, NoMemory> {
        let size = len.checked_mul(size_of::<T>()).filter(|&size| isize::try_from(size).is_ok());
        size.ok_or(NoMemory::TooLarge { len: u64::MAX, max: isize::MAX as u64 })
    }
}

impl SharedBox<[u8]> {
    /// A box of `len` bytes in `home`, or wherever boxes of this process lie, that hold whatever lay there before.
    #[doc(hidden)]
    pub fn for_overwrite_at(
        pool: Option<&Arc<dyn PoolHandle>>,
        len: usize,
        deadline: Deadline,
    ) -> Result<Self, NoMemory> {
        let bytes = match pool {
            Some(pool) => Bytes::stale(pool, len, deadline),
            None => Bytes::stale_here(len),
        };
        bytes.map(Self::new_of)
    }
}

impl<T: Pod> SharedBox<T> {
    /// A box with `value` in the memory of `bridge`.
    ///
    /// # Errors
    ///
    /// As [`zeroed_in`](SharedBox::zeroed_in).
    pub fn new_in(bridge: &impl Memory, value: T) -> Result<Self, NoMemory> {
        Bytes::stale_in(bridge, size_of::<T>()).map(|bytes| Self::filled(bytes, value))
    }

    /// A box with `value`: in a child, in the memory of its bridge; elsewhere in private memory.
    ///
    /// # Errors
    ///
    /// As [`zeroed`](SharedBox::zeroed).
    pub fn new(value: T) -> Result<Self, NoMemory> {
        Bytes::stale_here(size_of::<T>()).map(|bytes| Self::filled(bytes, value))
    }

    fn filled(bytes: Bytes, value: T) -> Self {
        let mut new = Self::new_of(bytes);
        *new = value;
        new
    }
}

impl<T: Contents + ?Sized> SharedBox<T> {
    fn new_of(bytes: Bytes) -> Self {
        let () = T::SIZE_AND_ALIGN_ARE_FINE;
        Self { bytes, contents: PhantomData }
    }

    /// Whether the contents lie in a bridge's memory; otherwise sending the box copies them.
    pub fn is_shared(&self) -> bool {
        self.bytes.is_shared()
    }
}

impl<T: Contents + ?Sized> Deref for SharedBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        T::of(self.bytes.as_slice()).unwrap_or_else(|| unreachable!("length and alignment were checked"))
    }
}

impl<T: Contents + ?Sized> DerefMut for SharedBox<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        T::of_mut(self.bytes.as_mut_slice()).unwrap_or_else(|| unreachable!("length and alignment were checked"))
    }
}

impl<T: Contents + ?Sized> AsRef<T> for SharedBox<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: Contents + ?Sized> AsMut<T> for SharedBox<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: Contents + fmt::Debug + ?Sized> fmt::Debug for SharedBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Contents + PartialEq + ?Sized> PartialEq for SharedBox<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Contents + Eq + ?Sized> Eq for SharedBox<T> {}
