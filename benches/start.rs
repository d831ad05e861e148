//! Measures the time from a start to the first reply. The floor is a bare start of the same program up to its first byte. The end of the process
//! does not count.
//!
//! `cargo bench --bench start`. Read the ratio. The second pair starts from a parent that holds 1 GiB.

mod support;

use callgate_suite::start::{self, LARGE, PLAIN};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;

callgate_suite::test_support!();

fn plain(c: &mut Criterion) {
    support::beside_floor(c, "start", Ok(start::subjects(PLAIN)));
}

fn large_parent(c: &mut Criterion) {
    let held = start::hold();
    support::beside_floor(c, "start", Ok(start::subjects(LARGE)));
    drop(black_box(held));
}

criterion_group! { name = benches; config = support::criterion(); targets = plain, large_parent }
criterion_main!(benches);
