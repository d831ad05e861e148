//! Both sides killed and stopped at every named step of the protocol, in the course of every kind of call.
//!
//! First every journey is made once, only to see which steps it comes to. Then it is made again for each of these steps and each thing that can
//! be done there. A step that no journey comes to is a failure, so the list cannot rot.

#![forbid(unsafe_code)]

use super::ledger::{CallEntry, CallOutcome, RunLedger};
use super::load::warm_up;
use super::orders;
use super::processes::{Held, Holdings, children, eventually, lives, state, watcher_sleeps};
use super::victim::{Setup, Victim, VictimKind};
use crate::BoxError;
use callgate::failpoints::{self, Point, STEPS, Side};
use callgate::{Bridge, Builder, StartError, Wait};
use rustix::process::Signal;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A case that takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// How long a process stays stopped at a step.
const PAUSE: Duration = Duration::from_millis(10);

/// How long after a journey its step may still come.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// How often a step is tried that did not come: some come only if both sides happen to run at the same time.
const ATTEMPTS: u32 = 8;

/// How long the child of a parent that was killed may take to end. It is a matter of milliseconds; this is a hang.
const ORPHANED: Duration = Duration::from_secs(10);

/// The length of large payloads, in bytes: long enough to be copied while it is written.
const LARGE: usize = 3 << 20;

/// What is done at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The child is killed, and its parent goes on at once.
    KillChild,
    /// The child is killed, and its parent goes on when it is gone.
    KillChildAndWait,
    /// The child is stopped, and killed a little later.
    StopAndKillChild,
    /// The child is stopped, and continued a little later.
    StopAndContinueChild,
    /// The parent is killed.
    KillParent,
}

impl Action {
    /// What can be done at a step of `side`.
    fn at(side: Side) -> &'static [Action] {
        use Action::*;
        match side {
            Side::Parent => &[KillChild, KillChildAndWait, StopAndKillChild, StopAndContinueChild, KillParent],
            Side::Child => &[KillChild, StopAndKillChild, StopAndContinueChild],
        }
    }

    /// In a few words.
    pub fn words(self) -> &'static str {
        match self {
            Action::KillChild => "child killed",
            Action::KillChildAndWait => "child killed, and gone",
            Action::StopAndKillChild => "child stopped, then killed",
            Action::StopAndContinueChild => "child stopped, then continued",
            Action::KillParent => "parent killed",
        }
    }

    /// What becomes of a child that has been stopped.
    fn then(self) -> Signal {
        if self == Action::StopAndContinueChild { Signal::CONT } else { Signal::KILL }
    }
}

/// What is under way when the step comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journey {
    Start,
    Call(VictimKind),
    /// Boxes that the parent keeps, and sends back, where the child is trusted.
    TrustedBoxes,
    /// Large payloads, and then nothing until their memory has been given back.
    Idle,
    Stop,
    Kill,
}

const JOURNEYS: &[Journey] = &[
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
    Journey::TrustedBoxes,
    Journey::Stop,
    Journey::Kill,
    // Last, because it takes long: it is made only for steps that no other comes to.
    Journey::Idle,
];

impl Journey {
    fn words(self) -> &'static str {
        match self {
            Journey::Start => "start",
            Journey::Call(kind) => kind.words(),
            Journey::TrustedBoxes => "trusted boxes",
            Journey::Idle => "idle",
            Journey::Stop => "stop",
            Journey::Kill => "kill",
        }
    }

    fn setup(self) -> Setup {
        Setup {
            workers: 1,
            wait: Wait::Park,
            trusted: self == Journey::TrustedBoxes,
            retained: 64 << 10,
            restart: None,
        }
    }

    /// Makes the journey, on a bridge that has been started.
    fn make(self, bridge: &Bridge<Victim>, calls: &mut CaseCalls<'_>, has_come: &dyn Fn() -> bool) {
        match self {
            Journey::Start => {}
            Journey::Call(kind) => calls.make(kind, bridge),
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

/// The calls of one case, and what became of them.
struct CaseCalls<'a> {
    ledger: &'a RunLedger,
    entries: Vec<CallEntry>,
}

impl CaseCalls<'_> {
    fn make(&mut self, kind: VictimKind, bridge: &Bridge<Victim>) {
        let entry = kind.call(bridge, self.ledger.number(), LARGE);
        self.entries.push(entry);
    }

    /// A box of the child's that goes back to it.
    fn make_round_trip(&mut self, bridge: &Bridge<Victim>) {
        let entries =
            super::victim::box_from_child_and_back(bridge, [self.ledger.number(), self.ledger.number()], LARGE);
        self.entries.extend(entries);
    }
}

