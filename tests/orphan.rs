//! A child never outlives its parent, however the parent ends; and it does outlive the thread that started it.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, bridge};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use rustix::process::set_parent_process_death_signal;
use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use support::{Helper, eventually, is_stopped, process_exists, role, say, within};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// Seconds that a child may outlive its parent. One is promised; a busy machine gets more.
const GONE_WITHIN: u64 = 5;

/// Nobody, on most systems; any number other than root's serves.
const NOBODY: u32 = 65_534;

/// What a child may do that keeps it from hearing of its parent's death.
struct Stubborn;

#[bridge]
impl Stubborn {
    pub fn new() -> Self {
        Stubborn
    }

    /// A constructor that never returns.
    pub fn with_eternity() -> Self {
        say("child", std::process::id());
        sleep_forever()
    }

    /// The kernel drops the wish to be killed with the parent when the process changes its user.
    pub fn change_user(&self) {
        let nobody = Uid::from_raw(NOBODY);
        nix::unistd::setresuid(nobody, nobody, nobody).expect("root may become anybody");
    }

    pub fn clear_death_signal(&self) {
        set_parent_process_death_signal(None).expect("it can always be cleared");
    }

    pub fn spin(&self) {
        say("busy", "spinning");
        let mut turns = 0_u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    pub fn sleep(&self) {
        say("busy", "sleeping");
        sleep_forever()
    }
}

fn sleep_forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// What the parent's life is like before it ends.
struct Case {
    role: &'static str,
    /// The child is in a call, and says so.
    busy: bool,
    /// The child is stopped before the parent ends.
    stopped: bool,
    needs_root: bool,
}

const CASE: Case = Case { role: "idle", busy: false, stopped: false, needs_root: false };

const CASES: &[Case] = &[
    CASE,
    Case { stopped: true, ..CASE },
    Case { role: "call sleep", busy: true, ..CASE },
    Case { role: "call spin", busy: true, ..CASE },
    Case { role: "call spin", busy: true, stopped: true, ..CASE },
    Case { role: "constructor", ..CASE },
    Case { role: "user idle", needs_root: true, ..CASE },
    Case { role: "user call spin", busy: true, needs_root: true, ..CASE },
    Case { role: "deaf idle", ..CASE },
    Case { role: "deaf call sleep", busy: true, ..CASE },
    Case { role: "deaf call spin", busy: true, ..CASE },
];

#[test]
fn fault_15_child_is_gone_soon_after_its_parent_is_killed() {
    within(PATIENCE, "killed parents", || {
        for Case { role, busy, stopped, needs_root } in CASES {
            if *needs_root && !Uid::effective().is_root() {
                println!("skipped, as it takes root: {role}");
                continue;
            }
            let mut parent = Helper::start("helper_parent", role);
            let child: u32 = parent.hear("child").parse().expect("a process number");
            if *busy {
                parent.hear("busy");
            }
            if *stopped {
                kill(Pid::from_raw(child as i32), Signal::SIGSTOP).expect("the child is there");
                assert!(eventually(30, "the child stops", || is_stopped(child)));
            }
            assert!(process_exists(child), "{role}: the child lives while its parent does");
            parent.kill();
            assert!(eventually(GONE_WITHIN, "the child is gone", || !process_exists(child)), "{role}");
        }
    });
}

#[test]
fn fault_15_child_is_gone_soon_after_its_parent_ends_by_itself() {
    within(PATIENCE, "parents that end", || {
        for role in ["exits", "aborts", "becomes another program", "deaf and exits", "deaf and becomes another program"]
        {
            let mut parent = Helper::start("helper_parent", role);
            let child: u32 = parent.hear("child").parse().expect("a process number");
            assert!(eventually(GONE_WITHIN, "the child is gone", || !process_exists(child)), "{role}");
        }
    });
}

#[test]
fn helper_parent() {
    let Some(role) = role() else { return };
    if role == "constructor" {
        let _unreached = Stubborn::bridge_with_eternity().start();
    }
    let stubborn = Stubborn::bridge().start().expect("the bridge starts");
    let child = stubborn.child_pid();
    if role.starts_with("user") {
        stubborn.change_user().expect("the child lives");
    }
    if role.starts_with("deaf") {
        stubborn.clear_death_signal().expect("the child lives");
    }
    say("child", child);
    live_on(&role, &stubborn)
}

fn live_on(role: &str, stubborn: &Bridge<Stubborn>) {
    if role.ends_with("call spin") {
        let _ = stubborn.spin();
    } else if role.ends_with("call sleep") {
        let _ = stubborn.sleep();
    } else if role.ends_with("idle") {
        sleep_forever();
    } else if role.ends_with("exits") {
        // Without dropping the bridge.
        std::process::exit(0);
    } else if role.ends_with("aborts") {
        std::process::abort();
    } else if role.ends_with("becomes another program") {
        let error = Command::new("sleep").arg("3600").exec();
        panic!("sleep: {error}");
    }
    panic!("nothing more to do as `{role}`");
}

// ---- threads -------------------------------------------------------------------------------------------------------

struct Counter {
    total: u64,
}

#[bridge]
impl Counter {
    pub fn new() -> Self {
        Counter { total: 0 }
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

#[test]
fn fault_16_child_lives_on_when_the_thread_that_started_it_exits() {
    within(PATIENCE, "threads that exit", || {
        for round in 0..10 {
            let starter = std::thread::spawn(|| {
                let counter = Counter::bridge().start().expect("the bridge starts");
                assert_eq!(counter.add(1), Ok(1));
                counter
            });
            let counter = starter.join().expect("no panic");
            // A child that dies with a thread does so when the kernel reaps the thread, a moment after `join`.
            std::thread::sleep(Duration::from_millis(50));
            assert!(counter.is_alive(), "round {round}");
            assert_eq!(counter.add(1), Ok(2), "round {round}");
        }
    });
}
