//! The restart policy: how often and how soon a dead child is replaced, and what the hooks learn.

#![forbid(unsafe_code)]

use callgate_engine::overdue::Grace;
use callgate_transport::error::{CallName, Exit, LastWordsText, Started};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// The longest delay of a restart. Adding it to an `Instant` cannot overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// When and how a bridge whose child has died, or is of no more use, starts another, for [`Builder::restart`](crate::Builder::restart).
///
/// | | [`on_failure`](Self::on_failure) | [`on_death`](Self::on_death) |
/// |---|---|---|
/// | the child dies, or breaks the protocol and is killed | another child | another child |
/// | a call has timed out, and still runs | another child, [at most 100 ms later](Self::kill_after) | nothing |
/// | calls while there is no child | [wait](Self::calls_wait) for the next | fail with `CallError::Down` |
/// | [how often](Self::at_most) | without end | without end |
/// | [waits](Self::backoff) between starts | none after a child that has answered a call; then 10 ms, 20, 40, up to 5 s | the same |
///
/// # Examples
///
/// ```
/// # use callgate::{CallError, Restart, bridge};
/// # use std::time::Duration;
/// # struct Decoder;
/// # #[bridge]
/// # impl Decoder {
/// #     pub fn new() -> Self { Decoder }
/// #     #[bridge(idempotent)]
/// #     pub fn decode(&self, data: &[u8]) -> u64 { data.iter().map(|&byte| u64::from(byte)).sum() }
/// #     pub fn hang(&self) { loop { std::thread::park() } }
/// # }
/// # #[callgate::main]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let decoder = Decoder::bridge().timeout(Duration::from_millis(500)).restart(Restart::on_failure()).start()?;
/// assert!(matches!(decoder.hang(), Err(CallError::TimedOut { .. })));
/// assert_eq!(decoder.decode(&[1, 2, 3])?, 6); // in another child
/// assert_eq!(decoder.generation(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it takes effect in `Builder::restart`"]
pub struct Restart {
    pub(super) most: Option<u32>,
    pub(super) within: Duration,
    pub(super) first: Duration,
    pub(super) longest: Duration,
    pub(super) kill_after: Option<Grace>,
    pub(super) spare: bool,
    pub(super) calls_wait: bool,
}

impl Restart {
    /// Another child whenever one has died, whatever it died of; not after [`Bridge::stop`](crate::Bridge::stop) and
    /// [`Bridge::kill`](crate::Bridge::kill).
    pub fn on_death() -> Self {
        Self {
            most: None,
            within: Duration::from_secs(60),
            first: Duration::from_millis(10),
            longest: Duration::from_secs(5),
            kill_after: None,
            spare: false,
            calls_wait: false,
        }
    }

    /// Another child also when a call has outlived its timeout: the child that still runs it is [killed](Self::kill_after). And calls that are made while
    /// there is no child [wait](Self::calls_wait) for the next one. A call without a [timeout](crate::Builder::timeout) may take as long as it likes.
    ///
    /// The call after a hang is answered by another child also if the two have the same timeout, of 50 ms or more, and the service is built in less
    /// than half of that. Calls that were made while the hang lasted wait behind it: one whose own timeout passes before the child is replaced
    /// fails with [`CallError::TimedOut`](crate::CallError::TimedOut), and had not started. More [workers](crate::Builder::workers), several
    /// bridges or a longer timeout for those that wait keep a hang from others.
    pub fn on_failure() -> Self {
        Self { kill_after: Some(Grace::Quarter), calls_wait: true, ..Self::on_death() }
    }

    /// For how long a call that has timed out may go on before its child is killed. Default: with [`on_failure`](Self::on_failure) a
    /// quarter of the call's timeout, at least 10 ms and at most 100 ms; without end with [`on_death`](Self::on_death).
    ///
    /// If it is answered by then, late as that is, the child stays. It counts while it is being carried out (with several
    /// [workers](crate::Builder::workers) also while it waits there for a method with `&mut self` to end): a call that timed out while it waited
    /// behind another costs nobody's life, but if the child is at nothing and does not begin it (a child that was stopped, say), it does, after
    /// this or 100 ms, whichever is longer. What else the child was at fails with [`CallError::Died`](crate::CallError::Died), or is made again in the next
    /// one. A call of [`Bridge::begin`](crate::Bridge::begin) is overdue when its timeout has passed, whether anybody asks for its result or not.
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.kill_after = Some(Grace::Of(grace));
        self
    }

    /// The most restarts [`within`](Self::within) some time, 1 or more, failed ones included. After that the bridge stays down, and calls fail
    /// with [`CallError::Down`](crate::CallError::Down), until [`Bridge::restart`](crate::Bridge::restart). Default: no limit.
    pub fn at_most(mut self, restarts: u32) -> Self {
        self.most = Some(restarts);
        self
    }

    /// The period of [`at_most`](Self::at_most): earlier restarts do not count. Default: 60 s.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// The delay between starts while children die before they answer a call, or fail to start. The first start comes at once; the second waits
    /// `first`, and each later one twice as long, up to `longest`. A child that answers a call resets this. Default: 10 ms, 5 s.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Whether a second child stands ready. It builds its service only when it takes over. A restart then takes less time, at the cost of an
    /// idle process's memory. Default: no.
    pub fn spare(mut self, spare: bool) -> Self {
        self.spare = spare;
        self
    }

    /// Whether calls made while there is no child wait for the next one. They wait until their timeout; without a timeout, until a child serves
    /// or a start fails. Otherwise they fail at once. Either failure is [`CallError::Down`](crate::CallError::Down). Default: yes with
    /// [`on_failure`](Self::on_failure), no with [`on_death`](Self::on_death).
    pub fn calls_wait(mut self, wait: bool) -> Self {
        self.calls_wait = wait;
        self
    }

    /// Counts another restart, and returns the delay before it; `None` if no more are allowed.
    pub(super) fn next(&self, history: &mut History, now: Instant) -> Option<Duration> {
        if !self.has_left(history, now) {
            return None;
        }
        let wait = match history.fruitless {
            0 => Duration::ZERO,
            earlier => self.first.saturating_mul(1 << (earlier - 1).min(20)).min(self.longest).min(LONGEST),
        };
        history.fruitless = history.fruitless.saturating_add(1);
        if self.most.is_some() {
            history.starts.push_back(now + wait);
        }
        Some(wait)
    }

    /// Whether another restart is allowed.
    pub(super) fn has_left(&self, history: &mut History, now: Instant) -> bool {
        history.starts.retain(|&at| now.saturating_duration_since(at) < self.within);
        self.most.is_none_or(|most| history.starts.len() < most as usize)
    }
}