/// One case, done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The step's name.
    pub step: &'static str,
    /// What was done there.
    pub action: Action,
    /// In the course of what.
    pub journey: &'static str,
    /// What the callers were told whose calls were under way, or of the start; or how long the child of a dead parent lived.
    pub told: String,
}

/// What all of it came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Swept {
    /// Every case in which the step came.
    pub cases: Vec<Case>,
    /// What was wrong: nothing.
    pub wrong: Vec<String>,
    /// The longest that the child of a killed parent lived, in milliseconds.
    pub orphan_ms: f64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What was done at one step, in all journeys that come there.
#[derive(Clone, Debug)]
pub struct StepRow {
    step: &'static str,
    action: Action,
    told: BTreeMap<String, u32>,
}

impl StepRow {
    /// For a table.
    pub fn line(&self) -> String {
        let told: Vec<_> = self.told.iter().map(|(told, count)| format!("{told} x{count}")).collect();
        format!("{:<30}{:<31}{}\n", self.step, self.action.words(), told.join(", "))
    }
}

impl Swept {
    /// What is wrong, if anything is.
    ///
    /// # Errors
    ///
    /// If anything is.
    pub fn verdict(&self) -> Result<(), BoxError> {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong.join("\n").into()) }
    }

    /// In a few lines.
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

