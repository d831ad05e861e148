//! What deferred calls promise, with and without a doorbell. A deferred call does not wait for its result.

mod support;

use callgate::{Bridge, CallError, Pending, Signal, Started, Wait, bridge};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use support::{eventually, within};

callgate::test_support!();

/// A service whose calls end on command.
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    counted: AtomicU64,
}

#[bridge]
impl Gate {
    pub fn new() -> Self {
        Gate { open: Mutex::new(false), opened: Condvar::new(), counted: AtomicU64::new(0) }
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

    /// Counts the calls that have run.
    pub fn count_and_sleep(&self, ms: u64) -> u64 {
        let counted = self.counted.fetch_add(1, Ordering::SeqCst) + 1;
        std::thread::sleep(Duration::from_millis(ms));
        counted
    }

    pub fn counted(&self) -> u64 {
        self.counted.load(Ordering::SeqCst)
    }

    pub fn until_cancelled(&self) {
        while !callgate::call::is_cancelled() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The time that the call has left, in milliseconds.
    pub fn left(&self) -> Option<u64> {
        callgate::call::deadline().map(|at| at.saturating_duration_since(Instant::now()).as_millis() as u64)
    }

    pub fn caller(&self) -> Option<u32> {
        callgate::call::caller()
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
    let time = Timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
    poll(&mut [PollFd::new(gate, PollFlags::IN)], Some(&time)).expect("a poll") > 0
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
            let mut pending = gate.begin().pass(7);
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
                let (first, mut second) = (gate.begin().double(n), gate.begin().double(n + 1));
                assert_eq!(poll_until(&mut second).unwrap(), 2 * n + 2);
                assert_eq!(first.wait().unwrap(), 2 * n);
            }
            let large = gate.begin().repeat("large", 100_000);
            assert_eq!(large.wait().unwrap().len(), 500_000);
            assert!(matches!(gate.begin().panic().wait(), Err(CallError::Panicked { .. })));
        }
    });
}

#[test]
fn a_lane_carries_as_many_calls_as_it_has_slots_and_more_wait_for_room() {
    within(60, "a_lane_carries_as_many_calls_as_it_has_slots_and_more_wait_for_room", || {
        for signal in SIGNALS {
            let builder = Gate::bridge().signal(signal).concurrent_callers(2).pending_calls(4).queue(50, 1 << 20);
            let gate = builder.start().expect("the bridge starts");
            let slow = gate.begin().sleep(2000);
            let mut pending: Vec<_> = (0..57).map(|n| (n, gate.begin().double(n))).collect();
            let error = gate.begin().double(1).wait().expect_err("2 lanes of 4 slots, and 50 in the queue").to_string();
            assert!(error.contains("`Gate::double`") && error.contains("all 2 lanes"), "{error}");
            assert_eq!(gate.double(2).expect_err("nor may a thread").to_string(), error);
            // Taken in any order.
            for turn in [3, 1, 4, 1, 5, 9, 2, 6].iter().cycle().take(57) {
                let (n, pending) = pending.swap_remove(turn % pending.len());
                assert_eq!(pending.wait().expect("an answer"), 2 * n);
            }
            assert_eq!(slow.wait().expect("an answer"), 2000);
        }
    });
}

#[test]
fn what_waits_for_room_is_sent_though_nobody_looks() {
    within(60, "what_waits_for_room_is_sent_though_nobody_looks", || {
        for signal in SIGNALS {
            let builder = Gate::bridge().signal(signal).concurrent_callers(1).pending_calls(2);
            let gate = builder.start().expect("the bridge starts");
            let mut pending: Vec<_> = (0..200).map(|n| gate.begin().repeat("text", n)).collect();
            // The last one tells that all the others have been sent and answered.
            let last = pending.pop().expect("as many as were begun");
            assert_eq!(last.wait().expect("an answer").len(), 4 * 199);
            for (n, pending) in pending.iter_mut().enumerate() {
                assert_eq!(pending.poll().expect("it came before the last").expect("an answer"), "text".repeat(n));
            }
        }
    });
}

