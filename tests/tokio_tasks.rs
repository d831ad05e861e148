//! Async methods on tokio's runtime in the child.

mod support;

use callgate::{CallError, bridge};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{eventually, within};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

callgate::test_support!();

#[derive(Default)]
struct Sleeper {
    under_way: AtomicU64,
    most: AtomicU64,
    notify: Notify,
    given_up: AtomicU64,
}

/// Counts a method that does not come to its end.
struct GivenUp<'a>(&'a AtomicU64);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[bridge]
impl Sleeper {
    pub fn new() -> Self {
        Self::default()
    }

    pub async fn sleep(&self, ms: u64) -> u64 {
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        sleep(Duration::from_millis(ms)).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        ms
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::SeqCst)
    }

    pub async fn notified(&self) {
        let given_up = GivenUp(&self.given_up);
        self.notify.notified().await;
        std::mem::forget(given_up);
    }

    pub async fn notify(&self) {
        self.notify.notify_one();
    }

    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::SeqCst)
    }

    /// What tokio offers to a method.
    pub async fn everything(&self) -> Result<usize, String> {
        let tell = |error: std::io::Error| error.to_string();
        let (one, other) =
            (UdpSocket::bind("127.0.0.1:0").await.map_err(tell)?, UdpSocket::bind("127.0.0.1:0").await.map_err(tell)?);
        let address = other.local_addr().map_err(tell)?;
        let sent = tokio::spawn(async move { one.send_to(b"hello", address).await });
        let mut buffer = [0; 16];
        let received =
            timeout(Duration::from_secs(10), other.recv(&mut buffer)).await.map_err(|late| late.to_string())?;
        sent.await.map_err(|error| error.to_string())?.map_err(tell)?;
        received.map_err(tell)
    }
}

#[test]
fn a_call_that_waits_is_notified_by_another_on_its_lane() {
    within(60, "a_call_that_waits_is_notified_by_another_on_its_lane", || {
        let sleeper = Sleeper::bridge().concurrent_callers(1).start().expect("the bridge starts");
        for _ in 0..100 {
            let notified = sleeper.begin().notified();
            sleeper.notify().unwrap();
            notified.wait().unwrap();
        }
    });
}

#[test]
fn a_thousand_calls_sleep_at_once() {
    within(60, "a_thousand_calls_sleep_at_once", || {
        let sleeper = Sleeper::bridge().pending_calls(256).start().expect("the bridge starts");
        let calls: Vec<_> = (0..1000).map(|_| sleeper.begin().sleep(500)).collect();
        assert!(calls.into_iter().all(|call| call.wait() == Ok(500)));
        assert!(sleeper.most().is_ok_and(|most| most > 500), "{:?}", sleeper.most());
    });
}

#[test]
fn calls_that_are_dropped_drop_their_methods() {
    within(60, "calls_that_are_dropped_drop_their_methods", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sleeper = Sleeper::bridge().start().expect("the bridge starts").into_async();
        runtime.block_on(async {
            for _ in 0..10 {
                assert!(timeout(Duration::from_millis(10), sleeper.notified()).await.is_err());
            }
        });
        let sleeper = sleeper.as_blocking();
        assert!(eventually(10, "all are dropped", || sleeper.given_up() == Ok(10)));
        // Nobody took the notice.
        sleeper.notify().unwrap();
        assert_eq!(sleeper.notified(), Ok(()));
    });
}

#[test]
fn methods_find_timers_sockets_and_a_spawner() {
    within(60, "methods_find_timers_sockets_and_a_spawner", || {
        for workers in [1, 2] {
            let sleeper = Sleeper::bridge().workers(workers).start().expect("the bridge starts");
            assert_eq!(sleeper.everything(), Ok(Ok(5)));
            let late = sleeper.with_timeout(Duration::from_millis(20)).sleep(1_000_000);
            assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
            assert!(sleeper.stop().is_ok_and(|exit| exit.success()));
        }
    });
}

#[test]
fn a_child_whose_calls_wait_uses_no_cpu() {
    within(60, "a_child_whose_calls_wait_uses_no_cpu", || {
        let sleeper = Sleeper::bridge().start().expect("the bridge starts");
        let waiting: Vec<_> = (0..10).map(|_| sleeper.begin().notified()).collect();
        sleeper.sleep(1).unwrap();
        let pid = sleeper.child_pid();
        let ticks = || -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("procfs");
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split_whitespace().collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = ticks();
        std::thread::sleep(Duration::from_millis(500));
        let used = ticks() - before;
        assert!(used <= 2, "{used} hundredths of a second");
        drop(waiting);
    });
}

#[cfg(feature = "sandbox")]
#[test]
fn the_strictest_sandbox_leaves_methods_their_timers() {
    within(60, "the_strictest_sandbox_leaves_methods_their_timers", || {
        let strict = callgate::Sandbox::strict();
        if strict.check().is_err() {
            return;
        }
        let sleeper = Sleeper::bridge().sandbox(strict).start().expect("the bridge starts");
        assert_eq!(sleeper.sleep(5), Ok(5));
    });
}
