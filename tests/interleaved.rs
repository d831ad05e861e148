//! What calls of async methods promise: they interleave in the child, on one lane and one worker; one that nobody wants any more is dropped there; and
//! everything else holds that holds for other calls.

mod support;
#[path = "support/parking.rs"]
mod parking;

use callgate::{AsyncBridge, Bridge, CallError, Exit, Pending, Restart, SharedBox, Started, bridge, call};
use parking::Parking;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{eventually, within};

callgate::test_support!();

#[derive(Default)]
struct Station {
    parking: Parking,
    total: u64,
    shared: AtomicU64,
    /// How many methods run that have the service shared, and for themselves.
    inside: AtomicU64,
}

#[bridge]
impl Station {
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until `open`, and returns what it was given.
    pub async fn wait(&self, text: &str) -> String {
        self.parking.wait().await;
        text.to_owned()
    }

    /// Waits with the service shared, as long as any number of others.
    pub async fn wait_all(&self, others: u64) -> u64 {
        if self.parking.waiting() + 1 == others {
            self.parking.open();
        } else {
            self.parking.wait().await;
        }
        self.shared.fetch_add(1, Ordering::SeqCst)
    }

    pub fn open(&self) -> u64 {
        self.parking.open()
    }

    pub fn waiting(&self) -> u64 {
        self.parking.waiting()
    }

    pub fn dropped(&self) -> u64 {
        self.parking.dropped()
    }

    /// Adds, in two steps with others in between if that can be.
    pub async fn add(&mut self, n: u64) -> u64 {
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "another method runs");
        let before = self.total;
        yield_now().await;
        self.total = before + n;
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.total
    }

    pub async fn look(&self) -> u64 {
        assert_eq!(self.inside.load(Ordering::SeqCst), 0, "a method runs that has the service for itself");
        yield_now().await;
        self.total
    }

    pub fn set(&mut self, total: u64) {
        assert_eq!(self.inside.load(Ordering::SeqCst), 0, "another method runs");
        self.total = total;
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    pub async fn deadline(&self) -> Option<u64> {
        self.parking.wait().await;
        let left = call::deadline()?.saturating_duration_since(Instant::now());
        Some(left.as_millis() as u64)
    }

    pub async fn caller(&self) -> Option<u32> {
        yield_now().await;
        call::caller()
    }

    pub async fn panic(&self) -> u64 {
        yield_now().await;
        panic!("as asked")
    }

    pub async fn repeat(&self, text: &str, times: usize) -> String {
        yield_now().await;
        text.repeat(times)
    }

    pub async fn sum(&self, words: SharedBox<[u64]>) -> u64 {
        yield_now().await;
        words.iter().sum()
    }

    /// Waits without letting its worker go on.
    pub async fn block(&self) {
        std::thread::sleep(Duration::from_secs(1000));
    }

    pub async fn exit(&self) {
        yield_now().await;
        std::process::exit(3)
    }
}

/// Lets other tasks run.
async fn yield_now() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}

/// A bridge with one lane and one worker.
fn narrow() -> Bridge<Station> {
    Station::bridge().concurrent_callers(1).start().expect("the bridge starts")
}

#[test]
fn a_call_that_waits_is_let_go_by_a_later_one_on_its_lane() {
    within(60, "a_call_that_waits_is_let_go_by_a_later_one_on_its_lane", || {
        let station = narrow();
        let first = station.begin().wait("first");
        assert!(eventually(10, "the call waits", || station.waiting() == Ok(1)));
        let second = station.begin().wait("second");
        assert!(eventually(10, "both wait", || station.waiting() == Ok(2)));
        assert_eq!(station.open(), Ok(2));
        assert_eq!((second.wait(), first.wait()), (Ok("second".into()), Ok("first".into())));
    });
}

#[test]
fn threads_that_wait_for_calls_share_a_lane() {
    within(60, "threads_that_wait_for_calls_share_a_lane", || {
        let station = narrow();
        let texts: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                let station = &station;
                scope.spawn(move || assert_eq!(station.wait(text).as_ref(), Ok(text)));
            }
            assert!(eventually(10, "all wait", || station.waiting() == Ok(8)));
            assert_eq!(station.open(), Ok(8));
        });
    });
}

