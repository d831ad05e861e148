//! Children are killed during calls: every call must end with its true outcome, and nothing must be left behind.
//!
//! There is only one test, because it counts what the whole process holds.

#![deny(unsafe_code)]

#[path = "../../../tests/support/mod.rs"]
mod support;

use callgate_suite::chaos::Chaos;
use std::time::Duration;
use support::within;

#[allow(unsafe_code, reason = "the link section that makes bridges work in tests")]
mod init {
    callgate_suite::test_support!();
}

#[test]
fn callers_of_children_that_are_killed_are_told_the_truth() {
    within(240, "callers_of_children_that_are_killed_are_told_the_truth", || {
        let chaos = Chaos { kills: 300, seed: 5, threads: 6, limit: None, restart: false };
        let mut told = 0;
        let tally = chaos.run(&mut |_| told += 1).expect("no hang");
        tally.verdict().expect("nothing wrong and nothing left");
        assert_eq!((tally.kills, told), (300, 10), "{tally:?}");
        assert!(tally.calls() > 300 && tally.starts > 20, "{tally:?}");

        let endless = Chaos { kills: u64::MAX / 16, threads: 2, limit: Some(Duration::from_millis(300)), ..chaos };
        let tally = endless.run(&mut |_| {}).expect("an end");
        tally.verdict().expect("nothing wrong and nothing left");

        let tally = Chaos { restart: true, ..chaos }.run(&mut |_| {}).expect("no hang");
        tally.verdict().expect("nothing wrong and nothing left");
        // Most kills come before the previous child has been replaced.
        assert!(tally.kills == 300 && tally.restarts > 30, "{tally:?}");
    });
}
