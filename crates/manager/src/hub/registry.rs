//! The registered names, their owners, and their expiry.
//!
//! Knows no sockets. Trusts nothing in the clients' requests, and returns the notices to send.

#![forbid(unsafe_code)]

use super::connection::ClientId;
use crate::protocol::{Counters, NameInfo, check_name, check_signature};
use callgate_transport::bounds::hub::{MAX_LIST, MAX_NAMES, MAX_NAMES_OF_CLIENT};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All names.
#[derive(Debug, Default)]
pub(super) struct Registry {
    names: BTreeMap<Arc<str>, NameEntry>,
    /// Each client's names, by the numbers that it gave them.
    of_client: HashMap<ClientId, HashMap<u32, Arc<str>>>,
    expiring: BTreeSet<(Instant, Arc<str>)>,
}

/// A registered name.
#[derive(Debug)]
pub(super) struct NameEntry {
    pub(super) owner: ClientId,
    pub(super) owner_pid: u32,
    pub(super) number: u32,
    pub(super) signature: String,
    expires: Option<Instant>,
    calls: u64,
    nanoseconds: u64,
}

/// A client's request to register a name.
pub(super) struct RegisterRequest {
    pub(super) owner: ClientId,
    pub(super) owner_pid: u32,
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) signature: String,
    pub(super) expires: Option<Duration>,
    pub(super) replace: bool,
}

/// The outcome of a [`RegisterRequest`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RegisterOutcome {
    /// It is registered, and the previous holder of the name, if any, is revoked.
    Yes { revoked: Option<Revoked> },
    /// This process holds the name.
    Taken { owner_pid: u32 },
    /// It cannot be registered, for this reason.
    Refused(String),
}

/// A registration that has ended, for a notice to its owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Revoked {
    pub(super) owner: ClientId,
    pub(super) number: u32,
}

impl Registry {
    pub(super) fn register(&mut self, request: RegisterRequest) -> RegisterOutcome {
        if self.has(&request) {
            // Registered twice: by an election, and at the same time by a thread of the owner.
            return RegisterOutcome::Yes { revoked: None };
        }
        if let Err(why) = self.check(&request) {
            return RegisterOutcome::Refused(why);
        }
        let RegisterRequest { owner, owner_pid, number, signature, expires, replace, .. } = request;
        match self.names.get(request.name.as_str()) {
            Some(taken) if !replace => return RegisterOutcome::Taken { owner_pid: taken.owner_pid },
            _ => {}
        }
        let revoked = self.forget(&request.name);
        let name: Arc<str> = request.name.into();
        let expires = expires.and_then(|time| Instant::now().checked_add(time));
        self.expiring.extend(expires.map(|at| (at, name.clone())));
        self.of_client.entry(owner).or_default().insert(number, name.clone());
        let registration = NameEntry { owner, owner_pid, number, signature, expires, calls: 0, nanoseconds: 0 };
        self.names.insert(name, registration);
        RegisterOutcome::Yes { revoked }
    }

    /// Whether the same name and number are registered already.
    fn has(&self, request: &RegisterRequest) -> bool {
        let known = self.names.get(request.name.as_str());
        known.is_some_and(|known| (known.owner, known.number) == (request.owner, request.number))
    }

    fn check(&self, request: &RegisterRequest) -> Result<(), String> {
        check_name(&request.name)?;
        check_signature(&request.signature)?;
        let own = self.of_client.get(&request.owner);
        if own.is_some_and(|own| own.contains_key(&request.number)) {
            return Err(format!("this process has already registered number {}", request.number));
        }
        if own.is_some_and(|own| own.len() >= MAX_NAMES_OF_CLIENT) {
            return Err(format!("this connection has registered {MAX_NAMES_OF_CLIENT} names, which is the limit"));
        }
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(request.name.as_str()) {
            return Err(format!("the hub has {MAX_NAMES} names, which is the limit"));
        }
        Ok(())
    }

    /// The registration of `name`.
    pub(super) fn find(&self, name: &str) -> Option<&NameEntry> {
        self.names.get(name)
    }

    pub(super) fn unregister(&mut self, owner: ClientId, number: u32) {
        let name = self.of_client.get(&owner).and_then(|own| own.get(&number)).cloned();
        name.map(|name| self.forget(&name));
    }

