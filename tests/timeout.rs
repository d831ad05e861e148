//! A call ends at its deadline, whatever the child is doing. A late reply is dropped, and the next call gets its own.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Awaited, Bridge, CallError, Exit, StartError, Started, Wait, bridge};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::hint::black_box;
use std::time::{Duration, Instant};
use support::{Gate, eventually, is_stopped, process_exists, within};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// Long enough for a child to take a request even on a busy machine.
const SHORT: Duration = Duration::from_millis(300);

/// How long after its deadline a call may return on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

const LONG: Duration = Duration::from_secs(60);

/// One length fits a slot; the other needs memory outside it.
const LENS: [usize; 2] = [8, 300_000];

struct Slow {
    done: u64,
}

#[bridge]
impl Slow {
    pub fn new() -> Self {
        Slow { done: 0 }
    }

    /// Never returns, unless the gate opens: a constructor that hangs.
    pub fn with_eternity(gate: &str) -> Self {
        Gate::pass(gate);
        Slow { done: 0 }
    }

    pub fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.done += 1;
        bytes.to_vec()
    }

    /// Like `echo`, once the gate is open.
    pub fn echo_at(&mut self, gate: &str, bytes: &[u8]) -> Vec<u8> {
        Gate::pass(gate);
        self.echo(bytes)
    }

    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms))
    }

    pub fn spin(&self) {
        let mut turns = 0_u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    pub fn done(&self) -> u64 {
        self.done
    }
}

fn slow(wait: Wait) -> Bridge<Slow> {
    Slow::bridge().wait(wait).start().expect("the bridge starts")
}

/// Runs a call that must end at its deadline, `timeout` from now. Returns whether it had started.
fn timed_out<R: std::fmt::Debug>(pid: u32, timeout: Duration, call: impl FnOnce() -> Result<R, CallError>) -> Started {
    let start = Instant::now();
    let error = call().expect_err("the call outlasts its time");
    let taken = start.elapsed();
    assert!(taken >= timeout, "gave up after {taken:?} of {timeout:?}");
    assert!(taken < timeout + SLACK, "gave up only after {taken:?}, instead of {timeout:?}");
    let CallError::TimedOut { pid: at, timeout: given, started, .. } = error else { panic!("{error}") };
    assert_eq!((at, given), (pid, timeout));
    started
}

fn stop_child(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("the child is there");
    assert!(eventually(30, "the child stops", || is_stopped(pid)));
}

fn continue_child(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).expect("the child is there");
}

/// Bytes that differ for every number.
fn bytes(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = (number as u64).to_le_bytes().repeat(len.div_ceil(8));
    bytes.truncate(len);
    bytes
}

#[test]
fn fault_11_call_ends_at_its_deadline_whatever_the_child_does() {
    within(PATIENCE, "deadlines", || {
        type Call = fn(&Bridge<Slow>) -> Result<(), CallError>;
        let busy: [(&str, Call); 2] = [
            ("loops", |slow| slow.with_timeout(SHORT).spin()),
            ("sleeps", |slow| slow.with_timeout(SHORT).sleep(3_600_000)),
        ];
        for wait in [Wait::Adaptive, Wait::Park, Wait::Spin] {
            for (what, call) in busy {
                let slow = slow(wait);
                let started = timed_out(slow.child_pid(), SHORT, || call(&slow));
                assert_eq!(started, Started::Yes, "the child {what}, {wait:?}");
                let started = timed_out(slow.child_pid(), SHORT, || slow.with_timeout(SHORT).done());
                assert_eq!(started, Started::No, "the child still {what}, {wait:?}");
                assert!(slow.is_alive());
                assert_eq!(slow.kill(), Exit::Signal(libc::SIGKILL));
                assert!(!process_exists(slow.child_pid()));
            }
        }
    });
}

#[test]
fn fault_11_call_to_a_stopped_child_ends_at_its_deadline_and_kill_works() {
    within(PATIENCE, "a stopped child", || {
        for wait in [Wait::Adaptive, Wait::Park, Wait::Spin] {
            let slow = slow(wait);
            let pid = slow.child_pid();
            stop_child(pid);
            let started = timed_out(pid, SHORT, || slow.with_timeout(SHORT).done());
            assert_eq!(started, Started::No, "{wait:?}");
            assert!(slow.is_alive());
            assert_eq!(slow.kill(), Exit::Signal(libc::SIGKILL));
            assert!(!process_exists(pid));
        }
    });
}

#[test]
fn fault_11_call_to_a_child_that_is_continued_gets_its_own_reply() {
    within(PATIENCE, "a child that is continued", || {
        for len in LENS {
            let slow = slow(Wait::Adaptive);
            stop_child(slow.child_pid());
            timed_out(slow.child_pid(), SHORT, || slow.with_timeout(SHORT).echo(&bytes(1, len)));
            continue_child(slow.child_pid());
            assert_eq!(slow.echo(&bytes(2, len)), Ok(bytes(2, len)));
            // The abandoned call had not started when it timed out, and never ran.
            assert_eq!(slow.done(), Ok(1));
        }
    });
}

