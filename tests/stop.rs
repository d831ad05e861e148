//! Stopping is orderly: earlier calls are answered, the service is dropped in the child, output is flushed, and exit handlers run. A child that does
//! not stop in time is killed, and no caller keeps waiting.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, Builder, CallError, Exit, Output, Restart, SharedBox, Started, bridge};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::Path;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};
use support::{Gate, TempDir, eventually, is_stopped, process_exists, within};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// A short grace.
const SHORT: Duration = Duration::from_millis(300);

/// How long after its grace a stop may return on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

const KILLED: Exit = Exit::Signal(libc::SIGKILL);

/// Writes its final total to a file when it is dropped.
struct Diary {
    path: String,
    total: u64,
    before_drop: Option<String>,
}

#[bridge]
impl Diary {
    pub fn new(path: &str) -> Self {
        Diary { path: path.to_owned(), total: 0, before_drop: None }
    }

    /// Waits at `gate` if there is a file at `hangs`.
    pub fn behind(path: &str, hangs: &str, gate: &str) -> Self {
        if Path::new(hangs).exists() {
            Gate::pass(gate);
        }
        Self::new(path)
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }

    pub fn add_at(&mut self, gate: &str, n: u64) -> u64 {
        Gate::pass(gate);
        self.add(n)
    }

    pub fn drop_at(&mut self, gate: &str) {
        self.before_drop = Some(gate.to_owned());
    }

    pub fn exit_at(&self, gate: &str) {
        EXIT_GATE.set(gate.to_owned()).expect("asked once");
        at_exit(pass_exit_gate);
    }

    pub fn note_exit(&self, path: &str) {
        EXIT_NOTE.set(path.to_owned()).expect("asked once");
        at_exit(write_exit_note);
    }

    pub fn blank(&self, len: usize) -> String {
        " ".repeat(len)
    }

    pub fn print(&self, text: &str) {
        print!("{text}");
    }

    /// Never returns.
    pub fn spin(&self) {
        loop {
            std::hint::black_box(());
        }
    }

    /// Starts a thread that never ends.
    pub fn start_thread(&self) {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        });
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        if let Some(gate) = &self.before_drop {
            Gate::pass(gate);
        }
        std::fs::write(&self.path, self.total.to_string()).expect("the directory is there");
    }
}

static EXIT_GATE: OnceLock<String> = OnceLock::new();
static EXIT_NOTE: OnceLock<String> = OnceLock::new();

extern "C" fn pass_exit_gate() {
    EXIT_GATE.get().into_iter().for_each(|gate| Gate::pass(gate));
}

extern "C" fn write_exit_note() {
    EXIT_NOTE.get().into_iter().for_each(|path| drop(std::fs::write(path, "bye")));
}

fn at_exit(handler: extern "C" fn()) {
    // SAFETY: the handler is a function of this program, does not unwind, and uses nothing that is gone by then.
    assert_eq!(unsafe { libc::atexit(handler) }, 0);
}

/// A diary in a directory of its own.
struct Desk {
    dir: TempDir,
    diary: Bridge<Diary>,
}

impl Desk {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(options: impl FnOnce(Builder<Diary>) -> Builder<Diary>) -> Self {
        let dir = TempDir::new();
        let diary = options(Diary::bridge(&dir.file("diary"))).start().expect("the bridge starts");
        Self { dir, diary }
    }

    /// What the service wrote when it was dropped.
    fn written(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("diary")).ok()
    }
}

