//! How much of the hub's time each process may take, however many connections it has and however often it joins.

#![forbid(unsafe_code)]

use super::ledger::Process;
use callgate_os::toll::Credit;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A process is listened to for so many messages at once, and for [`MESSAGES`] more in each spell, or as long as those take: one that floods the hub
/// takes part of a CPU, and no more.
const BURST: u32 = 4096;
const MESSAGES: u32 = 256;

/// Credits that are kept; of more, those are forgotten that are as good as new.
const MOST_CREDITS: usize = 4096;

/// What all connections of a process have in common. Only the hub's thread uses it, so nobody waits for the lock.
pub(super) type SharedCredit = Arc<Mutex<Credit>>;

/// Credit that no other connection has.
pub(super) fn own() -> SharedCredit {
    own_for(BURST)
}

/// The same, for so many messages at once.
pub(super) fn own_for(messages: u32) -> SharedCredit {
    Arc::new(Mutex::new(Credit::new(messages, MESSAGES)))
}

/// The credits of all processes that have joined.
#[derive(Debug, Default)]
pub(super) struct Credits(HashMap<Process, SharedCredit>);

impl Credits {
    /// The credit of a process, which outlives its connections: to join again is no way to more.
    pub(super) fn of(&mut self, process: Process) -> SharedCredit {
        if self.0.len() >= MOST_CREDITS {
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
        for process in 3..3 + MOST_CREDITS as u64 {
            credits.of(Identity::of_nobody(process));
        }
        assert!(!credits.of(one).lock().take(1), "it has left, and others have come");
        assert!(credits.0.len() < MOST_CREDITS, "those who have used nothing are forgotten");
    }
}
