//! Methods that call back: `&mut dyn FnMut`, `&dyn Fn` and `impl Iterator` arguments, which run in the caller while it waits.

mod support;

use callgate::rkyv;
use callgate::{Bridge, CallError, Restart, Started, bridge};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

/// A service whose methods call back.
struct Walker {
    steps: u64,
    unwound: u64,
}

/// Counts drops.
struct Unwinding<'a>(&'a mut u64);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0 += 1;
        }
    }
}

#[bridge]
impl Walker {
    pub fn new() -> Self {
        Walker { steps: 0, unwound: 0 }
    }

    /// Walks until told to stop. Returns how far it has come.
    pub fn walk(&mut self, steps: u32, on_step: &mut dyn FnMut(u32, &str) -> bool) -> u32 {
        let Walker { steps: walked, unwound } = self;
        let _unwinding = Unwinding(unwound);
        for step in 0..steps {
            *walked += 1;
            if !on_step(step, &format!("step {step}")) {
                return step;
            }
        }
        steps
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn add_steps(&mut self, steps: u64) {
        self.steps += steps;
    }

    pub fn unwound(&self) -> u64 {
        self.unwound
    }

    /// `&self`, so that its callbacks may call `steps`.
    pub fn look(&self, ask: &dyn Fn(u64) -> u64) -> u64 {
        ask(self.steps) + ask(self.steps + 1)
    }

    /// Calls back and back: each level's callback calls this again.
    pub fn deep(&self, level: u32, down: &dyn Fn(u32) -> u32) -> u32 {
        1 + down(level + 1)
    }

    /// Two callbacks, an argument between them that is read in place, and one that is too long for a slot.
    pub fn both(
        &self,
        even: &mut dyn FnMut(u32),
        text: &str,
        odd: &mut dyn FnMut(&[u32], Vec<u8>) -> String,
    ) -> String {
        let mut all = String::from(text);
        for n in 0..100 {
            if n % 2 == 0 {
                even(n);
            } else {
                all += &odd(&[n; 3], vec![n as u8; 100]);
            }
        }
        // The argument is still what it was, though its slot has been used again since.
        all += text;
        all
    }

    pub fn sum(&mut self, numbers: impl Iterator<Item = u64>) -> u64 {
        numbers.sum()
    }

    pub fn first(&self, texts: impl Iterator<Item = String>, wanted: usize) -> Vec<String> {
        texts.take(wanted).collect()
    }

    pub fn copy(&self, make: &mut dyn FnMut(usize) -> Vec<u8>, take: &mut dyn FnMut(Vec<u8>)) {
        for len in [0, 10, 1000, 100_000, 3_000_000] {
            take(make(len));
        }
    }

    pub fn die(&self, first: &mut dyn FnMut()) {
        first();
        std::process::abort();
    }

    /// Sleeps, then calls back.
    pub fn late(&self, pause: Duration, then: &mut dyn FnMut()) {
        std::thread::sleep(pause);
        then();
    }

    /// Catches whatever ends it, and asks again.
    pub fn stubborn(&self, ask: &mut dyn FnMut(u32)) -> u32 {
        (0..3).filter(|&n| catch_unwind(AssertUnwindSafe(|| ask(n))).is_err()).count() as u32
    }

    pub fn pid() -> u32 {
        std::process::id()
    }
}

fn walker() -> Bridge<Walker> {
    Walker::bridge().start().unwrap()
}

#[test]
fn a_callback_runs_in_the_caller_and_borrows_what_it_likes() {
    within(60, "a_callback_runs_in_the_caller_and_borrows_what_it_likes", || {
        let walker = walker();
        let (mut seen, own) = (Vec::new(), std::process::id());
        let walked = walker.walk(5, &mut |step, text| {
            assert_eq!(std::process::id(), own);
            seen.push((step, text.to_owned()));
            true
        });
        assert_eq!(walked, Ok(5));
        assert_eq!(seen.len(), 5);
        assert_eq!(seen[4], (4, "step 4".to_owned()));
        assert_eq!(walker.walk(30, &mut |step, _| step < 7), Ok(7), "a callback can end it");
        assert_eq!(walker.steps(), Ok(13));
    });
}

#[test]
fn more_turns_than_slots_and_large_arguments_lose_nothing() {
    within(60, "more_turns_than_slots_and_large_arguments_lose_nothing", || {
        let walker = walker();
        let (mut even, mut odd) = (0, 0);
        let text = "the argument that is read in place, long enough for a second cache line. ".repeat(3);
        let all = walker.both(&mut |n| even += n, &text, &mut |three, bytes| {
            odd += three.iter().sum::<u32>() + bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
            "x".into()
        });
        assert_eq!(all, Ok(format!("{text}{}{text}", "x".repeat(50))));
        assert_eq!((even, odd), (2450, 103 * 2500));
        let mut lengths = Vec::new();
        walker.copy(&mut |len| vec![len as u8; len], &mut |bytes| lengths.push(bytes.len())).unwrap();
        assert_eq!(lengths, [0, 10, 1000, 100_000, 3_000_000]);
    });
}

#[test]
fn an_iterator_is_asked_for_one_item_at_a_time() {
    within(60, "an_iterator_is_asked_for_one_item_at_a_time", || {
        let walker = walker();
        assert_eq!(walker.sum(1..=1000), Ok(500_500));
        let taken = Cell::new(0);
        let texts = (0..).map(|n| {
            taken.set(n + 1);
            n.to_string()
        });
        assert_eq!(walker.first(texts, 3).unwrap(), ["0", "1", "2"]);
        assert_eq!(taken.get(), 3, "none is taken that the method has not asked for");
    });
}

#[test]
fn a_callback_may_call_the_same_bridge() {
    within(60, "a_callback_may_call_the_same_bridge", || {
        let walker = walker();
        walker.add_steps(20).unwrap();
        let asked = RefCell::new(Vec::new());
        let sum = walker.look(&|steps| {
            asked.borrow_mut().push((walker.steps(), Walker::pid_of(&walker), walker.begin().steps().wait()));
            steps
        });
        assert_eq!(sum, Ok(41));
        let pid = walker.child_pid();
        assert_eq!(asked.into_inner(), vec![(Ok(20), Ok(pid), Ok(20)); 2]);
        assert_eq!(walker.steps(), Ok(20), "the lane is whole");
    });
}

impl Walker {
    fn pid_of(walker: &Bridge<Walker>) -> Result<u32, CallError> {
        walker.pid()
    }
}

#[test]
fn a_callback_cannot_have_what_the_method_has() {
    within(60, "a_callback_cannot_have_what_the_method_has", || {
        let walker = walker();
        let mut errors = Vec::new();
        walker
            .walk(1, &mut |_, _| {
                errors.extend([walker.steps().unwrap_err(), walker.add_steps(1).unwrap_err()]);
                errors.push(walker.send().add_steps(1).unwrap_err());
                true
            })
            .unwrap();
        walker.look(&|_| walker.add_steps(1).map_or(1, |()| 0)).unwrap();
        assert!(errors[0].to_string().contains("`&mut self` meanwhile"), "{}", errors[0]);
        assert!(errors[1].to_string().contains("`&mut self`"), "{}", errors[1]);
        assert!(matches!(errors[2], CallError::TooNested { .. }), "{}", errors[2]);
        assert_eq!(walker.steps(), Ok(1));
    });
}

#[test]
fn callbacks_nest_up_to_a_limit() {
    within(60, "callbacks_nest_up_to_a_limit", || {
        fn down(walker: &Bridge<Walker>, level: u32, most: u32) -> Result<u32, CallError> {
            if level == most { Ok(0) } else { walker.deep(level, &|level| down(walker, level, most).unwrap_or(1000)) }
        }
        let walker = walker();
        assert_eq!(down(&walker, 0, 10), Ok(10));
        assert!(down(&walker, 0, 100).unwrap() > 1000, "the 65th level is refused");
        assert_eq!(walker.steps(), Ok(0));
    });
}

#[test]
fn a_panic_in_a_callback_comes_back_after_the_method_was_unwound() {
    within(60, "a_panic_in_a_callback_comes_back_after_the_method_was_unwound", || {
        let walker = walker();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            walker.walk(5, &mut |step, _| if step == 2 { panic!("at two") } else { true })
        }));
        assert_eq!(*panic.unwrap_err().downcast_ref::<&str>().unwrap(), "at two");
        assert_eq!(walker.unwound(), Ok(1));
        assert_eq!(walker.steps(), Ok(3));
    });
}

