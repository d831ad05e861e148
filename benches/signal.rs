//! Measures a parked call with each backend. The floor is two processes that wake each other through a bare futex.
//!
//! `cargo bench --bench signal`, with `--features portable` for all backends. Read the ratios. One run has the two sides on two CPUs,
//! where waking the other CPU hides much; the other has both on one CPU, where only the cost of the software remains.

mod support;

use callgate::{Signal, Wait};
use callgate_suite::floor::{Asleep, Tokens};
use callgate_suite::pin::{self, Pinned};
use callgate_suite::workload::{self, CallKind};
use callgate_suite::{BoxError, BridgeTransport, Subject};
use criterion::{Criterion, criterion_group, criterion_main};
use std::cell::RefCell;
use std::rc::Rc;

callgate_suite::test_support!();

/// Every backend of this build.
fn backends() -> Vec<(&'static str, Signal)> {
    let backends = [("Signal::Futex", Signal::Futex), ("Signal::EventFd", Signal::EventFd)];
    #[cfg(not(feature = "portable"))]
    return backends.into();
    #[cfg(feature = "portable")]
    {
        // SAFETY: the child belongs to this program and touches the program's memory only through the bridge.
        let trusted = unsafe { callgate::TrustedChild::new() };
        backends.into_iter().chain([("Signal::RawSync", Signal::RawSync(trusted))]).collect()
    }
}

/// Subjects for the floor and each backend, with the other side on `cpu`.
fn subjects(cpu: usize) -> Result<Vec<Subject>, BoxError> {
    let call = |(name, signal)| -> Result<Subject, BoxError> {
        let bridge = Rc::new(RefCell::new(BridgeTransport::woken_by(Some(signal), Wait::Park, Some(cpu))?));
        Ok(workload::subject(name, CallKind::Add, &bridge).beside(FLOOR))
    };
    let floor = Tokens::start(Asleep::Always, cpu)?.subject(FLOOR);
    [Ok(floor)].into_iter().chain(backends().into_iter().map(call)).collect()
}

const FLOOR: &str = "futex";

fn two_cpus(c: &mut Criterion) {
    let (caller, callee) = pin::pair().expect("two CPUs");
    let _pin = Pinned::to(caller).expect("an allowed CPU");
    support::beside_floor(c, "signal on two CPUs", subjects(callee));
}

fn one_cpu(c: &mut Criterion) {
    let cpu = pin::allowed()[0];
    let _pin = Pinned::to(cpu).expect("an allowed CPU");
    support::beside_floor(c, "signal on one CPU", subjects(cpu));
}

criterion_group! { name = benches; config = support::criterion(); targets = two_cpus, one_cpu }
criterion_main!(benches);
