//! What deferred calls promise, with and without a doorbell. A deferred call does not wait for its result.

mod support;

use callgate::{Bridge, CallError, Pending, Signal, Started, bridge};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};
use support::{eventually, within};

callgate::test_support!();

/// A service whose calls end on command.
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

#[bridge]
impl Gate {
    pub fn new() -> Self {
        Gate { open: Mutex::new(false), opened: Condvar::new() }
    }

    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    /// Returns `n` once the gate is open.
    pub fn pass(&self, n: u64) -> u64 {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        n
    }

    pub fn double(&self, n: u64) -> u64 {
        2 * n
    }

    pub fn repeat(&self, text: &str, times: usize) -> String {
        text.repeat(times)
    }

    pub fn panic(&self) -> u64 {
        panic!("as asked")
    }

    pub fn exit(&self) -> u64 {
        std::process::exit(3)
    }

    pub fn sleep(&self, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    }
}

/// A bridge that can still be called to open the gate while other calls wait at it.
fn gate(signal: Signal) -> Bridge<Gate> {
    Gate::bridge().signal(signal).workers(2).concurrent_callers(4).start().expect("the bridge starts")
}

const SIGNALS: [Signal; 2] = [Signal::Futex, Signal::EventFd];

/// Whether the doorbell rings within `time`.
fn rings(gate: &Bridge<Gate>, time: Duration) -> bool {
    let doorbell = gate.doorbell_fd().expect("a doorbell");
    let time = Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
    poll(&mut [PollFd::new(&doorbell, PollFlags::IN)], Some(&time)).expect("a poll") > 0
}

fn poll_until<R: callgate::Transfer>(pending: &mut Pending<R>) -> Result<R, CallError> {
    let mut result = None;
    assert!(eventually(20, "a result", || {
        result = result.take().or_else(|| pending.poll());
        result.is_some()
    }));
    result.expect("just seen")
}

#[test]
fn a_call_is_begun_before_it_ends_and_others_go_on_meanwhile() {
    within(60, "a_call_is_begun_before_it_ends_and_others_go_on_meanwhile", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            let mut pending = gate.begin().pass(7).expect("a call sent");
            assert!(pending.poll().is_none(), "the gate is shut");
            assert_eq!(gate.double(4).expect("an answer"), 8);
            gate.open().expect("an answer");
            assert_eq!(poll_until(&mut pending).expect("an answer"), 7);
        }
    });
}

#[test]
fn waiting_gives_what_polling_gives() {
    within(60, "waiting_gives_what_polling_gives", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            for n in 0..1000 {
                let (first, mut second) = (gate.begin().double(n).unwrap(), gate.begin().double(n + 1).unwrap());
                assert_eq!(poll_until(&mut second).unwrap(), 2 * n + 2);
                assert_eq!(first.wait().unwrap(), 2 * n);
            }
            let large = gate.begin().repeat("large", 100_000).unwrap();
            assert_eq!(large.wait().unwrap().len(), 500_000);
            assert!(matches!(gate.begin().panic().unwrap().wait(), Err(CallError::Panicked { .. })));
        }
    });
}

#[test]
fn every_lane_holds_one_call_and_one_more_is_refused_in_words() {
    within(60, "every_lane_holds_one_call_and_one_more_is_refused_in_words", || {
        let gate = gate(Signal::Futex);
        let pending: Vec<_> = (0..4).map(|n| gate.begin().sleep(n).expect("a lane")).collect();
        let error = gate.begin().double(1).expect_err("no lane is left").to_string();
        assert!(error.contains("`Gate::double`") && error.contains("all 4 lanes"), "{error}");
        for (n, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait().expect("an answer"), n as u64);
        }
        assert_eq!(gate.begin().double(1).expect("a lane").wait().expect("an answer"), 2);
    });
}

#[test]
fn a_call_given_up_frees_its_lane_and_no_one_gets_its_result() {
    within(60, "a_call_given_up_frees_its_lane_and_no_one_gets_its_result", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            for n in 0..200 {
                drop(gate.begin().sleep(n % 2).expect("a lane"));
                assert_eq!(gate.begin().double(n).expect("a lane").wait().expect("an answer"), 2 * n);
                assert_eq!(gate.double(n + 1).expect("an answer"), 2 * n + 2);
            }
        }
    });
}

#[test]
fn a_poll_does_not_wait_behind_a_call_that_was_given_up() {
    within(60, "a_poll_does_not_wait_behind_a_call_that_was_given_up", || {
        for signal in SIGNALS {
            let gate =
                Gate::bridge().signal(signal).workers(2).concurrent_callers(2).start().expect("the bridge starts");
            // Lane by lane, so that the abandoned call and the next share one.
            let other = gate.begin().double(1).expect("a lane");
            drop(gate.begin().sleep(30).expect("a lane"));
            let mut pending = gate.begin().pass(5).expect("a lane");
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(5));
                assert!(pending.poll().is_none(), "the gate is shut");
            }
            drop(other);
            gate.open().expect("an answer");
            assert_eq!(poll_until(&mut pending).expect("an answer"), 5);
        }
    });
}

trait Halve {
    fn halve(&self, n: u64) -> u64;
}

#[bridge]
impl Halve for Gate {
    fn halve(&self, n: u64) -> u64 {
        n / 2
    }
}

#[test]
fn the_first_call_of_a_trait_does_not_wait_either() {
    within(60, "the_first_call_of_a_trait_does_not_wait_either", || {
        let gate = Gate::bridge().concurrent_callers(2).pending_calls(2).start().expect("the bridge starts");
        let first = gate.begin().sleep(50).expect("a lane");
        let second = gate.begin().halve(10).expect("a lane");
        let error = gate.begin().halve(10).expect_err("no lane is left").to_string();
        assert!(error.contains("all 2 lanes"), "{error}");
        assert_eq!((first.wait().expect("an answer"), second.wait().expect("an answer")), (50, 5));
        assert_eq!(Halve::halve(&gate, 8), 4);
        assert_eq!(gate.begin().halve(6).expect("a lane").wait().expect("an answer"), 3);
    });
}

