//! Promise: bridges leave nothing behind, however they start and end: no descriptor, mapping, thread, zombie or shared memory, and none of the
//! parent's memory. The only test of its binary, because it counts what the whole process holds.

use callgate::{Bridge, CallError, Wait, bridge};
use std::time::Duration;

#[path = "support/held.rs"]
mod held;
mod support;
use held::Held;
use support::within;

callgate::test_support!();

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn failing(how: u32) -> Result<Self, String> {
        match how {
            0 => Err("no luck".into()),
            1 => panic!("bad luck"),
            2 => std::process::exit(3),
            _ => std::process::abort(),
        }
    }

    pub(crate) fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    pub(crate) fn crash(&self) {
        std::process::abort()
    }

    pub(crate) fn hang(&self) {
        std::thread::sleep(Duration::from_secs(600));
    }
}

fn start() -> Bridge<Guest> {
    Guest::bridge().start().expect("a start")
}

/// Ways in which a bridge comes and goes.
const LIVES: &[(&str, fn())] = &[
    ("start, drop", || drop(start())),
    ("call, drop", || assert_eq!(start().echo(b"here"), Ok(b"here".to_vec()))),
    ("call with large payloads, stop", || {
        let guest = start();
        for len in [1 << 12, 1 << 20, 3 << 20] {
            assert_eq!(guest.echo(&vec![1; len]).map(|bytes| bytes.len()), Ok(len));
        }
        assert!(guest.stop().is_ok_and(|exit| exit.success()));
    }),
    ("calls by threads, drop", || {
        let guest = start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(guest.echo(b"there"), Ok(b"there".to_vec())));
            }
        });
    }),
    ("kill", || _ = start().kill()),
    ("crash", || {
        let guest = Guest::bridge().wait(Wait::Park).start().expect("a start");
        assert!(matches!(guest.crash(), Err(CallError::Died { .. })));
    }),
    ("time out, kill", || {
        let guest = start();
        let late = guest.with_timeout(Duration::from_millis(5)).hang();
        assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
        guest.kill();
    }),
    ("constructor that fails", || drop(Guest::bridge_failing(0).start().expect_err("no bridge"))),
    ("constructor that panics", || drop(Guest::bridge_failing(1).start().expect_err("no bridge"))),
    ("constructor that exits", || drop(Guest::bridge_failing(2).start().expect_err("no bridge"))),
    ("constructor that aborts", || drop(Guest::bridge_failing(3).start().expect_err("no bridge"))),
    ("executable that is missing", || drop(Guest::bridge().executable("/nowhere").start().expect_err("no bridge"))),
    ("executable that is none of ours", || {
        drop(Guest::bridge().executable("/bin/true").start().expect_err("no bridge"))
    }),
];

const STARTS: usize = 500;

/// How many bytes the parent may grow by: what allocators and thread stacks keep. At any time the allocator may come to keep, once, the largest
/// payload's vectors: 3 MiB each way.
const GROWTH: u64 = 10 << 20;

#[test]
fn nothing_is_left_of_many_bridges() {
    within(240, "nothing_is_left_of_many_bridges", || {
        let _first = start();
        let held = Held::now();
        // Warm up what is created once and then kept.
        for (name, live) in LIVES.iter().chain(LIVES) {
            live();
            held.again(name);
        }
        let resident = resident();
        for (_, live) in LIVES.iter().cycle().take(STARTS) {
            live();
        }
        held.again(&format!("{STARTS} starts"));
        let grown = self::resident().saturating_sub(resident);
        assert!(grown < GROWTH, "{STARTS} starts grew the process by {grown} bytes, from {resident}");
    });
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
