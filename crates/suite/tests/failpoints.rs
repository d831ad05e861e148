//! Both sides are killed and stopped at every named step of the protocol: every call must end with its true outcome, and
//! nothing must be left behind.
//!
//! There is only one test, because it counts what the whole process holds.

#![deny(unsafe_code)]

mod support;

use callgate::failpoints::STEPS;
use callgate_suite::chaos::sweep;
use support::within;

#[allow(unsafe_code, reason = "the link section that makes bridges work in tests")]
mod init {
    callgate_suite::test_support!();
}

#[test]
fn any_step_of_the_protocol_may_be_the_last() {
    within(800, "any_step_of_the_protocol_may_be_the_last", || {
        let mut rows = 0;
        let swept = sweep::run(&mut |_| {
            rows += 1;
            Ok(())
        });
        let swept = swept.expect("no hang");
        swept.verdict().expect("nothing wrong, nothing left, and no step that nobody comes to");
        // The sweep tries three actions at each step of the child and five at each step of the parent.
        assert!(rows > 3 * STEPS.len() && swept.cases.len() > rows, "{rows} rows, {} cases", swept.cases.len());
    });
}
