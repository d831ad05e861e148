//! Each process's share of the hub's time, whatever the number of its connections and however often it reconnects.

#![forbid(unsafe_code)]

use super::ledger::Process;
use callgate_os::toll::Credit;
use callgate_transport::bounds::hub::{BURST, MAX_CREDITS, MESSAGES};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// The credit that all connections of a process share. Only the hub's thread uses it, so the lock is never contended.
pub(super) type SharedCredit = Arc<Mutex<Credit>>;

/// Credit that no other connection has.
pub(super) fn own() -> SharedCredit {
    own_for(BURST)
}

/// Credit for this many messages at once, that no other connection has.
pub(super) fn own_for(messages: u32) -> SharedCredit {
    Arc::new(Mutex::new(Credit::new(messages, MESSAGES)))
}

/// The credits of all processes that have joined.
#[derive(Debug, Default)]
pub(super) struct Credits(HashMap<Process, SharedCredit>);

impl Credits {
    /// The credit of a process. It outlives the connections, so that reconnecting earns no new credit.
    pub(super) fn of(&mut self, process: Process) -> SharedCredit {
        if self.0.len() >= MAX_CREDITS {
            let now = Instant::now();
            self.0.retain(|_, credit| Arc::strong_count(credit) > 1 || !credit.lock().is_full(now));
        }
        self.0.entry(process).or_insert_with(own).clone()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use callgate_os::pidfd::Identity;

    #[test]
    fn fault_43_a_process_that_joins_again_has_the_credit_that_it_had() {
        let mut credits = Credits::default();
        let [one, other] = [1, 2].map(Identity::of_nobody);
        let first = credits.of(one);
        assert!(first.lock().take(BURST));
        first.lock().charge(100 * MESSAGES);
        assert!(!credits.of(one).lock().take(1), "another connection");
        assert!(credits.of(other).lock().take(1), "another process");
        drop(first);
        for process in 3..3 + MAX_CREDITS as u64 {
            credits.of(Identity::of_nobody(process));
        }
        assert!(!credits.of(one).lock().take(1), "it has left, and others have come");
        assert!(credits.0.len() < MAX_CREDITS, "those who have used nothing are forgotten");
    }
}
