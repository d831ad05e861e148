//! The noisiest child endlessly floods its control socket, rings, wakes and scribbles, while the same parent calls another bridge. That bridge's
//! answers stay correct, and the parent's memory, descriptors and threads do not grow.
//!
//! `CALLGATE_NOISY_SECONDS=60 cargo test --release --test noisy -- --nocapture` is the long run of docs/RELIABILITY.md. Its figures mean something
//! only on an otherwise idle machine: the attacker's child has one CPU to itself, and both sides of the other bridge share another.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use callgate::{Bridge, CallError, Wait, bridge};
use held::leaving_nothing;
use raw::Raw;
use rustix::io::ioctl_fionread;
use rustix::net::{SendFlags, send};
use rustix::thread::{CpuSet, futex, sched_setaffinity};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

callgate::test_support!();

const NAME: &str = "fault_09_the_noisiest_child_disturbs_nobody";

/// How many kilobytes the parent may grow by, of any kind of memory: half of the attacker's budget, and what threads and allocators keep.
const GROWTH: u64 = 48 << 10;

/// How many bytes of payload memory the attacker's bridge may use.
const MEMORY: u64 = 64 << 20;
const MAX_PAYLOAD: u64 = 8 << 20;

struct Noisy;

#[bridge]
impl Noisy {
    pub fn new() -> Self {
        Noisy
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    pub fn pin(&self, cpu: usize) {
        pin(cpu);
    }

    /// Makes noise on `cpu` for `ms`. If `reckless`, makes more than the parent can answer.
    pub fn attack(&self, cpu: usize, reckless: bool, ms: u64) {
        pin(cpu);
        for noise in [wake, scribble] {
            std::thread::spawn(noise);
        }
        std::thread::spawn(move || flood(reckless));
        std::thread::sleep(Duration::from_millis(ms));
    }
}

/// Asks for memory that can never be granted: a healthy child may send this message too, and it gets an answer. The parent kills a child that lets
/// answers pile up. So unless `reckless`, this waits until a thread of the library has read the answers.
fn flood(reckless: bool) {
    let socket = control_socket();
    let need = [3, u64::MAX, 0].map(u64::to_le_bytes).concat();
    let small = [3, 4096, 0].map(u64::to_le_bytes).concat();
    for round in 0u64.. {
        while !reckless
            && round % 32 == 0
            && (unread_by_parent(socket) || ioctl_fionread(socket).is_ok_and(|len| len > 0))
        {
            std::thread::sleep(Duration::from_micros(50));
        }
        let message = if round % 4096 == 0 { &small } else { &need };
        let _ = send(socket, message, SendFlags::NOSIGNAL);
    }
}

/// Whether the parent has not yet received all messages.
fn unread_by_parent(socket: BorrowedFd<'_>) -> bool {
    let mut len: nix::libc::c_int = 0;
    // SAFETY: the call writes one number to `len`.
    unsafe { nix::libc::ioctl(socket.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut len) == 0 && len > 0 }
}

fn wake() {
    let raw = Raw::find();
    loop {
        for bell in [Raw::CALLER_BELL, Raw::WORKER_BELL] {
            raw.bell(bell).fetch_xor(1, Relaxed);
            let _ = futex::wake(raw.bell(bell), futex::Flags::empty(), i32::MAX as u32);
        }
    }
}

/// Overwrites the whole segment except the commit words of replies: changing those would end the noise.
fn scribble() {
    let raw = Raw::find();
    for round in 0u64.. {
        for offset in (0..256 + 128).step_by(8) {
            raw.at(offset).store(round, Relaxed);
        }
        for slot in 0..raw.slots {
            for word in 0..raw.stride / 8 {
                raw.request(slot, word).store(round, Relaxed);
                if word > 0 {
                    raw.reply(slot, word).store(round, Relaxed);
                }
            }
        }
        for index in 0..1024 {
            raw.held(0, index).store(round, Relaxed);
            raw.held(1, index).store(round, Relaxed);
        }
    }
}

/// The only socket of this process.
fn control_socket() -> BorrowedFd<'static> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("procfs").flatten();
    let is_socket = |path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
    let sockets = entries.filter(|entry| is_socket(entry.path()));
    let number = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).next().expect("a socket");
    // SAFETY: the control socket, which stays open as long as the process.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Restricts this thread, and the threads that it starts, to one CPU, if that CPU exists.
fn pin(cpu: usize) {
    let mut one = CpuSet::new();
    one.set(cpu);
    let _ = sched_setaffinity(None, &one);
}

