//! Cases at steps of the child: it kills or stops itself there, as ordered. The parent continues or kills a stopped child.
//!
//! Relies on `orders` to reach a running child. The parent does nothing at its own steps.

#![forbid(unsafe_code)]

use super::journeys::{AFTERWARDS, Action, CaseCalls, Journey, SweepScene};
use super::resumer::Resumer;
use super::verdict::{Done, finish};
use crate::chaos::orders;
use crate::chaos::processes::{eventually, lives};
use callgate::failpoints::Point;

pub(super) fn at_child(point: Point, action: Action, journey: Journey) -> Result<Done, String> {
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
    // The child may reach the step from now on, for it may park at any time.
    let pid = bridge.child_pid();
    let keeper = (action != Action::KillChild).then(|| Resumer::start(Some(pid), action.then()));
    let has_come = || keeper.as_ref().map_or_else(|| !lives(pid), Resumer::has_come);
    journey.make(&bridge, &mut calls, &has_come);
    // A child that is told to stop also ends without the step, so its death proves nothing. Step and journey decide instead.
    let came = if matches!(journey, Journey::Stop | Journey::Kill) && keeper.is_none() {
        point.name == "child.stopping" || point.name == "child.exiting" || journey == Journey::Stop
    } else {
        eventually(AFTERWARDS, has_come)
    };
    finish(&scene, calls, Ok(bridge), (came, action, point, journey), keeper)
}
