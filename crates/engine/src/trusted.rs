//! What a child may do only because it trusts its parent: jump to an address that the parent names, and read requests in place.
//!
//! With `unsafe` in it. All of it depends on a [`TrustedParent`], which exists only in a process that was started as a child and has completed the
//! handshake.

use crate::bridged_traits;
use crate::service::{Dispatch, Service, TaskDispatch};
use callgate_os::image::Image;
use callgate_transport::request::RequestSpan;
use callgate_transport::segment::Span;
use std::ptr::with_exposed_provenance;

/// Whether the peer runs the same build of the same program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// A function lies as far from where the executable was loaded as it does here.
    Same,
    /// Its code lies elsewhere: nothing in it can be named by address.
    Other,
}

/// The proof that this process is a child and its peer the parent that started it.
#[derive(Clone, Copy, Debug)]
pub struct TrustedParent {
    build: Build,
}

impl TrustedParent {
    /// # Safety
    ///
    /// This process must be a child whose handshake with the parent that started it has succeeded; with `Build::Same`, the
    /// two must run the same executable.
    pub unsafe fn new(build: Build) -> Self {
        Self { build }
    }

    /// For tests in which one process plays both sides.
    #[cfg(any(test, feature = "testkit"))]
    pub(crate) fn of_itself() -> Self {
        Self { build: Build::Other }
    }

    /// The payload of a request, which the parent does not write until the reply is published.
    #[inline(always)]
    pub(crate) fn request(self, span: Span<'_>) -> RequestSpan<'_> {
        // SAFETY: the peer is this process's parent, which keeps to the protocol: a slot is written again only when its reply
        // has been taken, and a block only when it has been given back. Slots and blocks are aligned to 16 bytes or more. The
        // span borrows the lane or the block, and `Exchange` ends with that borrow, before the reply is published.
        unsafe { RequestSpan::trusted(span) }
    }

    /// The dispatch function that lies at `offset` in the executable; `None` if it lies outside, or this is another build.
    pub(crate) fn dispatch_at<T>(self, offset: u64) -> Option<Dispatch<T>> {
        let address = self.address_of(offset)?;
        // SAFETY: the parent runs the same executable, and took the offset from a `Dispatch<T>` of its own: it compares the
        // interface's service with the bridge's, which is the `T` whose entry this process runs.
        Some(unsafe { std::mem::transmute::<*const (), Dispatch<T>>(with_exposed_provenance(address)) })
    }

    /// This program's own dispatch function for the trait of `T` with the number `key`.
    pub(crate) fn dispatch_of<T: Service>(self, key: u64) -> Option<Dispatch<T>> {
        let address = (bridged_traits::find::<T>(key)?.dispatch)(false);
        // SAFETY: made of a `Dispatch` by `InterfaceId::of` for this very `T`: `find` has compared the type.
        Some(unsafe { std::mem::transmute::<*const (), Dispatch<T>>(with_exposed_provenance(address)) })
    }

    /// The function at `offset` that makes tasks of a trait's calls. Only in a child whose calls are tasks.
    pub(crate) fn task_dispatch_at<T>(self, offset: u64) -> Option<TaskDispatch<T>> {
        let address = self.address_of(offset)?;
        // SAFETY: as in `dispatch_at`; where calls are tasks, the parent took the offset from a `TaskDispatch<T>`.
        Some(unsafe { std::mem::transmute::<*const (), TaskDispatch<T>>(with_exposed_provenance(address)) })
    }

    /// This program's own function that makes tasks of the calls of the trait of `T` with the number `key`.
    pub(crate) fn task_dispatch_of<T: Service>(self, key: u64) -> Option<TaskDispatch<T>> {
        let address = (bridged_traits::find::<T>(key)?.dispatch)(true);
        // SAFETY: as in `dispatch_of`; made of a `TaskDispatch` for this number.
        Some(unsafe { std::mem::transmute::<*const (), TaskDispatch<T>>(with_exposed_provenance(address)) })
    }

    fn address_of(self, offset: u64) -> Option<usize> {
        Image::current().address_of(offset).filter(|_| self.build == Build::Same)
    }
}

/// The entry of the service that the parent wants served; `None` if its offset lies outside the executable.
///
/// # Safety
///
/// The offset must come from the handshake of the parent that started this process, both must run the same executable, and
/// the parent must have taken the offset from a function of that very type.
pub unsafe fn entry_at<C>(offset: u64) -> Option<fn(C) -> !> {
    let address = Image::current().address_of(offset)?;
    // SAFETY: the caller's duty: the parent took the offset from such a function of its own.
    Some(unsafe { std::mem::transmute::<*const (), fn(C) -> !>(with_exposed_provenance(address)) })
}
