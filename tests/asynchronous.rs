//! What awaited calls promise, on any executor: each wakes its task, many are under way at once, and dropping one at any point loses nothing else.

mod support;

use callgate::{AsyncBridge, Bridge, CallError, Restart, Signal, Started, bridge};
use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

/// Counts how often each of its methods has run.
struct Meter {
    runs: AtomicU64,
}

#[bridge]
impl Meter {
    pub fn new() -> Self {
        Meter { runs: AtomicU64::new(0) }
    }

    pub fn double(&self, n: u64) -> u64 {
        2 * n
    }

    pub fn count(&self) -> u64 {
        self.runs.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    pub fn repeat(&self, text: &str, times: usize) -> String {
        text.repeat(times)
    }

    pub fn sleep(&self, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    }

    pub fn exit(&self) {
        std::process::exit(3)
    }

    pub fn panic(&self) -> u64 {
        panic!("as asked")
    }
}

const SIGNALS: [Signal; 2] = [Signal::Futex, Signal::EventFd];

/// Runs all futures on this thread, each polled only when it is woken. Returns their outputs in order.
fn run_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    struct Task {
        index: usize,
        woken: Arc<std::sync::Mutex<VecDeque<usize>>>,
        thread: Thread,
    }
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.woken.lock().unwrap().push_back(self.index);
            self.thread.unpark();
        }
    }
    let woken = Arc::new(std::sync::Mutex::new((0..futures.len()).collect::<VecDeque<_>>()));
    let mut futures: Vec<Option<Pin<Box<F>>>> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    let task = |index| Arc::new(Task { index, woken: woken.clone(), thread: std::thread::current() });
    let wakers: Vec<Waker> = (0..futures.len()).map(|index| task(index).into()).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut left = futures.len();
    while left > 0 {
        let Some(index) = woken.lock().unwrap().pop_front() else {
            std::thread::park();
            continue;
        };
        let Some(future) = &mut futures[index] else { continue };
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&wakers[index])) {
            (outputs[index], futures[index]) = (Some(output), None);
            left -= 1;
        }
    }
    outputs.into_iter().flatten().collect()
}

fn start(signal: Signal) -> AsyncBridge<Meter> {
    pollster::block_on(Meter::bridge().signal(signal).start_async()).expect("the bridge starts")
}

#[test]
fn calls_are_awaited_and_errors_come_with_the_result() {
    within(60, "calls_are_awaited_and_errors_come_with_the_result", || {
        for signal in SIGNALS {
            pollster::block_on(async {
                let meter = start(signal);
                for n in 0..2000 {
                    assert_eq!(meter.double(n).await, Ok(2 * n));
                }
                assert_eq!(meter.sleep(30).await, Ok(30), "longer than anybody polls");
                assert_eq!(meter.repeat("large", 200_000).await.map(|text| text.len()), Ok(1_000_000));
                assert!(matches!(meter.panic().await, Err(CallError::Panicked { .. })));
                let late = meter.with_timeout(Duration::from_millis(20)).sleep(300).await;
                assert!(matches!(late, Err(CallError::TimedOut { started: Started::Yes, .. })), "{late:?}");
                assert!(meter.stop().await.is_ok_and(|exit| exit.success()));
                assert!(matches!(meter.double(1).await, Err(CallError::Stopped { started: Started::No, .. })));
            });
        }
    });
}

#[test]
fn ten_thousand_calls_are_under_way_at_once() {
    within(120, "ten_thousand_calls_are_under_way_at_once", || {
        for signal in SIGNALS {
            let meter = start(signal);
            let threads = || std::fs::read_dir("/proc/self/task").expect("procfs").count();
            let before = threads();
            let calls: Vec<_> = (0..10_000).map(|n| meter.double(n)).collect();
            let answers = run_all(calls);
            assert!(threads() <= before + 8, "a thread per call");
            assert!(answers.into_iter().enumerate().all(|(n, answer)| answer == Ok(2 * n as u64)));
        }
    });
}

#[test]
fn threads_and_tasks_share_a_bridge() {
    within(120, "threads_and_tasks_share_a_bridge", || {
        for signal in SIGNALS {
            let builder = Meter::bridge().signal(signal).concurrent_callers(2).pending_calls(4);
            let meter: &Bridge<Meter> = &builder.start().expect("the bridge starts");
            std::thread::scope(|scope| {
                for thread in 0..3u64 {
                    scope.spawn(move || {
                        for n in 0..400 {
                            assert_eq!(meter.double(thread + n), Ok(2 * (thread + n)));
                        }
                    });
                    scope.spawn(move || {
                        for n in 0..40 {
                            let calls = (0..20).map(|m| meter.as_async().double(n + m)).collect();
                            let answers: Vec<Result<u64, CallError>> = run_all(calls);
                            let expected: Vec<_> = (0..20).map(|m| Ok(2 * (n + m))).collect();
                            assert_eq!(answers, expected);
                        }
                    });
                }
            });
        }
    });
}

