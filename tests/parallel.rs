//! Promise: with several workers, methods with `&self` run at the same time and those with `&mut self` run alone. Each thread's calls run in order,
//! no call waits for ever behind others, and a failure in one call stays there.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Builder, CallError, Exit, Output, StartError, bridge};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;
use support::{Gate, eventually, process_exists, within};

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 240;

/// The environment variable that makes this program serve a `Hall` as a separate executable does: with `one` worker, or with `several`.
const SERVES: &str = "CALLGATE_TEST_SERVES";

/// Does the same as `test_support!`, and as `main` in a separate executable.
extern "C" fn begin() {
    match std::env::var(SERVES).as_deref() {
        Ok("one") => callgate::serve::<Hall>(),
        Ok("several") => callgate::serve_parallel::<Hall>(),
        _ => callgate::init(),
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// The weight of a writer in the hall; each reader counts as one.
const WRITER: u32 = 1000;

/// Checks which calls are in it at the same time.
struct Hall {
    people: Barrier,
    inside: AtomicU32,
    /// All numbers are equal, except while a writer changes them.
    board: [u64; 64],
    notes: Mutex<Vec<u64>>,
    built_on: ThreadId,
}

#[bridge(get(board: [u64; 64]))]
impl Hall {
    pub fn new(people: usize) -> Self {
        Hall {
            people: Barrier::new(people),
            inside: AtomicU32::new(0),
            board: [0; 64],
            notes: Mutex::default(),
            built_on: thread::current().id(),
        }
    }

    pub fn failing(why: &str) -> Result<Self, String> {
        Err(why.into())
    }

    /// Returns once as many calls are here as there are people.
    pub fn meet(&self) -> bool {
        self.people.wait().is_leader()
    }

    /// The number on the board, if no writer is in or comes in meanwhile.
    pub fn read(&self) -> Option<u64> {
        let others = self.inside.fetch_add(1, Ordering::Relaxed);
        let first = self.board[0];
        for _ in 0..20 {
            std::hint::spin_loop();
        }
        let whole = self.board.iter().all(|&number| number == first);
        let still = self.inside.fetch_sub(1, Ordering::Relaxed);
        (others < WRITER && still < WRITER && whole).then_some(first)
    }

    /// Adds one to every number on the board, with time for others to see it half done. Returns whether it was alone.
    pub fn write(&mut self) -> bool {
        let others = self.inside.fetch_add(WRITER, Ordering::Relaxed);
        for (place, number) in self.board.iter_mut().enumerate() {
            *number = std::hint::black_box(*number + 1);
            if place == 32 && *number % 8 == 0 {
                thread::sleep(Duration::from_micros(1));
            }
        }
        let still = self.inside.fetch_sub(WRITER, Ordering::Relaxed);
        others == 0 && still == WRITER
    }

    pub fn note(&self, number: u64) {
        self.notes.lock().expect("nobody panics with it").push(number);
    }

    pub fn notes(&self) -> Vec<u64> {
        self.notes.lock().expect("nobody panics with it").clone()
    }

    pub fn wait_at(&self, gate: &str) {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Gate::pass(gate);
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn panic_in_read(&self, message: &str) {
        panic!("{message}")
    }

    pub fn panic_in_write(&mut self, message: &str) {
        panic!("{message}")
    }

    pub fn abort(&self) {
        std::process::abort()
    }

    pub fn pages(&self, seed: u64, len: usize) -> Vec<u64> {
        pages(seed, len)
    }

    pub fn sum(&mut self, pages: &[u64]) -> u64 {
        sum(pages)
    }
}

impl Drop for Hall {
    /// Aborts the process if a call is still in the hall, or if this is not the thread that built it.
    fn drop(&mut self) {
        if *self.inside.get_mut() != 0 || self.built_on != thread::current().id() || !is_main_thread() {
            std::process::abort();
        }
    }
}

fn is_main_thread() -> bool {
    rustix::thread::gettid() == rustix::process::getpid()
}

fn pages(seed: u64, len: usize) -> Vec<u64> {
    (0..len as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).collect()
}

fn sum(pages: &[u64]) -> u64 {
    pages.iter().fold(0, |sum, page| sum.wrapping_mul(31).wrapping_add(*page))
}

/// A hall with as many lanes as workers, so every call with a lane has a worker.
fn hall(workers: u32) -> Bridge<Hall> {
    Hall::bridge(workers as usize).workers(workers).concurrent_callers(workers).start().expect("the bridge starts")
}

/// Runs `body` on `threads` threads at once, each with its number.
fn on_threads(threads: usize, body: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for thread in 0..threads {
            let body = &body;
            scope.spawn(move || body(thread));
        }
    });
}

// ---- concurrent and exclusive calls --------------------------------------------------------------------------------

#[test]
fn calls_that_wait_for_each_other_finish() {
    within(PATIENCE, "calls_that_wait_for_each_other_finish", || {
        for workers in [2, 5, 64] {
            let (hall, leaders) = (hall(workers), AtomicUsize::new(0));
            for _ in 0..20 {
                on_threads(workers as usize, |_| {
                    leaders.fetch_add(usize::from(hall.meet().expect("everybody comes")), Ordering::Relaxed);
                });
            }
            assert_eq!(leaders.into_inner(), 20, "{workers} workers");
            assert!(hall.stop().is_ok_and(|exit| exit.success()));
        }
    });
}

#[test]
fn workers_without_lanes_get_a_lane_each() {
    within(PATIENCE, "workers_without_lanes_get_a_lane_each", || {
        for workers in [12, 40] {
            let hall = Hall::bridge(workers as usize).workers(workers).start().expect("the bridge starts");
            on_threads(workers as usize, |_| assert!(hall.meet().is_ok()));
        }
    });
}

#[test]
fn methods_with_mut_self_run_alone() {
    within(PATIENCE, "methods_with_mut_self_run_alone", || {
        let hall = Hall::bridge(1).workers(4).concurrent_callers(8).start().expect("the bridge starts");
        let (threads, calls) = (12, 1500);
        on_threads(threads, |thread| {
            for call in 0..calls {
                if (thread + call) % 3 == 0 {
                    assert_eq!(hall.write(), Ok(true), "somebody beside a writer");
                } else {
                    assert!(matches!(hall.read(), Ok(Some(_))), "a writer beside a reader");
                }
            }
        });
        let written =
            (0..threads).map(|thread| (0..calls).filter(|call| (thread + call) % 3 == 0).count()).sum::<usize>();
        assert_eq!(hall.board(), Ok([written as u64; 64]));
    });
}

#[test]
fn a_service_of_one_worker_takes_the_same_calls() {
    within(PATIENCE, "a_service_of_one_worker_takes_the_same_calls", || {
        let hall = hall(1);
        on_threads(4, |_| {
            (0..500).for_each(|_| assert!(hall.write().expect("a reply") && hall.read().expect("a reply").is_some()));
        });
        assert_eq!(hall.board(), Ok([2000; 64]));
    });
}

#[test]
fn workers_bear_the_name_of_the_bridge() {
    within(PATIENCE, "workers_bear_the_name_of_the_bridge", || {
        let hall = Hall::bridge(3)
            .workers(3)
            .concurrent_callers(3)
            .name("a name beyond bounds")
            .start()
            .expect("the bridge starts");
        let tasks = format!("/proc/{}/task", hall.child_pid());
        let names = || -> Vec<String> {
            let tasks = std::fs::read_dir(&tasks).expect("the child lives").flatten();
            tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
        };
        let expected = ["a name beyond b\n", "a name beyond 1\n", "a name beyond 2\n"];
        assert!(eventually(10, "the names", || expected.iter().all(|name| names().contains(&(*name).into()))));
    });
}

// ---- order ---------------------------------------------------------------------------------------------------------

/// Abandoned calls are still in their lane, and run there in order, whatever happens in other lanes.
#[test]
fn the_calls_of_one_lane_run_in_their_order() {
    within(PATIENCE, "the_calls_of_one_lane_run_in_their_order", || {
        let hall =
            Hall::bridge(1).workers(2).concurrent_callers(2).pending_calls(64).start().expect("the bridge starts");
        let (elsewhere, here) = (Gate::new(), Gate::new());
        thread::scope(|scope| {
            // Holds one lane, so that all further calls take the other.
            scope.spawn(|| hall.wait_at(&elsewhere.path()));
            elsewhere.wait_for_child();
            let hasty = hall.with_timeout(Duration::from_millis(1));
            assert!(matches!(hasty.wait_at(&here.path()), Err(CallError::TimedOut { .. })));
            here.wait_for_child();
            let notes: Vec<_> = (0..40).map(|number| hall.begin().note(number)).collect();
            here.open();
            notes.into_iter().for_each(|note| note.wait().expect("the lane goes on"));
            hall.note(40).expect("the lane goes on");
            assert_eq!(hall.notes(), Ok((0..=40).collect()));
            elsewhere.open();
        });
    });
}

/// All threads keep calling until all are done: a thread that starves keeps the test from ending.
fn nobody_starves(threads: usize, calls: usize, builder: Builder<Hall>, writes: impl Fn(usize, usize) -> bool + Sync) {
    let (hall, done) = (builder.start().expect("the bridge starts"), AtomicUsize::new(0));
    on_threads(threads, |thread| {
        for call in 0.. {
            if call == calls {
                done.fetch_add(1, Ordering::Relaxed);
            }
            if call >= calls && done.load(Ordering::Relaxed) == threads {
                break;
            }
            match writes(thread, call) {
                true => assert_eq!(hall.write(), Ok(true)),
                false => assert!(hall.read().expect("a reply").is_some()),
            }
        }
    });
}

#[test]
fn none_of_sixty_four_threads_starves() {
    within(PATIENCE, "none_of_sixty_four_threads_starves", || {
        let builder = || Hall::bridge(1).workers(4).concurrent_callers(8);
        nobody_starves(64, 200, builder(), |_, _| false);
        nobody_starves(64, 100, builder(), |thread, call| (thread + call) % 2 == 0);
    });
}

/// Writers in close succession do not keep out readers, and overlapping readers do not keep out a writer.
#[test]
fn neither_readers_nor_writers_starve() {
    within(PATIENCE, "neither_readers_nor_writers_starve", || {
        nobody_starves(8, 200, hall_for(4), |thread, _| thread != 0);
        nobody_starves(8, 200, hall_for(4), |thread, _| thread == 0);
    });
}

fn hall_for(workers: u32) -> Builder<Hall> {
    Hall::bridge(1).workers(workers).concurrent_callers(2 * workers)
}

#[test]
fn more_threads_than_lanes_wait_and_never_fail() {
    within(PATIENCE, "more_threads_than_lanes", || {
        for workers in [2, 3] {
            let hall = hall(workers);
            on_threads(16, |thread| {
                (0..500).for_each(|call| {
                    let (seed, len) = ((thread * 1000 + call) as u64, call % 100);
                    assert_eq!(hall.pages(seed, len), Ok(pages(seed, len)));
                });
            });
        }
    });
}

// ---- failures ------------------------------------------------------------------------------------------------------

#[test]
fn a_panic_in_one_worker_is_its_callers_alone() {
    within(PATIENCE, "a_panic_in_one_worker", || {
        let hall = hall_for(4).start().expect("the bridge starts");
        on_threads(8, |thread| {
            for call in 0..200 {
                let message = format!("thread {thread}, call {call}");
                let failed = match (thread % 4, call % 2) {
                    (0, 0) => hall.panic_in_read(&message),
                    (0, _) => hall.panic_in_write(&message),
                    (1, _) => {
                        assert_eq!(hall.write(), Ok(true));
                        continue;
                    }
                    _ => {
                        assert!(hall.read().expect("a reply").is_some());
                        continue;
                    }
                };
                let Err(CallError::Panicked { fault, .. }) = failed else { panic!("{failed:?}") };
                assert_eq!(fault.message, message);
                assert!(fault.location.is_some_and(|place| place.contains("parallel.rs")));
            }
        });
        assert_eq!(hall.board(), Ok([400; 64]));
        assert!(hall.stop().is_ok_and(|exit| exit.success()));
    });
}

#[test]
fn a_constructor_can_fail() {
    within(PATIENCE, "a_constructor_can_fail", || {
        let error = Hall::bridge_failing("no room").workers(4).start().expect_err("no service");
        assert_eq!(error.to_string(), "bridge to `Hall` not started: its constructor failed: no room");
    });
}

#[test]
fn a_crash_in_one_worker_fails_the_calls_of_all() {
    within(PATIENCE, "a_crash_in_one_worker", || {
        let hall =
            Hall::bridge(9).workers(4).concurrent_callers(4).stderr(Output::null()).start().expect("the bridge starts");
        on_threads(4, |thread| {
            let ended = if thread == 0 {
                // Time for the others to begin their calls; the test does not depend on it.
                (0..20).for_each(|_| drop(hall.read()));
                hall.abort().expect_err("it aborts")
            } else {
                hall.meet().expect_err("not everybody comes")
            };
            assert!(matches!(ended, CallError::Died { exit: Exit::Signal(6), .. }), "{ended}");
        });
    });
}

#[test]
fn a_kill_ends_the_calls_of_all_workers() {
    within(PATIENCE, "a_kill_ends_the_calls", || {
        let hall = Hall::bridge(9).workers(4).concurrent_callers(8).start().expect("the bridge starts");
        let begun = AtomicU32::new(0);
        thread::scope(|scope| {
            let calls: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        begun.fetch_add(1, Ordering::Relaxed);
                        hall.meet()
                    })
                })
                .collect();
            assert!(eventually(30, "the calls begin", || begun.load(Ordering::Relaxed) == 4));
            assert_eq!(hall.kill(), Exit::Signal(9));
            for call in calls {
                let error = call.join().expect("no panic").expect_err("not everybody comes");
                assert!(matches!(error, CallError::Stopped { .. }), "{error}");
            }
        });
        let pid = hall.child_pid();
        assert!(eventually(10, "the child is gone", || !process_exists(pid)));
    });
}

