//! Payloads that are no archives: whoever sends them writes and reads the bytes.
//!
//! Relies on nothing but the bytes, and never trusts them.

#![forbid(unsafe_code)]

use crate::doorbell::Deadline;
use rkyv::rancor::{Failure, Fallible, Source};
use rkyv::ser::Writer;
use rkyv::{Archive, Place as ArchivePlace, Serialize};

/// What writes and reads the bytes of a payload itself. Its reading is safe code that trusts none of them.
pub trait Plain: Sized {
    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or there is no room.
    fn write<W: Fallible<Error: Source> + Writer + ?Sized>(&self, to: &mut W) -> Result<(), W::Error>;

    /// Reads all of `bytes`, in vain if that takes beyond the deadline.
    ///
    /// # Errors
    ///
    /// If they make no sense, or for want of stack or time.
    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure>;
}

/// A value that is written as it likes instead of as an archive.
#[derive(Clone)]
pub struct Bare<T>(pub T);

/// An archive of no size, behind the bytes.
impl<T: Plain> Archive for Bare<T> {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: ArchivePlace<()>) {}
}

impl<T: Plain, S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Bare<T> {
    #[inline]
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        self.0.write(serializer)
    }
}

impl<T: Plain> Bare<T> {
    #[inline]
    pub fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure> {
        T::read(bytes, until).map(Self)
    }
}
