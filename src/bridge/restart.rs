//! Restart policy: how often and how soon a dead child is replaced, and the events that hooks receive.

#![forbid(unsafe_code)]

use callgate_engine::overdue::Grace;
use callgate_transport::error::{CallName, Exit, LastWordsText, Started};
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Longest delay before a restart. Short enough that adding it to any point in time cannot overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// When and how a bridge replaces a child that has died or hangs, for [`Builder::restart`](crate::Builder::restart).
///
/// | | [`on_failure`](Self::on_failure) | [`on_death`](Self::on_death) |
/// |---|---|---|
/// | the child dies, or breaks the protocol and is killed | replaced | replaced |
/// | a call has timed out, and still runs | replaced, [at most 100 ms later](Self::kill_after) | nothing |
/// | calls while there is no child | [wait](Self::calls_wait) for the next | fail with `CallError::Down` |
/// | [limit on restarts](Self::at_most) | none | none |
/// | [pause](Self::backoff) before a start | none after a child that has answered a call; then 10 ms, 20, 40, up to 5 s | the same |
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
    /// Replaces the child whenever it dies, for whatever reason, except after [`Bridge::stop`](crate::Bridge::stop) or
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

    /// Replaces the child whenever it dies, and also when a call has outlived its timeout: the child that still runs the call is
    /// [killed](Self::kill_after). Calls made while there is no child [wait](Self::calls_wait) for the next one. A call without a
    /// [timeout](crate::Builder::timeout) may run for any time.
    ///
    /// The next call after a hang succeeds in another child even with the same timeout, provided that this is 50 ms or more and the service
    /// takes less than half of it to build. Calls made during the hang wait behind it. If the timeout of one of them passes before the child is
    /// replaced, it fails with [`CallError::TimedOut`](crate::CallError::TimedOut), and says that it had not started. To keep a hang from
    /// affecting other calls, use more [workers](crate::Builder::workers), several bridges, or a longer timeout for the calls that wait.
    pub fn on_failure() -> Self {
        Self { kill_after: Some(Grace::Quarter), calls_wait: true, ..Self::on_death() }
    }

    /// How long a call may run past its timeout before its child is killed. Default: with [`on_failure`](Self::on_failure) a
    /// quarter of the call's timeout, at least 10 ms and at most 100 ms; with [`on_death`](Self::on_death) no limit.
    ///
    /// If the answer arrives within this time, the child stays. The rule covers calls that are running; with several
    /// [workers](crate::Builder::workers) also those that wait in the child for a method with `&mut self` to end. A call that timed out while it
    /// waited behind another does not get the child killed. But if the child runs nothing and still does not begin the call (because it was
    /// stopped, say), it is killed after this time or 100 ms, whichever is longer. The other calls that the child was running fail with
    /// [`CallError::Died`](crate::CallError::Died), or run again in the next child. A call of [`Bridge::begin`](crate::Bridge::begin) is overdue
    /// when its timeout has passed, even if nobody asks for its result.
    pub fn kill_after(mut self, grace: Duration) -> Self {
        self.kill_after = Some(Grace::Of(grace));
        self
    }

    /// Limits the restarts [`within`](Self::within) a period, failed ones included: 1 or more. At the limit the bridge stays down, and calls fail
    /// with [`CallError::Down`](crate::CallError::Down), until [`Bridge::restart`](crate::Bridge::restart) is called. Default: no limit.
    pub fn at_most(mut self, restarts: u32) -> Self {
        self.most = Some(restarts);
        self
    }

    /// The period that [`at_most`](Self::at_most) counts over: older restarts do not count. Default: 60 s.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// Pauses between starts while children die before they have answered a call, or fail to start: `first` before the second start in a
    /// row, then twice as long each time, up to `longest`. The first start comes at once, and so does the one after a child that has answered
    /// a call. Default: 10 ms, 5 s.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest;
        self
    }

    /// Keeps a spare child ready. It has everything but its service, which is built when it takes over. A replacement then costs less than
    /// a start; the price is the memory of an idle process. Default: no.
    pub fn spare(mut self, spare: bool) -> Self {
        self.spare = spare;
        self
    }

    /// Whether calls made while there is no child wait for the next one. A call waits until its timeout; without a timeout, until a child
    /// serves or a start fails. If no child serves by then, it fails with [`CallError::Down`](crate::CallError::Down). A call that does not wait
    /// fails so at once. Default: yes with [`on_failure`](Self::on_failure), no with [`on_death`](Self::on_death).
    pub fn calls_wait(mut self, wait: bool) -> Self {
        self.calls_wait = wait;
        self
    }

    /// Counts the next restart and returns the pause before it; `None` = the limit is reached.
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

    /// Whether the policy allows another restart.
    pub(super) fn has_left(&self, history: &mut History, now: Instant) -> bool {
        history.starts.retain(|&at| now.saturating_duration_since(at) < self.within);
        self.most.is_none_or(|most| history.starts.len() < most as usize)
    }
}

/// The restarts so far.
#[derive(Debug, Default)]
pub(super) struct History {
    /// When the restarts that still count took place. Empty if the policy has no limit.
    starts: VecDeque<Instant>,
    /// Restarts since a child last answered a call.
    fruitless: u32,
}

impl History {
    /// Notes that a child has answered a call, which resets the pause.
    pub(super) fn bear_fruit(&mut self) {
        self.fruitless = 0;
    }
}

/// A child's death that neither [`Bridge::stop`](crate::Bridge::stop) nor [`Bridge::kill`](crate::Bridge::kill) asked for; see
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
    /// How it broke the protocol, if its parent killed it for that: see [`CallError::Corrupt`](crate::CallError::Corrupt).
    pub corrupt: Option<&'static str>,
    /// The call that outlived its timeout, if the child was killed for that: see [`Restart::kill_after`].
    pub overdue: Option<CallName>,
    /// Whether [`Bridge::restart`](crate::Bridge::restart) asked for it.
    pub asked: bool,
    /// The child's last words, if it left any: see [`CallError::Died`](crate::CallError::Died).
    pub last_words: Option<String>,
    /// How many children this bridge had before this one.
    pub generation: u64,
    /// Whether the bridge will start another child.
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

/// Something that happened to a bridge; see [`Builder::on_event`](crate::Builder::on_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first child serves.
    Started {
        /// The service.
        service: &'static str,
        /// The child's process number.
        pid: u32,
    },
    /// A call has timed out. Its child is still alive, for [some time](Restart::kill_after) at least.
    TimedOut {
        /// The call.
        call: CallName,
        /// The child's process number.
        pid: u32,
        /// The time that the call was given.
        timeout: Duration,
        /// Whether the call had started.
        started: Started,
    },
    /// A child has ended without a request to do so.
    Died(Death),
    /// Another child has taken its place.
    Restarted {
        /// The service.
        service: &'static str,
        /// The child's process number.
        pid: u32,
        /// How many children this bridge had before this one.
        generation: u64,
    },
    /// A replacement failed to start. The bridge tries again, unless it gives up.
    NotRestarted {
        /// The service.
        service: &'static str,
        /// The reason, in words.
        why: String,
    },
    /// The bridge starts no more children, unless [`Bridge::restart`](crate::Bridge::restart) asks for one.
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
                write!(f, "the bridge to `{service}` has no replacement child yet: {why}")
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