/// Lets this thread run wherever this process may.
fn unpin() {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    let _ = sched_setaffinity(None, &all);
}

// ---- the parent ----------------------------------------------------------------------------------------------------

/// The durations of calls, in nanoseconds.
struct Times(Vec<u64>);

impl Times {
    /// Calls `bridge` for as long as `how_long` says.
    fn of(bridge: &Bridge<Noisy>, how_long: Duration) -> Self {
        let (mut times, begun) = (Vec::with_capacity(1 << 16), Instant::now());
        for n in 0.. {
            let start = Instant::now();
            assert_eq!(bridge.add(n), Ok(n + 1));
            let took = start.elapsed();
            // Store no more than the capacity: this process's memory is being measured.
            if times.len() < times.capacity() {
                times.push(took.as_nanos() as u64);
            } else {
                times[(n % (1 << 16)) as usize] = took.as_nanos() as u64;
            }
            if begun.elapsed() > how_long {
                break;
            }
        }
        times.sort_unstable();
        Self(times)
    }

    fn quantile(&self, of: f64) -> f64 {
        self.0[(self.0.len() as f64 * of) as usize] as f64 / 1000.0
    }
}

/// Kilobytes of this process's resident memory, private and shared.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    kilobytes("VmRSS:").max(kilobytes("RssShmem:"))
}

fn start() -> Bridge<Noisy> {
    Noisy::bridge().concurrent_callers(1).wait(Wait::Park).start().expect("the bridge starts")
}

/// Has a child make noise until `is_over`, and replaces it if it is killed. Returns the number of children, and how the last killed one ended.
fn attack(is_over: &AtomicBool, cpu: usize) -> (u64, String) {
    let (mut attackers, mut end) = (0, String::from("none was killed"));
    unpin();
    while !is_over.load(Relaxed) {
        let bridge = Noisy::bridge().concurrent_callers(1).wait(Wait::Park);
        let bridge = bridge.max_payload(MAX_PAYLOAD).memory(MEMORY).start().expect("the bridge starts");
        attackers += 1;
        // This thread sleeps in a call, and is constantly woken for nothing.
        while !is_over.load(Relaxed) {
            match bridge.with_timeout(Duration::from_millis(500)).attack(cpu, attackers == 1, u64::from(u32::MAX)) {
                Err(CallError::TimedOut { .. }) if bridge.is_alive() => {}
                Err(error) => {
                    end = error.to_string();
                    break;
                }
                Ok(()) => {}
            }
        }
        bridge.kill();
    }
    (attackers, end)
}

#[test]
fn fault_09_the_noisiest_child_disturbs_nobody() {
    let seconds = std::env::var("CALLGATE_NOISY_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(2);
    leaving_nothing(
        NAME,
        60 + 4 * seconds,
        || drop(start()),
        || {
            let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
            let (is_over, how_long) = (AtomicBool::new(false), Duration::from_secs(seconds));
            let victim = start();
            victim.pin(0).expect("an answer");
            std::thread::scope(|scope| {
                let caller = scope.spawn(|| {
                    pin(0);
                    Times::of(&victim, Duration::from_millis(200));
                    let quiet = Times::of(&victim, how_long);
                    let before = resident();
                    let descriptors = support::open_descriptors(std::process::id()).len();
                    let attacker = scope.spawn(|| attack(&is_over, last));
                    std::thread::sleep(Duration::from_millis(300));
                    let attacked = Times::of(&victim, how_long);
                    let (after, and_then) = (resident(), support::open_descriptors(std::process::id()).len());
                    is_over.store(true, Relaxed);
                    let (attackers, end) = attacker.join().expect("the attacker's thread ends");
                    println!("{attackers} children attacked; memory from {before} to {after} kB; {end}");
                    assert!(after < before + GROWTH, "from {before} to {after} kB");
                    // The descriptors of one more bridge.
                    assert!(and_then < descriptors + 10, "from {descriptors} to {and_then} descriptors");
                    (quiet, attacked)
                });
                let (quiet, attacked) = caller.join().expect("every answer is true");
                for (what, times) in [("quiet", &quiet), ("attacked", &attacked)] {
                    let [p50, p99] = [0.5, 0.99].map(|quantile| times.quantile(quantile));
                    println!("{what}: p50 {p50:.1} us, p99 {p99:.1} us");
                }
                println!("p99 under attack / quiet: {:.2}", attacked.quantile(0.99) / quiet.quantile(0.99));
            });
        },
    );
}
