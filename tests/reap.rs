//! A bridge notices a child's death even if another part of the program takes its status: SIGCHLD is ignored, or some thread waits for every child.
//!
//! Both affect the whole process, so helper processes play these parts.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, CallError, Exit, Output, StartError, bridge};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::waitpid;
use std::time::Duration;
use support::{eventually, play, process_exists, role, within, zombies_of};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// Children that each part starts: enough for both orders of noticing the death and taking the status.
const CHILDREN: u64 = 40;

struct Mortal {
    calls: u64,
}

#[bridge]
impl Mortal {
    pub fn new() -> Self {
        Mortal { calls: 0 }
    }

    pub fn with_crash() -> Self {
        std::process::abort()
    }

    pub fn count(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    pub fn crash(&self) {
        std::process::abort()
    }
}

fn mortal() -> Bridge<Mortal> {
    Mortal::bridge().start().expect("the bridge starts")
}

#[test]
fn fault_17_death_is_noticed_with_sigchld_ignored() {
    within(PATIENCE, "SIGCHLD ignored", || play("helper_program", "ignores SIGCHLD"));
}

#[test]
fn fault_17_death_is_noticed_with_somebody_else_waiting_for_every_child() {
    within(PATIENCE, "waitpid(-1)", || play("helper_program", "waits for every child"));
}

#[test]
fn helper_program() {
    let Some(role) = role() else { return };
    // What the bridge may learn of a child's end: nothing or, in a race with the other waiter, the true status.
    let races = match role.as_str() {
        "ignores SIGCHLD" => {
            // SAFETY: no handler is installed, so nothing runs in a signal's context.
            unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.expect("SIGCHLD can be ignored");
            false
        }
        "waits for every child" => {
            std::thread::spawn(wait_for_every_child);
            true
        }
        _ => panic!("unknown role: {role}"),
    };
    let saw = |exit: Exit, truth: Exit| exit == Exit::Unknown || (races && exit == truth);
    for _ in 0..CHILDREN {
        crashed_call(saw);
        stopped_and_killed(saw);
        failed_starts(saw);
    }
    unknown_end_is_a_sentence(races);
    assert!(eventually(10, "no child is left", || zombies_of(std::process::id()) == 0));
}

fn wait_for_every_child() {
    loop {
        match waitpid(None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => std::thread::sleep(Duration::from_micros(200)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn crashed_call(saw: impl Fn(Exit, Exit) -> bool) {
    let mortal = mortal();
    assert_eq!(mortal.count(), Ok(1));
    let error = mortal.crash().expect_err("it crashes");
    let CallError::Died { pid, exit, .. } = error else { panic!("{error}") };
    assert_eq!(pid, mortal.child_pid());
    assert!(saw(exit, Exit::Signal(libc::SIGABRT)), "{error}");
    assert!(!mortal.is_alive());
    assert!(!process_exists(pid));
    assert!(mortal.count().is_err());
}

fn stopped_and_killed(saw: impl Fn(Exit, Exit) -> bool) {
    let stopped = mortal();
    assert_eq!(stopped.count(), Ok(1));
    let exit = stopped.stop().expect("an orderly stop is one, whoever takes the status");
    assert!(saw(exit, Exit::Code(0)), "{exit}");
    assert!(!process_exists(stopped.child_pid()));

    let killed = mortal();
    let exit = killed.kill();
    assert!(saw(exit, Exit::Signal(libc::SIGKILL)), "{exit}");
    assert!(!process_exists(killed.child_pid()));
}

fn failed_starts(saw: impl Fn(Exit, Exit) -> bool) {
    let error = Mortal::bridge_with_crash().start().expect_err("the constructor crashes");
    let StartError::Died { exit, .. } = error else { panic!("{error}") };
    assert!(saw(exit, Exit::Signal(libc::SIGABRT)), "{error}");

    // A program that knows nothing of bridges and ends at once, perhaps before this process looks at it.
    let error = Mortal::bridge().executable("/bin/true").start().expect_err("it is no service");
    let StartError::Died { exit, .. } = error else { panic!("{error}") };
    assert!(saw(exit, Exit::Code(0)), "{error}");

    let error = Mortal::bridge().executable("/no/such/program").start().expect_err("it does not exist");
    assert!(matches!(error, StartError::System { .. }), "{error}");
}

fn unknown_end_is_a_sentence(races: bool) {
    let mortal = Mortal::bridge().stderr(Output::null()).start().expect("the bridge starts");
    let error = mortal.crash().expect_err("it crashes").to_string();
    let pid = mortal.child_pid();
    let sentence = format!(
        "call `Mortal::crash` failed: child {pid} ended in an unknown way; \
         the call had started"
    );
    assert!(error == sentence || (races && error.contains("SIGABRT")), "{error}");
}
