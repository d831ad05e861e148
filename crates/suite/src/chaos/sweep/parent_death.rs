//! Cases in which the parent is killed at a step, in a separate process: its children must be gone soon after.
//!
//! Starts this program again, which plays the parent (`play_parent`) and kills itself. Compares no answers: the callers died with the parent.

#![forbid(unsafe_code)]

use super::journeys::{AFTERWARDS, CaseCalls, HANGS, JOURNEYS, Journey, ORPHANED};
use super::verdict::Done;
use crate::BoxError;
use crate::chaos::ledger::RunLedger;
use crate::chaos::processes::{children, eventually, lives};
use callgate::failpoints::{self, Point};
use rustix::process::Signal;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// The environment variable that makes a process a parent that dies. It holds the step, the journey and the ledger.
const PARENT: &str = "CALLGATE_CHAOS_PARENT";

/// Has another process make the journey and die at the step, and checks that its child ends too.
pub(super) fn kill_parent(point: Point, journey: Journey) -> Result<Done, String> {
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

/// If this process was started for it, makes the journey and dies.
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
        // The signal takes effect now or a moment later: wait for it.
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
