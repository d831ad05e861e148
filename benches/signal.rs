//! What a parked call costs under each backend, beside its floor: two threads that wake each other through a futex and nothing else.
//!
//! `cargo bench --bench signal`, with `--features portable` for all of them. Backends and floor take turns, a few calls each, because
//! the machine drifts: read the ratios. Once with the sides of every pair pinned to CPU 0 and CPU 1, where waking the other CPU hides
//! much, and once with both on CPU 0, where what is left is what the software does.

use callgate::{Bridge, Signal, Wait, bridge};
use rustix::thread::{CpuSet, futex, sched_setaffinity};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

callgate::test_support!();

struct Echo {
    total: u64,
}

#[bridge]
impl Echo {
    pub fn new(cpu: usize) -> Self {
        pin(cpu);
        Echo { total: 0 }
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

/// Keeps the calling thread, and those that it starts, on one CPU; does nothing on a machine that has only one.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

/// One way of going to a sleeping peer and back.
type RoundTrip = Box<dyn FnMut()>;

/// Every backend, with the peer on `cpu`.
fn backends(cpu: usize) -> Vec<(&'static str, RoundTrip)> {
    let mut backends = vec![("floor: bare futex", floor(cpu))];
    backends.push(("Signal::Futex", call(Signal::Futex, cpu)));
    backends.push(("Signal::EventFd", call(Signal::EventFd, cpu)));
    #[cfg(feature = "portable")]
    {
        // SAFETY: the child is this program's, and touches its memory in no other way than through the bridge.
        let trusted = unsafe { callgate::TrustedChild::new() };
        backends.push(("Signal::RawSync", call(Signal::RawSync(trusted), cpu)));
    }
    backends
}

/// `add` with both sides asleep.
fn call(signal: Signal, cpu: usize) -> RoundTrip {
    let bridge: Bridge<Echo> = Echo::bridge(cpu).signal(signal).wait(Wait::Park).start().expect("the bridge starts");
    Box::new(move || {
        black_box(bridge.add(black_box(1)).expect("an answer"));
    })
}

/// A token in a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

fn floor(cpu: usize) -> RoundTrip {
    let lines = Arc::new((Line(AtomicU32::new(0)), Line(AtomicU32::new(0))));
    let peer = lines.clone();
    std::thread::spawn(move || {
        pin(cpu);
        for turn in 1.. {
            peer.0.await_value(turn);
            peer.1.set(turn);
        }
    });
    let mut turn = 0;
    Box::new(move || {
        turn += 1;
        lines.0.set(turn);
        lines.1.await_value(turn);
    })
}

impl Line {
    fn set(&self, value: u32) {
        self.0.store(value, Ordering::Release);
        futex::wake(&self.0, futex::Flags::empty(), 1).expect("a live futex");
    }

    fn await_value(&self, value: u32) {
        while self.0.load(Ordering::Acquire) != value {
            // Woken, changed or interrupted: the loop looks again.
            let _ = futex::wait(&self.0, futex::Flags::empty(), value - 1, None);
        }
    }
}

/// Calls of one backend before it is the next one's turn.
const IN_TURN: usize = 50;

fn main() {
    pin(0);
    // `cargo bench -- --test`: once, unmeasured.
    let turns = if std::env::args().any(|arg| arg == "--test") { 1 } else { 200 };
    for (cpu, title) in [(1, "on two CPUs"), (0, "on one CPU")] {
        measure(title, backends(cpu), turns);
    }
}

fn measure(title: &str, mut backends: Vec<(&'static str, RoundTrip)>, turns: usize) {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); backends.len()];
    for _ in 0..turns {
        for ((_, round_trip), times) in backends.iter_mut().zip(&mut times) {
            // The first sleeps after a pause of another length than the rest.
            round_trip();
            times.extend((0..IN_TURN).map(|_| {
                let begun = Instant::now();
                round_trip();
                begun.elapsed()
            }));
        }
    }
    report(title, &backends, &mut times);
}

fn report(title: &str, backends: &[(&'static str, RoundTrip)], times: &mut [Vec<Duration>]) {
    times.iter_mut().for_each(|times| times.sort_unstable());
    let at = |times: &[Duration], share: usize| times[(times.len() - 1) * share / 100].as_nanos() as f64 / 1000.0;
    println!("{:20} {:>9} {:>9} {:>9} {:>9}", title, "p50 us", "p90 us", "p99 us", "x floor");
    for ((name, _), these) in backends.iter().zip(&*times) {
        let [p50, p90, p99] = [50, 90, 99].map(|share| at(these, share));
        println!("{name:20} {p50:9.2} {p90:9.2} {p99:9.2} {:9.2}", p50 / at(&times[0], 50));
    }
}