/// Whether the process has left the process table: it does not run, and has been reaped.
fn is_reaped(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether a call failed because of the stop, and had started or not as `started` says.
fn was_stopped<R>(result: &Result<R, CallError>, started: Started) -> bool {
    matches!(result, Err(CallError::Stopped { started: at, .. }) if *at == started)
}

/// Runs a `stop` that cannot succeed within a grace of `SHORT`.
fn timed_out_stop(diary: &Bridge<Diary>) {
    let start = Instant::now();
    let stop = diary.stop();
    let taken = start.elapsed();
    assert!(matches!(stop, Err(CallError::TimedOut { timeout: SHORT, .. })), "{stop:?}");
    assert!((SHORT..SHORT + SLACK).contains(&taken), "the grace is {SHORT:?}, and stop took {taken:?}");
    assert!(!diary.is_alive());
    assert!(is_reaped(diary.child_pid()));
    assert_eq!(diary.stop(), Ok(KILLED));
}

// ---- orderly stops -------------------------------------------------------------------------------------------------

#[test]
fn stop_drops_the_service_and_the_child_exits_with_0() {
    within(PATIENCE, "stop", || {
        let desk = Desk::new();
        assert_eq!(desk.diary.add(5), Ok(5));
        assert_eq!(desk.written(), None);
        let exit = desk.diary.stop().expect("nothing keeps it");
        assert_eq!(exit, Exit::Code(0));
        assert!(exit.success());
        assert_eq!(desk.written().as_deref(), Some("5"));
        assert!(is_reaped(desk.diary.child_pid()));
    });
}

#[test]
fn stop_can_be_repeated() {
    within(PATIENCE, "stop again", || {
        let desk = Desk::new();
        for _ in 0..3 {
            assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)));
        }
        assert_eq!(desk.diary.kill(), Exit::Code(0), "what has stopped cannot be killed");
        assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)));
    });
}

#[test]
fn stop_by_several_threads_is_one_stop() {
    within(PATIENCE, "stop by several threads", || {
        for round in 0..50 {
            let desk = Desk::new();
            std::thread::scope(|scope| {
                let stops: Vec<_> = (0..4).map(|_| scope.spawn(|| desk.diary.stop())).collect();
                for stop in stops {
                    assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)), "round {round}");
                }
            });
            assert_eq!(desk.written().as_deref(), Some("0"));
        }
    });
}

#[test]
fn stop_fails_every_later_call() {
    within(PATIENCE, "calls after stop", || {
        let desk = Desk::new();
        let timed = desk.diary.with_timeout(Duration::from_secs(5));
        desk.diary.stop().expect("nothing keeps it");
        assert!(was_stopped(&desk.diary.add(1), Started::No));
        assert!(was_stopped(&timed.add(1), Started::No));
        let text = desk.diary.add(1).expect_err("it is stopped").to_string();
        let pid = desk.diary.child_pid();
        assert_eq!(
            text,
            format!("call `Diary::add` failed: the bridge to child {pid} was stopped; the call had not started")
        );
    });
}

#[test]
fn stop_flushes_output_and_runs_exit_handlers() {
    within(PATIENCE, "exit handlers", || {
        let (out, note) = (TempDir::new(), TempDir::new());
        let printed = File::create(out.file("out")).expect("a new file");
        let desk = Desk::with(|builder| builder.stdout(printed));
        desk.diary.note_exit(&note.file("note")).expect("the child lives");
        desk.diary.print("no newline").expect("the child lives");
        desk.diary.start_thread().expect("the child lives");
        assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)));
        let read = |path| std::fs::read_to_string(path).expect("the file is there");
        assert_eq!((read(out.file("out")), read(note.file("note"))), ("no newline".into(), "bye".into()));
    });
}

#[test]
fn drop_of_the_bridge_stops_the_child() {
    within(PATIENCE, "drop", || {
        let Desk { dir, diary } = Desk::new();
        let pid = diary.child_pid();
        assert_eq!(diary.add(9), Ok(9));
        drop(diary);
        assert!(eventually(30, "the child is gone", || is_reaped(pid)));
        assert_eq!(std::fs::read_to_string(dir.file("diary")).expect("it was written"), "9");
    });
}

#[test]
fn drop_of_a_bridge_whose_child_is_dead_returns() {
    within(PATIENCE, "drop of the dead", || {
        let desk = Desk::new();
        kill(Pid::from_raw(desk.diary.child_pid() as i32), Signal::SIGKILL).expect("the child is there");
        assert!(eventually(30, "the death is noticed", || !desk.diary.is_alive()));
        assert!(is_reaped(desk.diary.child_pid()));
    });
}

#[test]
fn is_alive_says_whether_the_child_takes_calls() {
    within(PATIENCE, "is_alive", || {
        type End = fn(&Bridge<Diary>);
        let ends: [(&str, End); 3] = [
            ("stop", |diary| assert_eq!(diary.stop(), Ok(Exit::Code(0)))),
            ("kill", |diary| assert_eq!(diary.kill(), KILLED)),
            ("a signal", |diary| {
                kill(Pid::from_raw(diary.child_pid() as i32), Signal::SIGTERM).expect("the child is there");
                assert!(eventually(30, "the death is noticed", || !diary.is_alive()));
            }),
        ];
        for (what, end) in ends {
            let desk = Desk::new();
            assert!(desk.diary.is_alive());
            assert_eq!(desk.diary.add(1), Ok(1));
            assert!(desk.diary.is_alive());
            end(&desk.diary);
            assert!(!desk.diary.is_alive(), "after {what}");
            assert!(desk.diary.add(1).is_err(), "after {what}");
        }
    });
}

