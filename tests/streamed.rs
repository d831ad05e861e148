//! A large reply, which its caller copies while it is being written, arrives whole or not at all: whatever its type, whether the caller polls, sleeps
//! or does not wait, and whatever happens half-way.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, CallError, Exit, Payload, Started, Wait, bridge};
use nix::libc;
use rkyv::rancor::{Fallible, Source};
use rkyv::rend::u64_le;
use rkyv::{Archive, Deserialize, Place, Serialize};
use std::time::{Duration, Instant};
use support::{Gate, eventually, within};

callgate::test_support!();

const PATIENCE: u64 = 240;

const MIB: u64 = 1 << 20;

/// Lengths on both sides of the size from which replies are announced early, and of the ends of pieces.
const LENS: [u64; 9] = [1000, 65_536, 131_063, 131_064, 131_072, 163_840, 163_841, MIB, 5 * MIB + 13];

/// What happens during the serialisation of a value.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Nothing,
    Fails,
    Panics,
    Sleeps,
    Dies,
}

impl Archive for Hook {
    type Archived = u64_le;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<u64_le>) {
        out.write(0.into());
    }
}

impl<S: Fallible<Error: Source> + ?Sized> Serialize<S> for Hook {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        match self {
            Hook::Nothing => Ok(()),
            Hook::Fails => Err(S::Error::new(std::fmt::Error)),
            Hook::Panics => panic!("in the middle of a reply"),
            Hook::Sleeps => {
                std::thread::sleep(Duration::from_millis(600));
                Ok(())
            }
            Hook::Dies => std::process::abort(),
        }
    }
}

impl<D: Fallible + ?Sized> Deserialize<Hook, D> for u64_le {
    fn deserialize(&self, _: &mut D) -> Result<Hook, D::Error> {
        Ok(Hook::Nothing)
    }
}

/// Two large parts, with a hook that runs between them.
#[derive(Archive, Serialize, Deserialize, PartialEq)]
struct Parts {
    first: Vec<u8>,
    hook: Hook,
    second: Vec<u64>,
}

struct Well;

#[bridge]
impl Well {
    pub fn new() -> Self {
        Well
    }
    pub fn bytes(&self, len: u64) -> Vec<u8> {
        bytes(len)
    }
    pub fn text(&self, len: u64) -> String {
        text(len)
    }
    pub fn numbers(&self, len: u64) -> Vec<u64> {
        numbers(len)
    }
    pub fn wide(&self, len: u64) -> Vec<u128> {
        numbers(len / 2).into_iter().map(u128::from).collect()
    }
    pub fn floats(&self, len: u64) -> Vec<f32> {
        numbers(2 * len).into_iter().map(|n| n as f32).collect()
    }
    pub fn flags(&self, len: u64) -> Vec<bool> {
        bytes(len).into_iter().map(|byte| byte % 2 == 0).collect()
    }
    pub fn maybe(&self, len: u64) -> Result<Vec<u8>, String> {
        Ok(bytes(len))
    }
    /// Written in many small pieces, across several blocks.
    pub fn words(&self, len: u64) -> Vec<String> {
        (0..len / 32).map(|n| format!("word number {n}, of many")).collect()
    }
    pub fn parts(&self, len: u64) -> Parts {
        parts(len, Hook::Nothing)
    }
    pub fn fails(&self, len: u64) -> Parts {
        parts(len, Hook::Fails)
    }
    pub fn panics(&self, len: u64) -> Parts {
        parts(len, Hook::Panics)
    }
    pub fn sleeps(&self, len: u64) -> Parts {
        parts(len, Hook::Sleeps)
    }
    pub fn dies(&self, len: u64) -> Parts {
        parts(len, Hook::Dies)
    }
    /// A large reply that starts only when the gate opens.
    pub fn bytes_at(&self, gate: &str, len: u64) -> Vec<u8> {
        Gate::pass(gate);
        bytes(len)
    }
}

