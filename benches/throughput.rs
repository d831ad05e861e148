//! Measures the time per call, over all threads together, when 1 to 8 threads call one bridge back to back. Its inverse is calls per second.
//!
//! `cargo bench --bench throughput`. The floor is one thread: a ratio of 0.5 means twice the calls per second. The child is
//! pinned to one CPU, a single caller to another; several callers may run on both.

mod support;

use callgate_suite::{pin, throughput};
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn threads(c: &mut Criterion) {
    support::beside_floor(c, "throughput", throughput::subjects(pin::pair().expect("two CPUs")));
}

criterion_group! { name = benches; config = support::criterion(); targets = threads }
criterion_main!(benches);
