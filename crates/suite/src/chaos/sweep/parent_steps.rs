//! Cases at steps of the parent: this process kills or stops its child there and goes on.
//!
//! Relies on `failpoints`. The parent itself survives; `parent_death` has the cases in which it does not.

#![forbid(unsafe_code)]

use super::journeys::{AFTERWARDS, Action, CaseCalls, Journey, ORPHANED, PAUSE, SweepScene};
use super::verdict::{Done, finish};
use crate::chaos::processes::{Held, children, eventually};
use callgate::failpoints::{self, Point};
use rustix::process::Signal;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(super) fn at_parent(point: Point, action: Action, journey: Journey) -> Result<Done, String> {
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

/// What this process does at a step, once.
struct Trap {
    action: Action,
    came: AtomicBool,
    later: Mutex<Vec<JoinHandle<()>>>,
}

impl Trap {
    /// Acts on all children, the first time it is called. Uses no bridge, so it may be called with the library's locks held.
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
