//! Promise: the backends of the feature `portable` carry calls as the others do and leave no name behind. If a child dies holding a lock, its
//! parent's calls still end.

#![cfg(feature = "portable")]

mod support;

use callgate::{Bridge, CallError, Segments, Signal, TrustedChild, Wait, bridge};
use raw_sync::locks::{LockInit, Mutex};
use std::time::Duration;
use support::{Helper, eventually, role, say, shm_entries, within};

callgate::test_support!();

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn add(&self, n: u64) -> u64 {
        n + 1
    }

    pub(crate) fn add_slowly(&self, n: u64, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        n + 1
    }

    pub(crate) fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    pub(crate) fn die(&self) {
        std::process::abort()
    }

    /// Takes the lock of every event, like a process killed at the wrong moment, and dies `ms` later.
    pub(crate) fn die_with_every_lock(&self, ms: u64) {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let line = maps
            .lines()
            .find(|line| line.contains("callgate") && line.contains("-events"))
            .expect("the events are mapped");
        let range = line.split(' ').next().expect("a range");
        let (from, to) = range.split_once('-').expect("two addresses");
        let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).expect("an address"));
        for at in (from..to).step_by(128).take(9) {
            // SAFETY: the events of 8 lanes and the worker, 128 bytes apart; each begins with its mutex.
            let (mutex, _) = unsafe { Mutex::from_existing(at as *mut u8, std::ptr::null_mut()) }.expect("a mutex");
            std::mem::forget(mutex.lock());
            std::mem::forget(mutex);
        }
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            std::process::abort()
        });
    }
}

fn trusted() -> TrustedChild {
    // SAFETY: these children shrink nothing, and only lock the events.
    unsafe { TrustedChild::new() }
}

fn start(signal: Signal, segments: Segments) -> Bridge<Guest> {
    let builder = Guest::bridge().signal(signal).segments(segments).wait(Wait::Park);
    builder.timeout(Duration::from_secs(30)).start().expect("the bridge starts")
}

fn all() -> Vec<(Signal, Segments)> {
    let signals = [Signal::Futex, Signal::EventFd, Signal::RawSync(trusted())];
    let segments = [Segments::Sealed, Segments::Named(trusted())];
    signals.into_iter().flat_map(|signal| segments.map(|segments| (signal, segments))).collect()
}

/// The names of this process's bridges.
fn names() -> Vec<String> {
    names_of(std::process::id())
}

fn names_of(pid: u32) -> Vec<String> {
    let ours = format!("callgate-{pid}-");
    shm_entries().into_iter().filter(|name| name.starts_with(&ours)).collect()
}

#[test]
fn every_combination_carries_calls_of_any_size() {
    within(120, "every_combination_carries_calls_of_any_size", || {
        for (signal, segments) in all() {
            let bridge = start(signal, segments);
            (0..500).for_each(|n| assert_eq!(bridge.add(n), Ok(n + 1), "{signal:?} {segments:?}"));
            for len in [10, 10_000, 3_000_000] {
                assert_eq!(bridge.echo(&vec![7; len]).map(|bytes| bytes.len()), Ok(len), "{signal:?} {segments:?}");
            }
            assert!(bridge.stop().expect("a stop").success());
        }
    });
}

#[cfg(feature = "sandbox")]
#[test]
fn a_sandboxed_child_has_no_named_memory() {
    within(60, "a_sandboxed_child_has_no_named_memory", || {
        let builder = Guest::bridge().segments(Segments::Named(trusted())).sandbox(callgate::Sandbox::new());
        let error = builder.start().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("sandbox is combined with Segments::Named but must be used without"), "{error}");
    });
}

