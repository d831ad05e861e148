//! From a start to the first reply, beside a bare start of the same program to its first byte. The end is not counted.
//!
//! `cargo bench --bench start`. Read the ratio. The same from a parent that holds 1 GiB is in the table of `callgate bench`.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn start(c: &mut Criterion) {
    let subjects = callgate_suite::start::subjects(["spawn", "callgate start"]);
    support::beside_floor(c, "start", Ok(subjects));
}

criterion_group! { name = benches; config = support::criterion(); targets = start }
criterion_main!(benches);
