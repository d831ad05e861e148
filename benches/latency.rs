//! Measures how long a call takes: polling compared with a bare ping-pong, parked compared with a bare futex, and with both processes on one CPU.
//!
//! `cargo bench --bench latency`. Read the ratio below each benchmark, not the nanoseconds: floor and call are
//! measured in turn, while criterion's own comparison with an earlier run also contains the machine's drift.

mod support;

use callgate_suite::latency;
use callgate_suite::pin::{self, Pinned};
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn polling(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    support::beside_floor(c, "latency", latency::polling(callee));
}

fn parked(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    support::beside_floor(c, "latency", latency::parked(callee));
}

fn one_cpu(c: &mut Criterion) {
    let cpu = pin::allowed()[0];
    let _pin = Pinned::to(cpu).expect("an allowed CPU");
    support::beside_floor(c, "latency", latency::one_cpu(cpu));
}

criterion_group! { name = benches; config = support::criterion(); targets = polling, parked, one_cpu }
criterion_main!(benches);
