//! While both sides poll, a call makes no system call, neither on the caller's thread nor on the child's.
//!
//! This process does the counting: it traces a helper process and the child of the helper's bridge.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Wait, bridge};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::within;

callgate::test_support!();

struct Adder {
    total: u64,
}

#[bridge]
impl Adder {
    pub fn new() -> Self {
        Adder { total: 0 }
    }
    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
    pub fn count(&self, numbers: &[u64], label: &str) -> usize {
        numbers.len() + label.len()
    }
    /// Makes a system call: the C library does not cache the number.
    pub fn pid() -> u32 {
        std::process::id()
    }
}

// ---- the helper ----------------------------------------------------------------------------------------------------

/// The number of calls that the helper has made; the tracer reads it from the helper's memory.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// Makes calls in a loop, until it is killed. Runs only in the helper process.
#[test]
fn helper_caller() {
    let Some(role) = support::role() else { return };
    set_pdeathsig(Signal::SIGKILL).expect("dying with the test");
    let adder = Adder::bridge().wait(Wait::Spin).start().expect("the bridge starts");
    let large = vec![7; 10_000];
    let call = || match role.as_str() {
        "a number" => adder.add(1).map(drop),
        "a slice in the slot" => adder.count(&[7; 30], "label").map(drop),
        "a slice in an arena" => adder.count(&large, "label").map(drop),
        "a method that makes a system call" => adder.pid().map(drop),
        other => panic!("no role {other}"),
    };
    (0..1000).for_each(|_| call().expect("an answer"));
    println!("ready {} {} {}", gettid(), adder.child_pid(), &raw const CALLS as usize);
    std::io::stdout().flush().expect("a reader");
    loop {
        call().expect("an answer");
        CALLS.fetch_add(1, Relaxed);
    }
}

/// A helper in its loop. Dropping it kills it and its child.
struct Helper {
    process: Child,
    caller: Pid,
    callee: Pid,
    /// The helper's memory, and the address of the number of calls in it.
    calls: (File, u64),
}

impl Helper {
    fn start(role: &str) -> Self {
        let mut process =
            support::helper("helper_caller", role).stdout(Stdio::piped()).spawn().expect("the helper starts");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let ready = stdout.lines().map_while(Result::ok).find_map(|line| Some(line.split_once("ready ")?.1.to_owned()));
        let Some([caller, callee, address]) = ready.as_deref().and_then(numbers) else {
            let _ = process.kill();
            panic!("the helper ended with {:?}", process.wait());
        };
        let memory = File::open(format!("/proc/{}/mem", process.id())).expect("the helper's memory");
        let [caller, callee] = [caller, callee].map(|tid| Pid::from_raw(tid as i32));
        Helper { process, caller, callee, calls: (memory, address) }
    }

    fn calls(&self) -> u64 {
        let mut bytes = [0; 8];
        self.calls.0.read_exact_at(&mut bytes, self.calls.1).expect("the helper lives");
        u64::from_ne_bytes(bytes)
    }

    /// Runs `meanwhile` repeatedly until 300 ms have passed and `enough` calls have been made, for which a busy machine may need longer.
    /// Returns the number of calls made.
    fn for_a_while(&self, enough: u64, mut meanwhile: impl FnMut()) -> u64 {
        let (start, before) = (Instant::now(), self.calls());
        while start.elapsed() < Duration::from_millis(300) || self.calls() < before + enough {
            meanwhile();
            std::thread::sleep(Duration::from_micros(100));
        }
        self.calls() - before
    }
}

fn numbers(words: &str) -> Option<[u64; 3]> {
    let numbers: Result<Vec<u64>, _> = words.split_whitespace().map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        // A traced thread is reaped by its tracer. An error means that it is not traced, or is gone.
        for tid in [self.caller, self.callee] {
            while waitpid(tid, Some(WaitPidFlag::__WALL)).is_ok_and(|status| !is_over(status)) {}
        }
        let _ = self.process.wait();
    }
}