#[test]
fn a_thousand_calls_wait_for_each_other() {
    within(60, "a_thousand_calls_wait_for_each_other", || {
        // None ends before all have begun, so they are all under way at once.
        let station = Station::bridge().concurrent_callers(8).pending_calls(128).start().expect("the bridge starts");
        let calls: Vec<_> = (0..1000).map(|_| station.begin().wait_all(1000)).collect();
        let mut order: Vec<_> = calls.into_iter().map(|call| call.wait().expect("an answer")).collect();
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    });
}

#[test]
fn calls_beyond_the_room_follow_those_that_end() {
    within(60, "calls_beyond_the_room_follow_those_that_end", || {
        let station = Station::bridge().concurrent_callers(1).pending_calls(4).start().expect("the bridge starts");
        let calls: Vec<_> = (0..1000).map(|n| station.begin().repeat("ab", n)).collect();
        // One that waits takes one place, however many others pass.
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().map(|text| text.len()), Ok(2 * n));
        }
        let waiting = station.begin().wait("long");
        assert!(eventually(10, "it waits", || station.waiting() == Ok(1)));
        for n in 0..1000 {
            assert_eq!(station.begin().repeat("ab", n).wait().map(|text| text.len()), Ok(2 * n));
        }
        assert_eq!(station.open(), Ok(1));
        assert_eq!(waiting.wait(), Ok("long".into()));
    });
}

#[test]
fn a_method_with_mut_self_runs_alone() {
    within(60, "a_method_with_mut_self_runs_alone", || {
        let start = || [Station::bridge().start(), Station::bridge().concurrent_callers(1).start()];
        for station in start() {
            let station = station.expect("the bridge starts");
            let adds: Vec<_> = (0..200)
                .map(|n| {
                    (station.begin().add(1), station.begin().look(), (n % 50 == 0).then(|| station.begin().total()))
                })
                .collect();
            for (add, look, total) in adds {
                assert!(add.wait().is_ok());
                assert!(look.wait().is_ok());
                assert!(total.is_none_or(|total| total.wait().is_ok()));
            }
            assert_eq!(station.total(), Ok(200));
            station.set(7).unwrap();
            assert_eq!(station.look(), Ok(7));
        }
    });
}

#[test]
fn a_writer_waits_for_readers_and_readers_behind_it_for_the_writer() {
    within(60, "a_writer_waits_for_readers_and_readers_behind_it_for_the_writer", || {
        let station = narrow();
        let reader = station.begin().wait("reader");
        let writer = station.begin().add(5);
        let behind = station.begin().look();
        let mut waiting = Some(writer);
        assert!(waiting.as_mut().is_some_and(|writer| writer.wait_timeout(Duration::from_millis(50)).is_none()));
        // Nothing passes the writer, not even what would let the reader go: a call that is dropped makes way for both.
        drop(reader);
        assert_eq!(waiting.take().map(Pending::wait), Some(Ok(5)));
        assert_eq!(behind.wait(), Ok(5));
        assert_eq!(station.dropped(), Ok(1));
    });
}

#[test]
fn a_call_that_is_dropped_or_cancelled_or_late_is_dropped_in_the_child() {
    within(60, "a_call_that_is_dropped_or_cancelled_or_late_is_dropped_in_the_child", || {
        let station = narrow();
        let (one, other) = (station.begin().wait("one"), station.begin().wait("other"));
        let late = station.with_timeout(Duration::from_millis(30)).begin().wait("late");
        assert!(eventually(10, "all wait", || station.waiting() == Ok(3)));
        drop(one);
        assert!(eventually(10, "it is dropped", || station.dropped() == Ok(1)));
        assert_eq!(other.cancel(), Started::Yes);
        assert!(eventually(10, "it is dropped", || station.dropped() == Ok(2)));
        assert!(matches!(late.wait(), Err(CallError::TimedOut { started: Started::Yes, .. })));
        assert!(eventually(10, "it is dropped", || station.dropped() == Ok(3)));
        // A thread that gives up, too.
        let error = station.with_timeout(Duration::from_millis(30)).wait("blocking");
        assert!(matches!(error, Err(CallError::TimedOut { started: Started::Yes, .. })), "{error:?}");
        assert!(eventually(10, "it is dropped", || station.dropped() == Ok(4)));
        assert_eq!(station.waiting(), Ok(0));
    });
}

