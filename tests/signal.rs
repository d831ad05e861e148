//! Promise: a bridge works the same whatever wakes its sleeping sides. Its descriptor tells an epoll loop of replies, deadlines and
//! the end. A hostile child
//! can do no more to the eventfds that it shares with its parent than slow it down.
//!
//! The hostile service knows only what an attacker would know: it finds the eventfds in `/proc/self/fd`.

mod support;

use callgate::{Bridge, CallError, Signal, StartError, Wait, bridge};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use support::{eventually, process_exists, role, within};

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

    /// Takes long enough for the caller to fall asleep.
    pub(crate) fn add_slowly(&self, n: u64, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        n + 1
    }

    pub(crate) fn die(&self) {
        std::process::abort()
    }

    /// The number of eventfds that this process has.
    pub(crate) fn eventfds(&self) -> usize {
        eventfds().len()
    }

    /// Makes eventfds blocking: a read blocks while they are empty, a write while they are full.
    pub(crate) fn make_blocking(&self) {
        for eventfd in eventfds() {
            fcntl_setfl(eventfd, fcntl_getfl(eventfd).expect("its flags") - OFlags::NONBLOCK).expect("new flags");
        }
    }

    /// Reads away every ring, for ever: if it is quick enough, nobody hears any.
    pub(crate) fn steal(&self) {
        for eventfd in eventfds() {
            std::thread::spawn(move || {
                loop {
                    let _ = rustix::io::read(eventfd, &mut [0; 8]);
                }
            });
        }
    }

    /// Rings without end.
    pub(crate) fn flood(&self) {
        std::thread::spawn(|| {
            loop {
                for eventfd in eventfds() {
                    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
                }
            }
        });
    }

    /// Fills the counts so that no further ring fits, and keeps them full.
    pub(crate) fn fill(&self) {
        for eventfd in eventfds() {
            std::thread::spawn(move || {
                loop {
                    let _ = rustix::io::write(eventfd, &(u64::MAX - 1).to_ne_bytes());
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
        }
    }
}

/// The eventfds of this process. In a child, these are its bridge's: it opens none itself.
fn eventfds() -> Vec<BorrowedFd<'static>> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let is_eventfd = |path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy() == "anon_inode:[eventfd]");
    let numbers =
        entries.filter(|entry| is_eventfd(entry.path())).filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // SAFETY: an eventfd of the bridge, which stays open as long as the process.
    numbers.map(|number| unsafe { BorrowedFd::borrow_raw(number) }).collect()
}

fn start(signal: Signal) -> Bridge<Guest> {
    Guest::bridge().signal(signal).wait(Wait::Park).timeout(Duration::from_secs(30)).start().expect("the bridge starts")
}

const SIGNALS: [Signal; 2] = [Signal::Futex, Signal::EventFd];

/// Whether the bridge's descriptor becomes readable within `ms`.
fn is_rung(bridge: &Bridge<Guest>, ms: i64) -> bool {
    let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    poll(&mut [PollFd::new(bridge, PollFlags::IN)], Some(&timeout)).expect("a poll") > 0
}

#[test]
fn calls_are_answered_whatever_wakes_the_caller() {
    within(60, "calls_are_answered_whatever_wakes_the_caller", || {
        for signal in SIGNALS {
            let bridge = start(signal);
            (0..2000).for_each(|n| assert_eq!(bridge.add(n), Ok(n + 1), "{signal:?}"));
            assert_eq!(bridge.add_slowly(1, 20), Ok(2), "{signal:?}");
            assert!(bridge.stop().expect("a stop").success(), "{signal:?}");
        }
    });
}

#[test]
fn many_threads_sleep_each_on_its_own_lane() {
    within(60, "many_threads_sleep_each_on_its_own_lane", || {
        for signal in SIGNALS {
            let bridge = start(signal);
            std::thread::scope(|scope| {
                for thread in 0..12 {
                    let bridge = &bridge;
                    scope.spawn(move || (0..300).for_each(|n| assert_eq!(bridge.add(thread + n), Ok(thread + n + 1))));
                }
            });
        }
    });
}

#[test]
fn a_death_ends_a_parked_call() {
    within(60, "a_death_ends_a_parked_call", || {
        for signal in SIGNALS {
            let bridge = start(signal);
            assert!(matches!(bridge.die(), Err(CallError::Died { .. })), "{signal:?}");
            assert!(matches!(bridge.add(1), Err(CallError::Died { .. })), "{signal:?}");
        }
    });
}

#[test]
fn a_deadline_ends_a_parked_call() {
    within(60, "a_deadline_ends_a_parked_call", || {
        for signal in SIGNALS {
            let bridge = start(signal);
            let late = bridge.with_timeout(Duration::from_millis(20)).add_slowly(1, 300);
            assert!(matches!(late, Err(CallError::TimedOut { .. })), "{signal:?}: {late:?}");
            assert_eq!(bridge.add(1), Ok(2), "{signal:?}");
        }
    });
}

#[test]
fn the_child_has_an_eventfd_for_each_lane_and_no_other_descriptor_of_the_parents() {
    within(60, "the_child_has_an_eventfd_for_each_lane", || {
        for lanes in [1, 8, 64] {
            let bridge =
                Guest::bridge().signal(Signal::EventFd).concurrent_callers(lanes).start().expect("the bridge starts");
            assert_eq!(bridge.eventfds(), Ok(lanes as usize + 1), "one for each lane, and the ring");
            let descriptors = support::open_descriptors(bridge.child_pid());
            assert!(!descriptors.iter().any(|name| name.contains("eventpoll")), "{descriptors:?}");
        }
        assert_eq!(start(Signal::Futex).eventfds(), Ok(1), "the ring");
    });
}

#[test]
fn the_descriptor_tells_of_a_reply_a_deadline_and_the_end() {
    within(60, "the_descriptor_tells_of_a_reply_a_deadline_and_the_end", || {
        for signal in SIGNALS {
            let bridge = start(signal);
            let flags = rustix::io::fcntl_getfd(bridge.as_fd()).expect("its flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            let mut pending = bridge.begin().add_slowly(1, 100);
            assert!(pending.poll().is_none() && !is_rung(&bridge, 0));
            assert!(is_rung(&bridge, 10_000), "the reply");
            bridge.clear_doorbell();
            assert_eq!((pending.poll(), is_rung(&bridge, 50)), (Some(Ok(2)), false), "{signal:?}");
            let mut late = bridge.with_timeout(Duration::from_millis(50)).begin().add_slowly(1, 300);
            assert!(late.poll().is_none() && is_rung(&bridge, 10_000), "its time is over");
            bridge.clear_doorbell();
            assert!(matches!(late.poll(), Some(Err(CallError::TimedOut { .. }))));
            let mut lost = bridge.begin().add_slowly(1, 10_000);
            assert!(lost.poll().is_none());
            bridge.kill();
            assert!(is_rung(&bridge, 10_000) && matches!(lost.poll(), Some(Err(CallError::Stopped { .. }))), "the end");
        }
    });
}

#[test]
fn an_idle_bridge_spends_no_time() {
    const NAME: &str = "an_idle_bridge_spends_no_time";
    let Some(_) = role() else { return within(60, NAME, || support::play(NAME, "idle")) };
    for signal in SIGNALS {
        let bridge = Guest::bridge().signal(signal).start().expect("the bridge starts");
        assert_eq!(bridge.add(1), Ok(2));
        // Wait until both sides have stopped polling.
        std::thread::sleep(Duration::from_millis(50));
        let spent = || {
            let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
            (usage.voluntary_context_switches(), child_switches(bridge.child_pid()))
        };
        let before = spent();
        std::thread::sleep(Duration::from_millis(300));
        let after = spent();
        // Only this sleep counts; neither side polls. Even naps of 5 ms would cause 60 switches.
        assert!(after.0 - before.0 < 10 && after.1 - before.1 < 10, "{signal:?}: {before:?} to {after:?}");
    }
}

/// The number of times that threads of process `pid` have gone to sleep.
fn child_switches(pid: u32) -> i64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let count = |status: String| {
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<i64>().ok())
    };
    tasks.filter_map(|task| count(std::fs::read_to_string(task.path().join("status")).ok()?)).sum()
}