fn is_over(status: WaitStatus) -> bool {
    matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..))
}

// ---- the tracer ----------------------------------------------------------------------------------------------------

/// A traced thread. All of its methods must be called on the thread that seized it.
struct Traced {
    tid: Pid,
    /// How often it has entered or left a system call.
    stops: u64,
}

impl Traced {
    fn seize(tid: Pid) -> Self {
        ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)
            .unwrap_or_else(|error| panic!("this test must be allowed to trace its own helper: {error}"));
        ptrace::interrupt(tid).expect("seized");
        let status = waitpid(tid, Some(WaitPidFlag::__WALL)).expect("seized");
        assert!(matches!(status, WaitStatus::PtraceEvent(..)), "{status:?}");
        ptrace::syscall(tid, None).expect("stopped");
        Traced { tid, stops: 0 }
    }

    /// Counts the stops so far, and resumes the thread.
    fn count(&mut self) {
        loop {
            let signal = match waitpid(self.tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).expect("seized") {
                WaitStatus::StillAlive => return,
                WaitStatus::PtraceSyscall(_) => {
                    self.stops += 1;
                    None
                }
                WaitStatus::PtraceEvent(..) => None,
                WaitStatus::Stopped(_, signal) => Some(signal),
                other => panic!("a traced thread ended: {other:?}"),
            };
            ptrace::syscall(self.tid, signal).expect("stopped");
        }
    }
}

/// Stops of the caller's and the child's thread at system calls, and the calls made in the same time.
struct Count {
    caller: u64,
    callee: u64,
    calls: u64,
}

fn count(role: &str, enough: u64) -> Count {
    let helper = Helper::start(role);
    let mut traced = [helper.caller, helper.callee].map(Traced::seize);
    // Ignores system calls that were in progress when the threads were seized.
    helper.for_a_while(1, || traced.iter_mut().for_each(Traced::count));
    let before = [traced[0].stops, traced[1].stops];
    let calls = helper.for_a_while(enough, || traced.iter_mut().for_each(Traced::count));
    Count { caller: traced[0].stops - before[0], callee: traced[1].stops - before[1], calls }
}

#[test]
fn a_call_makes_no_system_call_on_either_side() {
    within(120, "a_call_makes_no_system_call_on_either_side", || {
        for role in ["a number", "a slice in the slot", "a slice in an arena"] {
            let Count { caller, callee, calls } = count(role, 1000);
            assert_eq!((caller, callee), (0, 0), "{role}: caller and callee, in {calls} calls");
        }
    });
}

/// The tracer notices a system call.
#[test]
fn a_system_call_in_a_method_is_counted() {
    within(120, "a_system_call_in_a_method_is_counted", || {
        let Count { caller, callee, calls } = count("a method that makes a system call", 10);
        assert_eq!(caller, 0, "in {calls} calls");
        // Two stops per call, except for calls at the ends of the window.
        assert!(callee.abs_diff(2 * calls) <= 8, "{callee} stops in {calls} calls");
    });
}

#[test]
fn neither_side_gives_up_its_cpu_for_a_call() {
    within(120, "neither_side_gives_up_its_cpu_for_a_call", || {
        let helper = Helper::start("a number");
        let switches =
            || [(helper.process.id(), helper.caller), (helper.callee.as_raw() as u32, helper.callee)].map(switches);
        let before = switches();
        let calls = helper.for_a_while(1000, || {});
        for (before, after) in before.into_iter().zip(switches()) {
            // A page fault may wait for another thread's; a call never waits.
            assert!(after - before <= 5, "from {before} to {after} switches in {calls} calls");
        }
    });
}

/// The number of times that a thread has gone to sleep voluntarily.
fn switches((pid, tid): (u32, Pid)) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).expect("the thread lives");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok()).expect("a number")
}
