//! A bridge with `Builder::restart` outlives its children: a new child replaces one that has died, calls that may run again are repeated, and all
//! others report what is known of them. Each call runs at most once, unless its method allows more.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{
    Bridge, Builder, CallError, Death, Event, Exit, Output, Restart, SharedBox, StartError, Started, Wait, bridge,
};
use held::{Held, alone};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use support::{Gate, TempDir, eventually, process_exists, within};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// How long a call may take that needs no timeout to end.
const LONG: Duration = Duration::from_secs(60);

/// Counts, in a file, how often each call ran.
struct Tally {
    file: File,
    calls: u64,
}

#[bridge]
impl Tally {
    /// The file at `path` must exist.
    pub fn new(path: &str) -> Result<Self, std::io::Error> {
        Ok(Tally { file: OpenOptions::new().read(true).write(true).open(path)?, calls: 0 })
    }

    /// A tally whose constructor fails if there is a file at `forbidden`.
    pub fn unless(path: &str, forbidden: &str) -> Result<Self, String> {
        if Path::new(forbidden).exists() {
            return Err("it is forbidden".into());
        }
        Self::new(path).map_err(|error| error.to_string())
    }

    /// A tally whose constructor waits at `gate` if there is a file at `hangs`.
    pub fn behind(path: &str, hangs: &str, gate: &str) -> Result<Self, String> {
        if Path::new(hangs).exists() {
            Gate::pass(gate);
        }
        Self::new(path).map_err(|error| error.to_string())
    }

    /// Counts call number `id`. Returns how often it has run.
    pub fn count(&mut self, id: u64) -> u8 {
        self.calls += 1;
        once_more(&self.file, id)
    }

    #[bridge(idempotent)]
    pub fn count_any_number_of_times(&mut self, id: u64) -> u8 {
        once_more(&self.file, id)
    }

    /// Counts call number `id`, and kills the process on its first `times` runs.
    #[bridge(idempotent)]
    pub fn die_at_first(&mut self, id: u64, times: u8) -> u8 {
        let counted = once_more(&self.file, id);
        if counted <= times {
            die();
        }
        counted
    }

    /// Like `die_at_first` with 1, but not declared idempotent.
    pub fn die_once(&mut self, id: u64) -> u8 {
        self.die_at_first(id, 1)
    }

    pub fn calls(&self) -> u64 {
        self.calls
    }

    pub fn die(&self) {
        die()
    }

    /// Calls back, then kills the process.
    pub fn die_asking(&self, ask: &mut dyn FnMut()) {
        ask();
        ask();
        die()
    }

    pub fn exit(&self, code: i32) {
        std::process::exit(code)
    }

    /// Never returns.
    pub fn spin(&self) {
        loop {
            std::hint::black_box(());
        }
    }

    /// Never returns; declared to return a text.
    #[bridge(idempotent)]
    pub fn spin_for_text(&self) -> String {
        self.spin();
        String::new()
    }

    pub fn sleep(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    pub fn wait_at(&self, gate: &str) {
        Gate::pass(gate);
    }

    /// Waits at `gate`, then kills the process.
    pub fn die_at(&self, gate: &str) {
        Gate::pass(gate);
        die()
    }

    #[bridge(idempotent)]
    pub fn sum(&self, numbers: SharedBox<[u8]>) -> u64 {
        numbers.iter().map(|&number| u64::from(number)).sum()
    }

    #[bridge(idempotent)]
    pub fn len(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    pub fn print(&self, line: &str) {
        println!("{line}");
    }
}

fn once_more(file: &File, id: u64) -> u8 {
    let mut counted = [0];
    let _ = file.read_at(&mut counted, id);
    counted[0] += 1;
    file.write_at(&counted, id).expect("the tally can be written");
    counted[0]
}

fn die() {
    kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
}

/// A file to count in.
struct Counts(TempDir);

impl Counts {
    fn new() -> Self {
        let dir = TempDir::new();
        std::fs::write(dir.file("counts"), "").expect("a file in a new directory");
        Self(dir)
    }

    fn path(&self) -> String {
        self.0.file("counts")
    }

    fn of(&self, id: u64) -> u8 {
        let mut counted = [0];
        let _ = File::open(self.path()).expect("it exists").read_at(&mut counted, id);
        counted[0]
    }

    fn tally(&self) -> Builder<Tally> {
        Tally::bridge(&self.path()).timeout(LONG)
    }
}

/// Restarts so often that no test reaches the limit, and without delays.
fn always() -> Restart {
    Restart::on_death().at_most(u32::MAX).backoff(Duration::ZERO, Duration::ZERO)
}

fn kill_child_of(tally: &Bridge<Tally>) -> u32 {
    let pid = tally.child_pid();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the child lives");
    pid
}

/// Waits until the child is of `generation` or later.
fn wait_for(tally: &Bridge<Tally>, generation: u64) {
    assert!(eventually(60, "another child", || tally.generation() >= generation && tally.is_alive()));
}

// ---- restarts ------------------------------------------------------------------------------------------------------

#[test]
fn another_child_takes_over_with_a_new_service() {
    within(PATIENCE, "another_child_takes_over_with_a_new_service", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always()).start().expect("the bridge starts");
        assert_eq!((tally.count(0), tally.calls(), tally.generation()), (Ok(1), Ok(1), 0));
        let first = kill_child_of(&tally);
        wait_for(&tally, 1);
        assert_ne!(tally.child_pid(), first);
        assert!(!process_exists(first));
        assert_eq!(tally.calls(), Ok(0), "made anew from the same arguments");
        assert_eq!(tally.count(0), Ok(2), "the file is the same");
        assert_eq!(tally.generation(), 1);
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

#[test]
fn whatever_the_child_died_of_it_is_replaced() {
    within(PATIENCE, "whatever_the_child_died_of_it_is_replaced", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always()).start().expect("the bridge starts");
        for (generation, code) in [(1, 0), (2, 1), (3, 70)] {
            let error = tally.exit(code).expect_err("it exits instead of answering");
            assert!(
                matches!(error, CallError::Died { exit: Exit::Code(found), started: Started::Yes, .. } if found == code)
            );
            wait_for(&tally, generation);
        }
    });
}

#[test]
fn a_spare_child_takes_over_and_has_a_spare_itself() {
    within(PATIENCE, "a_spare_child_takes_over_and_has_a_spare_itself", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always().spare(true).calls_wait(true)).start().expect("the bridge starts");
        for id in 0..20 {
            assert_eq!(tally.count(id), Ok(1));
            kill_child_of(&tally);
            wait_for(&tally, id + 1);
        }
        let last = tally.child_pid();
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
        assert!(!process_exists(last));
    });
}