// ---- hostile children ----------------------------------------------------------------------------------------------

/// Makes calls with short timeouts through a bridge whose child is damaged for good. Each call must end, with any result. Calls through the
/// parent's other bridges must be answered.
fn survives(what: &str, harm: impl Fn(&Bridge<Guest>)) {
    SIGNALS.into_iter().for_each(|signal| survives_by(signal, what, &harm));
}

fn survives_by(signal: Signal, what: &str, harm: impl Fn(&Bridge<Guest>)) {
    within(60, what, || {
        let (bridge, other) = (start(signal), start(signal));
        harm(&bridge);
        for n in 0..20 {
            let patience = Duration::from_millis(100);
            let begun = Instant::now();
            let answer = bridge.with_timeout(patience).add(n);
            assert!(matches!(answer, Ok(_) | Err(CallError::TimedOut { .. })), "{what}: {answer:?}");
            // Asserts no upper bound: a call that hangs never gets here, and the watchdog reports it.
            if answer.is_err() {
                assert!(begun.elapsed() >= patience);
            }
            assert_eq!(other.add(n), Ok(n + 1), "{what}");
            let pending = bridge.with_timeout(patience).begin().add(n);
            let answer = pollster::block_on(pending);
            assert!(matches!(answer, Ok(_) | Err(CallError::TimedOut { .. })), "{what}: {answer:?}");
            assert_eq!(pollster::block_on(other.begin().add(n)), Ok(n + 1), "{what}");
        }
        let pid = bridge.child_pid();
        bridge.kill();
        assert!(eventually(10, "the child is gone", || !process_exists(pid)));
    });
}