#[test]
fn a_method_that_catches_its_end_is_told_again() {
    within(60, "a_method_that_catches_its_end_is_told_again", || {
        let walker = walker();
        let panic = catch_unwind(AssertUnwindSafe(|| walker.stubborn(&mut |_| panic!("no"))));
        assert!(panic.is_err());
        assert_eq!(walker.steps(), Ok(0));
    });
}

#[test]
fn a_call_whose_time_is_over_ends_in_the_child() {
    within(60, "a_call_whose_time_is_over_ends_in_the_child", || {
        let walker = walker();
        let mut calls = 0;
        let error = walker
            .with_timeout(Duration::from_millis(50))
            .walk(1000, &mut |_, _| {
                calls += 1;
                std::thread::sleep(Duration::from_millis(20));
                true
            })
            .unwrap_err();
        assert!(matches!(error, CallError::TimedOut { started: Started::Yes, .. }), "{error}");
        assert!(calls < 10);
        assert_eq!(walker.unwound(), Ok(1), "no later call finds the method still running");
        // While the method works, and asks when nobody answers any more: the only worker is free again soon.
        let error =
            walker.with_timeout(Duration::from_millis(20)).late(Duration::from_millis(100), &mut || {}).unwrap_err();
        assert!(matches!(error, CallError::TimedOut { started: Started::Yes, .. }), "{error}");
        let begun = Instant::now();
        assert_eq!(walker.with_timeout(Duration::from_secs(20)).steps().map(|_| ()), Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_call_that_gave_up_costs_no_other_thread_its_lane() {
    within(60, "a_call_that_gave_up_costs_no_other_thread_its_lane", || {
        let walker = Walker::bridge().concurrent_callers(4).start().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let gave_up =
                            walker.with_timeout(Duration::from_millis(2)).late(Duration::from_millis(5), &mut || {});
                        assert!(matches!(gave_up, Err(CallError::TimedOut { .. })), "{gave_up:?}");
                    }
                });
                scope.spawn(|| (0..50).for_each(|_| assert_eq!(walker.steps(), Ok(0))));
            }
        });
    });
}

