//! The journeys during which a step comes, the actions at a step, and the files of a case.
//!
//! Relies on `victim` for the calls. Judges nothing.

#![forbid(unsafe_code)]

use crate::BoxError;
use crate::chaos::groups::{GroupKind, GroupScene};
use crate::chaos::ledger::{CallEntry, CallOutcome, RunLedger};
use crate::chaos::processes::{eventually, watcher_sleeps};
use crate::chaos::victim::{Setup, Victim, VictimKind};
use crate::soak::Random;
use callgate::failpoints::Side;
use callgate::{Bridge, Builder, Wait};
use rustix::process::Signal;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A case that takes longer counts as hanging.
pub(super) const HANGS: Duration = Duration::from_secs(60);

/// How long a process stays stopped at a step.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// How long after a journey its step may still come.
pub(super) const AFTERWARDS: Duration = Duration::from_millis(300);

/// How long the child of a killed parent may take to end. It usually takes milliseconds; a longer time counts as hanging.
pub(super) const ORPHANED: Duration = Duration::from_secs(10);

/// The length of large payloads, in bytes: long enough to be copied while it is written.
const LARGE: usize = 3 << 20;

/// The same in groups, which have several.
const GROUPED: usize = 256 << 10;

/// An action at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The child is killed, and its parent goes on at once.
    KillChild,
    /// The child is killed, and its parent goes on once the child is gone.
    KillChildAndWait,
    /// The child is stopped, and killed a little later.
    StopAndKillChild,
    /// The child is stopped, and continued a little later.
    StopAndContinueChild,
    /// The parent is killed.
    KillParent,
}

impl Action {
    /// The possible actions at a step of `side`.
    pub(super) fn at(side: Side) -> &'static [Action] {
        use Action::*;
        match side {
            Side::Parent => &[KillChild, KillChildAndWait, StopAndKillChild, StopAndContinueChild, KillParent],
            Side::Child => &[KillChild, StopAndKillChild, StopAndContinueChild],
        }
    }

    /// The action in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Action::KillChild => "child killed",
            Action::KillChildAndWait => "child killed, and gone",
            Action::StopAndKillChild => "child stopped, then killed",
            Action::StopAndContinueChild => "child stopped, then continued",
            Action::KillParent => "parent killed",
        }
    }

    /// The signal that a stopped child gets next.
    pub(super) fn then(self) -> Signal {
        if self == Action::StopAndContinueChild { Signal::CONT } else { Signal::KILL }
    }
}

/// What is in progress when the step comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journey {
    Start,
    Call(VictimKind),
    /// Calls that no thread waits in one by one.
    Group(GroupKind),
    /// Boxes that the parent keeps and sends back, with a trusted child.
    TrustedBoxes,
    /// Large payloads, then a pause until their memory has been given back.
    Idle,
    Stop,
    Kill,
}

pub(super) const JOURNEYS: &[Journey] = &[
    Journey::Start,
    Journey::Call(VictimKind::Small),
    Journey::Call(VictimKind::LargeRequest),
    Journey::Call(VictimKind::LargeReply),
    Journey::Call(VictimKind::GrowingReply),
    Journey::Call(VictimKind::View),
    Journey::Call(VictimKind::BoxSwapped),
    Journey::Call(VictimKind::BoxReturned),
    Journey::Call(VictimKind::BoxKept),
    Journey::Call(VictimKind::Begun),
    Journey::Call(VictimKind::Trait),
    Journey::Call(VictimKind::CalledBack),
    Journey::Call(VictimKind::AskedTooLong),
    Journey::Call(VictimKind::Streamed),
    Journey::Call(VictimKind::StreamDropped),
    Journey::TrustedBoxes,
    Journey::Group(GroupKind::Awaited),
    Journey::Group(GroupKind::Raced),
    Journey::Group(GroupKind::Cancelled),
    Journey::Group(GroupKind::Abandoned),
    Journey::Group(GroupKind::Pipelined),
    Journey::Group(GroupKind::Batched),
    Journey::Group(GroupKind::OneWay),
    Journey::Group(GroupKind::Queued),
    Journey::Group(GroupKind::Overdue),
    Journey::Group(GroupKind::Polled),
    Journey::Stop,
    Journey::Kill,
    // Last, because it takes long: it is made only for steps that no other journey reaches.
    Journey::Idle,
];

