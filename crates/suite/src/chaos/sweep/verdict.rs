//! The end of a case: makes two more calls, ends the bridge and checks that callers got the true outcome.
//!
//! Relies on `ledger` for what ran. When it is called, the case's own calls are over.

#![forbid(unsafe_code)]

use super::journeys::{Action, CaseCalls, HANGS, Journey, ORPHANED, SweepScene, wait_for_watcher};
use super::resumer::Resumer;
use crate::chaos::groups::GroupKind;
use crate::chaos::ledger::{CallEntry, CallOutcome};
use crate::chaos::processes::{children, eventually};
use crate::chaos::victim::{Victim, VictimKind};
use callgate::failpoints::Point;
use callgate::{Bridge, StartError};
use std::collections::BTreeSet;

/// The result of one attempt at a case.
#[derive(Default)]
pub(super) struct Done {
    pub(super) came: bool,
    pub(super) told: String,
    pub(super) wrong: Vec<String>,
    pub(super) orphan_ms: f64,
}

/// Makes two more calls, ends the bridge, and compares the outcomes with the runs.
pub(super) fn finish(
    scene: &SweepScene,
    mut calls: CaseCalls<'_>,
    started: Result<Bridge<Victim>, StartError>,
    (came, action, point, journey): (bool, Action, Point, Journey),
    keeper: Option<Resumer>,
) -> Result<Done, String> {
    let (mut wrong, under_way) = (Vec::new(), calls.entries.len());
    let mut told = in_few_words(&calls.entries, journey);
    match &started {
        Ok(bridge) => {
            wrong.extend(call_twice_more(bridge, &mut calls, (came, action, journey)));
            if told.is_empty() {
                told = if ends(journey) { "ended".into() } else { "started".into() };
            }
        }
        Err(StartError::Died { .. }) if action != Action::StopAndContinueChild => told = "no start: died".into(),
        Err(error) => wrong.push(format!("the start failed: {error}")),
    }
    let odd = |entry: &&CallEntry| {
        let is_usual = matches!(
            entry.outcome,
            CallOutcome::Answered | CallOutcome::NotStarted | CallOutcome::Started | CallOutcome::Unsent
        );
        let is_sent = journey == Journey::Group(GroupKind::OneWay) && entry.outcome == CallOutcome::Sent;
        !(is_usual || is_sent || journey.expects(entry.outcome))
    };
    wrong.extend(calls.entries.iter().filter(odd).map(|entry| format!("{}: {entry:?}", entry.what)));
    let first = calls.entries[..under_way].first();
    if let (true, Some(expected), Some(entry)) = (came, expected(point, action, journey), first)
        && entry.outcome != expected
    {
        wrong.push(format!("the call was {}, and should be {}", entry.outcome.words(), expected.words()));
    }
    drop(started);
    drop(keeper);
    if !eventually(ORPHANED, || children().is_empty()) {
        wrong.push("a child is left".into());
    }
    wait_for_watcher();
    wrong.extend(scene.ledger.judge(&calls.entries).map_err(|error| error.to_string())?);
    Ok(Done { came, told, wrong, orphan_ms: 0.0 })
}

/// The outcomes of the calls of a journey: each once, if there are many.
fn in_few_words(entries: &[CallEntry], journey: Journey) -> String {
    let words = entries.iter().map(|entry| entry.outcome.words());
    if let Journey::Group(_) = journey {
        return words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
    }
    words.collect::<Vec<_>>().join(" + ")
}

/// Makes two more calls on a bridge that has started. Returns what is wrong with their outcomes.
fn call_twice_more(
    bridge: &Bridge<Victim>,
    calls: &mut CaseCalls<'_>,
    (came, action, journey): (bool, Action, Journey),
) -> Vec<String> {
    let under_way = calls.entries.len();
    if action == Action::StopAndContinueChild && !ends(journey) {
        // The stopped child is running again, or will be soon.
        (0..2).for_each(|_| calls.make(VictimKind::Small, bridge));
        let odd = calls.entries.iter().filter(|entry| !journey.expects(entry.outcome));
        odd.map(|entry| format!("{} was {}, though the child went on", entry.what, entry.outcome.words())).collect()
    } else if came && (ends(journey) || eventually(HANGS / 2, || !bridge.is_alive())) {
        (0..2).for_each(|_| calls.make(VictimKind::Small, bridge));
        let odd = calls.entries[under_way..].iter().filter(|entry| entry.outcome != CallOutcome::NotStarted);
        odd.map(|entry| format!("a call to a dead child was {}", entry.outcome.words())).collect()
    } else if came {
        vec!["nobody noticed that the child has ended".into()]
    } else {
        Vec::new()
    }
}

fn ends(journey: Journey) -> bool {
    matches!(journey, Journey::Stop | Journey::Kill)
}

/// The outcome that the caller of a small call must get, if only one is right.
fn expected(point: Point, action: Action, journey: Journey) -> Option<CallOutcome> {
    let kills = matches!(action, Action::KillChild | Action::KillChildAndWait | Action::StopAndKillChild);
    if journey != Journey::Call(VictimKind::Small) || !kills {
        return None;
    }
    match (point.name, action) {
        ("child.request-seen", _) => Some(CallOutcome::NotStarted),
        ("child.started" | "child.calling" | "child.returned" | "child.reply-written", _) => Some(CallOutcome::Started),
        ("child.reply-stored" | "child.published", _) => Some(CallOutcome::Answered),
        ("parent.lane-claimed" | "parent.request-written", Action::KillChildAndWait) => Some(CallOutcome::NotStarted),
        ("parent.reply-seen" | "parent.reply-released", _) => Some(CallOutcome::Answered),
        _ => None,
    }
}
