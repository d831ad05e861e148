//! Calling without deserialising replies: they are read in place, as archives.

#![forbid(unsafe_code)]

use super::target::Target;
use callgate_engine::service::{Method, Mode, sealed};
use callgate_transport::decoder::Transfer;
use callgate_transport::error::CallError;
use callgate_transport::reply::ArchivedReply;
use callgate_transport::request::Request;
use callgate_transport::viewable::Viewable;
use rkyv::Archived;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// In place: the caller waits for the reply, and gets a [`View`] of it as it came.
#[derive(Clone)]
pub struct InPlace {
    target: Target,
    timeout: Option<Duration>,
}

impl InPlace {
    pub(super) fn new(target: Target, timeout: Option<Duration>) -> Self {
        Self { target, timeout }
    }
}

impl sealed::Sealed for InPlace {}

impl Mode for InPlace {
    type Out<R: Transfer> = Result<View<R>, CallError>;

    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Result<View<R>, CallError> {
        self.target.call(method, args, self.timeout).map(View)
    }
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A result read in place instead of deserialised into an `R`, see [`Bridge::view`](crate::Bridge::view).
///
/// Dereferences to `rkyv::Archived<R>`: `ArchivedString` is as good as a `str`, `ArchivedVec<T>` as a slice, and the archive of your
/// struct has the same fields, archived. It owns a private copy of the reply, which the child cannot change, so it outlives further
/// calls and the bridge, and can be sent to other threads. (From a child that is trusted it is no copy if it is large: it keeps the
/// child's memory from being used again as long as it lives.)
///
/// # What cannot be read in place
///
/// The copy has been validated: each number, text and pointer in it is what it should be. That is not enough for every archive.
/// A `HashMap` whose table a hostile child has forged passes, and looking a key up in it reads memory that it should not; the
/// like goes for the other maps and sets. So there is a `Deref` only where `Archived<R>` is [`Viewable`], which those are not,
/// nor anything that they are in. For other results there is [`archived`](Self::archived) to have the compiler say what is in
/// the way; call such methods without `view()`, and they return a value.
#[must_use = "it is what the method returned"]
pub struct View<R: Transfer>(ArchivedReply<R::Archived>);

impl<R: Transfer> View<R> {
    /// The result, archived: what the view dereferences to.
    #[inline]
    pub fn archived(&self) -> &Archived<R>
    where
        Archived<R>: Viewable,
    {
        self.0.get()
    }
}

impl<R: Transfer> View<R> {
    /// The result, archived, whatever its type, if the child is one that the programmer [vouches for](crate::Builder::trust_child); large
    /// ones are then read where the child wrote them.
    #[inline]
    pub fn trusted(&self) -> Option<&Archived<R>> {
        self.0.trusted()
    }
}

/// There is no `AsRef` beside it: it would stand before `as_ref` of an archived `Option` or `Result`.
impl<R: Transfer> Deref for View<R>
where
    Archived<R>: Viewable,
{
    type Target = Archived<R>;

    #[inline]
    fn deref(&self) -> &Archived<R> {
        self.archived()
    }
}

impl<R: Transfer> fmt::Debug for View<R>
where
    Archived<R>: Viewable + fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(self.archived()).finish()
    }
}
