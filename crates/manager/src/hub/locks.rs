//! Named locks and semaphores: their holders and their queues.
//!
//! A lock is a semaphore of one permit. Requests are served in order. Knows no sockets; returns the messages to send.

#![forbid(unsafe_code)]

use super::connection::ClientId;
use crate::protocol::{FromHub, check_name};
use callgate_transport::bounds::hub::{MAX_LOCKS, MAX_PERMITS};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All locks.
#[derive(Debug, Default)]
pub(super) struct Locks {
    by_name: HashMap<Arc<str>, LockState>,
    /// The holder and the lock of each grant, by the grant's number.
    grants: HashMap<u64, (ClientId, Arc<str>)>,
    /// What each client holds and waits for, to release it when the client is gone.
    of_client: HashMap<ClientId, Claims>,
    /// When each wait times out.
    deadlines: BTreeSet<(Instant, ClientId, u64)>,
    /// Unused locks, kept only to report that they were abandoned.
    remembered: BTreeSet<Arc<str>>,
    next_grant: u64,
    next_ticket: u64,
}

#[derive(Debug)]
struct LockState {
    /// `None` = it is a lock, of one permit.
    permits: Option<u32>,
    held: u32,
    /// The queue, by ticket: in the order of service.
    waiting: BTreeMap<u64, QueuedLock>,
    /// Permits whose holders ended without releasing them, not yet reported to the next holder.
    abandoned: u32,
}

#[derive(Debug)]
struct QueuedLock {
    client: ClientId,
    seq: u64,
}

#[derive(Debug, Default)]
struct Claims {
    grants: BTreeSet<u64>,
    /// The locks that it waits for, by the number of the request.
    waits: BTreeMap<u64, LockWait>,
}

#[derive(Debug)]
struct LockWait {
    name: Arc<str>,
    /// Its place in the queue.
    ticket: u64,
    deadline: Option<Instant>,
}

/// Messages to send, with their receivers.
pub(super) type LockNotices = Vec<(ClientId, FromHub)>;

impl LockState {
    fn is_free(&self) -> bool {
        self.held < self.permits.unwrap_or(1)
    }

    fn is_unused(&self) -> bool {
        self.held == 0 && self.waiting.is_empty()
    }
}