// ---- stop while others call ----------------------------------------------------------------------------------------

#[test]
fn stop_waits_for_a_call_that_another_thread_is_in() {
    within(PATIENCE, "stop during a call", || {
        for lanes in [1, 8] {
            let desk = Desk::with(|builder| builder.concurrent_callers(lanes).stop_grace(Duration::from_secs(60)));
            let gate = Gate::new();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| desk.diary.add_at(&gate.path(), 3));
                gate.wait_for_child();
                let stop = scope.spawn(|| desk.diary.stop());
                assert!(eventually(30, "the bridge is being stopped", || !desk.diary.is_alive()));
                if lanes > 1 {
                    let late = desk.diary.with_timeout(SHORT).add(1);
                    assert!(was_stopped(&late, Started::No), "the stop has begun: {late:?}");
                }
                assert!(!stop.is_finished());
                gate.open();
                assert_eq!(call.join().expect("no panic"), Ok(3), "{lanes} lanes");
                assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)), "{lanes} lanes");
            });
            assert_eq!(desk.written().as_deref(), Some("3"));
        }
    });
}

/// Includes calls on lanes after its own: a thread prefers the lane that it had before, and the stopping thread gets its lane before the calling
/// threads get theirs.
#[test]
fn stop_comes_after_the_calls_that_were_made_before_it() {
    within(PATIENCE, "stop behind calls", || {
        let desk = Desk::with(|builder| builder.stop_grace(Duration::from_secs(60)));
        let gate = Gate::new();
        let (begin, stop_now) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                desk.diary.add(0).expect("the child lives");
                begin.wait();
                begin.wait();
                desk.diary.add_at(&gate.path(), 1)
            });
            begin.wait();
            let stop = scope.spawn(|| {
                desk.diary.add(0).expect("the child lives");
                stop_now.wait();
                stop_now.wait();
                desk.diary.stop()
            });
            stop_now.wait();
            begin.wait();
            gate.wait_for_child();
            let others: Vec<_> = (0..5).map(|_| scope.spawn(|| desk.diary.add(1))).collect();
            // Nothing outside shows that a request has been published.
            std::thread::sleep(SHORT);
            stop_now.wait();
            std::thread::sleep(SHORT);
            gate.open();
            assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)));
            for call in others.into_iter().chain([first]) {
                let result = call.join().expect("no panic");
                assert!(result.is_ok(), "{result:?}");
            }
        });
        assert_eq!(desk.written().as_deref(), Some("6"));
    });
}

#[test]
fn stop_among_busy_callers_loses_no_answered_call() {
    within(PATIENCE, "stop among callers", || {
        for round in 0..20 {
            let desk = Desk::new();
            let caller = || {
                let mut answered = 0;
                loop {
                    match desk.diary.add(1) {
                        Ok(_) => answered += 1,
                        Err(error) => return (answered, error),
                    }
                }
            };
            let (answered, unsure) = std::thread::scope(|scope| {
                let callers: Vec<_> = (0..4).map(|_| scope.spawn(caller)).collect();
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)), "round {round}");
                let (mut answered, mut unsure) = (0, 0);
                for caller in callers {
                    let (calls, error) = caller.join().expect("no panic");
                    let CallError::Stopped { started, .. } = error else { panic!("round {round}: {error}") };
                    answered += calls;
                    unsure += u64::from(started == Started::Yes);
                }
                (answered, unsure)
            });
            // The service counted exactly the calls that the callers know of, except for calls that may have run.
            let counted: u64 = desk.written().expect("it was dropped").parse().expect("a number");
            assert!((answered..=answered + unsure).contains(&counted), "{counted} of {answered} + {unsure}");
        }
    });
}

// ---- forced stops --------------------------------------------------------------------------------------------------