fn bytes(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

fn text(len: u64) -> String {
    bytes(len).into_iter().map(|byte| char::from(byte % 26 + b'a')).collect()
}

/// Numbers that fill `len` bytes.
fn numbers(len: u64) -> Vec<u64> {
    (0..len / 8).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

fn parts(len: u64, hook: Hook) -> Parts {
    Parts { first: bytes(len), hook, second: numbers(len) }
}

fn well(wait: Wait) -> Bridge<Well> {
    Well::bridge().wait(wait).start().expect("the bridge starts")
}

const WAITS: [Wait; 3] = [Wait::Adaptive, Wait::Park, Wait::Spin];

/// Not `assert_eq`, which would print megabytes.
#[track_caller]
fn same<R: PartialEq>(reply: Result<R, CallError>, value: R) {
    match reply {
        Ok(reply) => assert!(reply == value, "another value"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_kind_of_reply_arrives_whole() {
    within(PATIENCE, "every_kind_of_reply_arrives_whole", || {
        for wait in WAITS {
            let well = well(wait);
            for len in LENS {
                same(well.bytes(len), Well.bytes(len));
                same(well.text(len), Well.text(len));
                same(well.numbers(len), Well.numbers(len));
                same(well.wide(len), Well.wide(len));
                same(well.parts(len), Well.parts(len));
                if len <= MIB {
                    same(well.floats(len), Well.floats(len));
                    same(well.flags(len), Well.flags(len));
                    same(well.words(len), Well.words(len));
                    same(well.maybe(len).map(|bytes| bytes.expect("always")), bytes(len));
                }
            }
        }
    });
}

/// A long reply moves from one block to the next, and another reply uses each abandoned block at once.
#[test]
fn replies_that_move_while_they_are_copied_arrive_whole() {
    within(PATIENCE, "replies_that_move_while_they_are_copied", || {
        let well = Well::bridge().workers(2).concurrent_callers(4).start().expect("the bridge starts");
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let well = &well;
                scope.spawn(move || {
                    for round in 0..15 {
                        let len = (200 << 10) + thread * 70_000 + round * 40_000;
                        same(well.words(len), Well.words(len));
                        same(well.bytes(len), bytes(len));
                    }
                });
            }
        });
    });
}

#[test]
fn a_call_that_is_begun_gets_its_large_reply_polled_or_waited_for() {
    within(PATIENCE, "begun", || {
        for signal in [callgate::Signal::Futex, callgate::Signal::EventFd] {
            let well = Well::bridge().signal(signal).start().expect("the bridge starts");
            for len in LENS {
                let mut pending = well.begin().bytes(len);
                let mut reply = None;
                assert!(eventually(60, "the reply", || {
                    reply = reply.take().or_else(|| pending.poll());
                    reply.is_some()
                }));
                same(reply.expect("just seen"), bytes(len));
                let (gate, path) = {
                    let gate = Gate::new();
                    let path = gate.path();
                    (gate, path)
                };
                let mut pending = well.begin().bytes_at(&path, len);
                assert!(pending.poll().is_none());
                gate.open();
                same(pending.wait(), bytes(len));
                drop(well.begin().bytes(len));
                same(well.numbers(len), numbers(len));
            }
        }
    });
}

/// The failure comes after the reply was announced and a megabyte of it was copied.
#[test]
fn a_reply_that_fails_in_the_middle_is_an_error_and_the_bridge_goes_on() {
    within(PATIENCE, "failing in the middle", || {
        for wait in WAITS {
            let well = well(wait);
            for len in [200_000, MIB, 3 * MIB] {
                match well.fails(len) {
                    Err(CallError::Refused { why, .. }) => assert_eq!(why, "the reply cannot be encoded"),
                    other => panic!("{:?}", other.map(drop)),
                }
                same(well.bytes(len), bytes(len));
                match well.panics(len) {
                    Err(CallError::Panicked { fault, .. }) => {
                        assert!(fault.to_string().contains("in the middle of a reply"), "{fault}");
                    }
                    other => panic!("{:?}", other.map(drop)),
                }
                same(well.words(len), Well.words(len));
            }
        }
    });
}

#[test]
fn a_reply_that_outgrows_the_limit_after_megabytes_is_refused() {
    within(PATIENCE, "beyond the limit", || {
        for wait in WAITS {
            let max = 3 * MIB;
            let well = Well::bridge().wait(wait).max_payload(max).start().expect("the bridge starts");
            for _ in 0..5 {
                match well.parts(2 * MIB) {
                    Err(CallError::TooLarge { what, max: limit, .. }) => {
                        assert_eq!((what, limit), (Payload::Reply, max))
                    }
                    other => panic!("{:?}", other.map(drop)),
                }
                same(well.parts(MIB), parts(MIB, Hook::Nothing));
            }
        }
    });
}

#[test]
fn a_child_that_stalls_in_the_middle_is_waited_for_until_the_deadline() {
    within(PATIENCE, "stalling in the middle", || {
        for wait in WAITS {
            let well = well(wait);
            let timeout = Duration::from_millis(200);
            for _ in 0..2 {
                let start = Instant::now();
                let error = well.with_timeout(timeout).sleeps(2 * MIB).map(drop).expect_err("it takes longer");
                assert!(matches!(error, CallError::TimedOut { started: Started::Yes, .. }), "{error}");
                assert!(start.elapsed() >= timeout && start.elapsed() < timeout + Duration::from_secs(10));
                // The next call gets its own reply, not the rest of the previous one.
                same(well.numbers(MIB), numbers(MIB));
            }
            // With enough time, the pause does no harm.
            same(well.sleeps(2 * MIB), parts(2 * MIB, Hook::Nothing));
        }
    });
}

#[test]
fn a_child_that_dies_in_the_middle_is_an_error_at_once() {
    within(PATIENCE, "dying in the middle", || {
        for wait in WAITS {
            let well = well(wait);
            match well.dies(2 * MIB) {
                Err(CallError::Died { exit, started, .. }) => {
                    assert_eq!((exit, started), (Exit::Signal(libc::SIGABRT), Started::Yes));
                }
                other => panic!("{:?}", other.map(drop)),
            }
        }
    });
}
