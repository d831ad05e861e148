//! How a process becomes a client or the hub, and finds another hub when its hub ends.
//!
//! Its callbacks are registered at each hub in turn. One thread at a time does this, which may take long.

#![forbid(unsafe_code)]

use super::{BREATH, ManagerInner, Part};
use crate::auth::Joined;
use crate::callbacks::LocalCallback;
use crate::client::{Client, Settings, Unanswered};
use crate::error::ManagerError;
use crate::hub::{self, Hub};
use crate::protocol::FromHub;
use callgate_transport::arena::Limits;
use callgate_transport::doorbell::Deadline;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// The longest arguments and results, in bytes.
const MAX_PAYLOAD: u64 = 64 << 20;

/// Idle memory that each side of two connected processes keeps, in bytes.
const RETAINED: u64 = 4 << 20;

/// The time limit of each attempt to replace a hub that ended.
const ELECTION: Duration = Duration::from_secs(5);

/// Whether the search for another hub goes on.
#[derive(PartialEq, Eq)]
enum Replacement {
    /// Another hub is found, or none is needed any more.
    Over,
    /// None is found yet.
    Pending,
}

impl ManagerInner {
    /// Connects within `timeout`, by means of `connect`.
    pub(super) fn begin(
        self: &Arc<Self>,
        elects: bool,
        timeout: Duration,
        connect: impl FnOnce(&Self, Deadline) -> Result<(Option<Hub>, Joined), ManagerError>,
    ) -> Result<(), ManagerError> {
        let begun = Instant::now();
        let deadline = Deadline::after(Some(timeout));
        let late = |what| ManagerError::TimedOut { address: self.address.to_string(), waited: begun.elapsed(), what };
        let one_at_a_time = match deadline.instant() {
            Some(until) => self.connecting.try_lock_until(until),
            None => Some(self.connecting.lock()),
        };
        let Some(_one_at_a_time) = one_at_a_time else {
            return Err(late("this process is already looking for a hub"));
        };
        if self.current().is_some() {
            return Err(ManagerError::Connected { address: self.address.to_string() });
        }
        self.end_own();
        let (hub, joined) = connect(self, deadline).map_err(|error| match error {
            ManagerError::TimedOut { what, .. } => late(what),
            other => other,
        })?;
        self.adopt(hub, joined, deadline, |part| {
            part.elects = elects;
            true
        })
    }

    /// Drops the hub of this process, which a client may have ended.
    fn end_own(&self) {
        let hub = self.part.lock().hub.take();
        drop(hub);
    }

    pub(super) fn elect(&self, deadline: Deadline) -> Result<(Option<Hub>, Joined), ManagerError> {
        hub::start_or_join(&self.address, &self.key, self.options.clone(), deadline)
    }

    /// Registers this process's callbacks at a hub and makes the connection the current one, if `accept` still agrees. The caller holds
    /// `connecting`.
    pub(super) fn adopt(
        self: &Arc<Self>,
        hub: Option<Hub>,
        joined: Joined,
        deadline: Deadline,
        accept: impl FnOnce(&mut Part) -> bool,
    ) -> Result<(), ManagerError> {
        let limits = Limits { max_payload: MAX_PAYLOAD, retained: RETAINED };
        let settings = Settings { limits, wait: self.wait };
        let shared = Arc::downgrade(self);
        let ended = move |client: &Arc<Client>| Self::replace_hub(&shared, client);
        let client = Client::start(joined, settings, self.callbacks.clone(), ended)
            .map_err(|error| self.failed("starting the thread that listens to the hub", error))?;
        let callbacks = self.callbacks.all();
        let known = self.register_all(&client, &callbacks, deadline);
        let adopted = known.is_ok() && {
            let mut part = self.part.lock();
            let is_wanted = accept(&mut part);
            if is_wanted {
                part.hub = hub;
                self.client.store(Some(client.clone()));
            }
            is_wanted
        };
        if adopted {
            // Callbacks that were unregistered meanwhile: only the previous hub was told.
            let is_gone = |registered: &&Arc<LocalCallback>| self.callbacks.get(registered.number).is_none();
            callbacks.iter().filter(is_gone).for_each(|registered| self.unregistered(registered.number));
        } else {
            client.leave();
        }
        self.callbacks.discard(callbacks);
        known
    }

    fn register_all(
        &self,
        client: &Client,
        callbacks: &[Arc<LocalCallback>],
        deadline: Deadline,
    ) -> Result<(), ManagerError> {
        for registered in callbacks {
            match client.ask(|seq| registered.as_message(seq, false), deadline) {
                Ok(said) if matches!(said[..], [FromHub::Registered { .. }]) => {}
                // Another process has the name now.
                Ok(_) | Err(Unanswered::Refused(_)) => self.callbacks.revoke(registered.number),
                // This hub has ended too, or does not answer. The next one gets all registrations.
                Err(why) => return Err(self.unanswered("registering the callbacks again", why)),
            }
        }
        Ok(())
    }

    /// Replaces the hub of `client`, which has ended, if this manager elects hubs. Tries until it succeeds or the manager is dropped.
    fn replace_hub(manager: &Weak<Self>, client: &Arc<Client>) {
        while let Some(shared) = manager.upgrade() {
            if shared.try_replace_hub(client) == Replacement::Over {
                return;
            }
            drop(shared);
            thread::sleep(BREATH);
        }
    }

    /// Makes one attempt to replace the hub of `client`, if that is still the connection that counts.
    fn try_replace_hub(self: &Arc<Self>, client: &Arc<Client>) -> Replacement {
        // The thread that holds this lock may be about to make `client` the connection that counts.
        let _one_at_a_time = self.connecting.lock();
        let is_needed = |part: &mut Part| {
            part.elects && self.client.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, client))
        };
        if !is_needed(&mut self.part.lock()) {
            return Replacement::Over;
        }
        self.end_own();
        let Ok((hub, joined)) = self.elect(Deadline::after(Some(ELECTION))) else { return Replacement::Pending };
        // `disconnect` does not wait for an election: `is_needed` asks once more.
        match self.adopt(hub, joined, self.deadline(), is_needed) {
            Ok(()) if self.current().is_some() => Replacement::Over,
            _ => Replacement::Pending,
        }
    }
}
