//! Registration of callbacks: options, and the guard that keeps a callback registered.

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
    /// Registers `callback` under `name`, with dynamic arguments. Until the [`Registration`] is dropped, calls of that name run it in this
    /// process, on separate threads, several at once.
    ///
    /// A panic in it is returned to the caller, as `Panicked` in [`CallError::Call`](super::CallError::Call), and is not printed: at the first
    /// call from another process, this one installs a panic hook ([`std::panic::set_hook`]) that passes all other panics to the previous hook.
    /// A hook that the program sets later replaces it; then panics in callbacks are printed, and the caller does not learn their location.
    ///
    /// # Errors
    ///
    /// [`ManagerError::Taken`] if the name is already registered, even by this process. Fails also if there is no hub, or if it refuses the
    /// name.
    pub fn register<F, O>(&self, name: &str, callback: F) -> Result<Registration, ManagerError>
    where
        F: Fn(Args) -> O + Send + Sync + 'static,
        O: Outcome + 'static,
    {
        self.named(name).register(callback)
    }

    /// Registers a callback with types, as [`register`](Self::register) does: it takes and returns [`Item`](crate::Item)s.
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

    /// Starts a registration under `name`, with options.
    pub fn named(&self, name: &str) -> RegistrationBuilder {
        RegistrationBuilder::new(self.clone(), name)
    }
}

/// Options of a registration: see [`Manager::named`].
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

    /// Unregisters the callback after this many calls, 1 or more. Default: no limit.
    pub fn for_calls(mut self, calls: u64) -> Self {
        self.calls = Some(calls);
        self
    }

    /// Unregisters the callback after this time. Default: when the registration is dropped.
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Whether it replaces a callback of any process that has the name. Default: no; a name in use is [`ManagerError::Taken`].
    pub fn replace(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// Registers a callback with dynamic arguments.
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
            return Err(refused("the number of calls must be at least 1"));
        }
        let number = shared.next_number.fetch_add(1, Relaxed);
        if number >= MOST_NUMBERS {
            return Err(refused("this process has already registered 2,147,483,647 callbacks"));
        }
        let expires = time.and_then(|time| Instant::now().checked_add(time));
        let registered = Arc::new(LocalCallback::new(&name, number, answer, calls, expires));
        // Before the hub is told, because calls may arrive at once.
        shared.callbacks.insert(registered.clone());
        let what = format!("registering `{name}`");
        let said = shared.ask(&what, |seq| registered.as_message(seq, replace), shared.deadline());
        let failed = match said {
            Err(error) => error,
            Ok(said) => match said.as_slice() {
                // Unless an election meanwhile registered it at a new hub, where another process has the name.
                [FromHub::Registered { .. }] if shared.callbacks.has(number) || registered.is_spent() => {
                    return Ok(Registration { shared: Arc::downgrade(shared), name, number });
                }
                [FromHub::Registered { .. }] => refused("another process has taken the name in the meantime"),
                [FromHub::Taken { owner, .. }] => {
                    ManagerError::Taken { address: shared.address.to_string(), name: name.clone(), pid: *owner }
                }
                _ => refused("the hub sent an answer to another question"),
            },
        };
        let removed = shared.callbacks.remove(number);
        // A new hub may know of it meanwhile, or this one may have answered too late.
        shared.unregistered(number);
        // Last, as its destructor may panic.
        drop((removed, registered));
        Err(failed)
    }
}

/// Keeps a callback registered. Dropping it unregisters the callback; running calls go on.
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

    /// Whether calls of the name reach this callback, as far as this process knows. Not after its last permitted call, after its time, after
    /// another callback replaced it, or while this process has no hub.
    pub fn is_registered(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.current().is_some() && shared.callbacks.has(self.number))
    }

    /// Unregisters the callback, as dropping this does.
    pub fn unregister(self) {}

    /// Leaves the callback registered for as long as the manager exists. If the callback holds a clone of that manager, that is until this
    /// process ends or [disconnects](Manager::disconnect).
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
        // Last, as its destructor may panic, or call the same name.
        drop(removed);
    }
}