impl Journey {
    pub(super) fn words(self) -> &'static str {
        match self {
            Journey::Start => "start",
            Journey::Call(kind) => kind.words(),
            Journey::Group(kind) => kind.words(),
            Journey::TrustedBoxes => "trusted boxes",
            Journey::Idle => "idle",
            Journey::Stop => "stop",
            Journey::Kill => "kill",
        }
    }

    pub(super) fn setup(self) -> Setup {
        Setup {
            wait: Wait::Park,
            trusted: self == Journey::TrustedBoxes,
            retained: 64 << 10,
            pending: if self == Journey::Group(GroupKind::Queued) { 2 } else { 32 },
            ..Setup::PLAIN
        }
    }

    /// Whether a call of this journey may end so while its child lives on.
    pub(super) fn expects(self, outcome: CallOutcome) -> bool {
        match self {
            Journey::Group(kind) => kind.expects(outcome),
            Journey::Call(VictimKind::AskedTooLong) => {
                matches!(outcome, CallOutcome::TimedOut | CallOutcome::NeverInTime | CallOutcome::Answered)
            }
            _ => outcome == CallOutcome::Answered,
        }
    }

    /// Makes the journey on a bridge that has been started.
    pub(super) fn make(self, bridge: &Bridge<Victim>, calls: &mut CaseCalls<'_>, has_come: &dyn Fn() -> bool) {
        match self {
            Journey::Start => {}
            Journey::Call(kind) => calls.make(kind, bridge),
            Journey::Group(kind) => calls.make_group(kind, bridge),
            Journey::TrustedBoxes => {
                calls.make(VictimKind::View, bridge);
                calls.make(VictimKind::BoxReturned, bridge);
                calls.make_round_trip(bridge);
            }
            Journey::Idle => {
                calls.make(VictimKind::LargeRequest, bridge);
                calls.make(VictimKind::LargeReply, bridge);
                eventually(Duration::from_secs(2), has_come);
            }
            Journey::Stop => drop(bridge.stop()),
            Journey::Kill => drop(bridge.kill()),
        }
    }
}

/// The calls of one case and their outcomes.
pub(super) struct CaseCalls<'a> {
    pub(super) ledger: &'a RunLedger,
    pub(super) entries: Vec<CallEntry>,
}

impl CaseCalls<'_> {
    pub(super) fn make(&mut self, kind: VictimKind, bridge: &Bridge<Victim>) {
        let entry = kind.call(bridge, self.ledger.number(), LARGE);
        self.entries.push(entry);
    }

    fn make_group(&mut self, kind: GroupKind, bridge: &Bridge<Victim>) {
        // Other numbers in each case.
        let mut random = Random(bridge.child_pid().into());
        let mut scene = GroupScene {
            bridge,
            ledger: self.ledger,
            random: &mut random,
            most: GROUPED,
            is_alone: true,
            may_restart: false,
        };
        self.entries.extend(kind.make(&mut scene));
    }

    /// Brings a box from the child and returns it.
    fn make_round_trip(&mut self, bridge: &Bridge<Victim>) {
        let entries =
            crate::chaos::victim::box_from_child_and_back(bridge, [self.ledger.number(), self.ledger.number()], LARGE);
        self.entries.extend(entries);
    }
}

/// The files of one case.
pub(super) struct SweepScene {
    pub(super) ledger: RunLedger,
    pub(super) orders: PathBuf,
}

impl SweepScene {
    pub(super) fn new() -> Result<Self, BoxError> {
        let ledger = RunLedger::new()?;
        let orders = PathBuf::from(ledger.path() + ".orders");
        Ok(Self { ledger, orders })
    }

    pub(super) fn builder(&self, journey: Journey) -> Builder<Victim> {
        journey.setup().builder(&self.ledger.path(), &self.orders.to_string_lossy())
    }
}

impl Drop for SweepScene {
    fn drop(&mut self) {
        for extension in ["orders", "draft", "reached"] {
            let _ = fs::remove_file(self.orders.with_extension(extension));
        }
    }
}

/// Waits until the watcher is done with the last bridge: it still reaches steps after everybody else knows of the end.
pub(super) fn wait_for_watcher() {
    eventually(ORPHANED, watcher_sleeps);
}