#[test]
fn a_spare_that_has_died_is_not_used() {
    alone("a_spare_that_has_died_is_not_used", PATIENCE, || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always().spare(true)).start().expect("the bridge starts");
        let mut spare = None;
        assert!(eventually(60, "a spare child", || {
            let current = tally.child_pid().to_string();
            spare = held::children().into_iter().find(|pid| *pid != current);
            spare.is_some()
        }));
        let spare: u32 = spare.and_then(|pid| pid.parse().ok()).expect("just seen");
        kill(Pid::from_raw(spare as i32), Signal::SIGKILL).expect("the spare lives");
        assert!(eventually(60, "its end", || !process_exists(spare)));
        kill_child_of(&tally);
        wait_for(&tally, 1);
        assert_ne!(tally.child_pid(), spare);
        assert_eq!(tally.count(0), Ok(1));
    });
}

#[test]
fn output_goes_where_it_went() {
    within(PATIENCE, "output_goes_where_it_went", || {
        let counts = Counts::new();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let tally = counts.tally().restart(always()).stdout(writer).stderr(Output::null());
        let tally = tally.start().expect("the bridge starts");
        tally.print("from the first").expect("it prints");
        kill_child_of(&tally);
        wait_for(&tally, 1);
        tally.print("from the second").expect("it prints");
        drop(tally);
        let printed = std::io::read_to_string(reader).expect("text, to its end");
        assert_eq!(printed, "from the first\nfrom the second\n");
    });
}

// ---- calls that may run again --------------------------------------------------------------------------------------

#[test]
fn a_call_that_had_not_started_is_made_again() {
    within(PATIENCE, "a_call_that_had_not_started_is_made_again", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let tally = counts.tally().restart(always()).start().expect("the bridge starts");
        std::thread::scope(|scope| {
            let dying = scope.spawn(|| tally.die_at(&gate.path()));
            gate.wait_for_child();
            // The child runs one call at a time, so this one waits behind the other.
            let waiting = scope.spawn(|| tally.count(7));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            gate.open();
            let died = dying.join().expect("no panic").expect_err("its child died in it");
            assert!(matches!(died, CallError::Died { started: Started::Yes, .. }), "{died}");
            assert_eq!(waiting.join().expect("no panic"), Ok(1));
        });
        assert_eq!((counts.of(7), tally.generation()), (1, 1));
    });
}

#[test]
fn a_call_that_had_started_is_made_again_only_if_it_is_idempotent() {
    within(PATIENCE, "a_call_that_had_started_is_made_again_only_if_it_is_idempotent", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always().calls_wait(true)).start().expect("the bridge starts");
        assert_eq!(tally.die_at_first(1, 2), Ok(3), "the third child lets it live");
        assert_eq!((counts.of(1), tally.generation()), (3, 2));
        let error = tally.die_once(2).expect_err("its child died in it");
        assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
        assert_eq!(counts.of(2), 1);
    });
}

#[test]
fn a_call_that_kills_every_child_is_given_up() {
    within(PATIENCE, "a_call_that_kills_every_child_is_given_up", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(always().calls_wait(true)).start().expect("the bridge starts");
        let error = tally.die_at_first(1, u8::MAX).expect_err("it kills them all");
        assert!(matches!(error, CallError::Died { started: Started::Yes, .. }), "{error}");
        assert_eq!(counts.of(1), 3);
        assert_eq!(tally.count(2), Ok(1), "the bridge goes on");
    });
}

#[test]
fn large_arguments_are_sent_again_and_boxes_are_not() {
    within(PATIENCE, "large_arguments_are_sent_again_and_boxes_are_not", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let tally = counts.tally().restart(always().calls_wait(true)).start().expect("the bridge starts");
        let bytes = vec![1; 3 << 20];
        let numbers = SharedBox::copied_in(&tally, &[1u8; 1 << 20]).expect("memory");
        std::thread::scope(|scope| {
            let dying = scope.spawn(|| tally.die_at(&gate.path()));
            gate.wait_for_child();
            let large = scope.spawn(|| tally.len(&bytes));
            let boxed = scope.spawn(|| tally.sum(numbers));
            std::thread::sleep(Duration::from_millis(100));
            gate.open();
            assert!(dying.join().expect("no panic").is_err());
            assert_eq!(large.join().expect("no panic"), Ok(3 << 20));
            let error = boxed.join().expect("no panic").expect_err("the box went with the child");
            assert!(matches!(error, CallError::Died { started: Started::No, .. }), "{error}");
        });
        // A box made for a child that has died is still usable.
        let numbers = SharedBox::copied_in(&tally, &[2u8; 1 << 20]).expect("memory");
        kill_child_of(&tally);
        wait_for(&tally, 2);
        assert_eq!(tally.sum(numbers), Ok(2 << 20));
    });
}

