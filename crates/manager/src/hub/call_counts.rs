//! Asking owners how often their callbacks have been called, for whoever asks the hub for names.
//!
//! All owners are asked at once, and one round at a time: who asks meanwhile waits for the next, so that what it is told is no older than
//! its question, and many questions are not many rounds. Knows no sockets.

#![forbid(unsafe_code)]

use super::connection::ClientId;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// An owner that has not answered after that long is not waited for.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Those who have asked for names, and the round that is under way.
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
    /// The client whose question made it necessary.
    pub(super) asker: ClientId,
    /// Those who are to be asked.
    pub(super) owners: Vec<ClientId>,
}

impl CallCounts {
    /// `client` asks under the number `seq`.
    pub(super) fn ask(&mut self, client: ClientId, seq: u64, now: Instant) {
        self.asked.push(NamesQuery { client, seq, round: self.next, deadline: now + PATIENCE });
    }

    /// Whether there is anything to do.
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
        self.round = Some(Round { waits_for, deadline: now + PATIENCE });
        self.next += 1;
        Some(CountRound { number: self.next - 1, asker, owners })
    }

    /// `owner` has said all that it has to say in round `number`.
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

    /// Who is to be answered now, and under which number.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(ClientId, u64)> {
        if self.round.as_ref().is_some_and(|round| round.waits_for.is_empty() || round.deadline <= now) {
            self.round = None;
        }
        // A round that is over answers all before the next.
        let open = self.next - u64::from(self.round.is_some());
        let due = self.asked.extract_if(.., |asked| asked.round < open || asked.deadline <= now);
        due.map(|asked| (asked.client, asked.seq)).collect()
    }

    /// When something will be due, though nobody says anything.
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
        let (mut census, now) = (CallCounts::default(), Instant::now());
        assert_eq!(census.begin([1, 2].into_iter(), now), None, "nobody has asked");
        census.counted(1, u64::MAX);
        census.ask(7, 70, now);
        let mut begun = census.begin([1, 2].into_iter(), now).unwrap();
        begun.owners.sort();
        assert_eq!(begun, CountRound { number: 0, asker: 7, owners: vec![1, 2] });
        census.counted(1, 0);
        census.ask(8, 80, now);
        assert_eq!(census.begin([1, 2].into_iter(), now), None, "one at a time");
        assert_eq!(census.due(now), []);
        census.counted(2, 5);
        assert_eq!(census.due(now), [], "of another round");
        census.counted(2, u64::MAX);
        assert_eq!(census.due(now), [], "of none that there will be");
        census.counted(2, 0);
        assert_eq!(census.due(now), [(7, 70)]);
        let begun = CountRound { number: 1, asker: 8, owners: vec![1] };
        assert_eq!(census.begin([1].into_iter(), now), Some(begun));
        census.counted(1, 0);
        assert_eq!(census.due(now), []);
        census.client_gone(1);
        assert_eq!(census.due(now), [(8, 80)]);
        assert_eq!(census.next_deadline(), None);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_that() {
        let (mut census, now) = (CallCounts::default(), Instant::now());
        census.ask(7, 70, now);
        let begun = CountRound { number: 0, asker: 7, owners: vec![1] };
        assert_eq!(census.begin([1].into_iter(), now), Some(begun));
        let later = now + PATIENCE / 2;
        census.ask(8, 80, later);
        assert_eq!(census.asked_by(8), 1);
        assert_eq!(census.next_deadline(), Some(now + PATIENCE));
        assert_eq!(census.due(now + PATIENCE), [(7, 70)]);
        // The second is answered by its own deadline, though its round is not over.
        let begun = CountRound { number: 1, asker: 8, owners: vec![1] };
        assert_eq!(census.begin([1].into_iter(), now + PATIENCE), Some(begun));
        assert_eq!(census.due(later + PATIENCE), [(8, 80)]);
        census.ask(9, 90, later + PATIENCE);
        census.client_gone(9);
        assert_eq!(census.due(later + PATIENCE * 9), []);
    }

    #[test]
    fn without_owners_the_answer_comes_at_once() {
        let (mut census, now) = (CallCounts::default(), Instant::now());
        census.ask(7, 70, now);
        let begun = CountRound { number: 0, asker: 7, owners: vec![] };
        assert_eq!(census.begin(std::iter::empty(), now), Some(begun));
        assert_eq!(census.due(now), [(7, 70)]);
    }
}