impl Locks {
    /// Requests the lock `name` for `client`, or a permit of a semaphore with `permits` of them, within `limit`.
    pub(super) fn acquire(
        &mut self,
        client: ClientId,
        seq: u64,
        name: &str,
        permits: Option<u32>,
        limit: Option<Duration>,
    ) -> LockNotices {
        let name = match self.check(client, seq, name, permits) {
            Ok(name) => name,
            Err(why) => return vec![(client, FromHub::Refused { seq, why })],
        };
        let new = LockState { permits, held: 0, waiting: BTreeMap::new(), abandoned: 0 };
        let lock = self.by_name.entry(name.clone()).or_insert(new);
        // An unused semaphore may change its count.
        lock.permits = permits;
        lock.abandoned = lock.abandoned.min(permits.unwrap_or(1));
        let is_free = lock.is_free() && lock.waiting.is_empty();
        if !is_free && limit.is_some_and(|limit| limit.is_zero()) {
            return vec![(client, FromHub::NotGranted { seq })];
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        lock.waiting.insert(ticket, QueuedLock { client, seq });
        self.remembered.remove(&name);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.deadlines.extend(deadline.map(|at| (at, client, seq)));
        self.of_client.entry(client).or_default().waits.insert(seq, LockWait { name: name.clone(), ticket, deadline });
        self.serve(&name)
    }

    fn check(&mut self, client: ClientId, seq: u64, name: &str, permits: Option<u32>) -> Result<Arc<str>, String> {
        check_name(name)?;
        if permits == Some(0) {
            return Err("a semaphore must have at least one permit".into());
        }
        if let Some(claims) = self.of_client.get(&client) {
            if claims.waits.contains_key(&seq) {
                return Err(format!("this process already waits under number {seq}"));
            }
            if claims.waits.len() + claims.grants.len() >= MAX_PERMITS {
                return Err(format!("this process holds and waits for {MAX_PERMITS} locks, which is the limit"));
            }
        }
        match self.by_name.get_key_value(name) {
            Some((_, lock)) if lock.permits != permits && !lock.is_unused() => {
                Err(format!("`{name}` is {}, not {}", kind(lock.permits), kind(permits)))
            }
            Some((name, _)) => Ok(name.clone()),
            None => {
                if self.by_name.len() >= MAX_LOCKS {
                    self.make_room();
                }
                if self.by_name.len() >= MAX_LOCKS {
                    return Err(format!("the hub has {MAX_LOCKS} locks, which is the limit"));
                }
                Ok(name.into())
            }
        }
    }

    /// Drops the locks that are kept only to report that they were abandoned.
    fn make_room(&mut self) {
        for name in std::mem::take(&mut self.remembered) {
            self.by_name.remove(&name);
        }
    }

    /// Grants free permits to the queue, and drops the lock if it is unused.
    fn serve(&mut self, name: &Arc<str>) -> LockNotices {
        let mut told = LockNotices::new();
        let Some(lock) = self.by_name.get_mut(name) else { return told };
        while lock.is_free()
            && let Some((_, QueuedLock { client, seq })) = lock.waiting.pop_first()
        {
            let grant = self.next_grant;
            self.next_grant += 1;
            lock.held += 1;
            let abandoned = lock.abandoned > 0;
            lock.abandoned -= u32::from(abandoned);
            self.grants.insert(grant, (client, name.clone()));
            let claims = self.of_client.entry(client).or_default();
            claims.grants.insert(grant);
            let deadline = claims.waits.remove(&seq).and_then(|wait| wait.deadline);
            deadline.map(|at| self.deadlines.remove(&(at, client, seq)));
            told.push((client, FromHub::Granted { seq, grant, abandoned }));
        }
        match (lock.is_unused(), lock.abandoned) {
            (false, _) => {}
            (true, 0) => drop(self.by_name.remove(name)),
            (true, _) => drop(self.remembered.insert(name.clone())),
        }
        told
    }

    /// Releases a grant of `client`. `None` if it has no such grant.
    pub(super) fn release(&mut self, client: ClientId, grant: u64) -> Option<LockNotices> {
        self.grants.get(&grant).filter(|(holder, _)| *holder == client)?;
        Some(self.let_go(grant, 0))
    }

    /// Ends a grant.
    fn let_go(&mut self, grant: u64, abandoned: u32) -> LockNotices {
        let Some((client, name)) = self.grants.remove(&grant) else { return LockNotices::new() };
        if let Some(lock) = self.by_name.get_mut(&name) {
            lock.held -= 1;
            lock.abandoned += abandoned;
        }
        if let Some(claims) = self.of_client.get_mut(&client) {
            claims.grants.remove(&grant);
        }
        self.forget_claims(client);
        self.serve(&name)
    }

    /// Cancels the request `seq` of `client`, and tells the client if it was waiting.
    pub(super) fn cancel(&mut self, client: ClientId, seq: u64) -> LockNotices {
        let Some(mut told) = self.stop_waiting(client, seq) else { return LockNotices::new() };
        told.push((client, FromHub::NotGranted { seq }));
        told
    }

    /// `None` if it did not wait.
    fn stop_waiting(&mut self, client: ClientId, seq: u64) -> Option<LockNotices> {
        let LockWait { name, ticket, deadline } = self.of_client.get_mut(&client)?.waits.remove(&seq)?;
        deadline.map(|at| self.deadlines.remove(&(at, client, seq)));
        self.forget_claims(client);
        let lock = self.by_name.get_mut(&name)?;
        lock.waiting.remove(&ticket);
        Some(self.serve(&name))
    }

    fn forget_claims(&mut self, client: ClientId) {
        if self.of_client.get(&client).is_some_and(|claims| claims.grants.is_empty() && claims.waits.is_empty()) {
            self.of_client.remove(&client);
        }
    }

    /// Releases what a client that is gone held, and cancels its requests.
    pub(super) fn client_gone(&mut self, client: ClientId) -> LockNotices {
        let Some(claims) = self.of_client.get(&client) else { return LockNotices::new() };
        let (grants, waits) = (claims.grants.clone(), claims.waits.keys().copied().collect::<Vec<_>>());
        // Cancel first, so that it is granted nothing more.
        let mut told: LockNotices =
            waits.into_iter().filter_map(|seq| self.stop_waiting(client, seq)).flatten().collect();
        told.extend(grants.into_iter().flat_map(|grant| self.let_go(grant, 1)));
        told
    }

    /// When the next wait times out.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, ..)| *at)
    }

