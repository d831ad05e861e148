//! Named locks and semaphores between processes. The hub keeps their queues, and releases what a dead process held.

#![forbid(unsafe_code)]

use super::client::{Client, Unanswered};
use super::connection::{Manager, ManagerInner};
use super::error::ManagerError;
use super::protocol::{FromHub, ToHub};
use callgate_transport::doorbell::Deadline;
use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How much longer this side waits for the answer than the hub waits for the lock.
const GRACE: Duration = Duration::from_secs(5);

/// A lock that is held, see [`Manager::lock`]. Released when it is dropped, when this process ends, and when the hub does.
#[derive(Debug)]
#[must_use = "dropping it releases the lock"]
pub struct Lock(Permit);

impl Lock {
    /// Whether the previous holder ended without releasing it: what the lock protects may be in an inconsistent state.
    pub fn was_abandoned(&self) -> bool {
        self.0.abandoned
    }

    /// Whether this process still holds it, as far as it knows. The end of the hub releases it: the next hub does not know of it.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }
}

/// A semaphore, see [`Manager::semaphore`].
#[derive(Clone, Debug)]
pub struct Semaphore {
    shared: Arc<ManagerInner>,
    name: String,
    permits: u32,
}

impl Semaphore {
    /// Takes a permit, waiting at most `timeout`; `None` if none came free in that time.
    ///
    /// # Errors
    ///
    /// If there is no hub, or if the name is in use for a lock or with another number of permits.
    pub fn acquire(&self, timeout: Duration) -> Result<Option<Permit>, ManagerError> {
        acquire(&self.shared, &self.name, Some(self.permits), timeout)
    }
}

/// A permit of a [`Semaphore`]. Given back when it is dropped, when this process ends, and when the hub does.
#[derive(Debug)]
#[must_use = "dropping it gives the permit back"]
pub struct Permit {
    /// The hub that granted it. Another hub does not know of it, and may use the same number for another grant.
    client: Weak<Client>,
    grant: u64,
    abandoned: bool,
}

impl Permit {
    /// Whether this process still holds it, as [`Lock::is_held`].
    pub fn is_held(&self) -> bool {
        self.client.upgrade().is_some_and(|client| !client.is_over())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(client) = self.client.upgrade() {
            client.tell_in_passing(ToHub::Release { grant: self.grant });
        }
    }
}

impl Manager {
    /// Takes the lock `name`, which has one holder at a time, waiting at most `timeout`; `None` if it did not come free in that time. Not
    /// reentrant: a thread that takes it twice waits for itself.
    ///
    /// # Errors
    ///
    /// If there is no hub, or it refuses the name.
    pub fn lock(&self, name: &str, timeout: Duration) -> Result<Option<Lock>, ManagerError> {
        Ok(acquire(&self.shared, name, None, timeout)?.map(Lock))
    }

    /// The semaphore `name`, with this many permits, 1 or more. All clients that use it at the same time must give the same number.
    pub fn semaphore(&self, name: &str, permits: u32) -> Semaphore {
        Semaphore { shared: self.shared.clone(), name: name.into(), permits }
    }
}

fn acquire(
    shared: &Arc<ManagerInner>,
    name: &str,
    permits: Option<u32>,
    timeout: Duration,
) -> Result<Option<Permit>, ManagerError> {
    let milliseconds = u64::try_from(timeout.as_millis()).ok();
    let asked = Cell::new(0);
    let question = |seq| {
        asked.set(seq);
        ToHub::Acquire { seq, name: name.into(), permits_of_semaphore: permits, deadline_ms: milliseconds }
    };
    let deadline = Deadline::after(timeout.checked_add(GRACE));
    let what = format!("acquiring `{name}`");
    let client = shared.client(&what)?;
    let said = client.ask(question, deadline).map_err(|why| {
        if matches!(why, Unanswered::Late) {
            // Cancel a lock request whose wait timed out. A grant that arrives all the same is given back.
            client.tell(&ToHub::Cancel { seq: asked.get() });
        }
        shared.unanswered(&what, why)
    })?;
    match said.as_slice() {
        [FromHub::Granted { grant, abandoned, .. }] => {
            Ok(Some(Permit { client: Arc::downgrade(&client), grant: *grant, abandoned: *abandoned }))
        }
        _ => Ok(None),
    }
}
