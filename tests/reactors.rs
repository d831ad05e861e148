//! Tasks that await calls are woken whatever becomes of the runtimes that they run on, with the feature `tokio`.

mod support;

use callgate::{AsyncBridge, CallError, bridge};
use futures_util::StreamExt;
use std::time::Duration;
use support::within;
use tokio::runtime::{Builder, Runtime};

callgate::test_support!();

/// Slow enough that nobody polls for it.
struct Slow;

#[bridge]
impl Slow {
    pub fn new() -> Self {
        Slow
    }

    pub fn double(&self, n: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(2));
        2 * n
    }

    /// Asks, and asks again with the answer.
    pub fn ask(&self, n: u64, ask: &mut dyn FnMut(u64) -> u64) -> u64 {
        (0..3).fold(n, |n, _| {
            std::thread::sleep(Duration::from_millis(2));
            ask(n)
        })
    }

    pub fn numbers(&self) -> impl Iterator<Item = u64> + use<> {
        std::thread::sleep(Duration::from_millis(2));
        (0..).inspect(|_| std::thread::sleep(Duration::from_millis(2)))
    }

    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

fn start() -> AsyncBridge<Slow> {
    Slow::bridge().start().expect("the bridge starts").into_async()
}

fn several_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_io().build().expect("a runtime")
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_io().build().expect("a runtime")
}

async fn calls(slow: AsyncBridge<Slow>, count: u64) {
    for n in 0..count {
        assert_eq!(slow.double(n).await, Ok(2 * n));
    }
}

#[test]
fn a_runtime_may_be_shut_down_and_another_started() {
    within(120, "a_runtime_may_be_shut_down_and_another_started", || {
        let slow = start();
        for _ in 0..5 {
            for runtime in [several_threads(), one_thread()] {
                let pending = slow.double(7);
                runtime.block_on(runtime.spawn(calls(slow.clone(), 3))).expect("no panic");
                let abandoned = runtime.spawn(calls(slow.clone(), 1000));
                // A call that has been polled on the runtime is awaited elsewhere.
                let mut pending = Box::pin(pending);
                runtime.block_on(async {
                    let once = std::future::poll_fn(|context| {
                        let _ = pending.as_mut().poll(context);
                        std::task::Poll::Ready(())
                    });
                    once.await;
                });
                drop(runtime);
                drop(abandoned);
                pollster::block_on(calls(slow.clone(), 3));
            }
        }
    });
}

#[test]
fn a_runtime_that_nobody_drives_delays_nobody() {
    within(120, "a_runtime_that_nobody_drives_delays_nobody", || {
        let slow = start();
        let runtime = one_thread();
        runtime.block_on(runtime.spawn(calls(slow.clone(), 3))).expect("no panic");
        pollster::block_on(calls(slow.clone(), 3));
        // As if it were driven.
        let _entered = runtime.enter();
        pollster::block_on(calls(slow.clone(), 3));
        let pending = slow.as_blocking().begin().double(1);
        assert_eq!(pending.wait(), Ok(2));
        std::thread::scope(|scope| {
            for n in 0..20 {
                let slow = &slow;
                scope.spawn(move || assert_eq!(slow.as_blocking().begin().double(n).wait(), Ok(2 * n)));
            }
        });
    });
}

#[test]
fn several_runtimes_use_one_bridge() {
    within(120, "several_runtimes_use_one_bridge", || {
        let slow = start();
        std::thread::scope(|scope| {
            for runtime in [several_threads(), one_thread(), several_threads()] {
                let slow = slow.clone();
                scope.spawn(move || runtime.block_on(runtime.spawn(calls(slow, 50))).expect("no panic"));
            }
            pollster::block_on(calls(slow.clone(), 50));
        });
    });
}

#[test]
fn a_call_ends_in_time_on_a_runtime_without_timers() {
    within(60, "a_call_ends_in_time_on_a_runtime_without_timers", || {
        let slow = start();
        let runtime = several_threads();
        let late = async move { slow.with_timeout(Duration::from_millis(20)).sleep(300).await };
        let late = runtime.block_on(runtime.spawn(late)).expect("no panic");
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    });
}

#[test]
fn a_runtime_without_io_will_do() {
    within(60, "a_runtime_without_io_will_do", || {
        let slow = start();
        let runtime = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        runtime.block_on(runtime.spawn(calls(slow, 10))).expect("no panic");
    });
}

#[test]
fn the_childs_end_wakes_tasks() {
    within(60, "the_childs_end_wakes_tasks", || {
        let slow = start();
        let runtime = several_threads();
        let task = runtime.spawn({
            let slow = slow.clone();
            async move { slow.sleep(100_000).await }
        });
        std::thread::sleep(Duration::from_millis(20));
        slow.as_blocking().kill();
        assert!(matches!(runtime.block_on(task).expect("no panic"), Err(CallError::Stopped { .. })));
    });
}

/// Awaits it elsewhere, while the runtime whose reactor hears the rings is not driven.
fn elsewhere<R>(future: impl Future<Output = R>, has_runtime: bool) -> R {
    if has_runtime { several_threads().block_on(future) } else { pollster::block_on(future) }
}

#[test]
fn streams_and_callbacks_are_woken_while_another_runtime_is_not_driven() {
    within(60, "streams_and_callbacks_are_woken_while_another_runtime_is_not_driven", || {
        for has_runtime in [false, true] {
            let started = || {
                let (slow, runtime) = (start(), one_thread());
                runtime.block_on(runtime.spawn(calls(slow.clone(), 1))).expect("no panic");
                (slow, runtime)
            };
            let (slow, _runtime) = started();
            let mut double = |n| 2 * n;
            assert_eq!(elsewhere(slow.ask(1, &mut double), has_runtime), Ok(8));

            let (slow, _runtime) = started();
            drop(elsewhere(slow.numbers(), has_runtime).expect("it opens"));

            let (slow, runtime) = started();
            let opening = slow.numbers();
            let opened = runtime.block_on(runtime.spawn(opening));
            let mut numbers = opened.expect("no panic").expect("a stream");
            elsewhere(
                async {
                    for n in 0..40 {
                        assert_eq!(numbers.next().await, Some(Ok(n)));
                    }
                },
                has_runtime,
            );
        }
    });
}
