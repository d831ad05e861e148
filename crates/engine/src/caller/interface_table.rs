//! The table of a service's interfaces: the child is told of each before its first call.
//!
//! An entry stays with one interface for good.

#![forbid(unsafe_code)]

use super::{Ask, CallContext, Caller, InterfaceSlot};
use crate::service::InterfaceId;
use callgate_os::image::Image;
use callgate_transport::commit::Kind;
use callgate_transport::error::{CallError, Started};

impl Caller {
    /// The number by which the child knows an interface. The first call tells the child.
    #[inline]
    pub(super) fn interface_number(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        match self.introduction((interface.dispatch)(self.is_unordered)) {
            Some((number, known)) if known.bound.get().is_some() => Ok(number),
            _ => self.bind_slow(interface, context),
        }
    }

    /// The interface's number and entry in the table.
    #[inline]
    fn introduction(&self, address: usize) -> Option<(u64, &InterfaceSlot)> {
        let taken = self.interfaces.iter().take_while(|place| place.address.get().is_some());
        (1..).zip(taken).find(|(_, place)| place.address.get() == Some(&address))
    }

    /// Tells the child where the interface's dispatch function is, and waits until it has confirmed.
    #[cold]
    fn bind_slow(&self, interface: InterfaceId, context: &CallContext) -> Result<u64, CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        if known.bound.get().is_none() {
            self.bind(number, place, &mut context.clone()).map_err(not_started)?;
            known.bound.get_or_init(|| ());
        }
        Ok(number)
    }

    fn bind(&self, number: u64, place: (u64, u64), context: &mut CallContext) -> Result<(), CallError> {
        let (mut lane, call) = match self.claim(number, context)? {
            Some(claimed) => claimed,
            None => (self.claim_idle(context)?, number),
        };
        let ask = Ask { kind: Kind::Bind, call };
        let position = self.send_on(&mut lane, ask, place, context)?;
        self.receive(&mut lane, position, ask.kind, context)
    }

    /// The interface's number, and what to tell the child in a request ahead of the call's own, on the same lane: `None` if it knows. The reply to that
    /// is dropped, like that of a call that gave up.
    pub(super) fn interface_ahead(
        &self,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<(u64, Option<(u64, u64)>), CallError> {
        let (number, known, place) = self.enter(interface, context)?;
        Ok((number, known.bound.get().is_none().then_some(place)))
    }

    /// The interface's number and entry in the table, entered if it is new, and what to tell the child: the offset of its dispatch function in this
    /// executable, if it is there, and its number in any executable.
    ///
    /// An entry is made before the child is told, and for good: if a call gives up, its request is still under way, and must not arrive when the
    /// number means another interface. The child may be told twice.
    fn enter(
        &self,
        interface: InterfaceId,
        context: &CallContext,
    ) -> Result<(u64, &InterfaceSlot, (u64, u64)), CallError> {
        let refused = |why: &str| CallError::Refused { call: context.name(), why: why.into() };
        // The child calls this function with its service, so it must be a function for that very type.
        if (interface.service)() != self.service {
            return Err(refused("its trait belongs to another service"));
        }
        let address = (interface.dispatch)(self.is_unordered);
        let place = (Image::current().offset_of(address).unwrap_or(u64::MAX), (interface.key)());
        // GateGuard for a moment only, never while waiting.
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

/// Marks the call that needed a failed introduction as not started: it was not sent.
#[cold]
fn not_started(mut error: CallError) -> CallError {
    if let Some(started) = error.started_mut() {
        *started = Started::No;
    }
    error
}
