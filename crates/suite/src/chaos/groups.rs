//! Groups of calls that no thread waits in one by one: awaited, cancelled, dropped, taken in any order, batched, one-way, queued.
//!
//! Relies on `victim` for the methods, and on `ledger` for the runs. A group is over when each of its calls has an outcome. Judges nothing but
//! answers.

#![forbid(unsafe_code)]

mod executor;

use self::executor::await_all;
use super::ledger::{CallEntry, CallOutcome, RunLedger};
use super::victim::{NAP, Victim, answer};
use crate::bytes;
use crate::soak::Random;
use callgate::{Bridge, CallError, Calling, Deferred, Pending, Started, Transfer};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// A kind of group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// A task awaits them together.
    Awaited,
    /// The same, but every other one is dropped after it has been polled.
    Raced,
    /// Every other one is cancelled, and the rest are waited for.
    Cancelled,
    /// All are dropped.
    Abandoned,
    /// Their results are taken in any order.
    Pipelined,
    /// They begin in one batch.
    Batched,
    /// Nobody wants their results, and a flush follows.
    OneWay,
    /// There are more than the lanes have room for; some are cancelled while they wait for room.
    Queued,
    /// Their time is over before most have begun.
    Overdue,
    /// A loop of the caller's own polls them whenever the bridge's descriptor is readable.
    Polled,
}

/// Where a group's calls go, and what they draw on.
pub(super) struct GroupScene<'a> {
    pub bridge: &'a Bridge<Victim>,
    pub ledger: &'a RunLedger,
    pub random: &'a mut Random,
    /// The longest large payload, in bytes.
    pub most: usize,
    /// Whether no other thread flushes this bridge meanwhile: then a flush reports what has become of this group's calls, and of no other's.
    pub is_alone: bool,
    /// Whether the bridge may replace its child in the middle of a group.
    pub may_restart: bool,
}

impl GroupKind {
    /// All kinds.
    pub const ALL: [GroupKind; 10] = [
        GroupKind::Awaited,
        GroupKind::Raced,
        GroupKind::Cancelled,
        GroupKind::Abandoned,
        GroupKind::Pipelined,
        GroupKind::Batched,
        GroupKind::OneWay,
        GroupKind::Queued,
        GroupKind::Overdue,
        GroupKind::Polled,
    ];

    /// The kind in a word or two.
    pub fn words(self) -> &'static str {
        match self {
            GroupKind::Awaited => "awaited",
            GroupKind::Raced => "awaited or dropped",
            GroupKind::Cancelled => "cancelled",
            GroupKind::Abandoned => "abandoned",
            GroupKind::Pipelined => "pipelined",
            GroupKind::Batched => "batched",
            GroupKind::OneWay => "one-way",
            GroupKind::Queued => "queued",
            GroupKind::Overdue => "overdue",
            GroupKind::Polled => "polled",
        }
    }

    /// Whether a call of this group may end so while its child lives on.
    pub fn expects(self, outcome: CallOutcome) -> bool {
        use CallOutcome::*;
        let others: &[_] = match self {
            GroupKind::Raced | GroupKind::Abandoned => &[GivenUp],
            GroupKind::Cancelled | GroupKind::Queued => &[Withdrawn, CancelledLate],
            GroupKind::Overdue => &[TimedOut, NeverInTime],
            _ => &[],
        };
        outcome == Answered || others.contains(&outcome)
    }

    /// Makes the calls of one group, and returns the caller's record of each.
    pub(super) fn make(self, scene: &mut GroupScene<'_>) -> Vec<CallEntry> {
        let some = 2 + scene.random.up_to(14);
        match self {
            GroupKind::Awaited => await_all(scene.begin(self, some)),
            GroupKind::Raced => drop_every_other(scene.begin(self, some)),
            GroupKind::Cancelled => {
                let begun = scene.begin(self, some);
                cancel_every_other(scene, begun)
            }
            GroupKind::Abandoned => scene.begin(self, some).into_iter().map(BegunCall::abandon).collect(),
            GroupKind::Pipelined => {
                let begun = scene.begin(self, some);
                take_in_any_order(scene, begun)
            }
            GroupKind::Batched => {
                let bridge = scene.bridge;
                let begun = bridge.batch(|batch| scene.begin_on(self, batch, some));
                take_in_any_order(scene, begun)
            }
            GroupKind::OneWay => send_and_flush(scene, some),
            GroupKind::Queued => {
                let many = 24 + scene.random.up_to(40);
                let begun = scene.begin(self, many);
                if scene.random.up_to(1) == 0 { cancel_every_other(scene, begun) } else { await_all(begun) }
            }
            GroupKind::Overdue => {
                let limit = Duration::from_micros(NAP + scene.random.up_to(3 * NAP as usize) as u64);
                let calling = scene.bridge.with_timeout(limit).begin();
                let begun = scene.begin_on(self, &calling, some);
                if scene.random.up_to(1) == 0 { take_in_any_order(scene, begun) } else { await_all(begun) }
            }
            GroupKind::Polled => poll_all(scene, some),
        }
    }
}

