//! The table of a service's interfaces: the child is told of each before the first call of it.
//!
//! A place in the table is given once, and never to another interface.

#![forbid(unsafe_code)]

use super::{Ask, CallContext, Caller, InterfaceSlot};
use crate::lane::CallerLane;
use crate::service::InterfaceId;
use callgate_os::image::Image;
use callgate_transport::commit::Kind;
use callgate_transport::error::{CallError, Started};

impl Caller {
    /// The number by which the child knows an interface, which it is told at the first call.
    #[inline]
    pub(super) fn interface_number(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        match self.introduction((interface.dispatch)(self.workers)) {
            Some((number, known)) if known.bound.get().is_some() => Ok(number),
            _ => self.bind_slow(interface, context),
        }
    }

    /// The interface's place in the table, and the number of the place.
    #[inline]
    fn introduction(&self, address: usize) -> Option<(u64, &InterfaceSlot)> {
        let taken = self.interfaces.iter().take_while(|place| place.address.get().is_some());
        (1..).zip(taken).find(|(_, place)| place.address.get() == Some(&address))
    }

    /// Tells the child where the interface's dispatch function is, and waits until it knows.
    #[cold]
    fn bind_slow(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        if known.bound.get().is_none() {
            self.ask::<_, ()>(Ask { kind: Kind::Bind, call: number }, place, context).map_err(not_started)?;
            known.bound.get_or_init(|| ());
        }
        Ok(number)
    }

    /// Has the child told by the request before the one that comes next on this lane. Its reply is dropped, like that of a call
    /// that was given up. Never waits.
    pub(super) fn bind_ahead(
        &self,
        lane: &mut CallerLane,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<u64, CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        if known.bound.get().is_none() {
            let ask = Ask { kind: Kind::Bind, call: number };
            self.send_on(lane, ask, place, context)?;
        }
        Ok(number)
    }

    /// The interface's place in the table, which it is given if it has none, and what the child is told of it: where its dispatch function is in this
    /// executable, if it is there, and its number in any.
    ///
    /// A place is taken before the child is told, and for good: if a call gives up, its request is still on its way, and must
    /// not arrive after the same number has come to mean another interface. The child may be told twice.
    fn enter(
        &self,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<(u64, &InterfaceSlot, (u64, u64)), CallError> {
        let refused = |why: &str| CallError::Refused { call: context.name(), why: why.into() };
        // The child calls what it is told to, with its service: it must be a function for that very type.
        if (interface.service)() != self.service {
            return Err(refused("its trait is another service's"));
        }
        let address = (interface.dispatch)(self.workers);
        let place = (Image::current().offset_of(address).unwrap_or(u64::MAX), (interface.key)());
        // Held for a moment only, never while anything is waited for.
        let _entering = self.entering.lock();
        if self.introduction(address).is_none() {
            let free = self.interfaces.iter().find(|place| place.address.get().is_none());
            let free = free.ok_or_else(|| refused("the service has more than 32 bridged traits"))?;
            free.address.get_or_init(|| address);
        }
        let found = self.introduction(address).ok_or_else(|| refused("its trait has no place in the table"));
        found.map(|(number, known)| (number, known, place))
    }
}

/// What a failed introduction means for the call that it was for, which has not been sent.
#[cold]
fn not_started(mut error: CallError) -> CallError {
    if let Some(started) = error.started_mut() {
        *started = Started::No;
    }
    error
}