#[test]
fn beginning_does_not_wait_for_room() {
    within(60, "beginning_does_not_wait_for_room", || {
        let gate = Gate::bridge().concurrent_callers(1).pending_calls(2).start().expect("the bridge starts");
        drop(gate.begin().sleep(200).expect("a lane"));
        let error = gate.begin().double(1).expect_err("the child has not even answered the call before").to_string();
        assert!(error.contains("`Gate::double`"), "{error}");
        assert!(eventually(20, "room", || gate.begin().double(1).is_ok()));
    });
}

#[test]
fn who_waits_for_a_lane_hears_of_the_childs_death() {
    within(60, "who_waits_for_a_lane_hears_of_the_childs_death", || {
        let gate = Gate::bridge().concurrent_callers(1).start().expect("the bridge starts");
        let pending = gate.begin().pass(1).expect("a lane");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| gate.double(1));
            std::thread::sleep(Duration::from_millis(50));
            gate.kill();
            assert!(matches!(waits.join().expect("no panic"), Err(CallError::Stopped { .. })));
        });
        assert!(pending.wait().is_err());
    });
}

#[test]
fn a_fork_neither_takes_a_pending_result_nor_gives_it_up() {
    within(60, "a_fork_neither_takes_a_pending_result_nor_gives_it_up", || {
        let gate = gate(Signal::EventFd);
        let mut pending = gate.begin().pass(3).expect("a lane");
        gate.clear_doorbell();
        assert!(pending.poll().is_none());
        // SAFETY: the fork calls nothing but callgate and `_exit`; the allocator is glibc's, which is usable in a fork.
        match unsafe { nix::unistd::fork() }.expect("a fork") {
            nix::unistd::ForkResult::Child => {
                let refused = matches!(pending.poll(), Some(Err(CallError::Refused { .. })));
                drop(pending);
                // SAFETY: ends the fork without running the exit code of the process that it was forked from.
                unsafe { nix::libc::_exit(if refused { 0 } else { 1 }) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).expect("the fork's end");
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
        gate.open().expect("an answer");
        assert!(rings(&gate, Duration::from_secs(20)), "the fork has not taken the ring");
        assert_eq!(poll_until(&mut pending).expect("an answer"), 3);
    });
}

#[test]
fn the_timeout_counts_from_the_beginning() {
    within(60, "the_timeout_counts_from_the_beginning", || {
        for signal in SIGNALS {
            let builder = Gate::bridge().signal(signal).timeout(Duration::from_millis(100));
            let gate = builder.start().expect("the bridge starts");
            let begin = Instant::now();
            let mut pending = gate.begin().pass(1).expect("a call sent");
            let error = poll_until(&mut pending).expect_err("too late");
            assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
            assert!(begin.elapsed() >= Duration::from_millis(100));
            gate.kill();
        }
    });
}

#[test]
fn a_death_ends_pending_calls() {
    within(60, "a_death_ends_pending_calls", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            let (mut waits, exits) = (gate.begin().pass(1).expect("a lane"), gate.begin().exit().expect("a lane"));
            let error = exits.wait().expect_err("the child is gone");
            assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
            assert!(matches!(poll_until(&mut waits), Err(CallError::Died { .. })));
            assert!(gate.begin().double(1).is_err());
        }
    });
}

#[test]
fn the_doorbell_rings_for_every_call_whose_poll_found_nothing() {
    within(120, "the_doorbell_rings_for_every_call_whose_poll_found_nothing", || {
        let gate = gate(Signal::EventFd);
        for round in 0..2000u64 {
            let mut pending: Vec<_> = (0..3).map(|n| (n, gate.begin().double(round + n).expect("a lane"))).collect();
            // The loop of a program that sleeps until the doorbell rings: if a ring is lost, the sleep never ends.
            loop {
                gate.clear_doorbell();
                pending.retain_mut(|(n, pending)| match pending.poll() {
                    Some(result) => {
                        assert_eq!(result.expect("an answer"), 2 * (round + *n));
                        false
                    }
                    None => true,
                });
                if pending.is_empty() {
                    break;
                }
                assert!(rings(&gate, Duration::from_secs(20)), "round {round}: {} calls unheard", pending.len());
            }
        }
    });
}

#[test]
fn the_doorbell_is_quiet_while_nothing_happens_and_rings_at_the_end() {
    within(60, "the_doorbell_is_quiet_while_nothing_happens_and_rings_at_the_end", || {
        let gate = gate(Signal::EventFd);
        assert_eq!(gate.double(1).expect("an answer"), 2);
        let mut pending = gate.begin().pass(1).expect("a lane");
        gate.clear_doorbell();
        assert!(pending.poll().is_none());
        assert!(!rings(&gate, Duration::from_millis(50)), "nothing has happened");
        gate.open().expect("an answer");
        assert!(rings(&gate, Duration::from_secs(20)), "the call has been answered");
        assert_eq!(poll_until(&mut pending).expect("an answer"), 1);
        gate.kill();
        gate.clear_doorbell();
        assert!(rings(&gate, Duration::from_secs(20)), "the child has ended");
    });
}

#[test]
#[should_panic(expected = "can be taken once")]
fn a_result_is_taken_once() {
    let gate = gate(Signal::Futex);
    let mut pending = gate.begin().double(1).expect("a lane");
    assert_eq!(poll_until(&mut pending).expect("an answer"), 2);
    let _ = pending.poll();
}