    /// Removes a name. Returns the notice for its owner.
    fn forget(&mut self, name: &str) -> Option<Revoked> {
        let (name, NameEntry { owner, number, expires, .. }) = self.names.remove_entry(name)?;
        if let Some(own) = self.of_client.get_mut(&owner) {
            own.remove(&number);
            if own.is_empty() {
                self.of_client.remove(&owner);
            }
        }
        expires.map(|at| self.expiring.remove(&(at, name)));
        Some(Revoked { owner, number })
    }

    /// Removes all registrations of a client that is gone.
    pub(super) fn client_gone(&mut self, client: ClientId) {
        let names = self.of_client.get(&client).map(|own| own.values().cloned().collect::<Vec<_>>());
        for name in names.into_iter().flatten() {
            self.forget(&name);
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    /// When the next registration expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Removes expired registrations.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Revoked> {
        let mut over = Vec::new();
        while let Some((at, name)) = self.expiring.first().cloned()
            && at <= now
        {
            over.extend(self.forget(&name));
            // Every name in this set is registered with an expiry. Removed here all the same, so that the loop ends.
            self.expiring.remove(&(at, name));
        }
        over
    }

    // ---- lists -----------------------------------------------------------------------------------------------------

    /// The clients that have registered anything.
    pub(super) fn owners(&self) -> impl Iterator<Item = ClientId> {
        self.of_client.keys().copied()
    }

    /// Stores an owner's counts of its callbacks' calls.
    pub(super) fn counted(&mut self, owner: ClientId, counts: &[Counters]) {
        let Some(own) = self.of_client.get(&owner) else { return };
        for count in counts {
            let registration = own.get(&count.number).and_then(|name| self.names.get_mut(name));
            if let Some(registration) = registration {
                (registration.calls, registration.nanoseconds) = (count.calls, count.nanoseconds);
            }
        }
    }

    /// The names after `after`, or from the first on, as far as they fit into a message; and the last of them, if there are more.
    pub(super) fn list(&self, after: Option<&Arc<str>>) -> (Vec<NameInfo>, Option<Arc<str>>) {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let (mut names, mut weight) = (Vec::new(), 0);
        let mut last = None;
        for (name, registration) in self.names.range((from, Bound::Unbounded)) {
            let info = registration.info(name);
            weight += info.weight();
            if weight > MAX_LIST {
                return (names, last);
            }
            names.push(info);
            last = Some(name.clone());
        }
        (names, None)
    }
}

impl NameEntry {
    fn info(&self, name: &str) -> NameInfo {
        NameInfo {
            name: name.into(),
            signature: self.signature.clone(),
            owner: self.owner_pid,
            calls: self.calls,
            nanoseconds: self.nanoseconds,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_transport::bounds::hub::MAX_SIGNATURE;

    fn request(owner: ClientId, number: u32, name: impl Into<String>) -> RegisterRequest {
        let (name, signature) = (name.into(), "any".into());
        RegisterRequest {
            owner,
            owner_pid: owner as u32 + 1000,
            name,
            number,
            signature,
            expires: None,
            replace: false,
        }
    }

    const YES: RegisterOutcome = RegisterOutcome::Yes { revoked: None };

    fn is_empty(registry: &Registry) -> bool {
        registry.names.is_empty() && registry.of_client.is_empty() && registry.expiring.is_empty()
    }

    #[test]
    fn a_name_is_one_clients_until_it_is_replaced_or_goes() {
        let mut registry = Registry::default();
        assert_eq!(registry.register(request(1, 7, "add")), YES);
        assert_eq!(registry.register(request(2, 8, "add")), RegisterOutcome::Taken { owner_pid: 1001 });
        assert_eq!(registry.register(request(1, 9, "add")), RegisterOutcome::Taken { owner_pid: 1001 });
        let replaced = registry.register(RegisterRequest { replace: true, ..request(2, 8, "add") });
        assert_eq!(replaced, RegisterOutcome::Yes { revoked: Some(Revoked { owner: 1, number: 7 }) });
        assert_eq!(registry.find("add").map(|found| (found.owner, found.number)), Some((2, 8)));
        // Whose it was cannot take it away.
        registry.unregister(1, 7);
        registry.unregister(1, 8);
        assert!(registry.find("add").is_some());
        registry.unregister(2, 8);
        assert!(registry.find("add").is_none() && is_empty(&registry));
    }

    #[test]
    fn numbers_are_each_clients_own_and_not_used_twice() {
        let mut registry = Registry::default();
        assert_eq!(registry.register(request(1, 7, "a")), YES);
        assert_eq!(registry.register(request(2, 7, "b")), YES);
        let again = registry.register(request(1, 7, "c"));
        assert!(matches!(again, RegisterOutcome::Refused(why) if why.contains("number 7")));
        registry.client_gone(1);
        assert!(registry.find("a").is_none() && registry.find("b").is_some());
        registry.client_gone(2);
        assert!(is_empty(&registry));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let mut registry = Registry::default();
        let refused = |registered| matches!(registered, RegisterOutcome::Refused(_));
        assert!(refused(registry.register(request(1, 7, ""))));
        assert!(refused(registry.register(request(1, 7, "a\tb"))));
        assert!(refused(registry.register(request(1, 7, "n".repeat(256)))));
        for signature in ["", "\x1b]0;owned\x07\n", "\u{9b}31m", &"s".repeat(MAX_SIGNATURE + 1)] {
            assert!(
                refused(registry.register(RegisterRequest { signature: signature.into(), ..request(1, 7, "a") })),
                "{signature:?}"
            );
        }
        assert!(is_empty(&registry));
    }

    #[test]
    fn there_are_so_many_names_and_no_more() {
        let mut registry = Registry::default();
        for client in 0..16 {
            for number in 0..4096 {
                assert_eq!(registry.register(request(client, number, format!("{client} {number}"))), YES);
            }
            let one_more = registry.register(request(client, 4096, "one more"));
            assert!(matches!(one_more, RegisterOutcome::Refused(why) if why.contains("4096")));
        }
        let one_more = registry.register(request(16, 0, "one more"));
        assert!(matches!(one_more, RegisterOutcome::Refused(why) if why.contains("65536")));
        // One that replaces another makes no more of them.
        let instead = registry.register(RegisterRequest { replace: true, ..request(16, 0, "3 7") });
        assert_eq!(instead, RegisterOutcome::Yes { revoked: Some(Revoked { owner: 3, number: 7 }) });
        // All of them, in their order, in messages that are not too long.
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (names, last) = registry.list(after.as_ref());
            all.extend(names.into_iter().map(|info| info.name));
            after = last;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all.len(), MAX_NAMES);
        assert!(all.is_sorted());
        (0..=16).for_each(|client| registry.client_gone(client));
        assert!(is_empty(&registry));
    }

    #[test]
    fn registrations_end_when_they_are_to() {
        let mut registry = Registry::default();
        let lasting = |name: &str, number, ms| RegisterRequest {
            expires: Some(Duration::from_millis(ms)),
            ..request(1, number, name)
        };
        assert_eq!(registry.next_deadline(), None);
        assert_eq!(registry.register(lasting("long", 1, 3_600_000)), YES);
        assert_eq!(registry.register(lasting("short", 2, 0)), YES);
        assert_eq!(registry.register(lasting("for ever", 3, u64::MAX)), YES);
        assert!(registry.next_deadline().is_some_and(|at| at <= Instant::now()));
        assert_eq!(registry.expire(Instant::now()), [Revoked { owner: 1, number: 2 }]);
        assert!(registry.find("short").is_none() && registry.find("long").is_some());
        assert_eq!(registry.expire(Instant::now()), []);
        let later = Instant::now() + Duration::from_secs(3601);
        assert_eq!(registry.expire(later), [Revoked { owner: 1, number: 1 }]);
        assert_eq!(registry.expire(later), []);
        // One that is unregistered, or replaced, does not end later.
        assert_eq!(registry.register(lasting("a", 4, 10)), YES);
        registry.unregister(1, 4);
        registry.client_gone(1);
        assert!(is_empty(&registry));
    }

    #[test]
    fn counters_are_what_the_owner_said_last() {
        let mut registry = Registry::default();
        assert_eq!(registry.register(request(1, 7, "a")), YES);
        assert_eq!(registry.owners().collect::<Vec<_>>(), [1]);
        let counts = [7, 8].map(|number| Counters { number, calls: 5, nanoseconds: 6 });
        registry.counted(1, &counts);
        // Another's is not its to count.
        registry.counted(2, &[Counters { number: 7, calls: 50, nanoseconds: 60 }]);
        let (names, more) = registry.list(None);
        assert_eq!((names[0].calls, names[0].nanoseconds, names[0].owner, more), (5, 6, 1001, None));
    }
}