#[test]
fn a_pending_call_is_not_made_again() {
    within(PATIENCE, "a_pending_call_is_not_made_again", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let tally = counts.tally().restart(always()).start().expect("the bridge starts");
        let dying = tally.begin().die_at(&gate.path());
        gate.wait_for_child();
        let waiting = tally.begin().count_any_number_of_times(1);
        gate.open();
        assert!(matches!(dying.wait(), Err(CallError::Died { started: Started::Yes, .. })));
        assert!(matches!(waiting.wait(), Err(CallError::Died { started: Started::No, .. })));
        wait_for(&tally, 1);
        assert_eq!((counts.of(1), tally.begin().count(2).wait()), (0, Ok(1)));
    });
}

#[test]
fn a_call_waits_for_the_next_child_no_longer_than_its_timeout() {
    within(PATIENCE, "a_call_waits_for_the_next_child_no_longer_than_its_timeout", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        // The second restart comes only after a day.
        let rare =
            Restart::on_death().backoff(Duration::from_secs(86_400), Duration::from_secs(86_400)).calls_wait(true);
        let tally = counts.tally().restart(rare).start().expect("the bridge starts");
        kill_child_of(&tally);
        wait_for(&tally, 1);
        let short = Duration::from_millis(300);
        std::thread::scope(|scope| {
            let dying = scope.spawn(|| tally.die_at(&gate.path()));
            gate.wait_for_child();
            let waiting = scope.spawn(|| tally.with_timeout(short).count(1));
            std::thread::sleep(Duration::from_millis(50));
            gate.open();
            assert!(dying.join().expect("no panic").is_err());
            let error = waiting.join().expect("no panic").expect_err("there is no other child");
            assert!(matches!(error, CallError::Died { started: Started::No, .. }), "{error}");
        });
        let begin = Instant::now();
        let error = tally.with_timeout(short).count(1).expect_err("there is no child");
        assert!(matches!(error, CallError::Down { restarting: true, .. }), "{error}");
        assert!(begin.elapsed() >= short);
        assert_eq!(counts.of(1), 0);
        // Dropping the bridge does not wait for that restart either.
        drop(tally);
    });
}

// ---- while there is no child ---------------------------------------------------------------------------------------

#[test]
fn calls_fail_at_once_while_there_is_no_child() {
    within(PATIENCE, "calls_fail_at_once_while_there_is_no_child", || {
        let counts = Counts::new();
        let rare = Restart::on_death().backoff(Duration::from_secs(86_400), Duration::from_secs(86_400));
        let tally = counts.tally().restart(rare).start().expect("the bridge starts");
        kill_child_of(&tally);
        wait_for(&tally, 1);
        let pid = kill_child_of(&tally);
        assert!(eventually(60, "its end", || !tally.is_alive()));
        for outcome in
            [tally.count(1).map(|_| ()), tally.begin().count(1).wait().map(|_| ()), tally.view().calls().map(|_| ())]
        {
            match outcome.expect_err("there is no child") {
                CallError::Down { pid: found, exit, restarting: true, .. } => {
                    assert_eq!((found, exit), (pid, Exit::Signal(9)));
                }
                other => panic!("{other}"),
            }
        }
        let text = tally.calls().expect_err("there is no child").to_string();
        let expected = format!(
            "call `Tally::calls` failed: child {pid} was killed by signal 9 (SIGKILL), and its replacement is not ready; \
             the call had not started"
        );
        assert_eq!(text, expected);
        assert_eq!(counts.of(1), 0);
    });
}

#[test]
fn restarts_end_at_their_limit() {
    within(PATIENCE, "restarts_end_at_their_limit", || {
        let counts = Counts::new();
        let restart = Restart::on_death().at_most(2).backoff(Duration::ZERO, Duration::ZERO).calls_wait(true);
        let tally = counts.tally().restart(restart).start().expect("the bridge starts");
        for _ in 0..3 {
            assert!(tally.die().is_err());
        }
        // Calls that wait are told too.
        assert!(matches!(tally.count(1), Err(CallError::Down { restarting: false, .. })));
        assert!(eventually(60, "the end", || matches!(tally.calls(), Err(CallError::Down { restarting: false, .. }))));
        let text = tally.calls().expect_err("there is no child").to_string();
        assert!(text.contains("there have been 2 restarts within 60s"), "{text}");
        assert_eq!(tally.generation(), 2);
        // As for any bridge whose child has died.
        assert!(matches!(tally.stop(), Err(CallError::Died { exit: Exit::Signal(9), .. })));
    });
}

#[test]
fn a_constructor_that_fails_is_a_restart_and_its_error_is_told() {
    within(PATIENCE, "a_constructor_that_fails_is_a_restart_and_its_error_is_told", || {
        let counts = Counts::new();
        let forbidden = format!("{}.forbidden", counts.path());
        let restart = Restart::on_death().at_most(3).backoff(Duration::ZERO, Duration::ZERO);
        let tally = Tally::bridge_unless(&counts.path(), &forbidden).restart(restart).start().expect("it starts");
        std::fs::write(&forbidden, "").expect("a file in the directory of the test");
        kill_child_of(&tally);
        assert!(eventually(60, "the end", || matches!(tally.calls(), Err(CallError::Down { restarting: false, .. }))));
        let text = tally.calls().expect_err("there is no child").to_string();
        assert!(text.contains("the last one failed: ") && text.contains("it is forbidden"), "{text}");
    });
}