#[test]
fn calls_are_dropped_in_the_child_however_many_have_passed_them() {
    within(60, "calls_are_dropped_in_the_child_however_many_have_passed_them", || {
        let station = Station::bridge().concurrent_callers(1).pending_calls(4).start().expect("the bridge starts");
        let waiting = station.begin().wait("long");
        assert!((0..100).all(|n| station.begin().repeat("a", n).wait().is_ok()));
        drop(waiting);
        assert!(eventually(10, "it is dropped", || station.dropped() == Ok(1)));
        // And while the lane has no room.
        for _ in 0..20 {
            let mut calls: Vec<_> = (0..2).map(|_| station.begin().wait("all")).collect();
            assert!(eventually(10, "they wait", || station.waiting() == Ok(2)));
            calls.extend((0..4).map(|_| station.begin().wait("behind")));
            let behind = station.begin().total();
            drop(calls);
            assert_eq!(behind.wait(), Ok(0));
            assert!(eventually(10, "all are dropped", || station.waiting() == Ok(0)));
        }
    });
}

#[test]
fn a_method_knows_its_own_deadline_and_caller_wherever_it_waits() {
    within(60, "a_method_knows_its_own_deadline_and_caller_wherever_it_waits", || {
        let station = Station::bridge().concurrent_callers(1).pending_calls(4).start().expect("the bridge starts");
        let timed = station.with_timeout(Duration::from_secs(1000)).begin().deadline();
        let untimed = station.begin().deadline();
        assert!(eventually(10, "both wait", || station.waiting() == Ok(2)));
        assert!((0..20).all(|n| station.begin().repeat("a", n).wait().is_ok()), "their slots are used again");
        assert_eq!(station.open(), Ok(2));
        assert!(timed.wait().unwrap().is_some_and(|left| (900_000..=1_000_000).contains(&left)));
        assert_eq!(untimed.wait(), Ok(None));
        assert_eq!(station.caller(), Ok(Some(std::process::id())));
    });
}

#[test]
fn a_death_ends_every_call_under_way() {
    within(60, "a_death_ends_every_call_under_way", || {
        let station = narrow();
        let calls: Vec<_> = (0..10).map(|_| station.begin().wait("for ever")).collect();
        assert!(matches!(station.exit(), Err(CallError::Died { started: Started::Yes, exit: Exit::Code(3), .. })));
        for call in calls {
            assert!(matches!(call.wait(), Err(CallError::Died { started: Started::Yes, .. })));
        }
    });
}

#[test]
fn a_stop_waits_for_calls_under_way() {
    within(60, "a_stop_waits_for_calls_under_way", || {
        for workers in [1, 2] {
            let station = Station::bridge().workers(workers).start().expect("the bridge starts");
            let waiting = station.begin().wait("until the end");
            assert!(eventually(10, "it waits", || station.waiting() == Ok(1)));
            let open = station.begin().open();
            assert!(station.stop().is_ok_and(|exit| exit.success()));
            assert_eq!((open.wait(), waiting.wait()), (Ok(1), Ok("until the end".into())));
        }
    });
}

#[test]
fn a_drop_kills_a_child_whose_calls_do_not_end() {
    within(60, "a_drop_kills_a_child_whose_calls_do_not_end", || {
        let station = Station::bridge().stop_grace(Duration::from_millis(50)).start().expect("the bridge starts");
        let waiting = station.begin().wait("for ever");
        assert!(eventually(10, "it waits", || station.waiting() == Ok(1)));
        assert!(matches!(station.stop(), Err(CallError::TimedOut { .. })));
        assert!(matches!(waiting.wait(), Err(CallError::Stopped { started: Started::Yes, .. })));
    });
}