/// Numbers that look random, the same in each run.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Also tells that none that said it had not started has run, and that each runs once at most.
#[test]
fn futures_dropped_at_any_point_lose_nothing_and_leave_nothing() {
    within(240, "futures_dropped_at_any_point_lose_nothing_and_leave_nothing", || {
        let rounds = if cfg!(debug_assertions) { 60_000 } else { 1_000_000 };
        let meter = start(Signal::Futex);
        let (mut state, mut answered, mut kept) = (0x5eed, 0, VecDeque::new());
        let waker = Waker::noop();
        for _ in 0..rounds {
            let mut call = meter.count();
            match random(&mut state) % 5 {
                0 => drop(call),
                1 => {
                    answered += u64::from(pin!(&mut call).poll(&mut Context::from_waker(waker)).is_ready());
                }
                2 => {
                    pollster::block_on(&mut call).expect("an answer");
                    answered += 1;
                }
                _ => kept.push_back(call),
            }
            if kept.len() > 500 {
                let at = random(&mut state) as usize % kept.len();
                kept.swap_remove_back(at);
                answered += u64::from(kept.pop_front().is_some_and(|call| call.wait().is_ok()));
            }
        }
        drop(kept);
        let runs = pollster::block_on(meter.runs()).expect("an answer");
        assert!((answered..=rounds).contains(&runs), "{answered} answered, {runs} ran, of {rounds}");
        // Nothing of the dropped ones is left: every lane has all its room.
        let calls: Vec<_> = (0..256 + 16_384).map(|n| meter.double(n)).collect();
        assert!(run_all(calls).into_iter().all(|answer| answer.is_ok()), "room for as many as at first");
    });
}

#[test]
fn a_death_wakes_every_task_and_a_restarted_bridge_goes_on() {
    within(120, "a_death_wakes_every_task_and_a_restarted_bridge_goes_on", || {
        let builder = Meter::bridge().restart(Restart::on_failure());
        let meter = pollster::block_on(builder.start_async()).expect("the bridge starts");
        let mut calls = vec![Box::pin(wrapped(meter.exit())) as Pin<Box<dyn Future<Output = Result<(), CallError>>>>];
        calls.extend((0..400).map(|n| Box::pin(wrapped(meter.double(n))) as Pin<Box<_>>));
        for (index, outcome) in run_all(calls).into_iter().enumerate() {
            match outcome {
                Err(CallError::Died { started, .. }) if index > 0 => assert_eq!(started, Started::No, "call {index}"),
                Err(CallError::Died { .. }) => {}
                // It was begun when the child was dead already, or the next one was there.
                Ok(()) | Err(CallError::Down { .. }) if index > 0 => {}
                other => panic!("call {index}: {other:?}"),
            }
        }
        let begin = Instant::now();
        while pollster::block_on(meter.double(4)) != Ok(8) {
            assert!(begin.elapsed() < Duration::from_secs(60));
        }
    });
}

async fn wrapped<R>(call: impl Future<Output = Result<R, CallError>>) -> Result<(), CallError> {
    call.await.map(drop)
}

#[test]
fn a_dropped_bridge_does_not_block_its_task_and_ends_its_calls() {
    within(60, "a_dropped_bridge_does_not_block_its_task_and_ends_its_calls", || {
        let meter = start(Signal::Futex);
        let slow: Vec<_> = (0..3).map(|_| meter.sleep(50)).collect();
        let begin = Instant::now();
        let clone = meter.clone();
        drop(meter);
        drop(clone);
        let took = begin.elapsed();
        println!("dropped in {took:?}");
        for outcome in run_all(slow) {
            // What was sent is answered within the grace of a stop.
            assert_eq!(outcome, Ok(50));
        }
    });
}

#[test]
fn an_idle_async_bridge_spends_no_time() {
    const NAME: &str = "an_idle_async_bridge_spends_no_time";
    let Some(_) = support::role() else { return within(60, NAME, || support::play(NAME, "idle")) };
    let meter = start(Signal::Futex);
    assert_eq!(pollster::block_on(meter.double(1)), Ok(2));
    let mut waiting = Box::pin(meter.sleep(2000));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    std::thread::sleep(Duration::from_millis(50));
    let spent = || {
        let usage =
            nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("the kernel counts");
        usage.voluntary_context_switches()
    };
    let before = spent();
    std::thread::sleep(Duration::from_millis(300));
    assert!(spent() - before < 10, "it polls");
}

/// A waker that is woken by one thread while another polls.
#[test]
fn calls_are_polled_by_other_threads_than_they_were_begun_by() {
    within(120, "calls_are_polled_by_other_threads_than_they_were_begun_by", || {
        let meter = start(Signal::Futex);
        let (sender, calls) = std::sync::mpsc::sync_channel(64);
        let answered = &AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let check = |(n, call)| {
                    assert_eq!(pollster::block_on(call), Ok(2 * n));
                    answered.fetch_add(1, Ordering::Relaxed);
                };
                calls.into_iter().for_each(check);
            });
            for n in 0..20_000 {
                sender.send((n, meter.double(n))).expect("the other thread takes them");
            }
            drop(sender);
        });
        assert_eq!(answered.load(Ordering::Relaxed), 20_000);
    });
}
