//! Measures the latency of a call for each way of waiting, by the callee's work, the caller's idle gaps and the competition for the CPUs.
//!
//! `cargo bench --bench waiting`. In each cell, `adaptive` is measured in turn with `park` as its floor: a ratio below 1 is what
//! polling gains. The table of `callgate bench` has what it costs: the CPU time per call.

mod support;

use callgate::Wait;
use callgate_suite::floor::Hog;
use callgate_suite::pin::{self, Pinned};
use callgate_suite::waiting;
use criterion::{Criterion, criterion_group, criterion_main};

callgate_suite::test_support!();

fn cells(c: &mut Criterion) {
    for cell in waiting::cells(pin::pair().expect("two CPUs")) {
        let _pin = (cell.callers == 1).then(|| Pinned::to(cell.cpus.0).expect("an allowed CPU"));
        let _hogs: Vec<Hog> = cell.hogs.iter().map(|&cpu| Hog::on(cpu).expect("a child")).collect();
        let strategies = [("park", Wait::Park), ("adaptive", Wait::Adaptive)];
        support::beside_floor(c, "waiting", cell.subjects(&strategies));
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = cells }
criterion_main!(benches);