    /// Ends the waits that have timed out.
    pub(super) fn expire(&mut self, now: Instant) -> LockNotices {
        let mut told = LockNotices::new();
        while let Some(&(at, client, seq)) = self.deadlines.first()
            && at <= now
        {
            told.extend(self.cancel(client, seq));
            self.deadlines.remove(&(at, client, seq));
        }
        told
    }
}

/// The word for something with this many permits.
fn kind(permits: Option<u32>) -> String {
    permits.map_or_else(|| "a lock".into(), |permits| format!("a semaphore with {permits} permits"))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn granted(told: &LockNotices) -> Vec<(ClientId, u64, bool)> {
        told.iter()
            .map(|(client, message)| match message {
                FromHub::Granted { grant, abandoned, .. } => (*client, *grant, *abandoned),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn refused(told: &LockNotices) -> bool {
        matches!(told[..], [(_, FromHub::Refused { .. })])
    }

    fn is_empty(locks: &Locks) -> bool {
        locks.by_name.is_empty()
            && locks.grants.is_empty()
            && locks.of_client.is_empty()
            && locks.deadlines.is_empty()
            && locks.remembered.is_empty()
    }

    #[test]
    fn who_asks_first_is_served_first() {
        let mut locks = Locks::default();
        assert_eq!(granted(&locks.acquire(1, 10, "a", None, None)), [(1, 0, false)]);
        assert_eq!(locks.acquire(2, 20, "a", None, None), []);
        assert_eq!(locks.acquire(3, 30, "a", None, None), []);
        assert_eq!(locks.acquire(1, 11, "a", None, None), [], "not even for who has it");
        assert_eq!(locks.release(2, 0), None, "not its own");
        assert_eq!(granted(&locks.release(1, 0).unwrap()), [(2, 1, false)]);
        assert_eq!(locks.release(1, 0), None, "not twice");
        assert_eq!(granted(&locks.release(2, 1).unwrap()), [(3, 2, false)]);
        assert_eq!(granted(&locks.release(3, 2).unwrap()), [(1, 3, false)]);
        assert_eq!(locks.release(1, 3), Some(vec![]));
        assert!(is_empty(&locks));
    }

    #[test]
    fn a_semaphore_has_as_many_holders_as_permits() {
        let mut locks = Locks::default();
        for client in 1..=3 {
            assert_eq!(granted(&locks.acquire(client, 1, "s", Some(3), None)), [(client, client - 1, false)]);
        }
        assert_eq!(locks.acquire(4, 1, "s", Some(3), None), []);
        assert!(refused(&locks.acquire(5, 1, "s", Some(2), None)), "another count");
        assert!(refused(&locks.acquire(5, 1, "s", None, None)), "nor is it a lock");
        assert!(refused(&locks.acquire(5, 1, "t", Some(0), None)));
        assert!(refused(&locks.acquire(5, 1, "", None, None)));
        assert_eq!(granted(&locks.release(2, 1).unwrap()), [(4, 3, false)]);
        for (client, grant) in [(1, 0), (3, 2), (4, 3)] {
            assert_eq!(locks.release(client, grant), Some(vec![]));
        }
        assert!(is_empty(&locks));
        assert_eq!(
            granted(&locks.acquire(5, 1, "s", Some(2), None)),
            [(5, 4, false)],
            "nobody uses it: another count will do"
        );
    }

    #[test]
    fn the_next_holder_is_told_of_one_that_died() {
        let mut locks = Locks::default();
        locks.acquire(1, 1, "a", None, None);
        locks.acquire(2, 1, "a", None, None);
        assert_eq!(granted(&locks.client_gone(1)), [(2, 1, true)]);
        locks.acquire(3, 1, "a", None, None);
        assert_eq!(granted(&locks.release(2, 1).unwrap()), [(3, 2, false)], "told once");
        // Also when nobody waited.
        assert_eq!(locks.client_gone(3), []);
        assert_eq!(granted(&locks.acquire(4, 1, "a", None, None)), [(4, 3, true)]);
        assert_eq!(locks.release(4, 3), Some(vec![]));
        assert!(is_empty(&locks));
    }

    #[test]
    fn who_is_gone_waits_no_longer() {
        let mut locks = Locks::default();
        locks.acquire(1, 1, "a", None, None);
        locks.acquire(2, 1, "a", None, Some(Duration::from_secs(60)));
        locks.acquire(2, 2, "a", None, None);
        locks.acquire(3, 1, "a", None, None);
        assert_eq!(locks.client_gone(2), []);
        assert_eq!(granted(&locks.release(1, 0).unwrap()), [(3, 1, false)]);
        assert_eq!(locks.client_gone(3), []);
        // A client that holds it, and waits for it too.
        locks.acquire(4, 1, "a", None, None);
        locks.acquire(4, 2, "a", None, None);
        assert_eq!(locks.client_gone(4), []);
        assert!(locks.of_client.is_empty() && locks.grants.is_empty() && locks.deadlines.is_empty());
    }

    #[test]
    fn waits_end_by_time_and_by_word() {
        let mut locks = Locks::default();
        locks.acquire(1, 1, "a", None, Some(Duration::ZERO));
        let none = [(2, FromHub::NotGranted { seq: 5 })];
        assert_eq!(locks.acquire(2, 5, "a", None, Some(Duration::ZERO)), none);
        assert_eq!(locks.acquire(2, 5, "a", None, Some(Duration::from_secs(60))), []);
        assert!(refused(&locks.acquire(2, 5, "a", None, None)), "two under one number");
        assert_eq!(locks.expire(Instant::now()), []);
        assert_eq!(locks.expire(Instant::now() + Duration::from_secs(61)), none);
        assert_eq!(locks.next_deadline(), None);
        assert_eq!(locks.acquire(2, 5, "a", None, Some(Duration::MAX)), []);
        assert_eq!(locks.next_deadline(), None, "beyond what the clock can tell");
        assert_eq!(locks.cancel(2, 5), none);
        assert_eq!(locks.cancel(2, 5), []);
        assert_eq!(locks.cancel(1, 1), [], "it has been granted");
        assert_eq!(locks.release(1, 0), Some(vec![]));
        assert!(is_empty(&locks));
    }

    #[test]
    fn there_are_so_many_locks_and_no_more() {
        let mut locks = Locks::default();
        let clients = (MAX_LOCKS / MAX_PERMITS) as u64;
        for client in 0..clients {
            for seq in 0..MAX_PERMITS as u64 {
                assert_eq!(locks.acquire(client, seq, &format!("lock {client} {seq}"), None, None).len(), 1);
            }
        }
        assert!(refused(&locks.acquire(1, 9999, "lock 0 0", None, None)), "too many of one client");
        assert!(refused(&locks.acquire(99, 1, "one more", None, None)), "too many in all");
        assert_eq!(locks.acquire(99, 1, "lock 1 0", None, None), [], "one that there is");
        // Those that are only remembered because they were abandoned make way.
        assert_eq!(granted(&locks.client_gone(1)).len(), 1);
        assert_eq!((locks.by_name.len(), locks.remembered.len()), (MAX_LOCKS, MAX_PERMITS - 1));
        assert_eq!(locks.acquire(99, 3, "lock 1 1", None, None).len(), 1, "one that is in use again stays");
        assert_eq!(granted(&locks.acquire(99, 2, "one more", None, None)).len(), 1);
        assert_eq!((locks.by_name.len(), locks.remembered.len()), (MAX_LOCKS - MAX_PERMITS + 3, 0));
        assert!(locks.by_name.contains_key("lock 1 1"));
    }

    #[test]
    fn a_lock_is_no_semaphore_of_one_permit() {
        let mut locks = Locks::default();
        locks.acquire(1, 1, "a", None, None);
        locks.acquire(1, 2, "s", Some(1), None);
        assert!(refused(&locks.acquire(2, 1, "a", Some(1), None)));
        assert!(refused(&locks.acquire(2, 1, "s", None, None)));
    }

    /// Without it, to go costs each that waits a look at all others: minutes.
    #[test]
    fn very_many_who_wait_cost_nothing_when_one_goes() {
        let (mut locks, begun) = (Locks::default(), Instant::now());
        const CLIENTS: u64 = 1024;
        for seq in 0..MAX_PERMITS as u64 {
            for client in 0..CLIENTS {
                locks.acquire(client, seq, "a", None, None);
            }
        }
        // The last first, so that whoever looks from the front looks at all.
        for client in (1..CLIENTS).rev() {
            assert_eq!(locks.client_gone(client), []);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        locks.client_gone(0);
        locks.make_room();
        assert!(is_empty(&locks));
    }
}
