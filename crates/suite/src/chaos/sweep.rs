//! Kills and stops both sides at every named step of the protocol, during every kind of call.
//!
//! First it makes every journey once, only to see which steps the journey reaches. Then it makes the journey again for each of these steps and each
//! action there. A step that no journey reaches is a failure, so the list cannot rot.

#![forbid(unsafe_code)]

mod journeys;
mod resumer;
mod verdict;
mod child_steps;
mod parent_steps;
mod parent_death;

use self::child_steps::at_child;
pub use self::journeys::Action;
use self::journeys::{CaseCalls, HANGS, JOURNEYS, Journey, PAUSE, SweepScene, wait_for_watcher};
use self::parent_death::kill_parent;
pub(crate) use self::parent_death::play_parent;
use self::parent_steps::at_parent;
use self::verdict::Done;
use super::load::warm_up;
use super::orders;
use super::processes::Holdings;
use crate::BoxError;
use callgate::failpoints::{self, Point, STEPS, Side};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// How often a case is tried until its step comes. Some steps come only if both sides happen to run at the same time.
const ATTEMPTS: u32 = 8;

/// A case that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The step's name.
    pub step: &'static str,
    /// What was done there.
    pub action: Action,
    /// The journey during which it was done.
    pub journey: &'static str,
    /// The outcome of the calls in progress or of the start, or how long the child of a dead parent lived.
    pub told: String,
}

/// The result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Swept {
    /// Every case in which the step came.
    pub cases: Vec<Case>,
    /// What went wrong. Should be empty.
    pub wrong: Vec<String>,
    /// The longest time that the child of a killed parent lived on, in milliseconds.
    pub orphan_ms: f64,
    /// The duration of the sweep, in seconds.
    pub seconds: f64,
}

/// One action at one step, in all journeys that reach the step.
#[derive(Clone, Debug)]
pub struct StepRow {
    step: &'static str,
    action: Action,
    told: BTreeMap<String, u32>,
}

impl StepRow {
    /// Formats the row for a table.
    pub fn line(&self) -> String {
        let told: Vec<_> = self.told.iter().map(|(told, count)| format!("{told} x{count}")).collect();
        format!("{:<30}{:<31}{}\n", self.step, self.action.words(), told.join(", "))
    }
}

impl Swept {
    /// Returns everything that went wrong as an error.
    ///
    /// # Errors
    ///
    /// If anything went wrong.
    pub fn verdict(&self) -> Result<(), BoxError> {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong.join("\n").into()) }
    }

    /// Sums up the sweep in a few lines.
    pub fn summary(&self) -> String {
        format!(
            "\n{} steps, {} cases, {} wrong, in {:.1} s; the child of a killed parent lived {:.1} ms at most\n",
            STEPS.len(),
            self.cases.len(),
            self.wrong.len(),
            self.seconds,
            self.orphan_ms
        )
    }
}

/// Tries every `stride`-th step, from number `first` on: processes that each have a share may run at the same time. Calls `each` with every row of
/// the table.
///
/// # Errors
///
/// If something hangs or could not be tried, or if `each` fails. Everything else that goes wrong is in the result.
pub fn run(
    first: usize,
    stride: usize,
    each: &mut dyn FnMut(&StepRow) -> Result<(), BoxError>,
) -> Result<Swept, BoxError> {
    warm_up(None)?;
    let (begin, before, mut swept) = (Instant::now(), Holdings::now(), Swept::default());
    let reached = what_is_reached()?;
    wait_for_watcher();
    for (at, point) in STEPS.iter().enumerate().skip(first).step_by(stride) {
        let mut journeys: Vec<_> = JOURNEYS
            .iter()
            .copied()
            .zip(&reached)
            .filter(|(_, reached)| reached[at])
            .map(|(journey, _)| journey)
            .collect();
        if journeys.len() > 1 {
            journeys.retain(|&journey| journey != Journey::Idle);
        }
        for &action in Action::at(point.side) {
            // Killing a parent takes an extra process, so one journey must do.
            let journeys = if action == Action::KillParent { &journeys[..journeys.len().min(1)] } else { &journeys };
            let mut row = StepRow { step: point.name, action, told: BTreeMap::new() };
            for &journey in journeys {
                let Some(case) = try_case(*point, action, journey, &before, &mut swept)? else { continue };
                *row.told.entry(case.told.clone()).or_default() += 1;
                swept.cases.push(case);
            }
            if row.told.is_empty() {
                swept.wrong.push(format!("{}: {}: no journey came there", point.name, action.words()));
            }
            each(&row)?;
        }
    }
    swept.seconds = begin.elapsed().as_secs_f64();
    Ok(swept)
}

/// Tries a case until its step comes; `None` if it never comes.
fn try_case(
    point: Point,
    action: Action,
    journey: Journey,
    before: &Holdings,
    swept: &mut Swept,
) -> Result<Option<Case>, BoxError> {
    for _ in 0..ATTEMPTS {
        let done = within_limit(point, action, journey)?;
        let Done { came, told, wrong, orphan_ms } = done;
        swept.orphan_ms = swept.orphan_ms.max(orphan_ms);
        let leaks = Holdings::grown_since(before);
        let title = format!("{}: {}: {}", point.name, action.words(), journey.words());
        swept.wrong.extend(wrong.into_iter().chain(leaks).map(|what| format!("{title}: {what}")));
        if came {
            return Ok(Some(Case { step: point.name, action, journey: journey.words(), told }));
        }
    }
    Ok(None)
}

