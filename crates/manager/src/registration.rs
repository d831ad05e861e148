//! Registering a callback, with limits, and what keeps it registered.

#![forbid(unsafe_code)]

use super::args::Args;
use super::callback::{Callback, Dynamic, Typed};
use super::callbacks::{LocalCallback, MOST_NUMBERS, RequestHandler};
use super::connection::{Manager, ManagerInner};
use super::error::ManagerError;
use super::protocol::{FromHub, ToHub};
use super::typed::{Arguments, Outcome};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

impl Manager {
    /// Registers `callback` under `name`, with whatever arguments it is called with. Until the [`Registration`] is dropped, calls of that
    /// name run it in this process, on threads of their own, several at once.
    ///
    /// A panic in it goes to who has called, as `Panicked` in [`CallError::Call`](super::CallError::Call), and is not printed: when another process calls for the first time, this one
    /// gets a panic hook ([`std::panic::set_hook`]) that hands on to the one before it all panics but those in callbacks. A hook that is set
    /// later takes its place; then panics in callbacks are printed too, and come without their place.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Taken`] if the name is registered already, be it by this process; if there is no hub, or it refuses the name.
    pub fn register<F, O>(&self, name: &str, callback: F) -> Result<Registration, ManagerError>
    where
        F: Fn(Args) -> O + Send + Sync + 'static,
        O: Outcome + 'static,
    {
        self.named(name).register(callback)
    }

    /// As [`register`](Self::register), a callback with types: it takes and returns [`Item`](crate::Item)s.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_fn<A, O, F>(&self, name: &str, callback: F) -> Result<Registration, ManagerError>
    where
        A: Arguments,
        O: Outcome + 'static,
        F: Callback<A, O>,
    {
        self.named(name).register_fn(callback)
    }

    /// What is to be registered under `name`, with limits.
    pub fn named(&self, name: &str) -> RegistrationBuilder {
        RegistrationBuilder::new(self.clone(), name)
    }
}

/// What is about to be registered under a name: see [`Manager::named`].
///
/// # Examples
///
/// ```
/// # use callgate::manager::{AuthKey, Manager};
/// # use std::time::Duration;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let manager = Manager::new(format!("@callgate-doc-limits-{}", std::process::id()).as_str(), &AuthKey::new("secret"));
/// # manager.start(Duration::from_secs(10))?;
/// let _once = manager.named("once").for_calls(1).register_fn(|| 42i64)?;
/// assert_eq!(manager.call_as::<i64>("once", ())?, Some(42));
/// assert_eq!(manager.call_as::<i64>("once", ())?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is registered before `register` or `register_fn`"]
pub struct RegistrationBuilder {
    manager: Manager,
    name: String,
    calls: Option<u64>,
    time: Option<Duration>,
    replace: bool,
}

impl RegistrationBuilder {
    pub(super) fn new(manager: Manager, name: &str) -> Self {
        Self { manager, name: name.into(), calls: None, time: None, replace: false }
    }

    /// It takes so many calls, 1 or more, and is then registered no more. Default: any number.
    pub fn for_calls(mut self, calls: u64) -> Self {
        self.calls = Some(calls);
        self
    }

    /// It is registered for so long. Default: until the registration is dropped.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Whether it takes the name from another callback that has it, of whichever process. Default: no, that is [`ManagerError::Taken`].
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Registers a callback for whatever arguments it is called with.
    ///
    /// # Errors
    ///
    /// As [`Manager::register`].
    pub fn register<F, O>(self, callback: F) -> Result<Registration, ManagerError>
    where
        F: Fn(Args) -> O + Send + Sync + 'static,
        O: Outcome + 'static,
    {
        self.register_answer(Box::new(Dynamic::new(callback)))
    }

    /// Registers a callback with types.
    ///
    /// # Errors
    ///
    /// As [`Manager::register`].
    pub fn register_fn<A, O, F>(self, callback: F) -> Result<Registration, ManagerError>
    where
        A: Arguments,
        O: Outcome + 'static,
        F: Callback<A, O>,
    {
        self.register_answer(Box::new(Typed::<A, O, F>::new(callback)))
    }

    fn register_answer(self, answer: Box<dyn RequestHandler>) -> Result<Registration, ManagerError> {
        let Self { manager, name, calls, time, replace } = self;
        let shared = &manager.shared;
        let refused = |why: &str| ManagerError::Refused {
            address: shared.address.to_string(),
            what: format!("registering `{name}`"),
            why: why.into(),
        };
        if calls == Some(0) {
            return Err(refused("a callback takes 1 call or more"));
        }
        let number = shared.next_number.fetch_add(1, Relaxed);
        if number >= MOST_NUMBERS {
            return Err(refused("this process has registered 2,147,483,647 callbacks already"));
        }
        let expires = time.and_then(|time| Instant::now().checked_add(time));
        let registered = Arc::new(LocalCallback::new(&name, number, answer, calls, expires));
        // First, as calls come as soon as the hub knows it.
        shared.callbacks.insert(registered.clone());
        let what = format!("registering `{name}`");
        let said = shared.ask(&what, |seq| registered.as_message(seq, replace), shared.deadline());
        let failed = match said {
            Err(error) => error,
            Ok(said) => match said.as_slice() {
                // Unless it was told of a new hub meanwhile, as one of all that this process has, where somebody else has the name.
                [FromHub::Registered { .. }] if shared.callbacks.has(number) || registered.is_spent() => {
                    return Ok(Registration { shared: Arc::downgrade(shared), name, number });
                }
                [FromHub::Registered { .. }] => refused("another process has taken the name meanwhile"),
                [FromHub::Taken { owner, .. }] => {
                    ManagerError::Taken { address: shared.address.to_string(), name: name.clone(), pid: *owner }
                }
                _ => refused("the hub answers what was not asked"),
            },
        };
        let removed = shared.callbacks.remove(number);
        // Another hub may have been told of it meanwhile, or this one answered too late.
        shared.unregistered(number);
        // Last, as its destructor may panic.
        drop((removed, registered));
        Err(failed)
    }
}

/// Keeps a callback registered. Dropped, it unregisters it; calls that are being carried out go on.
#[derive(Debug)]
#[must_use = "dropping it unregisters the callback"]
pub struct Registration {
    shared: Weak<ManagerInner>,
    name: String,
    number: u32,
}

impl std::fmt::Debug for ManagerInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Registration {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether calls of the name come here, as far as this process knows: not after the last that it takes, when its time is over, or when another
    /// has taken the name; nor while this process has no hub.
    pub fn is_registered(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.current().is_some() && shared.callbacks.has(self.number))
    }

    /// Unregisters the callback, as dropping this does.
    pub fn unregister(self) {}

    /// Leaves the callback registered for as long as the manager is there. If it has a clone of that manager, that is until this process ends or
    /// [disconnects](Manager::disconnect).
    pub fn keep(mut self) {
        self.shared = Weak::new();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let removed = shared.callbacks.remove(self.number);
        if removed.is_some()
            && let Some(client) = shared.connected()
        {
            client.tell_in_passing(ToHub::Unregister { seq: 0, number: self.number });
        }
        // Last, as its destructor may panic, or call the very name.
        drop(removed);
    }
}