#[test]
fn fault_11_late_reply_is_dropped_and_the_next_call_gets_its_own() {
    within(PATIENCE, "late replies", || {
        for len in LENS {
            let slow = slow(Wait::Adaptive);
            for round in 0..20 {
                let gate = Gate::new();
                let short = Duration::from_millis(20);
                let call = slow.with_timeout(short).echo_at(&gate.path(), &bytes(round, len));
                assert!(matches!(call, Err(CallError::TimedOut { .. })), "{call:?}");
                gate.open();
                // In half of the rounds, the late reply arrives before the next call begins.
                std::thread::sleep(Duration::from_millis(round as u64 % 2 * 20));
                assert_eq!(slow.echo(&bytes(round + 1000, len)), Ok(bytes(round + 1000, len)));
            }
            assert_eq!(slow.done(), Ok(40));
        }
    });
}

#[test]
fn more_calls_can_be_abandoned_than_there_are_slots() {
    within(PATIENCE, "more abandoned calls than slots", || {
        for len in LENS {
            let slow = Slow::bridge().concurrent_callers(1).pending_calls(2).start().expect("the bridge starts");
            let pid = slow.child_pid();
            let (gate, short) = (Gate::new(), Duration::from_millis(20));
            let first = timed_out(pid, SHORT, || slow.with_timeout(SHORT).echo_at(&gate.path(), &bytes(0, len)));
            assert_eq!(first, Started::Yes);
            for number in 1..10 {
                let started = timed_out(pid, short, || slow.with_timeout(short).echo(&bytes(number, len)));
                assert_eq!(started, Started::No, "call {number}");
            }
            gate.open();
            assert_eq!(slow.echo(&bytes(10, len)), Ok(bytes(10, len)));
            assert_eq!(slow.echo(&bytes(11, len)), Ok(bytes(11, len)));
            // The first had started. No other that timed out has run.
            assert_eq!(slow.done(), Ok(3));
        }
    });
}

/// The bridge may use 68 MiB for payloads, which is too little if it lost the abandoned ones.
#[test]
fn memory_of_abandoned_payloads_is_used_again() {
    within(PATIENCE, "abandoned payloads", || {
        let len = 1_000_000;
        let slow = Slow::bridge().pending_calls(2).max_payload(1 << 20).start().expect("the bridge starts");
        let (mut sent, mut done) = (0, 0);
        while sent < 150 {
            let gate = Gate::new();
            let short = Duration::from_millis(10);
            let call = slow.with_timeout(short).echo_at(&gate.path(), &bytes(sent as usize, len));
            let Err(CallError::TimedOut { awaited, started, .. }) = call else { panic!("{sent} sent: {call:?}") };
            // On a busy machine the deadline may pass before the arguments are written; then they are not sent. Or before the child looks; then they are
            // withdrawn, unless it looks just then.
            sent += u64::from(awaited == Awaited::Answer);
            gate.open();
            let (before, most) = (done, done + u64::from(started == Started::Yes));
            done = slow.done().expect("an answer");
            assert!((before..=most).contains(&done), "{done} of {most}");
        }
    });
}

#[test]
fn call_that_waits_for_a_lane_ends_at_its_deadline() {
    within(PATIENCE, "waiting for a lane", || {
        let slow = Slow::bridge().concurrent_callers(1).start().expect("the bridge starts");
        let gate = Gate::new();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| slow.echo_at(&gate.path(), &[1]));
            gate.wait_for_child();
            for timeout in [Duration::ZERO, Duration::from_millis(50), SHORT] {
                let started = timed_out(slow.child_pid(), timeout, || slow.with_timeout(timeout).done());
                assert_eq!(started, Started::No);
            }
            let patient = scope.spawn(|| slow.with_timeout(LONG).done());
            gate.open();
            assert_eq!(first.join().expect("no panic"), Ok(vec![1]));
            assert_eq!(patient.join().expect("no panic"), Ok(1));
        });
    });
}

#[test]
fn timeout_of_the_bridge_holds_for_every_call_and_with_timeout_overrides_it() {
    within(PATIENCE, "two kinds of timeouts", || {
        let slow = Slow::bridge().timeout(SHORT).start().expect("the bridge starts");
        let pid = slow.child_pid();
        assert_eq!(timed_out(pid, SHORT, || slow.sleep(2_000)), Started::Yes);
        assert_eq!(slow.with_timeout(LONG).done(), Ok(0));
        assert_eq!(slow.with_timeout(LONG).sleep(2 * SHORT.as_millis() as u64), Ok(()));
        let shorter = SHORT / 10;
        timed_out(pid, shorter, || slow.with_timeout(shorter).sleep(1_000));
        assert_eq!(slow.with_timeout(LONG).done(), Ok(0));
    });
}