// ---- one call of a group ---------------------------------------------------------------------------------------------

/// A call that has begun.
struct BegunCall {
    id: u64,
    what: &'static str,
    pending: AnyPending,
}

/// A pending call, and its right answer.
enum AnyPending {
    Number(Pending<Result<u64, String>>, u64),
    Bytes(Pending<Result<Vec<u8>, String>>, Vec<u8>),
}

impl BegunCall {
    fn wait(self) -> CallEntry {
        let told = match self.pending {
            AnyPending::Number(pending, right) => pending.wait().map(|told| told == Ok(right)),
            AnyPending::Bytes(pending, right) => pending.wait().map(|told| told == Ok(right)),
        };
        entry_of(self.id, self.what, told)
    }

    /// Polls it for a task, or for a loop that has the bridge's descriptor.
    fn poll(&mut self, task: Option<&mut Context<'_>>) -> Option<CallEntry> {
        let told = match &mut self.pending {
            AnyPending::Number(pending, right) => look(pending, task)?.map(|told| told == Ok(*right)),
            AnyPending::Bytes(pending, right) => look(pending, task)?.map(|told| told.as_ref() == Ok(&*right)),
        };
        Some(entry_of(self.id, self.what, told))
    }

    fn cancel(self) -> CallEntry {
        let started = match self.pending {
            AnyPending::Number(pending, _) => pending.cancel(),
            AnyPending::Bytes(pending, _) => pending.cancel(),
        };
        let outcome = if started == Started::No { CallOutcome::Withdrawn } else { CallOutcome::CancelledLate };
        CallEntry::of_one(self.id, self.what, outcome)
    }

    fn abandon(self) -> CallEntry {
        CallEntry::of_one(self.id, self.what, CallOutcome::GivenUp)
    }
}

fn look<R: Transfer>(pending: &mut Pending<R>, task: Option<&mut Context<'_>>) -> Option<Result<R, CallError>> {
    match task {
        None => pending.poll(),
        Some(task) => match Future::poll(Pin::new(pending), task) {
            Poll::Ready(told) => Some(told),
            Poll::Pending => None,
        },
    }
}

/// The record of a call whose answer is right, is wrong, or is missing.
fn entry_of(id: u64, what: &'static str, told: Result<bool, CallError>) -> CallEntry {
    let (outcome, error) = match told {
        Ok(true) => (CallOutcome::Answered, None),
        Ok(false) => (CallOutcome::Wrong, None),
        Err(error) => (CallOutcome::of(&error), Some(error)),
    };
    let why = error.filter(|_| outcome.runs().is_none()).map(|error| error.to_string().into());
    CallEntry { why, ..CallEntry::of_one(id, what, outcome) }
}

// ---- the calls of a group --------------------------------------------------------------------------------------------

impl GroupScene<'_> {
    fn begin(&mut self, kind: GroupKind, count: usize) -> Vec<BegunCall> {
        let calling = self.bridge.as_async();
        self.begin_on(kind, &calling, count)
    }

    fn begin_on(&mut self, kind: GroupKind, calling: &Calling<'_, Victim, Deferred>, count: usize) -> Vec<BegunCall> {
        (0..count).map(|_| self.begin_one(kind, calling)).collect()
    }

    /// Begins a call, most likely a small one.
    fn begin_one(&mut self, kind: GroupKind, calling: &Calling<'_, Victim, Deferred>) -> BegunCall {
        let (id, len) = (self.ledger.number(), 64 + self.random.up_to(self.most));
        let pending = match self.random.up_to(9) {
            0 => {
                let bytes = vec![id as u8; len];
                AnyPending::Number(calling.take(id, &bytes), bytes::sum(&bytes))
            }
            1 => AnyPending::Bytes(calling.give(id, len as u64), vec![id as u8; len]),
            2 => AnyPending::Number(calling.nap(id, NAP), answer(id)),
            _ => AnyPending::Number(calling.small(id), answer(id)),
        };
        BegunCall { id, what: kind.words(), pending }
    }
}

fn take_in_any_order(scene: &mut GroupScene<'_>, mut begun: Vec<BegunCall>) -> Vec<CallEntry> {
    let mut entries = Vec::new();
    while !begun.is_empty() {
        let at = scene.random.up_to(begun.len() - 1);
        entries.push(begun.swap_remove(at).wait());
    }
    entries
}

/// Cancels every other call, from the last one, and waits for the rest.
fn cancel_every_other(scene: &mut GroupScene<'_>, begun: Vec<BegunCall>) -> Vec<CallEntry> {
    let (mut entries, mut others) = (Vec::new(), Vec::new());
    for (at, call) in begun.into_iter().enumerate().rev() {
        if at % 2 == 0 { others.push(call) } else { entries.push(call.cancel()) }
    }
    entries.extend(take_in_any_order(scene, others));
    entries
}

