//! Memory that a bridge no longer uses returns to the system, in both processes, except for what each side may keep idle. It returns without another
//! call, whatever used it, and whichever side released it last.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{Bridge, SharedBox, View, bridge};
use held::alone;
use std::time::Duration;
use support::eventually;

callgate::test_support!();

/// Seconds after which a hanging test is aborted.
const PATIENCE: u64 = 240;

/// Bytes of a large payload.
const LEN: usize = if cfg!(debug_assertions) { 16 << 20 } else { 64 << 20 };

/// Large calls each way: many in the one long test, few elsewhere.
const MANY: usize = 100;
const FEW: usize = 10;

/// Bytes that each side may keep idle.
const RETAINED: u64 = 8 << 20;

/// Shared memory in KiB that a bridge has in any case, beyond the idle memory.
const SLACK_KIB: u64 = 1 << 10;

/// Seconds until the memory is back: one or two on an idle machine.
const SOON: u64 = 10;

struct Mirror {
    kept: Vec<SharedBox<[u8]>>,
}

#[bridge]
impl Mirror {
    pub fn new() -> Self {
        Mirror { kept: Vec::new() }
    }
    pub fn len(&self, text: &str) -> usize {
        text.len()
    }
    pub fn text(&self, len: usize) -> String {
        "x".repeat(len)
    }
    pub fn take(&self, bytes: SharedBox<[u8]>) -> usize {
        bytes.len()
    }
    pub fn back(&self, bytes: SharedBox<[u8]>) -> SharedBox<[u8]> {
        bytes
    }
    pub fn make(&self, len: usize) -> SharedBox<[u8]> {
        let mut new = SharedBox::for_overwrite(len).expect("memory");
        new.fill(1);
        new
    }
    pub fn keep(&mut self, bytes: SharedBox<[u8]>) {
        self.kept.push(bytes);
    }
    pub fn kept(&mut self) -> Option<SharedBox<[u8]>> {
        self.kept.pop()
    }
    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

fn filled(mirror: &Bridge<Mirror>, len: usize) -> SharedBox<[u8]> {
    let mut new = SharedBox::<[u8]>::for_overwrite_in(mirror, len).expect("memory");
    new.fill(1);
    new
}

fn view(mirror: &Bridge<Mirror>, len: usize) -> View<String> {
    mirror.view().text(len).expect("a text")
}

/// A use of large memory that leaves none in use, and its name. The number is the number of calls, where it matters.
type Use = (&'static str, fn(&Bridge<Mirror>, usize));

const USES: &[Use] = &[
    ("texts, both ways", |mirror, calls| {
        let text = "x".repeat(LEN);
        for _ in 0..calls {
            assert_eq!(mirror.len(&text), Ok(LEN));
            assert_eq!(mirror.text(LEN).map(|text| text.len()), Ok(LEN));
        }
    }),
    ("texts of many sizes, by threads", |mirror, _| {
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                scope.spawn(move || {
                    for round in 1..=25 {
                        let len = LEN * thread * round / 100;
                        assert_eq!(mirror.len(&"x".repeat(len)), Ok(len));
                        assert_eq!(mirror.text(len).map(|text| text.len()), Ok(len));
                    }
                });
            }
        });
    }),
    ("boxes dropped by the child", |mirror, _| {
        (0..FEW).for_each(|_| assert_eq!(mirror.take(filled(mirror, LEN)), Ok(LEN)));
    }),
    ("boxes returned, and dropped by the parent", |mirror, _| {
        (0..FEW).for_each(|_| drop(mirror.back(filled(mirror, LEN)).expect("a box")));
    }),
    ("boxes kept by the child, returned later, and dropped by the parent", |mirror, _| {
        (0..4).for_each(|_| mirror.keep(filled(mirror, LEN)).expect("a call"));
        while mirror.kept().expect("a call").is_some() {}
    }),
    ("boxes made by the child, and dropped by the parent", |mirror, _| {
        (0..FEW).for_each(|_| drop(mirror.make(LEN).expect("a box")));
    }),
    ("boxes made by the child, and dropped later", |mirror, _| {
        let boxes = [(); 4].map(|()| mirror.make(LEN).expect("a box"));
        mirror.sleep(100).expect("a call");
        drop(boxes);
    }),
    ("views, dropped later", |mirror, _| {
        let views = [(); 4].map(|()| view(mirror, LEN));
        mirror.sleep(100).expect("a call");
        assert!(views.iter().all(|view| view.len() == LEN));
    }),
    ("many views, dropped at once", |mirror, _| drop([(); 400].map(|()| view(mirror, LEN / 400)))),
    ("views dropped by threads while there are calls", |mirror, _| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..FEW).for_each(|_| drop(view(mirror, LEN / 4))));
            }
        });
    }),
];

/// Shared memory in KiB that a process has resident.
fn shared_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("a line RssShmem");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// After each use, both processes soon shrink to what both sides may keep.
fn goes_back(retained: u64, is_trusted: bool, calls: usize) {
    for (case, run) in USES {
        let builder = Mirror::bridge().retained(retained);
        // SAFETY: the child runs the safe code above.
        let builder = if is_trusted { unsafe { builder.trust_child() } } else { builder };
        let mirror = builder.start().expect("a start");
        run(&mirror, calls);
        // Each process maps the memory of both sides.
        let limit = 2 * (retained >> 10) + SLACK_KIB;
        let in_use = || [std::process::id(), mirror.child_pid()].map(shared_kib);
        let is_back = eventually(SOON, case, || in_use().iter().all(|&kib| kib <= limit));
        assert!(is_back, "{case}: parent and child have {:?} KiB, and should have {limit}", in_use());
        assert_eq!(mirror.len("still there"), Ok(11));
    }
}

#[test]
fn what_is_not_retained_goes_back() {
    alone("what_is_not_retained_goes_back", PATIENCE, || goes_back(RETAINED, false, MANY));
}

#[test]
fn what_is_not_retained_goes_back_from_a_trusted_child() {
    alone("what_is_not_retained_goes_back_from_a_trusted_child", PATIENCE, || goes_back(RETAINED, true, FEW));
}

#[test]
fn where_nothing_is_retained_all_goes_back() {
    alone("where_nothing_is_retained_all_goes_back", PATIENCE, || {
        goes_back(0, false, FEW);
        goes_back(0, true, FEW);
    });
}