#[test]
fn a_call_given_up_frees_its_lane_and_no_one_gets_its_result() {
    within(60, "a_call_given_up_frees_its_lane_and_no_one_gets_its_result", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            for n in 0..200 {
                drop(gate.begin().sleep(n % 2));
                assert_eq!(gate.begin().double(n).wait().expect("an answer"), 2 * n);
                assert_eq!(gate.double(n + 1).expect("an answer"), 2 * n + 2);
            }
        }
    });
}

#[test]
fn a_call_dropped_before_it_starts_never_runs() {
    within(60, "a_call_dropped_before_it_starts_never_runs", || {
        for signal in SIGNALS {
            let builder = Gate::bridge().signal(signal).concurrent_callers(2).pending_calls(2);
            let gate = builder.start().expect("the bridge starts");
            let running = gate.begin().count_and_sleep(100);
            std::thread::sleep(Duration::from_millis(50));
            // Some on lanes, some waiting for room.
            drop((0..20).map(|_| gate.begin().count_and_sleep(0)).collect::<Vec<_>>());
            assert_eq!(running.wait(), Ok(1));
            assert_eq!(gate.counted(), Ok(1), "{signal:?}");
        }
    });
}

#[test]
fn a_cancelled_call_says_whether_it_had_started_and_keeps_its_word() {
    within(120, "a_cancelled_call_says_whether_it_had_started_and_keeps_its_word", || {
        for signal in SIGNALS {
            let gate = Gate::bridge().signal(signal).start().expect("the bridge starts");
            let (mut may_have_run, mut not_started) = (0, 0);
            for round in 0..3000u64 {
                let pending = gate.begin().count_and_sleep(0);
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                match pending.cancel() {
                    Started::No => not_started += 1,
                    Started::Yes => may_have_run += 1,
                    Started::Unknown => panic!("this kernel can tell"),
                }
            }
            let ran = gate.counted().expect("an answer");
            println!("{signal:?}: {ran} ran, {may_have_run} may have, {not_started} did not start");
            assert!(ran <= may_have_run && may_have_run + not_started == 3000);
        }
    });
}

#[test]
fn a_call_that_could_not_begin_had_not_started_when_it_is_cancelled() {
    within(60, "a_call_that_could_not_begin_had_not_started_when_it_is_cancelled", || {
        let gate = Gate::bridge().start().expect("the bridge starts");
        gate.kill();
        assert_eq!(gate.begin().until_cancelled().cancel(), Started::No);
    });
}

#[test]
fn a_method_learns_that_its_call_is_cancelled() {
    within(60, "a_method_learns_that_its_call_is_cancelled", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            for way in 0..3 {
                let pending = gate.begin().until_cancelled();
                std::thread::sleep(Duration::from_millis(20));
                match way {
                    0 => drop(pending),
                    1 => assert_eq!(pending.cancel(), Started::Yes),
                    _ => {
                        let late = gate.with_timeout(Duration::from_millis(50)).until_cancelled();
                        assert!(matches!(late, Err(CallError::TimedOut { started: Started::Yes, .. })), "{late:?}");
                        drop(pending);
                    }
                }
                // Two workers: both are free again.
                assert_eq!((gate.double(1), gate.double(2), gate.double(3)), (Ok(2), Ok(4), Ok(6)));
            }
        }
    });
}

#[test]
fn a_method_knows_its_deadline_and_its_caller() {
    within(60, "a_method_knows_its_deadline_and_its_caller", || {
        let gate = gate(Signal::Futex);
        assert_eq!(gate.left(), Ok(None));
        for (left, given) in [
            (gate.with_timeout(Duration::from_secs(100)).left(), 100_000),
            (gate.with_timeout(Duration::from_secs(7)).begin().left().wait(), 7_000),
        ] {
            let left = left.expect("an answer").expect("a deadline");
            assert!((given - 5_000..=given).contains(&left), "{left} of {given}");
        }
        assert_eq!(gate.left(), Ok(None), "the next call has none");
        assert_eq!(gate.caller(), Ok(Some(std::process::id())));
        assert_eq!(
            (callgate::call::deadline(), callgate::call::caller(), callgate::call::is_cancelled()),
            (None, None, false)
        );
    });
}

/// Has a gate in a child of its own.
struct Outer(Bridge<Gate>);

#[bridge]
impl Outer {
    pub fn new() -> Self {
        Outer(gate(Signal::Futex))
    }