#[test]
fn panics_large_values_and_boxes_cross_as_ever() {
    within(60, "panics_large_values_and_boxes_cross_as_ever", || {
        for station in [narrow(), Station::bridge().workers(2).start().expect("the bridge starts")] {
            assert!(matches!(station.panic(), Err(CallError::Panicked { fault, .. }) if fault.message == "as asked"));
            let large = "0123456789".repeat(50_000);
            assert_eq!(station.repeat(&large, 4).map(|text| text.len()), Ok(2_000_000));
            let pending: Vec<_> = (0..20).map(|_| station.begin().repeat(&large, 1)).collect();
            for pending in pending {
                assert_eq!(pending.wait().map(|text| text.len()), Ok(500_000));
            }
            let words = SharedBox::copied(&[1u64; 10_000]).expect("memory");
            assert_eq!(station.sum(words), Ok(10_000));
        }
    });
}

#[test]
fn one_way_calls_are_flushed() {
    within(60, "one_way_calls_are_flushed", || {
        let station = narrow();
        for _ in 0..1000 {
            station.send().add(1).unwrap();
        }
        station.flush().unwrap();
        assert_eq!(station.total(), Ok(1000));
        station.send().panic().unwrap();
        station.send().add(1).unwrap();
        assert!(matches!(station.flush(), Err(CallError::Panicked { .. })));
        assert!(station.flush().is_ok());
        assert_eq!(station.add(0), Ok(1001), "a call behind them");
    });
}

#[test]
fn tasks_await_calls_of_one_lane_out_of_order() {
    within(60, "tasks_await_calls_of_one_lane_out_of_order", || {
        let station: AsyncBridge<Station> = narrow().into_async();
        pollster::block_on(async {
            let waiting = station.wait("out of order");
            for n in 0..100 {
                assert_eq!(station.repeat("ab", n).await.map(|text| text.len()), Ok(2 * n));
            }
            assert_eq!(station.open().await, Ok(1));
            assert_eq!(waiting.await, Ok("out of order".into()));
            assert!(station.stop().await.is_ok_and(|exit| exit.success()));
        });
    });
}

#[test]
fn a_child_is_killed_for_a_method_that_blocks_and_not_for_one_that_waits() {
    within(60, "a_child_is_killed_for_a_method_that_blocks_and_not_for_one_that_waits", || {
        let station = Station::bridge().kill_after(Duration::from_millis(50)).start().expect("the bridge starts");
        let timed = station.with_timeout(Duration::from_millis(20));
        // One behind which the others are answered, although it is older.
        let waiting = station.begin().wait("long");
        for _ in 0..5 {
            let late = timed.wait("late");
            assert!(matches!(late, Err(CallError::TimedOut { started: Started::Yes, .. })), "{late:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!((station.dropped(), station.open()), (Ok(5), Ok(1)));
        assert_eq!(waiting.wait(), Ok("long".into()));
        assert!(matches!(timed.block(), Err(CallError::TimedOut { .. })));
        assert!(eventually(10, "the child is killed", || !station.is_alive()));
    });
}

#[test]
fn the_next_child_of_a_bridge_that_restarts_runs_tasks_too() {
    within(60, "the_next_child_of_a_bridge_that_restarts_runs_tasks_too", || {
        let station = Station::bridge().restart(Restart::on_failure()).start().expect("the bridge starts");
        assert_eq!(station.add(1), Ok(1));
        assert!(matches!(station.exit(), Err(CallError::Died { .. })));
        let first = station.begin();
        assert!(eventually(10, "there is another child", || station.total() == Ok(0)));
        let waiting = first.wait("in the second");
        assert!(eventually(10, "it waits", || station.waiting() == Ok(1)));
        assert_eq!((station.open(), waiting.wait()), (Ok(1), Ok("in the second".into())));
    });
}