#[test]
fn stop_kills_a_child_whose_call_does_not_end_in_time() {
    within(PATIENCE, "stop of an endless call", || {
        for lanes in [1, 8] {
            let desk = Desk::with(|builder| builder.concurrent_callers(lanes).stop_grace(SHORT));
            let gate = Gate::new();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| desk.diary.add_at(&gate.path(), 1));
                gate.wait_for_child();
                timed_out_stop(&desk.diary);
                let result = call.join().expect("no panic");
                assert!(was_stopped(&result, Started::Yes), "{lanes} lanes: {result:?}");
            });
            assert_eq!(desk.written(), None);
        }
    });
}

#[test]
fn stop_kills_a_child_whose_destructor_does_not_end_in_time() {
    within(PATIENCE, "an endless destructor", || {
        let (desk, gate) = (Desk::with(|builder| builder.stop_grace(SHORT)), Gate::new());
        desk.diary.drop_at(&gate.path()).expect("the child lives");
        timed_out_stop(&desk.diary);
        assert_eq!(desk.written(), None);
    });
}

#[test]
fn stop_kills_a_child_whose_exit_handlers_do_not_end_in_time() {
    within(PATIENCE, "an endless exit handler", || {
        let (desk, gate) = (Desk::with(|builder| builder.stop_grace(SHORT)), Gate::new());
        desk.diary.exit_at(&gate.path()).expect("the child lives");
        timed_out_stop(&desk.diary);
        assert_eq!(desk.written().as_deref(), Some("0"));
    });
}

#[test]
fn stop_kills_a_child_that_a_signal_has_stopped() {
    within(PATIENCE, "stop of the stopped", || {
        let desk = Desk::with(|builder| builder.stop_grace(SHORT));
        let pid = desk.diary.child_pid();
        kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("the child is there");
        assert!(eventually(30, "the child stops", || is_stopped(pid)));
        timed_out_stop(&desk.diary);
    });
}

#[test]
fn drop_of_the_bridge_kills_what_does_not_stop_in_time() {
    within(PATIENCE, "drop of a busy bridge", || {
        let (Desk { dir: _dir, diary }, gate) = (Desk::with(|builder| builder.stop_grace(SHORT)), Gate::new());
        let pid = diary.child_pid();
        let call = diary.with_timeout(SHORT).add_at(&gate.path(), 1);
        assert!(matches!(call, Err(CallError::TimedOut { .. })), "{call:?}");
        drop(diary);
        assert!(eventually(30, "the child is gone", || is_reaped(pid)));
    });
}

#[test]
fn kill_ends_calls_of_other_threads() {
    within(PATIENCE, "kill during calls", || {
        for lanes in [1, 8] {
            let desk = Desk::with(|builder| builder.concurrent_callers(lanes));
            let gate = Gate::new();
            std::thread::scope(|scope| {
                let call = scope.spawn(|| desk.diary.add_at(&gate.path(), 1));
                gate.wait_for_child();
                let queued = scope.spawn(|| desk.diary.add(1));
                std::thread::sleep(SHORT);
                assert_eq!(desk.diary.kill(), KILLED);
                assert!(is_reaped(desk.diary.child_pid()));
                let (call, queued) = (call.join().expect("no panic"), queued.join().expect("no panic"));
                assert!(was_stopped(&call, Started::Yes), "{lanes} lanes: {call:?}");
                assert!(was_stopped(&queued, Started::No), "{lanes} lanes: {queued:?}");
            });
            assert_eq!(desk.diary.kill(), KILLED);
            assert_eq!(desk.diary.stop(), Ok(KILLED));
            assert_eq!(desk.written(), None, "a killed service is not dropped");
        }
    });
}

// ---- drop does not wait --------------------------------------------------------------------------------------------

/// The longest that the shortest of several drops may take on a busy machine, much less than the grace; docs/RELIABILITY.md has the figures of
/// another machine.
const AT_ONCE: Duration = Duration::from_millis(150);

/// Checks that dropping what `make` makes, several times, takes no time, and that the child is gone soon after its grace.
fn is_dropped_at_once<K>(what: &str, make: impl Fn() -> (Desk, K)) {
    let mut taken = Vec::new();
    for _ in 0..5 {
        let (Desk { dir, diary }, kept) = make();
        let pid = diary.child_pid();
        let begin = Instant::now();
        drop(diary);
        taken.push(begin.elapsed());
        assert!(eventually(30, "the child is gone", || is_reaped(pid)), "{what}");
        drop((dir, kept));
    }
    let least = taken.iter().min().expect("some");
    println!("{what}: {least:?}");
    assert!(*least <= AT_ONCE, "{what}: {taken:?}");
}

