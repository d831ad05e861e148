//! Calls whose replies are not deserialised but read in place, as archives.

#![forbid(unsafe_code)]

use super::Items;
use super::target::Target;
use callgate_engine::caller::{Answered, Converse, Question};
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

/// The mode that reads in place: the caller waits for the reply and gets a [`View`] of its archive.
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
    type Items<T: Transfer> = Result<Items<T>, CallError>;

    fn call<A: Request, R: Transfer>(&self, method: &'static Method, args: A) -> Result<View<R>, CallError> {
        self.target.call(method, args, self.timeout).map(View)
    }

    /// Items are values in this mode, too.
    fn open<A: Request, T: Transfer>(&self, method: &'static Method, args: A) -> Result<Items<T>, CallError> {
        Items::open(self.target.open_waiting(method, args, self.timeout)?, self.timeout)
    }
}

impl Converse for InPlace {
    type Conversed<'c, R: Transfer> = Result<View<R>, CallError>;

    fn converse<'c, A: Request, R: Transfer, C: FnMut(Question<'_, '_>) -> Answered + 'c>(
        &self,
        method: &'static Method,
        args: A,
        mut callbacks: C,
    ) -> Result<View<R>, CallError> {
        self.target.converse(method, args, self.timeout, &mut callbacks).map(View)
    }
}

impl fmt::Debug for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InPlace").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// A result that is read in place, without deserialising an `R`; see [`Bridge::view`](crate::Bridge::view).
///
/// Dereferences to `rkyv::Archived<R>`: `ArchivedString` is as good as a `str`, `ArchivedVec<T>` as a slice, and the archive of your
/// struct has the same fields, archived. It owns a private copy of the reply, which the child cannot change, so it outlives further
/// calls and the bridge, and can be sent to other threads. (A large reply of a trusted child is not copied: the view keeps the
/// child's memory from being reused as long as it lives.)
///
/// # What cannot be read in place
///
/// The copy has been validated: each number, text and pointer in it is valid. That is not enough for every archive.
/// A `HashMap` whose table a hostile child has forged passes, and looking up a key in it reads memory out of bounds; other
/// maps and sets have the same problem. So `Deref` exists only where `Archived<R>` is [`Viewable`]. Maps, sets and types that
/// contain them are not. For such a result, a call of [`archived`](Self::archived) makes the compiler name the type in the way;
/// call the method without `view()` to get a value.
#[must_use = "it is what the method returned"]
pub struct View<R: Transfer>(ArchivedReply<R::Archived>);

impl<R: Transfer> View<R> {
    /// The archived result, to which the view also dereferences.
    #[inline]
    pub fn archived(&self) -> &Archived<R>
    where
        Archived<R>: Viewable,
    {
        self.0.get()
    }
}

impl<R: Transfer> View<R> {
    /// The archived result of any type, if the child is [trusted](crate::Builder::trust_child). Large results are then read where the
    /// child wrote them.
    #[inline]
    pub fn trusted(&self) -> Option<&Archived<R>> {
        self.0.trusted()
    }
}

/// There is no `AsRef`: it would shadow `as_ref` of an archived `Option` or `Result`.
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
