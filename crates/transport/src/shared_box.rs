//! Boxes whose contents lie in a bridge's shared memory, so that passing one copies none of them.
//!
//! Contents are plain data: any bytes are a value, and sending them tells the peer nothing else. This file has what users see; `bytes` has the rules
//! of who may read which memory, and `archived` is a box in a frame.

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

/// A box whose contents lie in a bridge's shared memory. Passing it to a method, or returning it from one, moves the box and none of its contents, so
/// the cost does not depend on its size.
///
/// It holds plain data ([`Pod`]): `SharedBox<[u8]>`, `SharedBox<[f32]>`, `SharedBox<Header>`. Make it with one of the functions ending in `_in`, in
/// the memory of the bridge that it will pass; fill it in place; pass it by value, by itself or inside other values. In a child, the functions
/// without `_in` use the memory of the child's bridge.
///
/// # Who may read and write
///
/// - A box passed by value is the child's. Passed by reference, it is lent for the call. If the child still uses it when the
///   caller writes to it (because the call timed out), the caller's box moves to a copy first.
/// - An untrusted child can only read its parent's memory. Before it writes to a box that came from there, the box moves to
///   a copy; a box that comes back unchanged is the parent's very memory again.
/// - A box made by an untrusted child arrives at the parent as a copy. All boxes in one reply together may have at most
///   `Builder::max_payload` bytes.
/// - Between a parent and a child that it trusts (`Builder::trust_child`), boxes pass both ways without a copy.
///
/// A box that is passed to another bridge, or that lies in private memory, is copied into that bridge's memory. A child can read all memory of its
/// bridge at any time, so data that it must not see does not belong in a box of that bridge. A box outlives its bridge. A box passed by value to a
/// call that fails is gone.
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
    /// If there is no memory: `len` elements are more than `Builder::max_payload` bytes, or too much is in use, and none came back within the
    /// bridge's timeout (or, without a timeout, none could come back by itself); or
    /// the child does not read its control socket, so it cannot be told of new memory.
    pub fn zeroed_in(bridge: &impl Memory, len: usize) -> Result<Self, NoMemory> {
        let mut new = Self::for_overwrite_in(bridge, len)?;
        new.bytes.as_mut_slice().fill(0);
        Ok(new)
    }

    /// A box of `len` elements in the memory of `bridge`, to be overwritten: they hold what lay there before, which is zeros or something that passed
    /// this bridge.
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

    /// Like [`zeroed`](Self::zeroed), but the elements hold what lay there before.
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

    /// Keeps the first `len` elements. Does nothing if there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len.saturating_mul(size_of::<T>()));
    }

    /// The number of bytes in `len` elements.
    fn size(len: usize) -> Result<usize, NoMemory> {
        let size = len.checked_mul(size_of::<T>()).filter(|&size| isize::try_from(size).is_ok());
        size.ok_or(NoMemory::TooLarge { len: u64::MAX, max: isize::MAX as u64 })
    }
}

impl SharedBox<[u8]> {
    /// A box of `len` bytes in `pool`, or in the default place for boxes of this process, that hold what lay there before.
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

    /// Whether the contents lie in a bridge's memory. If not, sending the box copies them.
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