// ---- notifications of deaths ---------------------------------------------------------------------------------------

#[test]
fn deaths_are_told_and_ends_that_were_asked_for_are_not() {
    within(PATIENCE, "deaths_are_told_and_ends_that_were_asked_for_are_not", || {
        let counts = Counts::new();
        let (sender, deaths) = mpsc::channel();
        let restart = Restart::on_death().at_most(1).backoff(Duration::ZERO, Duration::ZERO);
        let tally = counts
            .tally()
            .restart(restart)
            .on_death(|_: &Death| panic!("a hook that panics"))
            .on_death(move |death: &Death| sender.send(death.clone()).expect("somebody listens"));
        let tally = tally.start().expect("the bridge starts");
        for (generation, restarting) in [(0, true), (1, false)] {
            wait_for(&tally, generation);
            let pid = kill_child_of(&tally);
            let death = deaths.recv_timeout(LONG).expect("it is told");
            assert_eq!(
                (death.service, death.pid, death.exit, death.corrupt, death.generation, death.restarting),
                ("Tally", pid, Exit::Signal(9), None, generation, restarting)
            );
            assert_eq!(
                death.to_string(),
                format!("child {pid} of the bridge to `Tally` was killed by signal 9 (SIGKILL)")
            );
        }
        drop(tally);
        let (sender, deaths) = mpsc::channel();
        let tally =
            counts.tally().restart(always()).on_death(move |_: &Death| sender.send(()).expect("somebody listens"));
        let tally = tally.start().expect("the bridge starts");
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
        assert!(deaths.recv_timeout(LONG).is_err(), "the hook is gone with the bridge, and was told nothing");
    });
}

#[test]
fn deaths_are_told_without_restarts_too() {
    within(PATIENCE, "deaths_are_told_without_restarts_too", || {
        let counts = Counts::new();
        let (sender, deaths) = mpsc::channel();
        let tally = counts.tally().on_death(move |death: &Death| drop(sender.send(death.clone())));
        let tally = tally.start().expect("the bridge starts");
        kill_child_of(&tally);
        let death = deaths.recv_timeout(LONG).expect("it is told");
        assert!(!death.restarting);
        assert!(matches!(tally.calls(), Err(CallError::Died { started: Started::No, .. })));
    });
}

#[test]
fn a_hook_may_call_and_stop_its_bridge() {
    within(PATIENCE, "a_hook_may_call_and_stop_its_bridge", || {
        let counts = Counts::new();
        let (sender, outcomes) = mpsc::channel();
        let own: Arc<OnceLock<Bridge<Tally>>> = Arc::default();
        let of_hook = own.clone();
        // There is no timeout, so a call that waited would wait for ever.
        let tally = Tally::bridge(&counts.path()).restart(always().calls_wait(true)).on_death(move |_: &Death| {
            let own = of_hook.get().expect("set below, before any death");
            sender.send(own.calls().map(|_| ())).expect("somebody listens");
            sender.send(own.stop().map(|_| ())).expect("somebody listens");
        });
        let tally = own.get_or_init(|| tally.start().expect("the bridge starts"));
        kill_child_of(tally);
        let down = outcomes.recv_timeout(LONG).expect("it is told");
        assert!(matches!(down, Err(CallError::Down { restarting: true, .. })), "{down:?}");
        let stopped = outcomes.recv_timeout(LONG).expect("it is told");
        assert!(matches!(stopped, Err(CallError::Died { .. })), "{stopped:?}");
        assert!(eventually(60, "the end", || matches!(tally.calls(), Err(CallError::Stopped { .. }))));
    });
}

// ---- hangs ---------------------------------------------------------------------------------------------------------

/// Long enough for a child to take a request even on a busy machine, and for another child to replace it.
const TIMELY: Duration = Duration::from_secs(5);

/// A timeout that a hanging call exceeds.
const SHORT: Duration = Duration::from_millis(300);

fn timed_out<R: std::fmt::Debug>(outcome: Result<R, CallError>) {
    assert!(matches!(outcome, Err(CallError::TimedOut { .. })), "{outcome:?}");
}