/// Drops every other call once a task has polled it, and awaits the rest.
fn drop_every_other(begun: Vec<BegunCall>) -> Vec<CallEntry> {
    let (mut entries, mut others) = (Vec::new(), Vec::new());
    let mut task = Context::from_waker(Waker::noop());
    for (at, mut call) in begun.into_iter().enumerate() {
        if at % 2 == 0 {
            others.push(call);
            continue;
        }
        let told = call.poll(Some(&mut task));
        entries.push(told.unwrap_or_else(|| call.abandon()));
    }
    entries.extend(await_all(others));
    entries
}

/// Polls calls whenever the bridge's descriptor is readable.
fn poll_all(scene: &mut GroupScene<'_>, count: usize) -> Vec<CallEntry> {
    let bridge = scene.bridge;
    let mut watched = [PollFd::new(bridge, PollFlags::IN)];
    let (mut entries, mut begun) = (Vec::new(), scene.begin(GroupKind::Polled, count));
    loop {
        begun.retain_mut(|call| {
            let told = call.poll(None);
            let is_pending = told.is_none();
            entries.extend(told);
            is_pending
        });
        if begun.is_empty() {
            return entries;
        }
        if poll(&mut watched, Some(&SILENCE)) == Ok(0) {
            let why = "it has not ended, and the bridge's descriptor is silent";
            let lost = |call: BegunCall| CallEntry {
                why: Some(why.into()),
                ..CallEntry::of_one(call.id, call.what, CallOutcome::Wrong)
            };
            entries.extend(begun.into_iter().map(lost));
            return entries;
        }
        bridge.clear_doorbell();
    }
}

/// How long the descriptor may stay silent while calls are pending.
const SILENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Sends one-way calls and sometimes an ordinary one behind them, then flushes.
fn send_and_flush(scene: &mut GroupScene<'_>, count: usize) -> Vec<CallEntry> {
    let what = GroupKind::OneWay.words();
    let (mut entries, mut sent) = (Vec::new(), Vec::new());
    // Some groups go round the ring.
    for _ in 0..count * (1 + scene.random.up_to(3)) {
        let id = scene.ledger.number();
        let told = match scene.random.up_to(9) {
            0 => scene.bridge.send().take(id, &vec![1; 64 + scene.random.up_to(scene.most)]),
            1 => scene.bridge.send().give(id, 64 + scene.random.up_to(scene.most) as u64),
            _ => scene.bridge.send().small(id),
        };
        match told {
            Ok(()) => sent.push(id),
            Err(error) => entries.push(entry_of(id, what, Err(error))),
        }
    }
    let mut have_run = false;
    if scene.random.up_to(1) == 0 {
        let id = scene.ledger.number();
        let told = scene.bridge.small(id).map(|told| told == Ok(answer(id)));
        // It comes after all that this thread has sent to the same child.
        have_run = told.is_ok() && !scene.may_restart;
        entries.push(entry_of(id, "behind one-way", told));
    }
    let outcome = match scene.bridge.flush() {
        _ if have_run => CallOutcome::Answered,
        Ok(()) if scene.is_alone => CallOutcome::Answered,
        Ok(()) => CallOutcome::Sent,
        Err(error) if CallOutcome::of(&error).runs().is_none() => CallOutcome::of(&error),
        Err(_) => CallOutcome::Sent,
    };
    entries.extend(sent.into_iter().map(|id| CallEntry::of_one(id, what, outcome)));
    entries
}

#[cfg(test)]
mod tests {
    use super::super::victim::Setup;
    use super::*;
    use callgate::Wait;

    #[test]
    fn every_call_of_a_group_is_answered_rightly_and_counted() {
        for (pending, workers) in [(2, 1), (32, 3)] {
            let (ledger, mut random) = (RunLedger::new().expect("a file"), Random(7));
            let setup = Setup { workers, wait: Wait::Adaptive, pending, queue: 4096, ..Setup::PLAIN };
            let bridge = setup.builder(&ledger.path(), "").start().expect("a start");
            let mut entries = Vec::new();
            for kind in GroupKind::ALL {
                let mut scene = GroupScene {
                    bridge: &bridge,
                    ledger: &ledger,
                    random: &mut random,
                    most: 1 << 18,
                    is_alone: true,
                    may_restart: false,
                };
                let group = kind.make(&mut scene);
                assert!(group.iter().all(|entry| kind.expects(entry.outcome)), "{kind:?}: {group:?}");
                entries.extend(group);
            }
            bridge.stop().expect("a stop");
            assert_eq!(ledger.judge(&entries).expect("the file"), [] as [&str; 0]);
        }
    }
}
