//! Measures payloads of a megabyte and more, one way. The floor is a copy into shared memory, summed there by the same function.
//!
//! `cargo bench --bench large`.

mod support;

use callgate_suite::large;
use callgate_suite::pin::{self, Pinned};
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn one_way(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    for len in large::ONE_WAY {
        support::beside_floor(c, "large", large::one_way(len, callee));
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = one_way }
criterion_main!(benches);