    /// What a call has left that this one makes: with no timeout, a longer and a shorter one, waited for or not.
    pub fn left_within(&self) -> Vec<Option<u64>> {
        let (long, short) = (Duration::from_secs(1000), Duration::from_secs(7));
        let left = [
            self.0.left(),
            self.0.begin().left().wait(),
            self.0.with_timeout(long).left(),
            self.0.with_timeout(long).begin().left().wait(),
            self.0.with_timeout(short).left(),
            self.0.with_timeout(short).begin().left().wait(),
        ];
        left.map(|left| left.expect("an answer")).into()
    }
}

#[test]
fn a_nested_call_has_no_more_time_than_the_call_that_makes_it() {
    within(60, "a_nested_call_has_no_more_time_than_the_call_that_makes_it", || {
        let outer = Outer::bridge().start().expect("the bridge starts");
        let left = outer.with_timeout(Duration::from_secs(50)).left_within().expect("an answer");
        for (left, most) in left.into_iter().zip([50_000, 50_000, 50_000, 50_000, 7_000, 7_000]) {
            assert!(left.is_some_and(|left| (most - 6_000..=most).contains(&left)), "{left:?} of {most}");
        }
        let free = outer.left_within().expect("an answer");
        assert_eq!(&free[..2], [None, None], "no limit of its own");
    });
}

#[test]
fn a_wait_for_a_certain_time_leaves_the_call_alone() {
    within(60, "a_wait_for_a_certain_time_leaves_the_call_alone", || {
        for signal in SIGNALS {
            let gate = gate(signal);
            let (mut first, mut second) = (gate.begin().pass(1), gate.begin().repeat("large", 100_000));
            for _ in 0..3 {
                let begin = Instant::now();
                assert!(first.wait_timeout(Duration::from_millis(20)).is_none());
                assert!(begin.elapsed() >= Duration::from_millis(20));
            }
            let large = second.wait_timeout(Duration::from_secs(20)).expect("it is there").expect("an answer");
            assert_eq!(large.len(), 500_000);
            gate.open().expect("an answer");
            assert_eq!(first.wait_timeout(Duration::from_secs(20)), Some(Ok(1)));
        }
    });
}

/// The one that leaves has the lane; the others must get it, though none of them does anything.
#[test]
fn a_thread_whose_time_is_over_leaves_the_lane_to_those_that_wait() {
    within(60, "a_thread_whose_time_is_over_leaves_the_lane_to_those_that_wait", || {
        for signal in SIGNALS {
            for round in 0..20u64 {
                let builder = Gate::bridge().signal(signal).concurrent_callers(1).wait(Wait::Park);
                let gate = builder.start().expect("the bridge starts");
                let mut first = gate.begin().sleep(60);
                let (thread, mut task) = (gate.begin().double(round), gate.begin().double(round + 1));
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        match round % 2 {
                            0 => drop(first.wait_timeout(Duration::from_millis(20))),
                            _ => drop(gate.with_timeout(Duration::from_millis(20)).sleep(1)),
                        }
                        // And does nothing more.
                    });
                    let waits = scope.spawn(move || {
                        std::thread::sleep(Duration::from_millis(10));
                        thread.wait()
                    });
                    let awaits = scope.spawn(move || {
                        std::thread::sleep(Duration::from_millis(10));
                        pollster::block_on(&mut task)
                    });
                    assert_eq!(waits.join().expect("no panic"), Ok(2 * round), "{signal:?}, round {round}");
                    assert_eq!(awaits.join().expect("no panic"), Ok(2 * round + 2), "{signal:?}, round {round}");
                });
            }
        }
    });
}

#[test]
fn a_reply_that_is_there_is_taken_though_its_time_is_over() {
    within(60, "a_reply_that_is_there_is_taken_though_its_time_is_over", || {
        let gate = gate(Signal::Futex);
        let hasty = gate.with_timeout(Duration::from_millis(100));
        let (waited, mut polled) = (hasty.begin().double(1), hasty.begin().double(2));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!((waited.wait(), polled.poll()), (Ok(2), Some(Ok(4))));
    });
}