#[test]
fn a_stop_waits_for_the_calls_of_all_workers() {
    within(PATIENCE, "a_stop_waits_for_the_calls", || {
        let builder = Hall::bridge(1).workers(4).concurrent_callers(4).stop_grace(Duration::from_secs(60));
        let (hall, gates) = (builder.start().expect("the bridge starts"), [(); 4].map(|()| Gate::new()));
        thread::scope(|scope| {
            let (hall, calls) = (&hall, gates.each_ref().map(|gate| gate.path()));
            let calls = calls.map(|path| scope.spawn(move || hall.wait_at(&path)));
            gates.iter().for_each(Gate::wait_for_child);
            let stop = scope.spawn(|| hall.stop());
            assert!(eventually(30, "the stop begins", || !hall.is_alive()));
            assert!(matches!(hall.read(), Err(CallError::Stopped { .. })));
            gates.iter().for_each(Gate::open);
            for call in calls {
                assert_eq!(call.join().expect("no panic"), Ok(()));
            }
            // The destructor aborts if a call is still in it.
            assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)));
        });
    });
}

/// No caller waits for an abandoned call any more, but the service is not dropped while it runs.
#[test]
fn a_stop_waits_for_calls_that_gave_up() {
    within(PATIENCE, "a_stop_waits_for_calls_that_gave_up", || {
        let hall = Hall::bridge(1)
            .workers(2)
            .concurrent_callers(2)
            .stop_grace(Duration::from_secs(60))
            .start()
            .expect("the bridge starts");
        let gate = Gate::new();
        let hasty = hall.with_timeout(Duration::from_millis(1));
        assert!(matches!(hasty.wait_at(&gate.path()), Err(CallError::TimedOut { .. })));
        gate.wait_for_child();
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let stop = scope.spawn(|| {
                let exit = hall.stop();
                ended.store(true, Ordering::Relaxed);
                exit
            });
            assert!(eventually(30, "the stop begins", || !hall.is_alive()));
            thread::sleep(Duration::from_millis(50));
            assert!(!ended.load(Ordering::Relaxed), "the service was dropped under a call");
            gate.open();
            assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)));
        });
    });
}

