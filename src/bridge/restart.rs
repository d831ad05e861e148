//! What is to happen when a child dies: how often another takes its place, how soon, and who is told.

#![forbid(unsafe_code)]

use crate::error::{Exit, Said};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// No restart is put off for longer: so much can be added to any point in time.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// When and how a bridge whose child has died starts another, for [`Builder::restart`](crate::Builder::restart).
///
/// # Examples
///
/// ```
/// # use callgate::{Restart, bridge};
/// # use std::time::Duration;
/// # struct Decoder;
/// # #[bridge]
/// # impl Decoder {
/// #     pub fn new() -> Self { Decoder }
/// #     #[bridge(idempotent)]
/// #     pub fn decode(&self, data: &[u8]) -> u64 { data.iter().map(|&byte| u64::from(byte)).sum() }
/// #     pub fn crash(&self) { std::process::abort() }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let restart = Restart::on_death()
///     .at_most(10)
///     .within(Duration::from_secs(60))
///     .backoff(Duration::from_millis(5), Duration::from_secs(1))
///     .calls_wait(true);
/// let decoder = Decoder::bridge().restart(restart).start()?;
/// assert!(decoder.crash().is_err());
/// assert_eq!(decoder.decode(&[1, 2, 3])?, 6); // in another child
/// assert_eq!(decoder.generation(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it takes effect in `Builder::restart`"]
pub struct Restart {
    pub(super) most: u32,
    pub(super) within: Duration,
    pub(super) first: Duration,
    pub(super) longest: Duration,
    pub(super) spare: bool,
    pub(super) calls_wait: bool,
}

impl Restart {
    /// Another child whenever one has died, whatever it died of; not after [`Bridge::stop`](crate::Bridge::stop) and
    /// [`Bridge::kill`](crate::Bridge::kill). At most 5 within a minute, unless it is said otherwise.
    pub fn on_death() -> Self {
        Self {
            most: 5,
            within: Duration::from_secs(60),
            first: Duration::from_millis(10),
            longest: Duration::from_secs(1),
            spare: false,
            calls_wait: false,
        }
    }

    /// How many restarts there may be [`within`](Self::within) some time, 1 or more, failed ones included; the bridge then stays
    /// down. Default: 5.
    pub fn at_most(mut self, restarts: u32) -> Self {
        self.most = restarts;
        self
    }

    /// The time that [`at_most`](Self::at_most) is about: restarts that were longer ago do not count. Default: 60 s.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// How long to wait before a restart, when others have just been: before the second [within](Self::within) that time `first`, then
    /// twice as long each time, up to `longest`. The first comes at once. Default: 10 ms, 1 s.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Whether a second child stands ready, with everything but its service, which is built only when it takes over. So coming back
    /// costs less than a start, for the memory of a process that waits. While one is being started, which is right after each start, a death is
    /// noticed when that is done. Default: no.
    pub fn spare(mut self, spare: bool) -> Self {
        self.spare = spare;
        self
    }

    /// Whether calls that are made while there is no child wait for the next one, as long as their timeout allows. Default: no, they
    /// fail at once with [`CallError::Down`](crate::CallError::Down).
    pub fn calls_wait(mut self, wait: bool) -> Self {
        self.calls_wait = wait;
        self
    }

    /// How long to wait before the next restart, which is then counted; `None` = there may be none.
    pub(super) fn next(&self, history: &mut History, now: Instant) -> Option<Duration> {
        if !self.has_left(history, now) {
            return None;
        }
        let wait = match history.0.len() {
            0 => Duration::ZERO,
            earlier => self.first.saturating_mul(1 << (earlier - 1).min(20)).min(self.longest).min(LONGEST),
        };
        history.0.push_back(now + wait);
        Some(wait)
    }

    /// Whether there may be another restart.
    pub(super) fn has_left(&self, history: &mut History, now: Instant) -> bool {
        history.0.retain(|&at| now.saturating_duration_since(at) < self.within);
        history.0.len() < self.most as usize
    }
}

/// When restarts were, as long as they count.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Instant>);

/// The end of a bridge's child that nobody asked for, see [`Builder::on_death`](crate::Builder::on_death).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// The service that it had.
    pub service: &'static str,
    /// Its process number.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// What it did to be killed by its parent, if that is why it ended: see [`CallError::Corrupt`](crate::CallError::Corrupt).
    pub corrupt: Option<&'static str>,
    /// What it said of its end, if it said anything: see [`CallError::Died`](crate::CallError::Died).
    pub last_words: Option<String>,
    /// How many children of this bridge there were before it.
    pub generation: u64,
    /// Whether another will be started.
    pub restarting: bool,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "child {} of the bridge to `{}` {}", self.pid, self.service, self.exit)?;
        match self.corrupt {
            Some(what) => write!(f, " because it broke the protocol ({what})")?,
            None => {}
        }
        Said(&self.last_words).fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn restarts_come_later_and_later_and_then_no_more() {
        let restart = Restart::on_death().at_most(5).within(1000 * MS).backoff(10 * MS, 35 * MS);
        let (mut history, now) = (History::default(), Instant::now());
        let waits: Vec<_> = (0..7).map(|_| restart.next(&mut history, now)).collect();
        let expected = [Some(0), Some(10), Some(20), Some(35), Some(35), None, None];
        assert_eq!(waits, expected.map(|ms| ms.map(|ms: u32| ms * MS)));
    }

    #[test]
    fn restarts_of_long_ago_do_not_count() {
        let restart = Restart::on_death().at_most(2).within(1000 * MS).backoff(10 * MS, 35 * MS);
        let (mut history, now) = (History::default(), Instant::now());
        assert_eq!(restart.next(&mut history, now), Some(Duration::ZERO));
        assert_eq!(restart.next(&mut history, now), Some(10 * MS));
        assert_eq!(restart.next(&mut history, now + 999 * MS), None);
        assert_eq!(restart.next(&mut history, now + 1005 * MS), Some(10 * MS), "one is forgotten, one is not");
        assert_eq!(restart.next(&mut history, now + 5000 * MS), Some(Duration::ZERO));
    }

    #[test]
    fn any_number_of_restarts_can_be_waited_for() {
        let restart = Restart::on_death().at_most(u32::MAX).backoff(Duration::from_secs(1), Duration::MAX);
        let (mut history, now) = (History::default(), Instant::now());
        for _ in 0..100 {
            assert!(restart.next(&mut history, now).is_some());
        }
    }
}