#[test]
fn threads_that_wait_for_calls_of_one_lane_all_get_theirs() {
    within(120, "threads_that_wait_for_calls_of_one_lane_all_get_theirs", || {
        for signal in SIGNALS {
            let builder = Gate::bridge().signal(signal).concurrent_callers(1).pending_calls(8);
            let gate = &builder.start().expect("the bridge starts");
            std::thread::scope(|scope| {
                for thread in 0..6u64 {
                    scope.spawn(move || {
                        for round in 0..300 {
                            let n = thread * 1000 + round;
                            let (first, mut second) = (gate.begin().double(n), gate.begin().double(n + 1));
                            match round % 3 {
                                0 => assert_eq!(gate.double(n + 2), Ok(2 * n + 4)),
                                1 => drop(gate.begin().repeat("dropped", 100)),
                                _ => drop(second.wait_timeout(Duration::from_micros(round))),
                            }
                            if round % 3 != 2 {
                                assert_eq!(second.wait(), Ok(2 * n + 2));
                            }
                            assert_eq!(first.wait(), Ok(2 * n));
                        }
                    });
                }
            });
        }
    });
}

/// What a task's waker tells.
struct Told(mpsc::SyncSender<()>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let _ = self.0.try_send(());
    }
}

/// The thread sleeps at the lane's own bell, over which the child then no longer rings for the task.
#[test]
fn a_thread_that_has_waited_at_a_lane_leaves_no_task_of_it_asleep() {
    within(60, "a_thread_that_has_waited_at_a_lane_leaves_no_task_of_it_asleep", || {
        for (signal, wait) in SIGNALS.into_iter().flat_map(|signal| [(signal, Wait::Park), (signal, Wait::Adaptive)]) {
            let gate =
                Gate::bridge().signal(signal).wait(wait).concurrent_callers(1).start().expect("the bridge starts");
            let (told, tells) = mpsc::sync_channel(1);
            let waker = Waker::from(Arc::new(Told(told)));
            let (first, mut second) = (gate.begin().sleep(50), gate.as_async().sleep(20));
            let mut context = Context::from_waker(&waker);
            assert!(pin!(&mut second).poll(&mut context).is_pending(), "the first sleeps");
            assert_eq!(first.wait(), Ok(50));
            tells.recv_timeout(Duration::from_secs(20)).expect("the task is woken");
            assert_eq!(pin!(&mut second).poll(&mut context), Poll::Ready(Ok(20)));
        }
    });
}

/// Each finds the other at the lane again and again, and tells it that it waits.
#[test]
fn results_are_waited_for_by_other_threads_than_began_the_calls() {
    within(60, "results_are_waited_for_by_other_threads_than_began_the_calls", || {
        let gate = &Gate::bridge().concurrent_callers(1).pending_calls(8).start().expect("the bridge starts");
        std::thread::scope(|scope| {
            let (give, take) = mpsc::sync_channel::<(u64, Pending<u64>)>(16);
            scope.spawn(move || {
                for (n, pending) in take {
                    assert_eq!(pending.wait(), Ok(2 * n));
                }
            });
            for n in 0..3000 {
                give.send((n, gate.begin().double(n))).expect("a taker");
                if n % 3 == 0 {
                    assert_eq!(gate.begin().double(n).wait(), Ok(2 * n));
                }
            }
        });
    });
}

#[test]
fn a_batch_is_answered_whether_the_child_sleeps_or_not() {
    within(60, "a_batch_is_answered_whether_the_child_sleeps_or_not", || {
        for signal in SIGNALS {
            let gate = Gate::bridge().signal(signal).workers(2).concurrent_callers(4).wait(Wait::Park).start();
            let gate = gate.expect("the bridge starts");
            for round in 0..200 {
                let pending = gate.batch(|batch| (0..round % 70).map(|n| batch.double(n)).collect::<Vec<_>>());
                for (n, pending) in pending.into_iter().enumerate() {
                    assert_eq!(pending.wait(), Ok(2 * n as u64));
                }
            }
            // A batch that waits for its own calls does not wait for ever.
            gate.batch(|batch| assert_eq!((batch.double(1).wait(), gate.double(2)), (Ok(2), Ok(4))));
            let in_vain = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                gate.batch(|batch| {
                    let _begun = batch.double(1);
                    panic!("as asked");
                })
            }));
            assert!(in_vain.is_err());
            assert_eq!(gate.begin().double(3).wait(), Ok(6), "the batch is over");
        }
    });
}

