//! A bridge's methods, called in another mode or with another timeout than the bridge itself uses.

#![forbid(unsafe_code)]

use super::{Blocking, Bridge, Deferred, InPlace, OneWay};
use callgate_engine::service::{Mode, Service};
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// A bridge's methods, called in the mode `M`: what [`Bridge::with_timeout`], [`Bridge::begin`] and [`Bridge::view`] return.
pub struct Calling<'a, T: Service, M: Mode> {
    calls: Proxy<'a, T::Calls<M>>,
    bridge: &'a Bridge<T>,
    timeout: Option<Duration>,
}

/// The proxy of a mode: one that the bridge keeps, or one for a timeout of its own.
enum Proxy<'a, C> {
    Kept(&'a C),
    Own(C),
}

impl<'a, T: Service, M: Mode> Calling<'a, T, M> {
    pub(super) fn new(bridge: &'a Bridge<T>, mode: M, timeout: Option<Duration>) -> Self {
        Self { calls: Proxy::Own(T::calls(mode)), bridge, timeout }
    }

    /// The same with the bridge's own timeout, for which it keeps the proxy: nothing is counted or copied.
    pub(super) fn kept(bridge: &'a Bridge<T>, calls: &'a T::Calls<M>) -> Self {
        Self { calls: Proxy::Kept(calls), bridge, timeout: bridge.timeout }
    }
}

impl<'a, T: Service> Calling<'a, T, Blocking> {
    /// Like [`Bridge::begin`], with this timeout.
    #[must_use = "it does nothing until a method is called on it"]
    pub fn begin(&self) -> Calling<'a, T, Deferred> {
        self.bridge.deferred(self.timeout)
    }

    /// Like [`Bridge::send`], with this timeout.
    #[must_use = "it does nothing until a method is called on it"]
    pub fn send(&self) -> Calling<'a, T, OneWay> {
        self.bridge.one_way(self.timeout)
    }

    /// Like [`Bridge::view`], with this timeout.
    #[must_use = "it does nothing until a method is called on it"]
    pub fn view(&self) -> Calling<'a, T, InPlace> {
        self.bridge.in_place(self.timeout)
    }
}

impl<T: Service, M: Mode> Deref for Calling<'_, T, M> {
    type Target = T::Calls<M>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        match &self.calls {
            Proxy::Kept(calls) => calls,
            Proxy::Own(calls) => calls,
        }
    }
}

impl<T: Service, M: Mode> fmt::Debug for Calling<'_, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calling").field("bridge", self.bridge).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
