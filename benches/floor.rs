//! Measures the floors alone: the minimal cost of reaching another process and coming back.
//!
//! `cargo bench --bench floor`. Two processes, pinned to CPU 0 and CPU 1 (the first two allowed CPUs). These figures vary with the
//! machine; other figures are divided by them.

mod support;

use callgate_suite::pin::{self, Pinned};
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn floor(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    support::alone(c, "floor", callgate_suite::floor::subjects(callee));
}

criterion_group! { name = benches; config = support::criterion(); targets = floor }
criterion_main!(benches);
