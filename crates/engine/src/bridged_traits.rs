//! The bridged traits of this program, which generated code registers before `main` runs.
//!
//! A child that runs the same program finds a trait's methods by their address. In another executable they lie elsewhere, so that child looks them up
//! here, by a number that both sides can compute. Thus it is known at the start whether the child has the traits that its parent has. Written before
//! `main`, and by libraries that are loaded later.

#![forbid(unsafe_code)]

use crate::service::{Interface, InterfaceId, Service};
use std::any::{TypeId, type_name};
use std::sync::{Mutex, OnceLock, PoisonError};

/// One trait of one service, in a static.
#[derive(Debug)]
pub struct Bridged {
    /// The service's name.
    service: &'static str,
    /// The trait's name.
    interface: &'static str,
    /// Whether any of its methods is async.
    is_async: bool,
    /// `None` for a trait of a generic type: its number would not tell the instance.
    id: Option<InterfaceId>,
    /// The trait registered before this one.
    before: OnceLock<Option<&'static Bridged>>,
}

/// The trait registered last.
static LAST: Mutex<Option<&'static Bridged>> = Mutex::new(None);

impl Bridged {
    /// The interface `I` of `T`.
    pub const fn of<T: Service, I: Interface<T>>() -> Self {
        let id = Some(InterfaceId::of::<T, I>());
        Self { service: T::NAME, interface: I::NAME, is_async: I::IS_ASYNC, id, before: OnceLock::new() }
    }

    /// A trait that is bridged for a generic type.
    pub const fn of_generic(service: &'static str, interface: &'static str, is_async: bool) -> Self {
        Self { service, interface, is_async, id: None, before: OnceLock::new() }
    }

    /// Registers it. Allocates nothing: the allocator may not be ready.
    pub fn name(&'static self) {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if self.before.set(*last).is_ok() {
            *last = Some(self);
        }
    }

    /// Whether it is bridged for every type of this generic one's.
    fn is_of_generic<T: Service>(&self) -> bool {
        self.id.is_none() && self.service == T::NAME && type_name::<T>().contains('<')
    }

    fn is_of<T: Service>(&self) -> bool {
        self.id.is_some_and(|id| (id.service)() == TypeId::of::<T>())
    }
}

fn all() -> impl Iterator<Item = &'static Bridged> {
    let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
    std::iter::successors(last, |bridged| bridged.before.get().copied().flatten())
}

/// The numbers of the traits of `T`.
pub fn keys<T: Service>() -> Vec<u64> {
    let mut keys: Vec<u64> =
        all().filter(|bridged| bridged.is_of::<T>()).filter_map(|bridged| Some((bridged.id?.key)())).collect();
    // A library that is loaded twice registers its traits twice.
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The trait of `T` with this number.
pub fn find<T: Service>(key: u64) -> Option<InterfaceId> {
    all().filter(|bridged| bridged.is_of::<T>()).filter_map(|bridged| bridged.id).find(|id| (id.key)() == key)
}

/// The name of the trait of `T` with this number.
pub fn name_of<T: Service>(key: u64) -> Option<&'static str> {
    let has_key = |bridged: &&Bridged| bridged.is_of::<T>() && bridged.id.is_some_and(|id| (id.key)() == key);
    all().find(has_key).map(|bridged| bridged.interface)
}

/// A trait that is bridged for every `T` of a generic type, which the name of `T` tells.
pub fn generic_of<T: Service>() -> Option<&'static str> {
    all().find(|bridged| bridged.is_of_generic::<T>()).map(|bridged| bridged.interface)
}

/// Whether `T` has async methods, in its own block or in a trait's: then its calls are tasks.
pub fn is_async<T: Service>() -> bool {
    T::IS_ASYNC || all().any(|bridged| bridged.is_async && (bridged.is_of::<T>() || bridged.is_of_generic::<T>()))
}