#[test]
fn timeout_may_be_nothing_or_forever() {
    within(PATIENCE, "extreme timeouts", || {
        let slow = Slow::bridge().timeout(Duration::MAX).start().expect("the bridge starts");
        let mut may_have_run = 200;
        for round in 0..200 {
            // Even a timeout of zero suffices if the reply is there at the first look.
            match slow.with_timeout(Duration::ZERO).echo(&bytes(round, 8)) {
                Ok(reply) => {
                    assert_eq!(reply, bytes(round, 8));
                    may_have_run += 1;
                }
                Err(CallError::TimedOut { started, .. }) => may_have_run += u64::from(started == Started::Yes),
                Err(error) => panic!("{error}"),
            }
            assert_eq!(slow.echo(&bytes(round + 1000, 8)), Ok(bytes(round + 1000, 8)));
        }
        let ran = slow.with_timeout(Duration::MAX).done().expect("an answer");
        assert!((200..=may_have_run).contains(&ran), "{ran} of {may_have_run}");
    });
}

#[test]
fn timeout_holds_for_the_constructor_too() {
    within(PATIENCE, "a slow constructor", || {
        let gate = Gate::new();
        let start = Slow::bridge_with_eternity(&gate.path()).timeout(SHORT).start();
        let Err(StartError::Call { error, .. }) = start else { panic!("{start:?}") };
        let CallError::TimedOut { pid, timeout, started, .. } = error else { panic!("{error}") };
        assert_eq!((timeout, started), (SHORT, Started::Yes));
        assert!(!process_exists(pid), "nothing is left of a bridge that did not start");
    });
}

#[test]
fn timeout_reads_as_a_sentence() {
    within(PATIENCE, "sentences", || {
        let slow = slow(Wait::default());
        let error = slow.with_timeout(SHORT).spin().expect_err("it never returns");
        let pid = slow.child_pid();
        let sentence =
            format!("call `Slow::spin` failed: child {pid} gave no answer within 300ms; the call had started");
        assert_eq!(error.to_string(), sentence);
        slow.kill();
    });
}

// ---- what the error says -------------------------------------------------------------------------------------------

#[test]
fn fault_31_a_timeout_says_what_was_waited_for() {
    within(PATIENCE, "what was waited for", || {
        let builder = Slow::bridge().concurrent_callers(2).pending_calls(2).queue(2, 1000);
        let (slow, gate) = (builder.start().expect("the bridge starts"), Gate::new());
        let pid = slow.child_pid();
        // Results that nobody takes hold up nothing.
        let untaken: Vec<_> = (0..3).map(|_| slow.begin().done()).collect();
        // The worker takes the lanes in turn, so these come after all of them.
        (0..3).for_each(|_| assert_eq!(slow.with_timeout(LONG).done(), Ok(0)));
        let _full: Vec<_> = (0..4).map(|_| slow.begin().echo_at(&gate.path(), &[])).collect();
        let error = slow.with_timeout(SHORT).done().expect_err("no lane has room");
        let awaited = Awaited::Lane { lanes: 2 };
        assert!(
            matches!(error, CallError::TimedOut { awaited: at, started: Started::No, .. } if at == awaited),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            format!(
                "call `Slow::done` failed: no lane to child {pid} was free within 300ms: all 2 are full of calls that have not been answered; \
                 the call had not started"
            )
        );
        let _waiting: Vec<_> = (0..2).map(|_| slow.begin().done()).collect();
        let error = slow.begin().done().wait().expect_err("nor has the queue");
        assert!(matches!(error, CallError::Busy { lanes: 2, calls: 2, bytes: 1000, .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            "call `Slow::done` failed: all 2 lanes to the child are full, and 2 calls or 1000 bytes already wait for room (allow more with \
             Builder::queue, or wait for results); the call had not started"
        );
        gate.open();
        drop(untaken);
    });
}

#[test]
fn fault_31_a_timeout_behind_abandoned_calls_says_so() {
    within(PATIENCE, "abandoned calls", || {
        let slow = Slow::bridge().concurrent_callers(1).pending_calls(2).start().expect("the bridge starts");
        let gate = Gate::new();
        let short = slow.with_timeout(SHORT);
        assert!(short.echo_at(&gate.path(), &[]).is_err());
        let queued = short.done().expect_err("it waits behind the other");
        assert!(matches!(queued, CallError::TimedOut { awaited: Awaited::Answer, .. }), "{queued:?}");
        let error = short.done().expect_err("there is no room");
        assert!(matches!(error, CallError::TimedOut { awaited: Awaited::Lane { lanes: 1 }, .. }), "{error:?}");
        assert!(error.to_string().contains("full of calls that have not been answered"), "{error}");
        gate.open();
        assert_eq!(slow.done(), Ok(1));
    });
}
