//! Both sides are killed and stopped at every named step of the protocol: every call must end with its true outcome, and
//! nothing must be left behind.
//!
//! Three processes share the steps, because each counts what it holds, and a case mostly waits.

#![deny(unsafe_code)]

#[path = "../../../tests/support/mod.rs"]
mod support;

use callgate::failpoints::{Point, STEPS, Side};
use callgate_suite::chaos::sweep;
use std::thread;
use support::{play, role, within};

#[allow(unsafe_code, reason = "the link section that makes bridges work in tests")]
mod init {
    callgate_suite::test_support!();
}

const NAME: &str = "any_step_of_the_protocol_may_be_the_last";

/// How many processes share the steps.
const SHARES: usize = 3;

#[test]
fn any_step_of_the_protocol_may_be_the_last() {
    if let Some(share) = role() {
        return try_share(share.parse().expect("a number"));
    }
    within(810, NAME, || {
        thread::scope(|scope| {
            for share in 0..SHARES {
                scope.spawn(move || play(NAME, &share.to_string()));
            }
        });
    });
}

fn try_share(share: usize) {
    within(800, NAME, || {
        let mut rows = 0;
        let swept = sweep::run(share, SHARES, &mut |_| {
            rows += 1;
            Ok(())
        });
        let swept = swept.expect("no hang");
        swept.verdict().expect("nothing wrong, nothing left, and no step that nobody comes to");
        // The sweep tries three actions at each step of the child and five at each step of the parent.
        let actions = |point: &Point| if point.side == Side::Child { 3 } else { 5 };
        let all: usize = STEPS.iter().skip(share).step_by(SHARES).map(actions).sum();
        assert!(rows == all && swept.cases.len() > rows, "{rows} of {all} rows, {} cases", swept.cases.len());
    });
}