// ---- large payloads ------------------------------------------------------------------------------------------------

#[test]
fn large_payloads_of_several_workers_at_once() {
    within(PATIENCE, "large_payloads", || {
        let hall = hall_for(4).start().expect("the bridge starts");
        on_threads(8, |thread| {
            for call in 0..30 {
                // 1 MiB, and lengths around the limit below which blocks share a segment.
                let len = [1 << 17, 100, 1 << 13, (1 << 13) - 8][call % 4];
                let seed = (thread * 1000 + call) as u64;
                if call % 3 == 0 {
                    assert_eq!(hall.sum(&pages(seed, len)), Ok(sum(&pages(seed, len))));
                } else {
                    assert_eq!(hall.pages(seed, len), Ok(pages(seed, len)), "thread {thread}, call {call}");
                }
            }
        });
        assert!(hall.stop().is_ok_and(|exit| exit.success()));
    });
}

/// Memory that one worker's replies no longer need serves the others: the budget belongs to the bridge, not to each worker.
#[test]
fn workers_share_the_memory_of_replies() {
    within(PATIENCE, "workers_share_the_memory_of_replies", || {
        let max = 48 << 20;
        let hall =
            Hall::bridge(8).workers(8).concurrent_callers(8).max_payload(max).start().expect("the bridge starts");
        let len = (max / 8 - 100) as usize;
        let turn = Mutex::new(());
        // Eight workers in turn: the memory of all their last replies together exceeds the budget of 4 x 48 + 128 MiB.
        on_threads(8, |thread| {
            hall.meet().expect("everybody comes");
            let _turn = turn.lock().expect("no panic");
            assert_eq!(hall.pages(thread as u64, len).expect("within the budget").len(), len);
        });
    });
}

