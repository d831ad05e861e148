//! What becomes of a panic in a callback of `Primes`.

use super::Primes;
use std::panic::{AssertUnwindSafe, catch_unwind};

#[path = "../../../tests/support/mod.rs"]
mod support;

callgate::test_support!();

#[test]
fn a_panic_in_the_callback_ends_the_count_and_nothing_else() {
    support::within(60, "a_panic_in_the_callback_ends_the_count_and_nothing_else", || {
        let primes = Primes::bridge().start().expect("a child");
        let mut seen = 0;
        let counted = catch_unwind(AssertUnwindSafe(|| {
            primes.count(3000, &mut |step, _| {
                seen = step;
                if step == 7 { panic!("no more") } else { true }
            })
        }));
        assert_eq!(counted.expect_err("a panic").downcast_ref(), Some(&"no more"));
        assert_eq!(seen, 7, "the child has taken no step after it");
        assert_eq!(primes.count(3000, &mut |step, _| step < 9), Ok(9), "the child goes on");
    });
}