#[test]
fn fault_10_a_child_that_has_eventfds_block_cannot_block_its_parent() {
    survives("blocking eventfds", |bridge| bridge.make_blocking().expect("an answer"));
}

#[test]
fn fault_10_a_child_that_steals_rings_cannot_hang_a_call() {
    // If the ring for this very call is stolen, the call ends at its deadline, and finds that it has been answered.
    survives("stolen rings", |bridge| drop(bridge.with_timeout(Duration::from_secs(1)).steal()));
    survives("stolen rings of blocking eventfds", |bridge| {
        bridge.make_blocking().expect("an answer");
        let _ = bridge.with_timeout(Duration::from_secs(1)).steal();
    });
}

#[test]
fn fault_10_a_child_that_rings_without_end_cannot_hang_a_call() {
    survives("a flood", |bridge| bridge.flood().expect("an answer"));
}

#[test]
fn fault_10_a_child_that_fills_the_counts_cannot_block_its_parent() {
    survives("full counts", |bridge| {
        bridge.make_blocking().expect("an answer");
        let _ = bridge.with_timeout(Duration::from_secs(1)).fill();
    });
}

/// A flood makes the parent nap instead of polling: however often it is rung, it goes to sleep at most about once a millisecond.
#[test]
fn a_flood_does_not_make_the_parent_poll() {
    const NAME: &str = "a_flood_does_not_make_the_parent_poll";
    let Some(_) = role() else { return within(60, NAME, || support::play(NAME, "flooded")) };
    let bridge = Guest::bridge().signal(Signal::EventFd).wait(Wait::Park).start().expect("the bridge starts");
    bridge.flood().expect("an answer");
    let thread_time = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let (before, begun) = (thread_time(), Instant::now());
    let late = bridge.with_timeout(Duration::from_millis(1000)).add_slowly(1, 10_000);
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    let (spent, took) = (thread_time() - before, begun.elapsed());
    assert!(spent < took / 2, "{spent:?} of {took:?}");
    bridge.kill();
}

/// Rings for which there is no reason count like messages, of which a child may send few.
#[test]
fn rings_without_reason_cost_the_parent_little() {
    const NAME: &str = "rings_without_reason_cost_the_parent_little";
    let Some(_) = role() else { return within(60, NAME, || support::play(NAME, "rung")) };
    for signal in SIGNALS {
        let bridge = start(signal);
        bridge.flood().expect("an answer");
        let time = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
        };
        let (before, begun) = (time(), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let (spent, took) = (time() - before, begun.elapsed());
        assert!(spent < took / 4, "{signal:?}: {spent:?} of {took:?}");
        bridge.kill();
    }
}

// ---- the environment -----------------------------------------------------------------------------------------------

#[test]
fn the_environment_chooses_the_default() {
    const NAME: &str = "the_environment_chooses_the_default";
    match role().as_deref() {
        None => within(60, NAME, || {
            let play = |role: &str, variable: &str, value: &str| {
                let output = support::helper(NAME, role).env(variable, value).output().expect("the helper");
                assert!(output.status.success(), "{value}: {}", String::from_utf8_lossy(&output.stdout));
            };
            for (value, role) in [("eventfd", "eventfd"), ("futex", "futex"), ("bell", "unknown"), ("", "unknown")] {
                play(role, "CALLGATE_SIGNAL", value);
            }
            play("unknown segments", "CALLGATE_SEGMENTS", "paper");
        }),
        Some("unknown") => {
            let error = Guest::bridge().start().expect_err("no backend of that name");
            assert!(matches!(error, StartError::Option { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("CALLGATE_SIGNAL is `") && text.contains("one of futex, eventfd"), "{text}");
            // If the program sets the backend itself, the variable is not read.
            assert_eq!(start(Signal::Futex).add(1), Ok(2));
        }
        Some("unknown segments") => {
            let error = Guest::bridge().start().expect_err("no segments of that name").to_string();
            assert!(error.contains("CALLGATE_SEGMENTS is `paper` but must be one of sealed"), "{error}");
        }
        Some(name) => {
            let bridge = Guest::bridge().start().expect("the bridge starts");
            assert_eq!(bridge.eventfds(), Ok(if name == "eventfd" { 9 } else { 1 }));
            assert_eq!(start(Signal::Futex).eventfds(), Ok(1));
        }
    }
}
