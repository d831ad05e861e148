//! A call whose types need no heap allocates nothing on it, on neither the caller's thread nor the child's.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Wait, bridge};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::within;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 240;

/// Counts the allocations of each thread. The child executes this program too, and counts its own.
struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: all work is the system allocator's; the counter is thread-local and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's duty.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's duty.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's duty.
        unsafe { System.realloc(memory, layout, len) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's duty.
        unsafe { System.dealloc(memory, layout) }
    }
}

struct Adder {
    total: u64,
}

#[bridge]
impl Adder {
    pub fn new() -> Self {
        Adder { total: 0 }
    }
    pub fn add(&mut self, n: u64) -> u64 {
        self.total = self.total.wrapping_add(n);
        self.total
    }
    pub fn add_all(&mut self, numbers: &[u64], label: &str) -> (u64, Option<[u8; 40]>) {
        self.total += (numbers.len() + label.len()) as u64;
        (self.total, Some([1; 40]))
    }
    pub fn sum(&self, n: u64) -> u64 {
        self.total.wrapping_add(n)
    }
    pub fn shown(&self, n: u64) -> String {
        format!("the number {n}, and some text beyond what is stored inline")
    }
    /// Allocations so far on the thread that serves calls.
    pub fn allocations() -> u64 {
        allocations()
    }
}

const CALLS: u64 = 10_000;

/// Allocations of the caller's thread and of the child's during `CALLS` calls.
fn during(adder: &Bridge<Adder>, call: impl Fn(u64)) -> [u64; 2] {
    let both = || [allocations(), adder.allocations().expect("a count")];
    // Enough calls to have parked, spun and gone round the ring.
    (0..1000).for_each(&call);
    let before = both();
    (0..CALLS).for_each(&call);
    let after = both();
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn calls_that_need_no_heap_use_none() {
    within(PATIENCE, "calls_that_need_no_heap_use_none", || {
        let numbers = [7; 60];
        for wait in [Wait::Adaptive, Wait::Spin, Wait::Park] {
            let adder = Adder::bridge().wait(wait).start().expect("the bridge starts");
            let add = |n| assert!(adder.add(n).is_ok());
            assert_eq!(during(&adder, add), [0, 0], "numbers, {wait:?}");
            let add_all = |_| assert!(adder.add_all(&numbers, "a label").is_ok());
            assert_eq!(during(&adder, add_all), [0, 0], "slices and arrays, {wait:?}");
            let large = |_| assert!(adder.add_all(&[7; 1000], "in an arena").is_ok());
            assert_eq!(during(&adder, large), [0, 0], "what outgrows a slot, {wait:?}");
            let nothing = |_| assert!(adder.allocations().is_ok());
            assert_eq!(during(&adder, nothing), [0, 0], "no arguments, {wait:?}");
        }
    });
}

#[test]
fn calls_with_a_timeout_use_none_either() {
    within(PATIENCE, "calls_with_a_timeout_use_none_either", || {
        let adder = Adder::bridge().timeout(std::time::Duration::from_secs(60)).start().expect("the bridge starts");
        assert_eq!(during(&adder, |n| assert!(adder.add(n).is_ok())), [0, 0]);
    });
}

trait Halve {
    fn halve(&mut self) -> u64;
}

#[bridge]
impl Halve for Adder {
    fn halve(&mut self) -> u64 {
        self.total /= 2;
        self.total
    }
}

#[test]
fn calls_through_a_trait_use_none_either() {
    within(PATIENCE, "calls_through_a_trait_use_none_either", || {
        let adder = Adder::bridge().start().expect("the bridge starts");
        assert_eq!(during(&adder, |_| assert!((*adder).halve().is_ok())), [0, 0]);
    });
}

/// This thread keeps its lane, and the lane keeps its worker, so that worker does the counting.
#[test]
fn calls_to_several_workers_use_none_either() {
    within(PATIENCE, "calls_to_several_workers_use_none_either", || {
        let adder = Adder::bridge().workers(2).start().expect("the bridge starts");
        assert_eq!(during(&adder, |n| assert!(adder.sum(n).is_ok())), [0, 0], "shared");
        assert_eq!(during(&adder, |n| assert!(adder.add(n).is_ok())), [0, 0], "alone");
        assert_eq!(during(&adder, |_| assert!((*adder).halve().is_ok())), [0, 0], "alone, of a trait");
    });
}

/// Checks the counters: the child creates a text, and the caller creates it again.
#[test]
fn calls_that_need_the_heap_are_seen_to_use_it() {
    within(PATIENCE, "calls_that_need_the_heap_are_seen_to_use_it", || {
        let adder = Adder::bridge().start().expect("the bridge starts");
        let [here, there] = during(&adder, |n| assert!(adder.shown(n).is_ok()));
        assert_eq!(here, CALLS, "one text each");
        assert!(there >= CALLS, "{there} allocations in the child");
    });
}
