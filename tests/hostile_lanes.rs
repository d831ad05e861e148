//! A late reply that no healthy child writes, and that nobody waits for any more, ends whatever waits behind it on its lane: streams, calls that a stream
//! which was dropped holds up, flushes, tasks.

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::{Bridge, CallError, Wait, bridge};
use futures_util::StreamExt;
use held::leaving_nothing;
use raw::{CALL, Raw, commit};
use std::time::Duration;

callgate::test_support!();

/// More bytes than a slot has, and a kind that there is none of.
const FORGED: [(u64, u64); 2] = [(561, CALL), (8, 0x7f)];

/// How long a call waits whose reply is forged.
const SHORT: Duration = Duration::from_millis(30);

/// Publishes a reply at `position` when the caller has given up, and says no more.
fn forge_late(position: u64, (len, kind): (u64, u64)) {
    std::thread::sleep(4 * SHORT);
    let raw = Raw::find();
    raw.forge(position, commit(position, len, kind), &[]);
    std::thread::sleep(Duration::from_secs(20));
}

fn assert_ended<T: std::fmt::Debug>(outcome: Result<T, CallError>, case: (u64, u64)) {
    assert!(matches!(outcome, Err(CallError::Corrupt { .. })), "{case:?}: {outcome:?}");
}

/// The same, if the child may have been gone before anybody saw what it had written.
fn assert_gone<T: std::fmt::Debug>(outcome: Result<T, CallError>, case: (u64, u64)) {
    assert!(matches!(outcome, Err(CallError::Corrupt { .. } | CallError::Died { .. })), "{case:?}: {outcome:?}");
}

struct Lender;

#[bridge]
impl Lender {
    pub fn new() -> Self {
        Lender
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        0..
    }

    pub fn forged(&self, case: (u64, u64)) {
        forge_late(Raw::find().started() - 1, case);
    }

    /// Forges its reply, and is gone, which rings.
    pub fn forged_at_the_end(&self, (len, kind): (u64, u64)) {
        std::thread::sleep(4 * SHORT);
        let raw = Raw::find();
        let position = raw.started() - 1;
        raw.forge(position, commit(position, len, kind), &[]);
        std::process::abort()
    }
}

/// One lane, so that everything goes behind the forged reply. The caller polls, because an attacker need not ring the bell.
fn start() -> Bridge<Lender> {
    let builder = Lender::bridge().concurrent_callers(1).wait(Wait::Spin).timeout(Duration::from_secs(100));
    builder.start().expect("the bridge starts")
}

fn checked(test: &str, body: impl Fn(&Bridge<Lender>, (u64, u64))) {
    leaving_nothing(test, 60, || drop(start()), || FORGED.iter().for_each(|&case| body(&start(), case)));
}

/// A call whose reply is forged later.
fn give_up(bridge: &Bridge<Lender>, case: (u64, u64)) {
    let late = bridge.with_timeout(SHORT).forged(case);
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
}

/// A call whose child forges its reply later, and is gone.
fn give_up_at_the_end(bridge: &Bridge<Lender>, case: (u64, u64)) {
    let late = bridge.with_timeout(SHORT).forged_at_the_end(case);
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
}

#[test]
fn a_forged_reply_of_nobody_ends_the_streams_behind_it() {
    checked("a_forged_reply_of_nobody_ends_the_streams_behind_it", |bridge, case| {
        let mut numbers = bridge.numbers().expect("a stream");
        assert_eq!(numbers.next(), Some(Ok(0)));
        give_up(bridge, case);
        // Those that were asked for before are there.
        let error = numbers.by_ref().take(100).find_map(Result::err);
        assert_ended(error.map_or(Ok(()), Err), case);
        assert_eq!(numbers.next(), None);
    });
}

#[test]
fn a_forged_reply_of_nobody_ends_the_calls_that_a_dropped_stream_holds_up() {
    checked("a_forged_reply_of_nobody_ends_the_calls_that_a_dropped_stream_holds_up", |bridge, case| {
        let mut numbers = bridge.numbers().expect("a stream");
        assert_eq!(numbers.next(), Some(Ok(0)));
        give_up(bridge, case);
        drop(numbers);
        assert_ended(bridge.add(1), case);
    });
}

#[test]
fn a_forged_reply_of_a_child_that_is_gone_ends_what_is_behind_it() {
    checked("a_forged_reply_of_a_child_that_is_gone_ends_what_is_behind_it", |bridge, case| {
        let mut numbers = bridge.numbers().expect("a stream");
        assert_eq!(numbers.next(), Some(Ok(0)));
        give_up_at_the_end(bridge, case);
        let pending = bridge.begin().add(1);
        let pid = bridge.child_pid();
        assert!(support::eventually(10, "the child is gone", || !bridge.is_alive() && !support::process_exists(pid)));
        assert_gone(numbers.by_ref().take(100).find_map(Result::err).map_or(Ok(()), Err), case);
        assert_gone(pending.wait(), case);
    });
}

#[test]
fn a_forged_reply_of_nobody_ends_the_tasks_behind_it() {
    checked("a_forged_reply_of_nobody_ends_the_tasks_behind_it", |bridge, case| {
        give_up_at_the_end(bridge, case);
        assert_gone(pollster::block_on(bridge.begin().add(1)), case);
        let bridge = start();
        let mut numbers = pollster::block_on(bridge.begin().numbers()).expect("a stream");
        assert_eq!(pollster::block_on(numbers.next()), Some(Ok(0)));
        give_up_at_the_end(&bridge, case);
        let error = (0..100).find_map(|_| pollster::block_on(numbers.next())?.err());
        assert_gone(error.map_or(Ok(()), Err), case);
    });
}

struct Tasks;

#[bridge]
impl Tasks {
    pub fn new() -> Self {
        Tasks
    }

    pub async fn add(&self, n: u64) -> u64 {
        n + 1
    }

    /// Forges the second reply of its lane: that of the constructor is the first.
    pub fn forged(&self, case: (u64, u64)) {
        forge_late(1, case);
    }
}

#[test]
fn a_forged_reply_of_nobody_ends_a_flush_of_calls_that_are_tasks() {
    let start = || {
        let builder = Tasks::bridge().concurrent_callers(1).wait(Wait::Spin).timeout(Duration::from_secs(100));
        builder.start().expect("the bridge starts")
    };
    let test = "a_forged_reply_of_nobody_ends_a_flush_of_calls_that_are_tasks";
    leaving_nothing(
        test,
        60,
        || drop(start()),
        || {
            for case in FORGED {
                let bridge = start();
                let late = bridge.with_timeout(SHORT).forged(case);
                assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
                bridge.send().add(1).expect("there is room");
                assert_ended(bridge.flush(), case);
            }
        },
    );
}
