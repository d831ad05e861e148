//! Rounds in which the hub asks owners for their call counts, to answer clients that list names.
//!
//! A round asks all owners at once, and one round runs at a time. A question that arrives during a round waits for the next, so that its answer
//! is not older than the question, and many questions share one round. Knows no sockets.

#![forbid(unsafe_code)]

use super::connection::ClientId;
use callgate_transport::bounds::hub::COUNT_TIMEOUT;
use std::collections::HashSet;
use std::time::Instant;

/// Unanswered questions, and the current round.
#[derive(Debug, Default)]
pub(super) struct CallCounts {
    asked: Vec<NamesQuery>,
    round: Option<Round>,
    /// The number of the next round.
    next: u64,
}

#[derive(Debug)]
struct NamesQuery {
    client: ClientId,
    seq: u64,
    /// The round that answers it.
    round: u64,
    deadline: Instant,
}

#[derive(Debug)]
struct Round {
    /// Owners that have not answered.
    waits_for: HashSet<ClientId>,
    deadline: Instant,
}

/// A round that has just begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CountRound {
    pub(super) number: u64,
    /// The client whose question started it.
    pub(super) asker: ClientId,
    /// The owners to ask.
    pub(super) owners: Vec<ClientId>,
}

impl CallCounts {
    /// Notes the question `seq` of `client`.
    pub(super) fn ask(&mut self, client: ClientId, seq: u64, now: Instant) {
        self.asked.push(NamesQuery { client, seq, round: self.next, deadline: now + COUNT_TIMEOUT });
    }

    /// Whether a round runs or a question is open.
    pub(super) fn is_busy(&self) -> bool {
        self.round.is_some() || !self.asked.is_empty()
    }

    /// How many questions of `client` are unanswered.
    pub(super) fn asked_by(&self, client: ClientId) -> usize {
        self.asked.iter().filter(|asked| asked.client == client).count()
    }

    /// Begins a round if one is needed.
    pub(super) fn begin(&mut self, owners: impl Iterator<Item = ClientId>, now: Instant) -> Option<CountRound> {
        let asker = self.asked.first().filter(|_| self.round.is_none())?.client;
        let waits_for: HashSet<_> = owners.collect();
        let owners = waits_for.iter().copied().collect();
        self.round = Some(Round { waits_for, deadline: now + COUNT_TIMEOUT });
        self.next += 1;
        Some(CountRound { number: self.next - 1, asker, owners })
    }

    /// Notes that `owner` has answered in round `number`.
    pub(super) fn counted(&mut self, owner: ClientId, number: u64) {
        if self.next.checked_sub(1) == Some(number) {
            self.no_longer_wait_for(owner);
        }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.asked.retain(|asked| asked.client != client);
        self.no_longer_wait_for(client);
    }

    fn no_longer_wait_for(&mut self, owner: ClientId) {
        if let Some(round) = &mut self.round {
            round.waits_for.remove(&owner);
        }
    }

    /// The clients to answer now, with the numbers of their questions.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(ClientId, u64)> {
        if self.round.as_ref().is_some_and(|round| round.waits_for.is_empty() || round.deadline <= now) {
            self.round = None;
        }
        // Answer all questions of a finished round before the next one.
        let open = self.next - u64::from(self.round.is_some());
        let due = self.asked.extract_if(.., |asked| asked.round < open || asked.deadline <= now);
        due.map(|asked| (asked.client, asked.seq)).collect()
    }

    /// When the current round runs out of time.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let asked = self.asked.iter().map(|asked| asked.deadline);
        asked.chain(self.round.as_ref().map(|round| round.deadline)).min()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_round_waits_for_the_next() {
        let (mut counts, now) = (CallCounts::default(), Instant::now());
        assert_eq!(counts.begin([1, 2].into_iter(), now), None, "nobody has asked");
        counts.counted(1, u64::MAX);
        counts.ask(7, 70, now);
        let mut begun = counts.begin([1, 2].into_iter(), now).unwrap();
        begun.owners.sort();
        assert_eq!(begun, CountRound { number: 0, asker: 7, owners: vec![1, 2] });
        counts.counted(1, 0);
        counts.ask(8, 80, now);
        assert_eq!(counts.begin([1, 2].into_iter(), now), None, "one at a time");
        assert_eq!(counts.due(now), []);
        counts.counted(2, 5);
        assert_eq!(counts.due(now), [], "of another round");
        counts.counted(2, u64::MAX);
        assert_eq!(counts.due(now), [], "of none that there will be");
        counts.counted(2, 0);
        assert_eq!(counts.due(now), [(7, 70)]);
        let begun = CountRound { number: 1, asker: 8, owners: vec![1] };
        assert_eq!(counts.begin([1].into_iter(), now), Some(begun));
        counts.counted(1, 0);
        assert_eq!(counts.due(now), []);
        counts.client_gone(1);
        assert_eq!(counts.due(now), [(8, 80)]);
        assert_eq!(counts.next_deadline(), None);
    }

    #[test]
    fn a_round_does_not_wait_for_a_silent_owner() {
        let (mut counts, now) = (CallCounts::default(), Instant::now());
        counts.ask(7, 70, now);
        let begun = CountRound { number: 0, asker: 7, owners: vec![1] };
        assert_eq!(counts.begin([1].into_iter(), now), Some(begun));
        let later = now + COUNT_TIMEOUT / 2;
        counts.ask(8, 80, later);
        assert_eq!(counts.asked_by(8), 1);
        assert_eq!(counts.next_deadline(), Some(now + COUNT_TIMEOUT));
        assert_eq!(counts.due(now + COUNT_TIMEOUT), [(7, 70)]);
        // The second is answered by its own deadline, though its round is not over.
        let begun = CountRound { number: 1, asker: 8, owners: vec![1] };
        assert_eq!(counts.begin([1].into_iter(), now + COUNT_TIMEOUT), Some(begun));
        assert_eq!(counts.due(later + COUNT_TIMEOUT), [(8, 80)]);
        counts.ask(9, 90, later + COUNT_TIMEOUT);
        counts.client_gone(9);
        assert_eq!(counts.due(later + COUNT_TIMEOUT * 9), []);
    }

    #[test]
    fn without_owners_the_answer_comes_at_once() {
        let (mut counts, now) = (CallCounts::default(), Instant::now());
        counts.ask(7, 70, now);
        let begun = CountRound { number: 0, asker: 7, owners: vec![] };
        assert_eq!(counts.begin(std::iter::empty(), now), Some(begun));
        assert_eq!(counts.due(now), [(7, 70)]);
    }
}