#[test]
fn a_child_that_dies_between_turns_is_an_error_and_the_callback_has_run_once() {
    within(60, "a_child_that_dies_between_turns_is_an_error_and_the_callback_has_run_once", || {
        let walker = Walker::bridge().restart(Restart::on_death().calls_wait(true)).start().unwrap();
        let mut calls = 0;
        let error = walker.die(&mut || calls += 1).unwrap_err();
        assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
        assert_eq!(calls, 1, "a call whose callback has run is not made again");
        assert_eq!(walker.walk(2, &mut |_, _| true), Ok(2), "in the next child");
    });
}

#[test]
fn a_callback_may_end_the_child() {
    within(60, "a_callback_may_end_the_child", || {
        let walker = walker();
        let error = walker
            .walk(2, &mut |_, _| {
                let _ = walker.kill();
                true
            })
            .unwrap_err();
        assert!(error.started() == Started::Yes, "{error}");
    });
}

#[test]
fn several_workers_and_threads_call_back_at_once() {
    within(60, "several_workers_and_threads_call_back_at_once", || {
        let walker = Walker::bridge().workers(2).concurrent_callers(4).start().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(walker.look(&|steps| steps + walker.steps().unwrap()), Ok(1));
                        let mut count = 0;
                        assert_eq!(walker.both(&mut |_| count += 1, "", &mut |_, _| String::new()), Ok(String::new()));
                        assert_eq!(count, 50);
                    }
                });
            }
        });
    });
}

trait Visit {
    fn visit(&self, each: &mut dyn FnMut(u64));
    fn total(&self) -> u64;
}

#[bridge]
impl Visit for Walker {
    fn visit(&self, each: &mut dyn FnMut(u64)) {
        (0..10).for_each(each);
    }

    fn total(&self) -> u64 {
        self.steps
    }
}

