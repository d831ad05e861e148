//! Limits of how often processes are introduced, which bound the mappings, descriptors and threads that this costs an owner.
//!
//! Counts belong to processes and owners, not to connections, so that reconnecting does not reset them.

#![forbid(unsafe_code)]

use super::connection::ClientId;
use callgate_os::toll::Credit;
use callgate_transport::bounds::hub::{MAX_COUNTS, OF_OWNER, OF_PROCESS};
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// The counts of introductions. Each introduction takes one message of these credits.
#[derive(Debug, Default)]
pub(super) struct Rates {
    of_process: HashMap<u32, Credit>,
    of_owner: HashMap<ClientId, Credit>,
}

impl Rates {
    /// Counts an introduction of `process` to `owner`. An error says whose count is used up.
    pub(super) fn take(&mut self, process: u32, owner: ClientId, now: Instant) -> Result<(), &'static str> {
        let caller = rate(&mut self.of_process, process, OF_PROCESS, now);
        if !caller.has(1, now) {
            return Err("this process is introduced too often: the limit is 64 times a second");
        }
        let called = rate(&mut self.of_owner, owner, OF_OWNER, now);
        if !called.has(1, now) {
            return Err("others are introduced to that process too often: the limit is 256 times a second");
        }
        caller.charge(1);
        called.charge(1);
        Ok(())
    }
}

/// The credit of one of many, for (at once, in a second).
fn rate<K: Eq + Hash>(
    rates: &mut HashMap<K, Credit>,
    key: K,
    (most, in_a_second): (u32, u32),
    now: Instant,
) -> &mut Credit {
    if rates.len() >= MAX_COUNTS {
        rates.retain(|_, credit| !credit.is_full(now));
    }
    rates.entry(key).or_insert_with(|| Credit::each_second(most, in_a_second, now))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fault_43_introductions_are_limited_for_a_process_and_for_an_owner() {
        let (mut rates, now) = (Rates::default(), Instant::now());
        let taken = |rates: &mut Rates, process, at| (0..).take_while(|_| rates.take(process, 1, at).is_ok()).count();
        assert_eq!(taken(&mut rates, 7, now), 1024);
        assert_eq!(taken(&mut rates, 7, now + Duration::from_secs(1)), 64, "another connection does not help");
        // Many processes together, and one that comes later.
        let all: usize = (8..20).map(|process| taken(&mut rates, process, now + Duration::from_secs(1))).sum();
        assert!((4096 - 1088..=4096 + 256).contains(&all), "{all}");
        assert!(rates.take(99, 1, now + Duration::from_secs(1)).is_err());
        assert!(rates.take(99, 2, now + Duration::from_secs(1)).is_ok(), "to another owner");
        assert!(rates.take(99, 1, now + Duration::from_secs(3)).is_ok());
        for process in 0..2 * MAX_COUNTS as u32 {
            let _ = rates.take(process, 3, now + Duration::from_secs(1000 + u64::from(process)));
        }
        assert!(rates.of_process.len() <= MAX_COUNTS + 1);
    }
}