#[test]
fn every_combination_notices_deaths_and_deadlines() {
    within(120, "every_combination_notices_deaths_and_deadlines", || {
        for (signal, segments) in all() {
            let bridge = start(signal, segments);
            let late = bridge.with_timeout(Duration::from_millis(20)).add_slowly(1, 100);
            assert!(matches!(late, Err(CallError::TimedOut { .. })), "{signal:?} {segments:?}: {late:?}");
            assert_eq!(bridge.add(1), Ok(2), "{signal:?} {segments:?}");
            assert!(matches!(bridge.die(), Err(CallError::Died { .. })), "{signal:?} {segments:?}");
        }
    });
}

#[test]
fn names_go_with_the_bridge_and_with_the_child() {
    within(60, "names_go_with_the_bridge_and_with_the_child", || {
        let named = || start(Signal::RawSync(trusted()), Segments::Named(trusted()));
        let of = |bridge: &Bridge<Guest>| mapped_names(bridge.child_pid());

        let bridge = named();
        assert_eq!(bridge.echo(&[7; 100_000]).map(|bytes| bytes.len()), Ok(100_000));
        let ours = of(&bridge);
        assert!(ours.len() >= 4 && ours.iter().all(|name| names().contains(name)), "{ours:?} of {:?}", names());
        drop(bridge);
        assert!(eventually(10, "the names go", || !ours.iter().any(|name| names().contains(name))), "{:?}", names());

        let bridge = named();
        let ours = of(&bridge);
        bridge.kill();
        assert!(eventually(10, "the names go", || !ours.iter().any(|name| names().contains(name))), "{:?}", names());
        assert!(matches!(bridge.add(1), Err(CallError::Stopped { .. })));
    });
}

const LEAVER: &str = "leaves_right_after_a_drop";

/// Runs only in the helper process that `names_go_when_their_process_exits` starts.
#[test]
fn leaves_right_after_a_drop() {
    if role().is_none() {
        return;
    }
    let bridge = start(Signal::RawSync(trusted()), Segments::Named(trusted()));
    assert!(!names().is_empty());
    say("pid", std::process::id());
    drop(bridge);
    std::process::exit(0)
}

/// A drop does not wait until the child ends and its names are removed, nor does a process that exits right after a drop.
#[test]
fn names_go_when_their_process_exits() {
    within(60, "names_go_when_their_process_exits", || {
        for _ in 0..10 {
            let mut helper = Helper::start(LEAVER, "leaves");
            let pid = helper.hear("pid").parse().expect("a number");
            assert!(helper.wait().expect("an end").success());
            assert_eq!(names_of(pid), Vec::<String>::new());
        }
    });
}

/// The names of shared memory that process `pid` has mapped.
fn mapped_names(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("procfs");
    let mut names: Vec<_> = maps.lines().filter_map(|line| Some(line.split_once("/dev/shm/")?.1.to_owned())).collect();
    names.dedup();
    names
}

/// Takes all locks for good, so the child no longer sleeps or hears a ring, and then kills it. Every call ends: calls made while the child lives
/// end at their deadline, calls that wait when it dies end with its death. The parent's other bridges keep working.
#[test]
fn a_child_that_dies_with_the_locks_hangs_no_call() {
    within(60, "a_child_that_dies_with_the_locks_hangs_no_call", || {
        let signal = Signal::RawSync(trusted());
        let (bridge, other) = (start(signal, Segments::Sealed), start(signal, Segments::Sealed));
        let locked = bridge.with_timeout(Duration::from_millis(100)).die_with_every_lock(1000);
        assert!(matches!(locked, Ok(()) | Err(CallError::TimedOut { .. })), "{locked:?}");
        let late = bridge.with_timeout(Duration::from_millis(100)).add(1);
        assert!(matches!(late, Err(CallError::TimedOut { .. } | CallError::Died { .. })), "{late:?}");
        std::thread::scope(|scope| {
            for n in 0..4 {
                let bridge = &bridge;
                scope.spawn(move || assert!(matches!(bridge.add(n), Err(CallError::Died { .. }))));
            }
        });
        assert!(matches!(bridge.add(1), Err(CallError::Died { .. })));
        assert_eq!(other.add(1), Ok(2));
    });
}