#[test]
fn fault_35_after_a_hang_the_next_call_is_answered_by_another_child() {
    within(PATIENCE, "fault_35_after_a_hang_the_next_call_is_answered_by_another_child", || {
        let counts = Counts::new();
        let tally = counts.tally().timeout(TIMELY).restart(Restart::on_failure()).start().expect("the bridge starts");
        type Hang = fn(&Bridge<Tally>);
        let hangs: [(&str, Hang); 6] = [
            ("a call", |tally| timed_out(tally.with_timeout(SHORT).spin())),
            ("a view", |tally| timed_out(tally.with_timeout(SHORT).view().spin_for_text().map(|_| ()))),
            ("a method that may run again", |tally| timed_out(tally.with_timeout(SHORT).spin_for_text())),
            ("a pending call", |tally| {
                timed_out(tally.with_timeout(SHORT).begin().spin().wait());
            }),
            ("a pending call that nobody asks for", |tally| {
                std::mem::forget(tally.with_timeout(SHORT).begin().spin());
                std::thread::sleep(SHORT);
            }),
            ("a child that was stopped", |tally| {
                let pid = tally.child_pid();
                kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("the child lives");
                assert!(eventually(30, "the child stops", || support::is_stopped(pid)));
                timed_out(tally.with_timeout(SHORT).calls());
            }),
        ];
        for (generation, (what, hang)) in (1..).zip(hangs) {
            let hung = tally.child_pid();
            hang(&tally);
            assert_eq!(tally.count(generation), Ok(1), "after {what}");
            assert_eq!(tally.generation(), generation, "{what}");
            assert!(!process_exists(hung), "{what}");
        }
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

/// One of many rounds must succeed, because the machine may be busy.
#[test]
fn fault_35_after_a_hang_with_a_short_timeout_the_next_call_is_answered_within_the_same() {
    within(PATIENCE, "fault_35_after_a_hang_with_a_short_timeout", || {
        let counts = Counts::new();
        for short in [50, 100].map(Duration::from_millis) {
            let restart = Restart::on_failure().backoff(Duration::ZERO, Duration::ZERO);
            let tally = counts.tally().timeout(TIMELY).restart(restart).start().expect("the bridge starts");
            let mut rounds = 1..=20;
            let in_time = rounds.any(|round| {
                assert_eq!(tally.calls(), Ok(0));
                timed_out(tally.with_timeout(short).spin());
                let begin = Instant::now();
                assert_eq!(tally.with_timeout(LONG).calls(), Ok(0));
                let taken = begin.elapsed();
                assert_eq!(tally.generation(), round, "{short:?}");
                println!("{short:?}: {taken:?}");
                taken < short
            });
            assert!(in_time, "{short:?}");
        }
    });
}

#[test]
fn fault_35_who_loses_a_call_to_another_ones_hang_or_to_a_restart_is_told_so() {
    within(PATIENCE, "fault_35_who_loses_a_call", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let tally = counts
            .tally()
            .workers(2)
            .concurrent_callers(4)
            .restart(Restart::on_failure())
            .start()
            .expect("the bridge starts");
        let innocent = tally.begin().wait_at(&gate.path());
        gate.wait_for_child();
        timed_out(tally.with_timeout(SHORT).spin());
        let told = |outcome: Result<(), CallError>, expected: &str| {
            let error = outcome.expect_err("its child was killed");
            let CallError::Died { because: Some(because), started: Started::Yes, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!(&**because, expected);
            let said = error.to_string();
            assert!(said.contains(&format!("(SIGKILL) because {expected}; the call had started")), "{said}");
        };
        told(innocent.wait(), "its call `Tally::spin` had outlived its timeout");

        // A deferred call does not wait for the next child.
        wait_for(&tally, 1);
        let gate = Gate::new();
        let innocent = tally.begin().wait_at(&gate.path());
        gate.wait_for_child();
        assert_eq!(tally.restart(), Ok(()));
        told(innocent.wait(), "the bridge was told to restart");
        // For any other death, the reason is unknown.
        let error = tally.die().expect_err("it dies");
        assert!(matches!(error, CallError::Died { because: None, .. }), "{error}");
    });
}

#[test]
fn fault_35_one_endless_loop_among_200_inputs_costs_one_answer() {
    within(PATIENCE, "fault_35_one_endless_loop_among_200_inputs_costs_one_answer", || {
        let counts = Counts::new();
        let run = |hangs: Option<u64>| {
            let tally = counts.tally().timeout(Duration::from_millis(500)).restart(Restart::on_failure());
            let tally = tally.start().expect("the bridge starts");
            let begin = Instant::now();
            let one = |input| if Some(input) == hangs { tally.spin() } else { tally.calls().map(drop) };
            let answered = (0..200).filter(|&input| one(input).is_ok()).count();
            (answered, begin.elapsed())
        };
        let (undisturbed, disturbed) = (run(None), run(Some(77)));
        assert_eq!((undisturbed.0, disturbed.0), (200, 199));
        println!("{:?} and {:?}", undisturbed.1, disturbed.1);
        assert!(disturbed.1 < undisturbed.1 + LONG);
    });
}

#[test]
fn fault_35_several_loops_at_once_end_with_one_child() {
    within(PATIENCE, "fault_35_several_loops_at_once_end_with_one_child", || {
        let counts = Counts::new();
        let tally = counts.tally().workers(3).concurrent_callers(6).timeout(TIMELY).restart(Restart::on_failure());
        let tally = tally.start().expect("the bridge starts");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(tally.with_timeout(SHORT).spin().is_err()));
            }
        });
        assert_eq!(tally.count(1), Ok(1));
        assert!((1..=4).contains(&tally.generation()), "{}", tally.generation());
    });
}

#[test]
fn fault_35_a_late_answer_saves_its_child() {
    within(PATIENCE, "fault_35_a_late_answer_saves_its_child", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(Restart::on_failure().kill_after(LONG)).start().expect("the bridge starts");
        timed_out(tally.with_timeout(SHORT).sleep(2 * SHORT.as_millis() as u64));
        assert_eq!((tally.calls(), tally.generation()), (Ok(0), 0));
        // Nor is the child killed for a call that it has answered late, however soon the kill was due.
        let tally = counts.tally().restart(Restart::on_failure().kill_after(SHORT)).start().expect("the bridge starts");
        for _ in 0..20 {
            timed_out(tally.with_timeout(Duration::from_millis(1)).sleep(20));
            assert_eq!(tally.calls(), Ok(0));
        }
        std::thread::sleep(2 * SHORT);
        assert_eq!((tally.calls(), tally.generation()), (Ok(0), 0));
    });
}

#[test]
fn fault_35_a_busy_child_is_not_taken_for_a_hung_one() {
    within(PATIENCE, "fault_35_a_busy_child_is_not_taken_for_a_hung_one", || {
        for lanes in [1, 4] {
            let (counts, gate) = (Counts::new(), Gate::new());
            let tally = Tally::bridge(&counts.path()).concurrent_callers(lanes).restart(Restart::on_failure());
            let tally = tally.start().expect("the bridge starts");
            std::thread::scope(|scope| {
                let busy = scope.spawn(|| tally.wait_at(&gate.path()));
                gate.wait_for_child();
                // They wait for a lane, or behind the call, which has no timeout.
                for id in 0..4 {
                    timed_out(tally.with_timeout(SHORT).count(id));
                }
                std::thread::sleep(2 * SHORT);
                gate.open();
                assert_eq!(busy.join().expect("no panic"), Ok(()), "{lanes} lanes");
            });
            assert_eq!((tally.count(9), tally.generation()), (Ok(1), 0), "{lanes} lanes");
        }
    });
}

