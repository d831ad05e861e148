//! Promise: a child's own processes are not mistaken for children of a bridge, even though they inherit its environment. Children, and forks of
//! the parent, can be parents themselves.

use callgate::bridge;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::env;
use std::process::{Command, Stdio};

#[path = "support/held.rs"]
mod held;
mod support;
use held::alone;
use support::{eventually, process_exists, within};

callgate::test_support!();

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn greet(&self) -> String {
        "hello".into()
    }

    /// What this test binary prints when the guest runs it.
    pub(crate) fn list(&self, with_stdin: bool) -> Result<String, String> {
        let mut command = Command::new(env::current_exe().map_err(|error| error.to_string())?);
        command.arg("--list").stdin(if with_stdin { Stdio::inherit() } else { Stdio::piped() });
        let output = command.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(format!("{}: {text}", output.status)) }
    }

    /// What a guest of this guest answers, and its process number.
    pub(crate) fn pass_on(&self) -> Result<(String, u32), String> {
        let inner = Guest::bridge().start().map_err(|error| error.to_string())?;
        let said = inner.greet().map_err(|error| error.to_string())?;
        let pid = inner.child_pid();
        // Ends with this process.
        std::mem::forget(inner);
        Ok((said, pid))
    }
}

#[test]
fn what_a_service_executes_is_no_child_of_the_bridge() {
    within(60, "what_a_service_executes_is_no_child_of_the_bridge", || {
        let guest = Guest::bridge().start().expect("a start");
        for with_stdin in [true, false] {
            let listed = guest.list(with_stdin).expect("the child lives").expect("the grandchild works");
            assert!(listed.contains("what_a_service_executes_is_no_child_of_the_bridge: test"), "{listed}");
        }
        assert_eq!(guest.greet().as_deref(), Ok("hello"));
    });
}

#[test]
fn a_child_can_be_a_parent_and_its_child_ends_with_it() {
    within(60, "a_child_can_be_a_parent_and_its_child_ends_with_it", || {
        let guest = Guest::bridge().start().expect("a start");
        let (said, grandchild) = guest.pass_on().expect("the child lives").expect("the child starts a bridge");
        assert_eq!(said, "hello");
        assert!(process_exists(grandchild));
        guest.kill();
        assert!(eventually(10, "the grandchild's end", || !process_exists(grandchild)));
    });
}

/// A fork holds a copy of its parent's bridge. It must not use it: neither call through it nor, by dropping it, stop it.
#[test]
fn a_fork_leaves_its_parents_bridge_alone() {
    alone("a_fork_leaves_its_parents_bridge_alone", 60, || {
        let first = Guest::bridge().start().expect("a start");
        // SAFETY: the other threads of this process sleep, so no lock is held; the fork leaves by `_exit`.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                let refused = first.greet().is_err_and(|error| error.to_string().contains("is a fork of the one"));
                drop(first);
                // SAFETY: ends the fork, which has nothing left to do.
                unsafe { nix::libc::_exit(if refused { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
        }
        assert_eq!(first.greet().as_deref(), Ok("hello"));
    });
}

#[test]
fn a_fork_of_the_parent_starts_bridges_of_its_own() {
    alone("a_fork_of_the_parent_starts_bridges_of_its_own", 60, || {
        let first = Guest::bridge().start().expect("a start");
        // SAFETY: the other threads of this process sleep, so no lock is held; the fork leaves by `_exit`.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                let greeted = Guest::bridge().start().is_ok_and(|guest| guest.greet().as_deref() == Ok("hello"));
                // SAFETY: ends the fork, which has nothing left to do.
                unsafe { nix::libc::_exit(if greeted { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
        }
        assert_eq!(first.greet().as_deref(), Ok("hello"));
        assert!(first.stop().is_ok_and(|exit| exit.success()));
    });
}