fn hasty(builder: Builder<Diary>) -> Builder<Diary> {
    builder.stop_grace(Duration::from_secs(1))
}

#[test]
fn fault_47_drop_does_not_wait_for_a_child_that_hangs() {
    within(PATIENCE, "drop of the hung", || {
        is_dropped_at_once("an endless loop", || {
            let desk = Desk::with(hasty);
            assert!(desk.diary.with_timeout(SHORT / 10).spin().is_err());
            (desk, ())
        });
        is_dropped_at_once("an endless destructor", || {
            let (desk, gate) = (Desk::with(hasty), Gate::new());
            desk.diary.drop_at(&gate.path()).expect("the child lives");
            (desk, gate)
        });
        is_dropped_at_once("a stopped child", || {
            let desk = Desk::with(hasty);
            let pid = desk.diary.child_pid();
            kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("the child is there");
            assert!(eventually(30, "the child stops", || is_stopped(pid)));
            (desk, ())
        });
    });
}

#[test]
fn fault_47_drop_does_not_wait_for_calls_under_way() {
    within(PATIENCE, "drop among calls", || {
        is_dropped_at_once("pending calls", || {
            let (desk, gate) = (Desk::with(hasty), Gate::new());
            let running = desk.diary.begin().add_at(&gate.path(), 1);
            gate.wait_for_child();
            let waiting = desk.diary.begin().add(1);
            (desk, (running, waiting, gate))
        });
        is_dropped_at_once("a thread with a supervisor", || {
            let (desk, gate) =
                (Desk::with(|builder| hasty(builder).restart(Restart::on_death()).on_death(|_| {})), Gate::new());
            let running = desk.diary.begin().add_at(&gate.path(), 1);
            gate.wait_for_child();
            (desk, (running, gate))
        });
    });
}

#[test]
fn fault_47_drop_does_not_wait_for_a_child_that_rises() {
    within(PATIENCE, "drop of the rising", || {
        is_dropped_at_once("a constructor that hangs", || {
            let (dir, gate) = (TempDir::new(), Gate::new());
            let builder = Diary::bridge_behind(&dir.file("diary"), &dir.file("hangs"), &gate.path());
            let restart = Restart::on_death().spare(true);
            let diary = hasty(builder).restart(restart).start().expect("the bridge starts");
            std::fs::write(dir.file("hangs"), "").expect("a file in the directory of the test");
            kill(Pid::from_raw(diary.child_pid() as i32), Signal::SIGKILL).expect("the child is there");
            gate.wait_for_child();
            (Desk { dir, diary }, gate)
        });
    });
}

/// The grace is long enough for the child to end by itself.
#[test]
fn fault_47_a_dropped_child_does_what_it_was_sent_and_drops_its_service() {
    within(PATIENCE, "drop of the honest", || {
        for workers in [1, 3] {
            let dir = TempDir::new();
            let builder = Diary::bridge(&dir.file("diary")).workers(workers).concurrent_callers(6);
            let diary = builder.stop_grace(Duration::from_secs(60)).start().expect("the bridge starts");
            let (pid, gate) = (diary.child_pid(), Gate::new());
            let first = diary.begin().add_at(&gate.path(), 1);
            gate.wait_for_child();
            let others: Vec<_> = (0..5).map(|_| diary.begin().add(1)).collect();
            drop(diary);
            gate.open();
            assert!(first.wait().is_ok());
            for other in others {
                let outcome = other.wait();
                assert!(outcome.is_ok(), "{outcome:?}");
            }
            assert!(eventually(30, "the child is gone", || is_reaped(pid)));
            assert_eq!(std::fs::read_to_string(dir.file("diary")).expect("it was written"), "6", "{workers} workers");
        }
    });
}

/// The system needs a while to free gigabytes of memory.
#[test]
fn fault_47_drop_does_not_wait_for_large_memory_to_be_given_back() {
    within(PATIENCE, "drop of much memory", || {
        let mut taken = Vec::new();
        for _ in 0..3 {
            let desk = Desk::with(|builder| builder.max_payload(1 << 30).memory(4 << 30).retained(1 << 30));
            let kept = SharedBox::<[u8]>::zeroed_in(&desk.diary, 512 << 20).expect("memory");
            desk.diary.kill();
            let begin = Instant::now();
            drop(desk);
            drop(kept);
            taken.push(begin.elapsed());
        }
        assert!(taken.iter().min().expect("some") <= &AT_ONCE, "{taken:?}");
    });
}