#[test]
fn fault_35_a_hung_child_is_only_replaced_if_that_was_asked_for() {
    within(PATIENCE, "fault_35_a_hung_child_is_only_replaced_if_that_was_asked_for", || {
        let counts = Counts::new();
        let tally = counts.tally().restart(Restart::on_death()).start().expect("the bridge starts");
        timed_out(tally.with_timeout(SHORT).spin());
        std::thread::sleep(2 * SHORT);
        assert_eq!(tally.generation(), 0);
        assert_eq!((tally.restart(), tally.generation(), tally.count(1)), (Ok(()), 1, Ok(1)));
        let tally = counts.tally().restart(Restart::on_death().kill_after(SHORT)).start().expect("the bridge starts");
        timed_out(tally.with_timeout(SHORT).spin());
        wait_for(&tally, 1);
    });
}

#[test]
fn fault_35_a_spare_that_hangs_is_not_waited_for() {
    alone("fault_35_a_spare_that_hangs_is_not_waited_for", PATIENCE, || {
        let counts = Counts::new();
        let restart = Restart::on_failure().spare(true);
        let tally = Tally::bridge(&counts.path()).restart(restart).start().expect("the bridge starts");
        let mut spare = None;
        assert!(eventually(60, "a spare child", || {
            let current = tally.child_pid().to_string();
            spare = held::children().into_iter().find(|pid| *pid != current);
            spare.is_some()
        }));
        // Time for the spare to come up.
        std::thread::sleep(SHORT);
        let spare: i32 = spare.and_then(|pid| pid.parse().ok()).expect("just seen");
        kill(Pid::from_raw(spare), Signal::SIGSTOP).expect("the spare lives");
        let begin = Instant::now();
        kill_child_of(&tally);
        wait_for(&tally, 1);
        assert!(begin.elapsed() < Duration::from_secs(20));
        assert_eq!(tally.count(0), Ok(1));
        assert!(eventually(60, "its end", || !process_exists(spare as u32)));
    });
}

#[test]
fn fault_35_a_start_that_keeps_failing_is_told_and_tried_again() {
    within(PATIENCE, "fault_35_a_start_that_keeps_failing_is_told_and_tried_again", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let (forbidden, hangs) = (format!("{}.forbidden", counts.path()), format!("{}.hangs", counts.path()));
        let builders: [(&str, Builder<Tally>); 2] = [
            ("forbidden", Tally::bridge_unless(&counts.path(), &forbidden)),
            // The timeout also applies to the constructor.
            ("hangs", Tally::bridge_behind(&counts.path(), &hangs, &gate.path()).timeout(SHORT)),
        ];
        for (what, builder) in builders {
            let (sender, events) = mpsc::channel();
            let builder = builder.on_event(move |event| drop(sender.send(event.clone())));
            let tally = builder.restart(Restart::on_failure()).start().expect("the bridge starts");
            let path = format!("{}.{what}", counts.path());
            std::fs::write(&path, "").expect("a file in the directory of the test");
            kill_child_of(&tally);
            assert!(eventually(60, "the death is noticed", || !tally.is_alive()));
            // The call fails at its timeout; without one, as soon as it is clear that there is no child yet.
            let down = tally.calls();
            assert!(matches!(down, Err(CallError::Down { restarting: true, .. })), "{what}: {down:?}");
            for _ in 0..7 {
                assert!(eventually(60, "another attempt", || {
                    matches!(events.recv_timeout(LONG), Ok(Event::NotRestarted { .. }))
                }));
            }
            let text = tally.with_timeout(SHORT).calls().expect_err("there is no child").to_string();
            assert!(text.contains("the last start failed"), "{text}");
            std::fs::remove_file(&path).expect("it is there");
            wait_for(&tally, 1);
            assert_eq!(tally.with_timeout(TIMELY).calls(), Ok(0), "{what}");
        }
    });
}

#[test]
fn fault_35_waits_begin_anew_after_a_child_that_answered() {
    within(PATIENCE, "fault_35_waits_begin_anew_after_a_child_that_answered", || {
        let counts = Counts::new();
        let day = Duration::from_secs(86_400);
        let tally = counts.tally().restart(Restart::on_failure().backoff(day, day)).start().expect("the bridge starts");
        for generation in 1..=5 {
            assert_eq!(tally.count(generation), Ok(1));
            kill_child_of(&tally);
            wait_for(&tally, generation);
        }
        kill_child_of(&tally);
        assert!(eventually(60, "its end", || !tally.is_alive()));
        let outcome = tally.with_timeout(SHORT).calls();
        assert!(matches!(outcome, Err(CallError::Down { restarting: true, .. })), "{outcome:?}");
        // An explicit restart does not wait.
        assert_eq!((tally.restart(), tally.calls()), (Ok(()), Ok(0)));
    });
}

