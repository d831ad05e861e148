//! Payloads that are no archives: their types write and read the bytes themselves.
//!
//! Relies on nothing but the bytes, and never trusts them.

#![forbid(unsafe_code)]

use crate::doorbell::Deadline;
use rkyv::rancor::{Failure, Fallible, Source};
use rkyv::ser::Writer;
use rkyv::{Archive, Place as ArchivePlace, Serialize};

/// A type that writes and reads the bytes of its payload. `read` is safe code and trusts none of them.
pub trait Plain: Sized {
    /// Writes the whole value.
    ///
    /// # Errors
    ///
    /// If it cannot be written, or there is no room.
    fn write<W: Fallible<Error: Source> + Writer + ?Sized>(&self, to: &mut W) -> Result<(), W::Error>;

    /// Reads all of `bytes`.
    ///
    /// # Errors
    ///
    /// If the bytes are no such value, the stack is too small, or the deadline passes.
    fn read(bytes: &[u8], until: Deadline) -> Result<Self, Failure>;
}

/// A value that is sent by its [`Plain`] implementation instead of as an archive.
#[derive(Clone)]
pub struct Bare<T>(pub T);

/// The archive behind the bytes has no size.
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
