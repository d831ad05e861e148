//! Many threads call through one bridge at once. With any number of lanes and slots and any way of waiting, each gets the answer to its own
//! question, every time.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Builder, Wait, bridge};
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 240;

struct Oracle {
    asked: u64,
}

#[bridge(get(asked: u64))]
impl Oracle {
    pub fn new() -> Self {
        Oracle { asked: 0 }
    }
    pub fn answer(&mut self, thread: u64, number: u64) -> u64 {
        self.asked += 1;
        mix(thread << 32 | number)
    }
    /// From 0 to 1000 words, so that some answers need a slot's later lines, and some an arena.
    pub fn answers(&mut self, thread: u64, number: u64) -> Vec<u64> {
        self.asked += 1;
        words(thread, number)
    }
}

/// A number that differs for every thread and number: the finaliser of splitmix64.
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

fn words(thread: u64, number: u64) -> Vec<u64> {
    let len = [0, 1, 6, 7, 60, 80, 1000][(mix(number) % 7) as usize];
    (0..len).map(|at| mix(thread << 32 | number) ^ at).collect()
}

/// `threads` threads make `calls` calls each, every tenth one with a longer answer, and check every answer.
fn ask(name: &str, oracle: Builder<Oracle>, threads: u64, calls: u64) {
    within(PATIENCE, name, || {
        let oracle = oracle.start().expect("the bridge starts");
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let oracle = &oracle;
                scope.spawn(move || (0..calls).for_each(|number| ask_once(oracle, thread, number)));
            }
        });
        assert_eq!(oracle.asked(), Ok(threads * calls), "each call ran once");
        assert!(oracle.stop().is_ok_and(|exit| exit.success()));
    });
}

fn ask_once(oracle: &Bridge<Oracle>, thread: u64, number: u64) {
    if number % 10 == 9 {
        assert_eq!(oracle.answers(thread, number), Ok(words(thread, number)), "thread {thread}, call {number}");
    } else {
        assert_eq!(oracle.answer(thread, number), Ok(mix(thread << 32 | number)), "thread {thread}, call {number}");
    }
}

#[test]
fn sixteen_threads() {
    ask("sixteen_threads", Oracle::bridge(), 16, 20_000);
}

#[test]
fn more_threads_than_lanes() {
    for lanes in [1, 2] {
        ask("more_threads_than_lanes", Oracle::bridge().concurrent_callers(lanes), 12, 2000);
    }
}

#[test]
fn fault_22_sixty_four_threads_on_sixty_four_lanes() {
    ask("fault_22_sixty_four_threads_on_sixty_four_lanes", Oracle::bridge().concurrent_callers(64), 64, 5000);
}

#[test]
fn the_fewest_slots() {
    ask("the_fewest_slots", Oracle::bridge().pending_calls(2), 8, 2000);
    ask("the_fewest_slots", Oracle::bridge().pending_calls(2).concurrent_callers(1).slot_size(1), 8, 2000);
}

#[test]
fn adaptive() {
    ask("adaptive", Oracle::bridge().wait(Wait::Adaptive), 4, 20_000);
}

#[test]
fn park() {
    ask("park", Oracle::bridge().wait(Wait::Park), 4, 20_000);
}

/// With more threads than CPUs, a polling thread delays the thread that would answer it, so a few calls take long enough.
#[test]
fn spin() {
    ask("spin", Oracle::bridge().wait(Wait::Spin), 1, 20_000);
    ask("spin", Oracle::bridge().wait(Wait::Spin), 4, 2000);
    ask("spin", Oracle::bridge().wait(Wait::Spin).concurrent_callers(1), 4, 2000);
}

/// Calls that give up on a lane do not disturb calls that wait.
#[test]
fn threads_that_give_up_beside_threads_that_do_not() {
    within(PATIENCE, "threads_that_give_up", || {
        let oracle = Oracle::bridge().concurrent_callers(2).pending_calls(4).start().expect("the bridge starts");
        let end = Instant::now() + Duration::from_secs(2);
        let go_on = || Instant::now() < end;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let oracle = &oracle;
                scope.spawn(move || (0..).take_while(|_| go_on()).for_each(|n| ask_once(oracle, thread, n)));
                let hasty = oracle.with_timeout(Duration::from_micros(30));
                scope.spawn(move || {
                    for number in (0..).take_while(|_| go_on()) {
                        if let Ok(answer) = hasty.answer(thread, number) {
                            assert_eq!(answer, mix(thread << 32 | number), "thread {thread}, call {number}");
                        }
                    }
                });
            }
        });
        ask_once(&oracle, 0, 0);
    });
}
