//! What a call costs, beside its floor: the same cache line handed back and forth with nothing on top.
//!
//! `cargo bench --bench call`. Each measurement alternates with the floor in one run, because the machine drifts; read the
//! ratios, not the nanoseconds. The two sides of every pair are pinned to CPU 0 and CPU 1 where there are two.

use callgate::{Wait, bridge};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::thread::futex;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

callgate::test_support!();

struct Echo {
    total: u64,
}

#[bridge]
impl Echo {
    pub fn new() -> Self {
        pin(1);
        Echo { total: 0 }
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    pub fn greet(&self, name: &str) -> String {
        format!("{name}!")
    }

    pub fn bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        bytes
    }
}

/// Keeps the calling thread on one CPU; does nothing on a machine that has only one.
fn pin(cpu: usize) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

/// A token in a cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

/// Two threads that hand a token back and forth: the least that a round trip between two CPUs can cost.
struct PingPong {
    lines: Arc<(Line, Line)>,
    turn: u32,
    sleep: bool,
}

const END: u32 = u32::MAX;

impl PingPong {
    /// `sleep` = both sides sleep on a futex instead of polling.
    fn start(sleep: bool) -> Self {
        let lines = Arc::new((Line(AtomicU32::new(0)), Line(AtomicU32::new(0))));
        let peer = lines.clone();
        std::thread::spawn(move || {
            pin(1);
            let mut turn = 0;
            while turn != END {
                turn = peer.0.await_change(turn, sleep);
                peer.1.set(turn, sleep);
            }
        });
        Self { lines, turn: 0, sleep }
    }

    fn round_trip(&mut self) {
        let before = self.turn;
        self.turn += 1;
        self.lines.0.set(self.turn, self.sleep);
        self.lines.1.await_change(before, self.sleep);
    }
}

impl Line {
    fn set(&self, value: u32, wake: bool) {
        self.0.store(value, Ordering::Release);
        if wake {
            futex::wake(&self.0, futex::Flags::empty(), 1).expect("a live futex");
        }
    }

    fn await_change(&self, from: u32, sleep: bool) -> u32 {
        loop {
            let value = self.0.load(Ordering::Acquire);
            if value != from {
                return value;
            }
            if sleep {
                // Woken, changed or interrupted: the loop looks again.
                let _ = futex::wait(&self.0, futex::Flags::empty(), from, None);
            } else {
                spin_loop();
            }
        }
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.lines.0.set(END, self.sleep);
    }
}

fn floor(c: &mut Criterion) {
    pin(0);
    for (name, sleep) in [("floor/ping-pong", false), ("floor/futex", true)] {
        let mut floor = PingPong::start(sleep);
        c.bench_function(name, |b| b.iter(|| floor.round_trip()));
    }
}

fn small(c: &mut Criterion) {
    pin(0);
    for (name, wait) in [("adaptive", Wait::Adaptive), ("spin", Wait::Spin), ("park", Wait::Park)] {
        let bridge = Echo::bridge().wait(wait).start().expect("the bridge starts");
        let mut group = c.benchmark_group(format!("call/{name}"));
        group.bench_function("add", |b| b.iter(|| bridge.add(black_box(1)).expect("an answer")));
        let name = "a name of thirty-two characters.";
        group.bench_function("greet", |b| b.iter(|| bridge.greet(black_box(name)).expect("an answer")));
        group.finish();
    }
}

fn payload(c: &mut Criterion) {
    pin(0);
    let bridge = Echo::bridge().start().expect("the bridge starts");
    let mut group = c.benchmark_group("echo");
    for len in [64, 4 << 10, 64 << 10, 1 << 20] {
        let bytes = vec![7u8; len];
        group.throughput(Throughput::Bytes(2 * len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| bridge.bytes(black_box(&bytes).clone()).expect("an answer"));
        });
    }
    group.finish();
}

fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start");
    group.sample_size(20);
    group.bench_function("start, first reply, stop", |b| {
        b.iter(|| {
            let bridge = Echo::bridge().start().expect("the bridge starts");
            assert_eq!(bridge.add(1).expect("an answer"), 1);
        });
    });
    group.finish();
}

criterion_group!(benches, floor, small, payload, start);
criterion_main!(benches);