#[test]
fn fault_47_a_process_that_ends_after_a_drop_leaves_no_child() {
    within(PATIENCE, "the end after a drop", || {
        let mut helper = support::Helper::start("helper_drops_and_ends", "drops and ends");
        let pid: u32 = helper.hear("child").parse().expect("a number");
        assert!(helper.wait().expect("its end").success());
        assert!(eventually(10, "the child is gone", || !process_exists(pid)));
    });
}

#[test]
fn helper_drops_and_ends() {
    if support::role().is_none() {
        return;
    }
    let (desk, gate) = (Desk::with(|builder| builder.stop_grace(Duration::from_secs(3600))), Gate::new());
    assert!(desk.diary.with_timeout(SHORT).add_at(&gate.path(), 1).is_err());
    support::say("child", desk.diary.child_pid());
    drop(desk);
    std::process::exit(0);
}

// ---- answered calls do not delay the end ---------------------------------------------------------------------------

/// A stop that waited for anything but the child would take this long.
const ENDLESS: Duration = Duration::from_secs(3600);

#[test]
fn fault_31_stop_does_not_wait_for_results_that_nobody_takes() {
    within(PATIENCE, "untaken results", || {
        for (workers, lanes) in [(1, 1), (1, 4), (2, 4)] {
            let desk = Desk::with(|builder| builder.workers(workers).concurrent_callers(lanes).stop_grace(ENDLESS));
            let mut kept: Vec<_> = (0..lanes).map(|_| desk.diary.begin().add(1)).collect();
            std::mem::forget(kept.pop());
            assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)), "{workers} workers, {lanes} lanes");
            assert_eq!(desk.written(), Some(lanes.to_string()), "the service was dropped");
            for pending in kept {
                assert!(pending.wait().is_ok(), "what was answered is there to be taken");
            }
        }
    });
}

#[test]
fn fault_31_stop_answers_what_was_sent_and_waits_for_it() {
    within(PATIENCE, "unanswered results", || {
        let (desk, gate) = (Desk::with(|builder| builder.concurrent_callers(2).stop_grace(ENDLESS)), Gate::new());
        let running = desk.diary.begin().add_at(&gate.path(), 1);
        gate.wait_for_child();
        let waiting = desk.diary.begin().add(2);
        std::thread::scope(|scope| {
            let stop = scope.spawn(|| desk.diary.stop());
            assert!(eventually(30, "the bridge is being stopped", || !desk.diary.is_alive()));
            gate.open();
            assert_eq!(stop.join().expect("no panic"), Ok(Exit::Code(0)));
        });
        assert_eq!((running.wait(), waiting.wait(), desk.written().as_deref()), (Ok(1), Ok(3), Some("3")));
    });
}

#[test]
fn fault_31_stop_does_not_wait_for_large_results_boxes_and_views() {
    within(PATIENCE, "large results", || {
        let desk = Desk::with(|builder| builder.concurrent_callers(4).stop_grace(ENDLESS));
        let large = desk.diary.begin().blank(3 << 20);
        let view = desk.diary.view().blank(1 << 20).expect("an answer");
        let kept = SharedBox::copied_in(&desk.diary, &[1u8; 1 << 20]).expect("memory");
        assert_eq!(desk.diary.stop(), Ok(Exit::Code(0)));
        assert_eq!((large.wait().map(|text| text.len()), view.len(), kept.len()), (Ok(3 << 20), 1 << 20, 1 << 20));
    });
}

#[test]
fn fault_31_a_panic_in_the_destructor_is_told_whoever_has_the_lanes() {
    within(PATIENCE, "a panic without a lane", || {
        let dir = TempDir::new();
        let diary = Diary::bridge(&dir.file("none/diary")).concurrent_callers(1).stderr(Output::null());
        let diary = diary.stop_grace(ENDLESS).start().expect("the bridge starts");
        let _untaken = diary.begin().add(1);
        assert!(matches!(diary.stop(), Err(CallError::Panicked { .. })), "there is no such directory");
        assert_eq!(diary.stop(), Ok(Exit::Code(0)), "the lane was free all the same");
    });
}