/// Carries out one case on a thread, which is left behind if it hangs.
fn within_limit(point: Point, action: Action, journey: Journey) -> Result<Done, BoxError> {
    let (sender, done) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = sender.send(match (point.side, action) {
            (_, Action::KillParent) => kill_parent(point, journey),
            (Side::Parent, _) => at_parent(point, action, journey),
            (Side::Child, _) => at_child(point, action, journey),
        });
    });
    let title = || format!("{}: {}: {}", point.name, action.words(), journey.words());
    match done.recv_timeout(HANGS) {
        Ok(done) => {
            let _ = thread.join();
            done.map_err(|why| format!("{}: {why}", title()).into())
        }
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("{}: it hangs: not done within {HANGS:?}", title()).into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(format!("{}: a panic", title()).into()),
    }
}

// ---- which steps a journey reaches -----------------------------------------------------------------------------------

/// Which steps each journey comes to. Looks again while there is a step that none came to: some come only if both sides happen to run at the same
/// time.
fn what_is_reached() -> Result<Vec<Vec<bool>>, BoxError> {
    let mut reached = vec![vec![false; STEPS.len()]; JOURNEYS.len()];
    for _ in 0..ATTEMPTS {
        for (seen, &journey) in reached.iter_mut().zip(JOURNEYS) {
            seen.iter_mut().zip(look(journey)?).for_each(|(seen, now)| *seen |= now);
        }
        if (0..STEPS.len()).all(|at| reached.iter().any(|seen| seen[at])) {
            break;
        }
    }
    Ok(reached)
}

/// Finds which steps a journey reaches. For a start, the child's steps are not observed but taken from a list, because a child takes no orders before
/// it has started.
fn look(journey: Journey) -> Result<Vec<bool>, BoxError> {
    wait_for_watcher();
    let scene = SweepScene::new()?;
    let reached: Arc<Vec<AtomicBool>> = Arc::new(STEPS.iter().map(|_| AtomicBool::new(false)).collect());
    let watch_parent = || -> Result<(), BoxError> {
        for (at, point) in STEPS.iter().enumerate() {
            let reached = reached.clone();
            failpoints::call(point.name, move || reached[at].store(true, Relaxed))?;
        }
        Ok(())
    };
    if journey == Journey::Start {
        watch_parent()?;
        let bridge = scene.builder(journey).start()?;
        // Stop watching before the bridge is stopped, which is a journey of its own.
        STEPS.iter().for_each(|point| failpoints::clear(point.name));
        drop(bridge);
    } else {
        let bridge = scene.builder(journey).start()?;
        let file = scene.orders.with_extension("reached");
        fs::write(&file, [])?;
        orders::give(bridge.child_pid(), &scene.orders, &format!("watch {}", file.display()))?;
        watch_parent()?;
        let mut calls = CaseCalls { ledger: &scene.ledger, entries: Vec::new() };
        journey.make(&bridge, &mut calls, &|| false);
        thread::sleep(PAUSE);
        // Stop watching, as above.
        STEPS.iter().for_each(|point| failpoints::clear(point.name));
        let seen = fs::read(&file)?;
        seen.iter()
            .zip(&*reached)
            .filter(|(seen, _)| **seen == 1)
            .for_each(|(_, reached)| reached.store(true, Relaxed));
    }
    let is_tried =
        |point: &Point| journey == Journey::Start && point.side == Side::Child && STARTING.contains(&point.name);
    Ok(STEPS.iter().zip(&*reached).map(|(point, reached)| reached.load(Relaxed) || is_tried(point)).collect())
}

/// The child's steps during a start.
const STARTING: &[&str] = &[
    "child.adopted",
    "child.greeted",
    "child.attached",
    "child.answered",
    "child.ready",
    "child.request-seen",
    "child.started",
    "child.constructed",
    "child.reply-written",
    "child.reply-stored",
    "child.published",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::ledger::CallOutcome;
    use crate::chaos::victim::VictimKind;

    #[test]
    fn steps_in_a_start_exist() {
        for name in STARTING {
            assert!(STEPS.iter().any(|point| point.name == *name), "{name}");
        }
    }

    #[test]
    fn a_file_of_orders_is_followed_once() {
        let scene = SweepScene::new().expect("files");
        let bridge = scene.builder(Journey::Kill).start().expect("a start");
        orders::give(bridge.child_pid(), &scene.orders, "child.started 1*return(exit 9)").expect("an order");
        let id = scene.ledger.number();
        assert_eq!(VictimKind::Small.call(&bridge, id, 64).outcome, CallOutcome::Started);
        assert_eq!(bridge.kill(), callgate::Exit::Code(9));
        assert!(!scene.orders.exists());
    }
}