// ---- traits, generics ----------------------------------------------------------------------------------------------

trait Counts {
    fn meet_here(&self) -> bool;
    fn count(&mut self) -> u64;
    fn many(&mut self, by: u64) -> u64;
}

#[bridge]
impl Counts for Hall {
    fn meet_here(&self) -> bool {
        self.meet()
    }
    fn count(&mut self) -> u64 {
        assert!(self.write(), "somebody beside a writer");
        self.board[7]
    }
    fn many(&mut self, by: u64) -> u64 {
        (0..by).for_each(|_| assert!(self.write(), "somebody beside a writer"));
        self.board[7]
    }
}

trait Reads {
    fn look(&self, least: u64) -> bool;
}

#[bridge]
impl Reads for Hall {
    fn look(&self, least: u64) -> bool {
        self.read().is_some_and(|number| number >= least)
    }
}

#[test]
fn methods_of_traits_run_at_the_same_time_or_alone_too() {
    within(PATIENCE, "methods_of_traits", || {
        let hall = hall(4);
        on_threads(4, |thread| {
            hall.meet_here();
            for call in 0..300 {
                match (thread + call) % 4 {
                    0 => assert!((*hall).count().is_ok()),
                    1 => assert!((*hall).many(2).is_ok()),
                    _ => assert_eq!((*hall).look(0), Ok(true)),
                }
            }
        });
        assert_eq!((*hall).look(900), Ok(true));
        assert_eq!(hall.board(), Ok([900; 64]));
    });
}