#[test]
fn a_call_that_outlives_its_cancellation_costs_the_child_its_life_if_asked() {
    within(60, "a_call_that_outlives_its_cancellation_costs_the_child_its_life_if_asked", || {
        let builder = Gate::bridge().kill_after(Duration::from_millis(20)).workers(2);
        let gate = builder.start().expect("the bridge starts");
        gate.begin().until_cancelled().cancel();
        assert_eq!(gate.double(1), Ok(2), "a call that ends by itself costs nothing");
        let (stuck, other) = (gate.begin().pass(1), gate.begin().pass(2));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(stuck.cancel(), Started::Yes);
        let error = other.wait().expect_err("the child is killed").to_string();
        assert!(error.contains("`Gate::pass` had outlived"), "{error}");
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
        let first = gate.begin().sleep(50);
        let halves: Vec<_> = (0..20).map(|n| gate.begin().halve(n)).collect();
        assert_eq!(first.wait(), Ok(50));
        for (n, half) in halves.into_iter().enumerate() {
            assert_eq!(half.wait(), Ok(n as u64 / 2));
        }
        assert_eq!(Halve::halve(&gate, 8), 4);
        assert_eq!(gate.begin().halve(6).wait().expect("an answer"), 3);
    });
}

#[test]
fn beginning_does_not_wait_for_room() {
    within(60, "beginning_does_not_wait_for_room", || {
        let gate = Gate::bridge().concurrent_callers(1).pending_calls(2).start().expect("the bridge starts");
        let slow = gate.begin().sleep(200);
        let pending: Vec<_> = (0..100).map(|n| gate.begin().double(n)).collect();
        assert_eq!(slow.wait(), Ok(200));
        for (n, pending) in pending.into_iter().enumerate() {
            assert_eq!(pending.wait(), Ok(2 * n as u64));
        }
    });
}

#[test]
fn who_waits_for_a_lane_hears_of_the_childs_death() {
    within(60, "who_waits_for_a_lane_hears_of_the_childs_death", || {
        let gate = Gate::bridge().concurrent_callers(1).start().expect("the bridge starts");
        let pending = gate.begin().pass(1);
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
        rings(&gate, Duration::ZERO);
        let mut pending = gate.begin().pass(3);
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
            let mut pending = gate.begin().pass(1);
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
            let (mut waits, exits) = (gate.begin().pass(1), gate.begin().exit());
            let error = exits.wait().expect_err("the child is gone");
            assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
            assert!(matches!(poll_until(&mut waits), Err(CallError::Died { .. })));
            assert!(gate.begin().double(1).wait().is_err());
        }
    });
}

#[test]
fn the_doorbell_rings_for_every_call_whose_poll_found_nothing() {
    within(120, "the_doorbell_rings_for_every_call_whose_poll_found_nothing", || {
        let gate = gate(Signal::Futex);
        rings(&gate, Duration::ZERO);
        for round in 0..2000u64 {
            let mut pending: Vec<_> = (0..3).map(|n| (n, gate.begin().double(round + n))).collect();
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
        let gate = gate(Signal::Futex);
        rings(&gate, Duration::ZERO);
        assert_eq!(gate.double(1).expect("an answer"), 2);
        let mut pending = gate.begin().pass(1);
        gate.clear_doorbell();
        assert!(pending.poll().is_none());
        assert!(!rings(&gate, Duration::from_millis(50)), "nothing has happened");
        gate.open().expect("an answer");
        assert!(rings(&gate, Duration::from_secs(20)), "the call has been answered");
        assert_eq!(poll_until(&mut pending).expect("an answer"), 1);
        let mut pending = gate.begin().until_cancelled();
        gate.clear_doorbell();
        assert!(pending.poll().is_none());
        gate.kill();
        assert!(rings(&gate, Duration::from_secs(20)), "the child has ended");
        assert!(matches!(pending.poll(), Some(Err(CallError::Stopped { .. }))));
    });
}

#[test]
#[should_panic(expected = "can be taken once")]
fn a_result_is_taken_once() {
    let gate = gate(Signal::Futex);
    let mut pending = gate.begin().double(1);
    assert_eq!(poll_until(&mut pending).expect("an answer"), 2);
    let _ = pending.poll();
}
