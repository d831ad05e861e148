//! Tasks on tokio are woken by tokio, with the feature of that name: the watcher's thread sleeps on. One test, because it counts what the whole process
//! does.

mod support;

use callgate::{AsyncBridge, bridge};
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

/// How often the watcher has been woken.
fn watcher_wakes() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let watcher = tasks
        .map(|task| task.path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "callgate-watch"));
    let status = std::fs::read_to_string(watcher.expect("a watcher").join("status")).expect("procfs");
    let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    switches.expect("a count").trim().parse().expect("a number")
}

async fn calls(slow: AsyncBridge<Slow>, count: u64) {
    for n in 0..count {
        assert_eq!(slow.double(n).await, Ok(2 * n));
    }
}

#[test]
fn tokio_wakes_its_tasks_and_others_are_woken_by_the_watcher() {
    within(120, "tokio_wakes_its_tasks_and_others_are_woken_by_the_watcher", || {
        for runtime in [several_threads(), one_thread()] {
            let slow = start();
            let spawn = |count| runtime.block_on(runtime.spawn(calls(slow.clone(), count))).expect("no panic");
            spawn(3);
            let before = watcher_wakes();
            spawn(100);
            let wakes = watcher_wakes() - before;
            assert!(wakes < 20, "the watcher was woken {wakes} times");
        }
        let slow = start();
        pollster::block_on(calls(slow.clone(), 3));
        let before = watcher_wakes();
        pollster::block_on(calls(slow.clone(), 100));
        let wakes = watcher_wakes() - before;
        assert_eq!(wakes >= 80, !cfg!(feature = "async-io"), "the watcher was woken {wakes} times");
    });
}