/// Or a method that calls back and dies would have its child replaced for ever, without a wait.
#[test]
fn a_child_that_has_only_called_back_has_answered_nothing() {
    within(PATIENCE, "a_child_that_has_only_called_back_has_answered_nothing", || {
        let counts = Counts::new();
        let day = Duration::from_secs(86_400);
        let tally = counts.tally().restart(Restart::on_failure().backoff(day, day)).start().expect("the bridge starts");
        assert_eq!(tally.count(1), Ok(1));
        kill_child_of(&tally);
        wait_for(&tally, 1);
        let mut asked = 0;
        let outcome = tally.die_asking(&mut || asked += 1);
        assert!(matches!(outcome, Err(CallError::Died { started: Started::Yes, .. })), "{outcome:?}");
        assert_eq!(asked, 2);
        assert!(eventually(60, "its end", || !tally.is_alive()));
        let outcome = tally.with_timeout(SHORT).calls();
        assert!(matches!(outcome, Err(CallError::Down { restarting: true, .. })), "{outcome:?}");
    });
}

#[test]
fn fault_35_a_restart_that_is_asked_for_comes_at_once_whatever_the_child_is_at() {
    within(PATIENCE, "fault_35_a_restart_that_is_asked_for", || {
        let counts = Counts::new();
        let (sender, deaths) = mpsc::channel();
        let tally = counts.tally().restart(Restart::on_failure().at_most(1).spare(true));
        let tally = tally.on_death(move |death| drop(sender.send(death.clone()))).start().expect("the bridge starts");
        for generation in 1..=4 {
            let (before, gate) = (tally.child_pid(), Gate::new());
            let pending = tally.begin().wait_at(&gate.path());
            gate.wait_for_child();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| tally.count(generation));
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(tally.restart(), Ok(()));
                assert_eq!(waiting.join().expect("no panic"), Ok(1), "it was made again");
            });
            let outcome = pending.wait();
            assert!(matches!(outcome, Err(CallError::Died { started: Started::Yes, .. })), "{outcome:?}");
            assert_eq!((tally.generation(), process_exists(before)), (generation, false));
            let death = deaths.recv_timeout(LONG).expect("it is told");
            assert!(death.asked && death.to_string().contains("was told to restart"), "{death}");
        }
        // Requested restarts do not count towards `at_most`.
        kill_child_of(&tally);
        wait_for(&tally, 5);
        kill_child_of(&tally);
        assert!(eventually(60, "the end", || matches!(tally.calls(), Err(CallError::Down { restarting: false, .. }))));
        let text = tally.calls().expect_err("there is no child").to_string();
        assert!(text.contains("Restart::at_most"), "{text}");
        assert_eq!((tally.restart(), tally.calls(), tally.generation()), (Ok(()), Ok(0), 6));
        tally.kill();
        assert!(matches!(tally.restart(), Err(CallError::Stopped { .. })));
        let plain = counts.tally().start().expect("the bridge starts");
        let text = plain.restart().expect_err("nothing is kept").to_string();
        assert!(text.contains("Builder::restart"), "{text}");
    });
}

#[test]
fn fault_35_a_restart_replaces_a_child_that_hangs_while_it_rises() {
    within(PATIENCE, "fault_35_a_restart_replaces_a_child_that_hangs_while_it_rises", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let hangs = format!("{}.hangs", counts.path());
        let tally = Tally::bridge_behind(&counts.path(), &hangs, &gate.path()).restart(Restart::on_failure());
        let tally = tally.start().expect("the bridge starts");
        std::fs::write(&hangs, "").expect("a file in the directory of the test");
        kill_child_of(&tally);
        gate.wait_for_child();
        std::fs::remove_file(&hangs).expect("it is there");
        assert_eq!((tally.restart(), tally.calls()), (Ok(()), Ok(0)));
    });
}

#[test]
fn fault_35_what_happens_is_told_in_its_order() {
    within(PATIENCE, "fault_35_what_happens_is_told_in_its_order", || {
        let counts = Counts::new();
        let (sender, events) = mpsc::channel();
        let tally = counts.tally().restart(Restart::on_failure().at_most(1)).on_event(|_| panic!("a hook that panics"));
        let tally = tally.on_event(move |event| drop(sender.send(event.clone()))).start().expect("the bridge starts");
        let first = tally.child_pid();
        timed_out(tally.with_timeout(SHORT).spin());
        wait_for(&tally, 1);
        let second = kill_child_of(&tally);
        let told = || events.recv_timeout(LONG).expect("something happens");
        assert_eq!(told(), Event::Started { service: "Tally", pid: first });
        let event = told();
        assert!(
            matches!(event, Event::TimedOut { pid, started: Started::Yes, timeout: SHORT, .. } if pid == first),
            "{event}"
        );
        let event = told().to_string();
        assert!(event.contains("`Tally::spin` had outlived its timeout"), "{event}");
        assert_eq!(told(), Event::Restarted { service: "Tally", pid: second, generation: 1 });
        let event = told();
        assert!(matches!(&event, Event::Died(death) if !death.restarting && death.overdue.is_none()), "{event}");
        let event = told();
        assert!(matches!(event, Event::GaveUp { .. }), "{event}");
        tally.kill();
        assert!(events.recv_timeout(LONG).is_err(), "the hook is gone with the bridge");
    });
}

#[test]
fn fault_35_nothing_is_left_of_a_bridge_whose_children_hang() {
    alone("fault_35_nothing_is_left_of_a_bridge_whose_children_hang", PATIENCE, || {
        let counts = Counts::new();
        let before = Held::now().with_watcher();
        for spare in [false, true] {
            let tally =
                counts.tally().stop_grace(SHORT).restart(Restart::on_failure().spare(spare)).start().expect("a start");
            for _ in 0..3 {
                timed_out(tally.with_timeout(SHORT / 3).spin());
                assert_eq!(tally.len(&[1; 1 << 20]), Ok(1 << 20));
            }
            timed_out(tally.with_timeout(SHORT / 3).spin());
            drop(tally);
        }
        before.again("bridges whose children hung");
    });
}