struct Shelf<T> {
    things: Vec<T>,
    met: Barrier,
}

#[bridge]
impl<T: Clone + Send + Sync> Shelf<T> {
    pub fn for_two(thing: T) -> Self {
        Shelf { things: vec![thing], met: Barrier::new(2) }
    }
    pub fn put(&mut self, thing: T) -> usize {
        self.things.push(thing);
        self.things.len()
    }
    pub fn first_with_another(&self) -> Option<T> {
        self.met.wait();
        self.things.first().cloned()
    }
}

#[test]
fn generic_services_too() {
    within(PATIENCE, "generic_services_too", || {
        let shelf =
            Shelf::<String>::bridge_for_two("a cup".into()).workers(2).concurrent_callers(2).start().expect("a start");
        on_threads(2, |_| {
            assert_eq!(shelf.first_with_another(), Ok(Some("a cup".into())));
            (0..100).for_each(|_| assert!(shelf.put("a plate".into()).is_ok()));
        });
        assert_eq!(shelf.put("the last".into()), Ok(202));
    });
}

// ---- options, executables ------------------------------------------------------------------------------------------

#[test]
fn too_few_and_too_many_workers_are_refused() {
    within(PATIENCE, "too_few_and_too_many_workers", || {
        let refused = |builder: Builder<Hall>, why: &str| {
            let error = builder.start().expect_err("a start out of range");
            assert!(matches!(error, StartError::Option { option: "workers", .. }), "{error:?}");
            assert_eq!(error.to_string(), format!("bridge to `Hall` not started: workers is {why}"));
        };
        refused(Hall::bridge(1).workers(0), "0 but must be from 1 to 64");
        refused(Hall::bridge(1).workers(65), "65 but must be from 1 to 64");
        refused(Hall::bridge(1).workers(u32::MAX).concurrent_callers(64), "4294967295 but must be from 1 to 64");
        refused(
            Hall::bridge(1).workers(5).concurrent_callers(4),
            "5 but must be at most 4, the value of concurrent_callers",
        );
        refused(
            Hall::bridge(1).concurrent_callers(1).workers(64),
            "64 but must be at most 1, the value of concurrent_callers",
        );
    });
}

fn executable(serves: &str, workers: u32) -> Result<Bridge<Hall>, StartError> {
    let program = std::env::current_exe().expect("a path");
    Hall::bridge(workers as usize)
        .executable(program)
        .env(SERVES, serves)
        .workers(workers)
        .concurrent_callers(workers)
        .start()
}

#[test]
fn an_executable_serves_with_as_many_workers_as_it_is_asked_for() {
    within(PATIENCE, "an_executable_serves_with_as_many_workers", || {
        for (serves, workers) in [("one", 1), ("several", 1), ("several", 3)] {
            let hall = executable(serves, workers).expect("the executable starts");
            on_threads(workers as usize, |_| assert!(hall.meet().is_ok()));
            assert_eq!(hall.write(), Ok(true));
            assert!(hall.stop().is_ok_and(|exit| exit.success()));
        }
    });
}

#[test]
fn an_executable_of_one_worker_refuses_in_words_to_serve_with_several() {
    within(PATIENCE, "an_executable_of_one_worker", || {
        let error = executable("one", 2).expect_err("it serves with one");
        let expected =
            "it serves with one worker; to serve with several, its main must call callgate::serve_parallel()";
        assert!(error.to_string().ends_with(expected), "{error}");
    });
}