#[test]
fn a_trait_with_callbacks_is_dropped_in() {
    within(60, "a_trait_with_callbacks_is_dropped_in", || {
        fn sum(visited: &impl Visit) -> u64 {
            let mut sum = 0;
            visited.visit(&mut |n| sum += n + visited.total());
            sum
        }
        let walker = walker();
        assert_eq!((sum(&Walker { steps: 0, unwound: 0 }), sum(&walker)), (45, 45));
    });
}

// ---- awaited -------------------------------------------------------------------------------------------------------

#[test]
fn a_task_runs_its_callbacks_when_it_is_polled() {
    within(60, "a_task_runs_its_callbacks_when_it_is_polled", || {
        let walker = walker().into_async();
        let mut seen = Vec::new();
        let walked = pollster::block_on(walker.walk(40, &mut |step, text| {
            seen.push(text.len());
            step < 35
        }));
        assert_eq!(walked, Ok(35));
        assert_eq!(seen.len(), 36);
        let text = "x".repeat(10_000);
        let all = pollster::block_on(walker.both(&mut |_| (), &text, &mut |_, _| "y".into()));
        assert_eq!(all.map(|all| all.len()), Ok(20_050));
        assert_eq!(pollster::block_on(walker.sum(1..=100)), Ok(5050));
        assert_eq!(walker.as_blocking().begin().sum(1..=100).wait(), Ok(5050));
        assert_eq!(pollster::block_on(walker.steps()), Ok(36));
    });
}

#[test]
fn a_task_that_waits_for_a_slow_method_is_woken_for_its_callback() {
    within(60, "a_task_that_waits_for_a_slow_method_is_woken_for_its_callback", || {
        let walker = walker().into_async();
        for pause in [0, 1, 20, 100] {
            let mut called = false;
            pollster::block_on(walker.late(Duration::from_millis(pause), &mut || called = true)).unwrap();
            assert!(called);
        }
    });
}

#[test]
fn a_callback_of_a_task_may_call_the_same_bridge() {
    within(60, "a_callback_of_a_task_may_call_the_same_bridge", || {
        let walker = walker().into_async();
        let sum = pollster::block_on(walker.look(&|steps| {
            let blocking = walker.as_blocking();
            assert_eq!(blocking.steps(), Ok(0));
            assert_eq!(pollster::block_on(walker.steps()), Ok(0));
            assert_eq!(pollster::block_on(walker.look(&|n| n * 10)), Ok(10));
            steps
        }));
        assert_eq!(sum, Ok(1));
    });
}

#[test]
fn a_conversation_that_is_dropped_ends_its_method() {
    within(60, "a_conversation_that_is_dropped_ends_its_method", || {
        let walker = walker().into_async();
        for turns in 0..4 {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let mut on_step = |_: u32, _: &str| {
                std::thread::sleep(Duration::from_millis(5));
                true
            };
            let mut conversation = Box::pin(walker.walk(10_000, &mut on_step));
            for _ in 0..turns {
                assert!(conversation.as_mut().poll(&mut context).is_pending(), "10,000 steps take 50 s");
            }
            drop(conversation);
            assert_eq!(pollster::block_on(walker.steps()).map(|_| ()), Ok(()), "the worker is free");
        }
        let unwound = pollster::block_on(walker.unwound()).unwrap();
        assert!(unwound <= 4);
    });
}

