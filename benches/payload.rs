//! Measures an echo and a greeting of growing size. The floor copies the same bytes through shared memory and back.
//!
//! `cargo bench --bench payload`. Read the ratio: at small sizes it shows the cost of a call, at large ones the cost of encoding,
//! of further copies and of memory that is not reused.

mod support;

use callgate_suite::payload;
use callgate_suite::pin::{self, Pinned};
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn sizes(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    for len in payload::SIZES {
        support::beside_floor(c, "payload", payload::subjects(len, callee));
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = sizes }
criterion_main!(benches);