/// Tries every step. Tells `each` of every row of the table.
///
/// # Errors
///
/// If something hangs, or could not be tried, or `each` fails: what is wrong otherwise is in the result.
pub fn run(each: &mut dyn FnMut(&StepRow) -> Result<(), BoxError>) -> Result<Swept, BoxError> {
    warm_up(None)?;
    let (begin, before, mut swept) = (Instant::now(), Holdings::now(), Swept::default());
    let reached = JOURNEYS.iter().map(|&journey| look(journey)).collect::<Result<Vec<_>, _>>()?;
    wait_for_watcher();
    for (at, point) in STEPS.iter().enumerate() {
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
            // To end a parent takes a process of its own.
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

/// Tries a case until its step comes; `None` if it never did.
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

/// What one attempt came to.
#[derive(Default)]
struct Done {
    came: bool,
    told: String,
    wrong: Vec<String>,
    orphan_ms: f64,
}

/// Carries out one case, on a thread that is left behind if it hangs.
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

// ---- what a journey comes to -----------------------------------------------------------------------------------------

/// Which steps a journey comes to. A start: of the child's, all may be tried, because before its start nobody can ask it.
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
        // Before the bridge is stopped, which is a journey of its own.
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
        // As above.
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

/// Waits until the watcher has done with the last bridge: it comes to steps after all others know of the end.
fn wait_for_watcher() {
    eventually(ORPHANED, watcher_sleeps);
}

/// The child's steps in a start.
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

/// The files of one case.
struct SweepScene {
    ledger: RunLedger,
    orders: PathBuf,
}

impl SweepScene {
    fn new() -> Result<Self, BoxError> {
        let ledger = RunLedger::new()?;
        let orders = PathBuf::from(ledger.path() + ".orders");
        Ok(Self { ledger, orders })
    }

    fn builder(&self, journey: Journey) -> Builder<Victim> {
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

// ---- steps of the child ------------------------------------------------------------------------------------------------

fn at_child(point: Point, action: Action, journey: Journey) -> Result<Done, String> {
    let order = if action == Action::KillChild { "1*return(kill)" } else { "1*return(stop)" };
    let scene = SweepScene::new().map_err(|error| error.to_string())?;
    let mut calls = CaseCalls { ledger: &scene.ledger, entries: Vec::new() };
    if journey == Journey::Start {
        let keeper = (action != Action::KillChild).then(|| Resumer::start(None, action.then()));
        let started = scene.builder(journey).env("FAILPOINTS", format!("{}={order}", point.name)).start();
        let came = match (&keeper, &started) {
            (Some(keeper), _) => keeper.has_come(),
            (None, Ok(bridge)) => eventually(AFTERWARDS, || !bridge.is_alive()),
            (None, Err(_)) => true,
        };
        return finish(&scene, calls, started, (came, action, point, journey), keeper);
    }
    let bridge = scene.builder(journey).start().map_err(|error| error.to_string())?;
    orders::give(bridge.child_pid(), &scene.orders, &format!("{} {order}", point.name))?;
    // The child may come there as soon as it can: it parks when it likes.
    let pid = bridge.child_pid();
    let keeper = (action != Action::KillChild).then(|| Resumer::start(Some(pid), action.then()));
    let has_come = || keeper.as_ref().map_or_else(|| !lives(pid), Resumer::has_come);
    journey.make(&bridge, &mut calls, &has_come);
    // A child that was told to stop ends by itself.
    let came = if matches!(journey, Journey::Stop | Journey::Kill) && keeper.is_none() {
        point.name == "child.stopping" || point.name == "child.exiting" || journey == Journey::Stop
    } else {
        eventually(AFTERWARDS, has_come)
    };
    finish(&scene, calls, Ok(bridge), (came, action, point, journey), keeper)
}

/// Waits until a child is stopped, and then continues or kills it.
struct Resumer {
    came: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resumer {
    /// `pid` = the child; `None` = whichever there is.
    fn start(pid: Option<u32>, then: Signal) -> Self {
        let (came, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (has_come, is_over) = (came.clone(), over.clone());
        let thread = thread::spawn(move || {
            while !is_over.load(Relaxed) {
                let pids = pid.map_or_else(children, |pid| vec![pid]);
                if let Some(stopped) = pids.into_iter().find(|&pid| state(pid) == Some('T')).and_then(Held::new) {
                    has_come.store(true, Relaxed);
                    thread::sleep(PAUSE);
                    stopped.signal(then);
                    return;
                }
                thread::sleep(Duration::from_micros(300));
            }
        });
        Self { came, over, thread: Some(thread) }
    }

    fn has_come(&self) -> bool {
        self.came.load(Relaxed)
    }
}

impl Drop for Resumer {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

// ---- steps of the parent -----------------------------------------------------------------------------------------------

fn at_parent(point: Point, action: Action, journey: Journey) -> Result<Done, String> {
    let scene = SweepScene::new().map_err(|error| error.to_string())?;
    let mut calls = CaseCalls { ledger: &scene.ledger, entries: Vec::new() };
    let trap = Arc::new(Trap { action, came: AtomicBool::new(false), later: Mutex::default() });
    let arm = || {
        let trap = trap.clone();
        failpoints::call(point.name, move || trap.spring())
    };
    let started = if journey == Journey::Start {
        arm()?;
        scene.builder(journey).start()
    } else {
        let bridge = scene.builder(journey).start().map_err(|error| error.to_string())?;
        thread::sleep(Duration::from_millis(1));
        arm()?;
        journey.make(&bridge, &mut calls, &|| trap.came.load(Relaxed));
        Ok(bridge)
    };
    let came = eventually(AFTERWARDS, || trap.came.load(Relaxed));
    failpoints::clear(point.name);
    trap.join();
    finish(&scene, calls, started, (came, action, point, journey), None)
}

/// What happens at a step of this process, once.
struct Trap {
    action: Action,
    came: AtomicBool,
    later: Mutex<Vec<JoinHandle<()>>>,
}

impl Trap {
    /// May be called with locks held: it uses no bridge.
    fn spring(&self) {
        if self.came.swap(true, Relaxed) {
            return;
        }
        for child in children().into_iter().filter_map(Held::new) {
            match self.action {
                Action::KillChild => drop(child.signal(Signal::KILL)),
                Action::KillChildAndWait => {
                    child.signal(Signal::KILL);
                    child.wait_for_end(ORPHANED);
                }
                action => {
                    child.signal(Signal::STOP);
                    let later = thread::spawn(move || {
                        thread::sleep(PAUSE);
                        child.signal(action.then());
                    });
                    self.later.lock().unwrap_or_else(PoisonError::into_inner).push(later);
                }
            }
        }
    }

    fn join(&self) {
        let later = std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner));
        later.into_iter().for_each(|thread| drop(thread.join()));
    }
}

// ---- afterwards --------------------------------------------------------------------------------------------------------

/// Calls twice more, ends the bridge, and compares what was told with what ran.
fn finish(
    scene: &SweepScene,
    mut calls: CaseCalls<'_>,
    started: Result<Bridge<Victim>, StartError>,
    (came, action, point, journey): (bool, Action, Point, Journey),
    keeper: Option<Resumer>,
) -> Result<Done, String> {
    let (mut wrong, under_way) = (Vec::new(), calls.entries.len());
    let mut told = calls.entries.iter().map(|entry| entry.outcome.words()).collect::<Vec<_>>().join(" + ");
    match &started {
        Ok(bridge) => {
            let ends = matches!(journey, Journey::Stop | Journey::Kill);
            if action == Action::StopAndContinueChild && !ends {
                // Whoever was stopped is back, or will be.
                (0..2).for_each(|_| calls.make(VictimKind::Small, bridge));
                let odd = calls.entries.iter().filter(|entry| entry.outcome != CallOutcome::Answered);
                wrong.extend(
                    odd.map(|entry| format!("{} was {}, though the child went on", entry.what, entry.outcome.words())),
                );
            } else if came && (ends || eventually(HANGS / 2, || !bridge.is_alive())) {
                (0..2).for_each(|_| calls.make(VictimKind::Small, bridge));
                let odd = calls.entries[under_way..].iter().filter(|entry| entry.outcome != CallOutcome::NotStarted);
                wrong.extend(odd.map(|entry| format!("a call to a dead child was {}", entry.outcome.words())));
            } else if came {
                wrong.push("nobody noticed that the child has ended".into());
            }
            if told.is_empty() {
                told = if ends { "ended".into() } else { "started".into() };
            }
        }
        Err(StartError::Died { .. }) if action != Action::StopAndContinueChild => told = "no start: died".into(),
        Err(error) => wrong.push(format!("the start failed: {error}")),
    }
    let odd = |entry: &&CallEntry| {
        !matches!(
            entry.outcome,
            CallOutcome::Answered | CallOutcome::NotStarted | CallOutcome::Started | CallOutcome::Unsent
        )
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

/// What the caller of a small call must be told, where there is but one answer.
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

// ---- the end of a parent -----------------------------------------------------------------------------------------------

/// Names, for a process that is to be a parent and die, at which step, on which journey, and its ledger.
const PARENT: &str = "CALLGATE_CHAOS_PARENT";

/// Has another process make the journey, and die at the step: then its child must be gone too.
fn kill_parent(point: Point, journey: Journey) -> Result<Done, String> {
    let ledger = RunLedger::new().map_err(|error| error.to_string())?;
    let at = JOURNEYS.iter().position(|&one| one == journey).unwrap_or_default();
    let pids = PathBuf::from(ledger.path() + ".pids");
    let mut command = Command::new("/proc/self/exe");
    command.env(PARENT, format!("{} {at} {}", point.name, ledger.path()));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().map_err(|error| error.to_string())?;
    let died = Instant::now();
    let children = fs::read_to_string(&pids).unwrap_or_default();
    let _ = fs::remove_file(&pids);
    let (came, mut wrong) = (status.signal() == Some(Signal::KILL.as_raw()), Vec::new());
    if !came && status.code() != Some(0) {
        wrong.push(format!("the parent ended with {status}"));
    }
    let children: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    if !eventually(ORPHANED, || !children.iter().any(|&pid| lives(pid))) {
        wrong.push(format!("a child of {children:?} outlives its parent"));
    }
    let orphan_ms = died.elapsed().as_secs_f64() * 1e3;
    if ledger.most_runs().map_err(|error| error.to_string())? > 1 {
        wrong.push("a call ran more than once".into());
    }
    Ok(Done { came, told: format!("{} children gone", children.len()), wrong, orphan_ms })
}

/// Makes the journey and dies, if this process was started for that.
pub(crate) fn play_parent() {
    let Ok(order) = std::env::var(PARENT) else { return };
    let played = play(&order);
    let Err(why) = played else { std::process::exit(0) };
    eprintln!("callgate-suite: a parent that was to die cannot be played: {why}");
    std::process::exit(1);
}

fn play(order: &str) -> Result<(), BoxError> {
    let mut words = order.splitn(3, ' ');
    let mut word = || words.next().ok_or("an order of three words");
    let (name, at, path) = (word()?, word()?.parse::<usize>()?, word()?);
    let journey = *JOURNEYS.get(at).ok_or("an unknown journey")?;
    let ledger = RunLedger::of(path);
    let mut calls = CaseCalls { ledger: &ledger, entries: Vec::new() };
    let pids = format!("{path}.pids");
    let die = move || {
        let children: Vec<_> = children().iter().map(u32::to_string).collect();
        let _ = fs::write(&pids, children.join(" "));
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        // The signal takes effect before this thread goes on, or at once after.
        thread::sleep(HANGS);
    };
    let builder = journey.setup().builder(path, "");
    if journey == Journey::Start {
        failpoints::call(name, die)?;
        drop(builder.start()?);
        return Ok(());
    }
    let bridge = builder.start()?;
    failpoints::call(name, die)?;
    journey.make(&bridge, &mut calls, &|| false);
    thread::sleep(AFTERWARDS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