/// A bridge's past restarts.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Times of the restarts that count towards `at_most`; empty without that limit.
    starts: VecDeque<Instant>,
    /// Restarts since a child last answered a call.
    fruitless: u32,
}

impl History {
    /// A child has answered a call.
    pub(super) fn bear_fruit(&mut self) {
        self.fruitless = 0;
    }
}

/// The end of a bridge's child that [`Bridge::stop`](crate::Bridge::stop) and [`Bridge::kill`](crate::Bridge::kill) did not ask for, see
/// [`Builder::on_death`](crate::Builder::on_death).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// The child's service.
    pub service: &'static str,
    /// The child's process number.
    pub pid: u32,
    /// How the child ended.
    pub exit: Exit,
    /// How the child broke the protocol, if the parent killed it for that: see [`CallError::Corrupt`](crate::CallError::Corrupt).
    pub corrupt: Option<&'static str>,
    /// The call that outlived its timeout, if the parent killed the child for that: see [`Restart::kill_after`].
    pub overdue: Option<CallName>,
    /// Whether [`Bridge::restart`](crate::Bridge::restart) asked for it.
    pub asked: bool,
    /// The child's last message about its end, if any: see [`CallError::Died`](crate::CallError::Died).
    pub last_words: Option<String>,
    /// The number of this bridge's children before this one.
    pub generation: u64,
    /// Whether another will be started.
    pub restarting: bool,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "child {} of the bridge to `{}` {}", self.pid, self.service, self.exit)?;
        match (self.corrupt, self.overdue) {
            (Some(what), _) => write!(f, " because it broke the protocol ({what})"),
            (None, Some(call)) => write!(f, " because its call `{call}` had outlived its timeout"),
            (None, None) if self.asked => f.write_str(" because the bridge was told to restart"),
            (None, None) => Ok(()),
        }?;
        LastWordsText(&self.last_words).fmt(f)
    }
}

/// What happens to a bridge, see [`Builder::on_event`](crate::Builder::on_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Its first child serves.
    Started {
        /// The service.
        service: &'static str,
        /// The child's process number.
        pid: u32,
    },
    /// A call has timed out. Its child lives, for [some time](Restart::kill_after).
    TimedOut {
        /// The call.
        call: CallName,
        /// The child's process number.
        pid: u32,
        /// The time that the call was given.
        timeout: Duration,
        /// Whether the method had started.
        started: Started,
    },
    /// A child has ended, though `stop` and `kill` were not called.
    Died(Death),
    /// Another child has taken its place.
    Restarted {
        /// The service.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// The number of children before it.
        generation: u64,
    },
    /// A replacement failed to start. The bridge tries again unless it gives up.
    NotRestarted {
        /// The service.
        service: &'static str,
        /// The reason, in words.
        why: String,
    },
    /// There will be no other child, unless [`Bridge::restart`](crate::Bridge::restart) asks for one.
    GaveUp {
        /// The service.
        service: &'static str,
        /// The reason, in words.
        why: String,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Started { service, pid } => write!(f, "child {pid} of the bridge to `{service}` serves"),
            Event::TimedOut { call, pid, timeout, started } => {
                write!(f, "call `{call}` of child {pid} has timed out after {timeout:?}; {started}")
            }
            Event::Died(death) => death.fmt(f),
            Event::Restarted { service, pid, generation } => {
                write!(f, "child {pid} of the bridge to `{service}` has taken over, after {generation} others")
            }
            Event::NotRestarted { service, why } => {
                write!(f, "the bridge to `{service}` has no other child yet: {why}")
            }
            Event::GaveUp { service, why } => write!(f, "the bridge to `{service}` stays down: {why}"),
        }
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
        let restart = Restart::on_death().at_most(2).within(1000 * MS);
        let (mut history, now) = (History::default(), Instant::now());
        assert!(restart.next(&mut history, now).is_some());
        assert!(restart.next(&mut history, now).is_some());
        assert_eq!(restart.next(&mut history, now + 999 * MS), None);
        assert!(restart.next(&mut history, now + 1005 * MS).is_some(), "one is forgotten, one is not");
    }

    #[test]
    fn fault_35_restarts_never_end_by_themselves_and_come_soon_after_a_child_that_was_of_use() {
        for restart in [Restart::on_death(), Restart::on_failure()] {
            let (mut history, now) = (History::default(), Instant::now());
            for expected in [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000] {
                assert_eq!(restart.next(&mut history, now), Some(expected * MS));
            }
            for _ in 0..100_000 {
                assert_eq!(restart.next(&mut history, now), Some(5000 * MS));
            }
            history.bear_fruit();
            assert_eq!(restart.next(&mut history, now), Some(Duration::ZERO));
            assert_eq!(restart.next(&mut history, now), Some(10 * MS));
        }
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