#[test]
fn more_conversations_than_lanes_take_turns() {
    within(60, "more_conversations_than_lanes_take_turns", || {
        let walker = Walker::bridge().workers(2).concurrent_callers(2).start().unwrap().into_async();
        let threads: Vec<_> = (0..6u64)
            .map(|n| {
                let walker = walker.clone();
                std::thread::spawn(move || {
                    pollster::block_on(async {
                        for round in 0..20 {
                            let sum = walker.sum(0..n).await.unwrap();
                            assert_eq!(sum, (0..n).sum::<u64>(), "round {round}");
                            assert_eq!(walker.look(&|_| n).await.unwrap(), 2 * n);
                            assert_eq!(walker.steps().await, Ok(0));
                        }
                    });
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn conversations_beside_thousands_of_pending_calls_lose_none() {
    within(60, "conversations_beside_thousands_of_pending_calls_lose_none", || {
        let walker = walker().into_async();
        let pending: Vec<_> = (0..2000).map(|_| walker.steps()).collect();
        let sum = pollster::block_on(walker.sum(0..50));
        assert_eq!(sum, Ok(1225));
        pending.into_iter().for_each(|pending| assert_eq!(pollster::block_on(pending), Ok(0)));
    });
}

#[test]
fn an_awaited_conversation_ends_with_its_time_its_child_and_its_panic() {
    within(60, "an_awaited_conversation_ends_with_its_time_its_child_and_its_panic", || {
        let walker = walker().into_async();
        let timed = walker.with_timeout(Duration::from_millis(30));
        let error = pollster::block_on(timed.late(Duration::from_millis(150), &mut || {})).unwrap_err();
        assert!(matches!(error, CallError::TimedOut { started: Started::Yes, .. }), "{error}");
        let panic = catch_unwind(AssertUnwindSafe(|| {
            pollster::block_on(walker.walk(5, &mut |step, _| if step == 2 { panic!("at two") } else { true }))
        }));
        assert_eq!(*panic.unwrap_err().downcast_ref::<&str>().unwrap(), "at two");
        assert_eq!(pollster::block_on(walker.unwound()), Ok(1));
        let error = pollster::block_on(walker.die(&mut || {})).unwrap_err();
        assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
    });
}

#[test]
fn a_callback_that_would_wait_for_its_own_worker_is_told() {
    within(60, "a_callback_that_would_wait_for_its_own_worker_is_told", || {
        let walker = walker();
        let mut before = None;
        let mut outcome = None;
        walker
            .walk(2, &mut |step, _| {
                if step == 0 {
                    // Its thread is another, so it goes to another lane, behind the method that runs.
                    before = std::thread::scope(|scope| scope.spawn(|| Some(walker.begin().steps())).join().unwrap());
                } else {
                    outcome = before.take().map(|pending| pending.wait());
                }
                true
            })
            .unwrap();
        assert!(matches!(outcome, Some(Err(CallError::TooNested { .. }))), "{outcome:?}");
        assert_eq!(walker.steps(), Ok(2));
    });
}

// ---- what goes wrong between two turns -----------------------------------------------------------------------------

/// A value that panics when this process drops it.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 == std::process::id() {
            self.0 = 0;
            panic!("a destructor that panics");
        }
    }
}

/// A service that streams borrow, too.
struct Lender {
    calls: u64,
}

#[bridge]
impl Lender {
    pub fn new() -> Self {
        Lender { calls: 0 }
    }

    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        (self.calls..).take(1_000_000)
    }

    pub fn count(&mut self, each: &mut dyn FnMut(u64)) -> u64 {
        self.calls += 1;
        each(self.calls);
        self.calls
    }

    pub fn bomb(&mut self, make: &mut dyn FnMut() -> Bomb) {
        self.calls += 1;
        drop(make());
        drop(make());
    }

    pub fn forever(&self, each: &mut dyn FnMut()) {
        loop {
            each();
        }
    }

    pub fn sleep(&self, pause: Duration, then: &mut dyn FnMut()) {
        std::thread::sleep(pause);
        then();
    }

    /// Goes on for a while when it is to end.
    pub fn linger(&self, pause: Duration, each: &mut dyn FnMut()) {
        let _ = catch_unwind(AssertUnwindSafe(&mut *each));
        std::thread::sleep(pause);
    }
}

fn lender() -> Bridge<Lender> {
    Lender::bridge().start().unwrap()
}

#[test]
fn a_panic_beside_a_callback_leaves_the_lane_whole() {
    within(60, "a_panic_beside_a_callback_leaves_the_lane_whole", || {
        let lender = lender();
        for round in 1..=5 {
            let panic = catch_unwind(AssertUnwindSafe(|| lender.bomb(&mut || Bomb(std::process::id()))));
            assert_eq!(*panic.unwrap_err().downcast_ref::<&str>().unwrap(), "a destructor that panics");
            assert_eq!(lender.count(&mut |_| ()), Ok(2 * round));
        }
        let tasks = lender.into_async();
        let panic = catch_unwind(AssertUnwindSafe(|| pollster::block_on(tasks.bomb(&mut || Bomb(std::process::id())))));
        assert!(panic.is_err());
        assert_eq!(pollster::block_on(tasks.count(&mut |_| ())), Ok(12));
    });
}

#[test]
fn calls_that_gave_up_within_a_callback_leave_room_to_end_the_method() {
    within(60, "calls_that_gave_up_within_a_callback_leave_room_to_end_the_method", || {
        let lender = Lender::bridge().concurrent_callers(1).pending_calls(2).start().unwrap();
        let short = lender.with_timeout(Duration::from_millis(3));
        let panic = catch_unwind(AssertUnwindSafe(|| {
            lender.sleep(Duration::ZERO, &mut || {
                for _ in 0..4 {
                    let gave_up = short.sleep(Duration::from_millis(10), &mut || {});
                    assert!(matches!(gave_up, Err(CallError::TimedOut { .. })), "{gave_up:?}");
                }
                panic!("enough");
            })
        }));
        assert!(panic.is_err());
        assert_eq!(lender.count(&mut |_| ()), Ok(1));
    });
}

#[test]
fn a_call_after_a_dropped_stream_finds_the_service_free() {
    within(60, "a_call_after_a_dropped_stream_finds_the_service_free", || {
        let lender = lender();
        for round in 1..=200 {
            let mut numbers = lender.numbers().unwrap();
            assert_eq!(numbers.next(), Some(Ok(round - 1)));
            drop(numbers);
            assert_eq!(lender.count(&mut |_| ()), Ok(round));
        }
        let mut outcomes = (None, None);
        let mut numbers = lender.numbers().unwrap();
        lender
            .sleep(Duration::ZERO, &mut || outcomes = (Some(numbers.by_ref().last()), Some(lender.numbers().map(drop))))
            .unwrap();
        assert!(matches!(outcomes.0, Some(Some(Err(CallError::TooNested { .. })))), "{outcomes:?}");
        assert!(matches!(outcomes.1, Some(Err(CallError::TooNested { .. }))), "{outcomes:?}");
    });
}

#[test]
fn a_bridge_stops_in_order_while_a_method_waits_for_an_answer() {
    within(60, "a_bridge_stops_in_order_while_a_method_waits_for_an_answer", || {
        for workers in [1, 2] {
            let lender = Lender::bridge().workers(workers).start().unwrap();
            let mut each = || ();
            let conversation = lender.begin().forever(&mut each);
            // Nobody polls it, so the method waits for its first answer.
            std::thread::sleep(Duration::from_millis(30));
            let begun = Instant::now();
            assert!(lender.stop().unwrap().success());
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
            let error = conversation.wait().unwrap_err();
            assert!(matches!(error, CallError::Stopped { .. } | CallError::Died { .. }), "{error}");
        }
    });
}

#[test]
fn a_method_that_lingers_when_it_is_to_end_costs_its_child_its_life() {
    within(60, "a_method_that_lingers_when_it_is_to_end_costs_its_child_its_life", || {
        let grace = Duration::from_millis(50);
        let lender = Lender::bridge().restart(Restart::on_death().calls_wait(true)).kill_after(grace).start().unwrap();
        let (pid, short) = (lender.child_pid(), lender.with_timeout(Duration::from_millis(20)));
        let late = short.linger(Duration::from_secs(50), &mut || std::thread::sleep(Duration::from_millis(40)));
        assert!(matches!(late, Err(CallError::TimedOut { started: Started::Yes, .. })), "{late:?}");
        assert!(support::eventually(20, "the child is replaced", || lender.child_pid() != pid));
        assert_eq!(lender.count(&mut |_| ()), Ok(1), "in the next child");
    });
}

#[test]
fn an_awaited_conversation_waits_for_a_lane_without_spinning() {
    within(60, "an_awaited_conversation_waits_for_a_lane_without_spinning", || {
        let lender = Lender::bridge().concurrent_callers(1).start().unwrap().into_async();
        let gave_up = lender.with_timeout(Duration::from_millis(5));
        let late = pollster::block_on(gave_up.sleep(Duration::from_millis(300), &mut || {}));
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        let mut polls = 0;
        let mut each = |_| ();
        let mut next = std::pin::pin!(lender.count(&mut each));
        let count = pollster::block_on(std::future::poll_fn(|context| {
            polls += 1;
            next.as_mut().poll(context)
        }));
        assert_eq!(count, Ok(1));
        assert!(polls < 50, "{polls} polls for one call");
    });
}