// ---- the end of the bridge -----------------------------------------------------------------------------------------

#[test]
fn a_bridge_that_was_stopped_or_killed_stays_so() {
    within(PATIENCE, "a_bridge_that_was_stopped_or_killed_stays_so", || {
        let counts = Counts::new();
        for stop in [
            |tally: &Bridge<Tally>| assert!(tally.stop().is_ok()),
            |tally: &Bridge<Tally>| assert_eq!(tally.kill(), Exit::Signal(9)),
        ] {
            let tally =
                counts.tally().restart(always().spare(true).calls_wait(true)).start().expect("the bridge starts");
            stop(&tally);
            for outcome in [tally.calls().map(|_| ()), tally.begin().calls().wait().map(|_| ())] {
                assert!(matches!(outcome, Err(CallError::Stopped { started: Started::No, .. })), "{outcome:?}");
            }
            assert_eq!((tally.generation(), tally.is_alive()), (0, false));
        }
    });
}

#[test]
fn stopping_does_not_wait_for_a_constructor_that_hangs() {
    within(PATIENCE, "stopping_does_not_wait_for_a_constructor_that_hangs", || {
        let (counts, gate) = (Counts::new(), Gate::new());
        let hangs = format!("{}.hangs", counts.path());
        let tally = Tally::bridge_behind(&counts.path(), &hangs, &gate.path()).restart(always().calls_wait(true));
        let tally = tally.start().expect("the bridge starts");
        std::fs::write(&hangs, "").expect("a file in the directory of the test");
        kill_child_of(&tally);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| tally.count(1));
            gate.wait_for_child();
            let begin = Instant::now();
            assert!(matches!(tally.stop(), Err(CallError::Died { .. })));
            assert!(begin.elapsed() < LONG);
            let outcome = waiting.join().expect("no panic");
            assert!(matches!(outcome, Err(CallError::Stopped { .. } | CallError::Died { .. })), "{outcome:?}");
        });
        assert_eq!(counts.of(1), 0);
    });
}

#[test]
fn nothing_is_left_of_a_bridge_that_restarted() {
    alone("nothing_is_left_of_a_bridge_that_restarted", PATIENCE, || {
        let counts = Counts::new();
        let before = Held::now().with_watcher();
        for (spare, deaths) in [(false, 0), (true, 0), (false, 3), (true, 3)] {
            let tally = counts.tally().restart(always().spare(spare).calls_wait(true)).start().expect("a start");
            for generation in 0..deaths {
                kill_child_of(&tally);
                wait_for(&tally, generation + 1);
                assert_eq!(tally.len(&[1; 1 << 20]), Ok(1 << 20));
            }
            drop(tally);
        }
        // A bridge dropped during the start of its next child, at different points of that start.
        for delay in 0..20 {
            let tally = counts.tally().restart(always().spare(delay % 2 == 0)).start().expect("a start");
            kill_child_of(&tally);
            std::thread::sleep(Duration::from_micros(delay * 150));
            drop(tally);
        }
        before.again("bridges that restarted");
    });
}

// ---- everything at once --------------------------------------------------------------------------------------------

/// Every call has one outcome, and the file shows whether it is the right one.
#[test]
fn under_load_no_call_runs_twice_and_none_that_is_said_not_to_have_started_ran() {
    within(PATIENCE, "under_load_no_call_runs_twice_and_none_that_is_said_not_to_have_started_ran", || {
        const THREADS: u64 = 4;
        const KILLS: u64 = 60;
        let counts = Counts::new();
        let deaths = Arc::new(AtomicU64::new(0));
        let seen = deaths.clone();
        let tally = counts.tally().wait(Wait::Adaptive).restart(always().spare(true).calls_wait(true)).on_death(
            move |_: &Death| {
                seen.fetch_add(1, Ordering::Relaxed);
            },
        );
        let tally = tally.start().expect("the bridge starts");
        let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        let outcome = tally.count(id);
                        outcomes.lock().expect("no panic").push((id, outcome));
                    }
                });
            }
            for generation in 0..KILLS {
                std::thread::sleep(Duration::from_micros(500 + generation * 37 % 3000));
                kill_child_of(&tally);
                wait_for(&tally, generation + 1);
            }
            done.store(true, Ordering::Relaxed);
        });
        let outcomes = outcomes.into_inner().expect("no panic");
        assert_eq!(outcomes.len() as u64, next.into_inner());
        let (mut good, mut lost) = (0, 0);
        for (id, outcome) in outcomes {
            let counted = counts.of(id);
            match outcome {
                Ok(1) => {
                    assert_eq!(counted, 1, "call {id}");
                    good += 1;
                }
                Err(CallError::Died { started: Started::Yes, .. }) => {
                    assert!(counted <= 1, "call {id} ran {counted} times");
                    lost += 1;
                }
                other => panic!("call {id}: {other:?}, and it ran {counted} times"),
            }
        }
        println!("{good} calls answered, {lost} lost in {} deaths", deaths.load(Ordering::Relaxed));
        assert!(good > 0 && deaths.load(Ordering::Relaxed) == KILLS);
    });
}

#[test]
fn options_out_of_range_are_refused() {
    let counts = Counts::new();
    let error = counts.tally().restart(Restart::on_death().at_most(0)).start().expect_err("no restart at all");
    assert!(matches!(error, StartError::Option { option: "Restart::at_most", .. }), "{error}");
    let error = counts.tally().restart(Restart::on_death().within(Duration::ZERO)).start().expect_err("no limit");
    assert!(matches!(error, StartError::Option { option: "Restart::within", .. }), "{error}");
}
