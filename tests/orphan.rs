//! A child never outlives its parent, however the parent ends. It does outlive the thread that started it, and survives what a terminal does to its
//! parent.

#![allow(unreachable_pub)] // Services are written as users write them.

mod support;

use callgate::{Bridge, CallError, Exit, Output, TerminalSignals, bridge};
use nix::pty::openpty;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{Pid, Uid, getpgid, getsid};
use rustix::process::set_parent_process_death_signal;
use std::fs::File;
use std::hint::black_box;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::{Helper, eventually, is_stopped, process_exists, role, say, within};

callgate::test_support!();

const PATIENCE: u64 = 120;

/// Seconds that a child may outlive its parent. The promise is one; a busy machine gets more.
const GONE_WITHIN: u64 = 5;

/// The user `nobody` on most systems; any number but root's would do.
const NOBODY: u32 = 65_534;

/// A child that does things which keep it from noticing its parent's death.
struct Stubborn;

#[bridge]
impl Stubborn {
    pub fn new() -> Self {
        Stubborn
    }

    /// A constructor that never returns.
    pub fn with_eternity() -> Self {
        say("child", std::process::id());
        sleep_forever()
    }

    /// When a process changes its user, the kernel clears its request to be killed with the parent.
    pub fn change_user(&self) {
        let nobody = Uid::from_raw(NOBODY);
        nix::unistd::setresuid(nobody, nobody, nobody).expect("root may become anybody");
    }

    pub fn clear_death_signal(&self) {
        set_parent_process_death_signal(None).expect("it can always be cleared");
    }

    pub fn spin(&self) {
        say("busy", "spinning");
        let mut turns = 0_u64;
        loop {
            turns = black_box(turns.wrapping_add(1));
        }
    }

    pub fn sleep(&self) {
        say("busy", "sleeping");
        sleep_forever()
    }

    pub fn print(&self, line: &str) {
        rustix::io::write(rustix::stdio::stdout(), line.as_bytes()).expect("standard output");
    }

    /// Starts a process, ends it, and returns its session.
    pub fn start_another(&self) -> i32 {
        let mut another = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().expect("a process");
        let session = getsid(Some(Pid::from_raw(another.id() as i32))).expect("a session");
        another.kill().and_then(|()| another.wait()).expect("its end");
        session.as_raw()
    }
}

fn sleep_forever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// What the parent and the child do before the parent ends.
struct Case {
    role: &'static str,
    /// The child is in a call, and reports it.
    busy: bool,
    /// The child is stopped before the parent ends.
    stopped: bool,
    needs_root: bool,
}

const CASE: Case = Case { role: "idle", busy: false, stopped: false, needs_root: false };

const CASES: &[Case] = &[
    CASE,
    Case { stopped: true, ..CASE },
    Case { role: "call sleep", busy: true, ..CASE },
    Case { role: "call spin", busy: true, ..CASE },
    Case { role: "call spin", busy: true, stopped: true, ..CASE },
    Case { role: "constructor", ..CASE },
    Case { role: "user idle", needs_root: true, ..CASE },
    Case { role: "user call spin", busy: true, needs_root: true, ..CASE },
    Case { role: "deaf idle", ..CASE },
    Case { role: "deaf call sleep", busy: true, ..CASE },
    Case { role: "deaf call spin", busy: true, ..CASE },
];

#[test]
fn fault_15_child_is_gone_soon_after_its_parent_is_killed() {
    within(PATIENCE, "killed parents", || {
        for Case { role, busy, stopped, needs_root } in CASES {
            if *needs_root && !Uid::effective().is_root() {
                println!("skipped, as it takes root: {role}");
                continue;
            }
            let mut parent = Helper::start("helper_parent", role);
            let child: u32 = parent.hear("child").parse().expect("a process number");
            if *busy {
                parent.hear("busy");
            }
            if *stopped {
                kill(Pid::from_raw(child as i32), Signal::SIGSTOP).expect("the child is there");
                assert!(eventually(30, "the child stops", || is_stopped(child)));
            }
            assert!(process_exists(child), "{role}: the child lives while its parent does");
            parent.kill();
            assert!(eventually(GONE_WITHIN, "the child is gone", || !process_exists(child)), "{role}");
        }
    });
}

#[test]
fn fault_15_child_is_gone_soon_after_its_parent_ends_by_itself() {
    within(PATIENCE, "parents that end", || {
        for role in ["exits", "aborts", "becomes another program", "deaf and exits", "deaf and becomes another program"]
        {
            let mut parent = Helper::start("helper_parent", role);
            let child: u32 = parent.hear("child").parse().expect("a process number");
            assert!(eventually(GONE_WITHIN, "the child is gone", || !process_exists(child)), "{role}");
        }
    });
}

#[test]
fn helper_parent() {
    let Some(role) = role() else { return };
    if role == "constructor" {
        let _unreached = Stubborn::bridge_with_eternity().start();
    }
    let stubborn = Stubborn::bridge().start().expect("the bridge starts");
    let child = stubborn.child_pid();
    if role.starts_with("user") {
        stubborn.change_user().expect("the child lives");
    }
    if role.starts_with("deaf") {
        stubborn.clear_death_signal().expect("the child lives");
    }
    say("child", child);
    live_on(&role, &stubborn)
}

fn live_on(role: &str, stubborn: &Bridge<Stubborn>) {
    if role.ends_with("call spin") {
        let _ = stubborn.spin();
    } else if role.ends_with("call sleep") {
        let _ = stubborn.sleep();
    } else if role.ends_with("idle") {
        sleep_forever();
    } else if role.ends_with("exits") {
        // Exits without dropping the bridge.
        std::process::exit(0);
    } else if role.ends_with("aborts") {
        std::process::abort();
    } else if role.ends_with("becomes another program") {
        let error = Command::new("sleep").arg("3600").exec();
        panic!("sleep: {error}");
    }
    panic!("nothing more to do as `{role}`");
}

// ---- threads -------------------------------------------------------------------------------------------------------

struct Counter {
    total: u64,
}

#[bridge]
impl Counter {
    pub fn new() -> Self {
        Counter { total: 0 }
    }

    pub fn add(&mut self, n: u64) -> u64 {
        self.total += n;
        self.total
    }
}

#[test]
fn fault_16_child_lives_on_when_the_thread_that_started_it_exits() {
    within(PATIENCE, "threads that exit", || {
        for round in 0..10 {
            let starter = std::thread::spawn(|| {
                let counter = Counter::bridge().start().expect("the bridge starts");
                assert_eq!(counter.add(1), Ok(1));
                counter
            });
            let counter = starter.join().expect("no panic");
            // If the child dies with the thread, it does so when the kernel reaps the thread, a moment after `join`.
            std::thread::sleep(Duration::from_millis(50));
            assert!(counter.is_alive(), "round {round}");
            assert_eq!(counter.add(1), Ok(2), "round {round}");
        }
    });
}

// ---- pid namespaces ------------------------------------------------------------------------------------------------

/// Runs `program` as the first process of a new pid namespace, as in a container. Its session and group lie outside, so they have the number 0
/// there. `None` where this process may not create such a namespace.
fn in_pid_namespace(program: &Command) -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--pid", "--fork", "--kill-child"]);
        command
    };
    unshare().arg("true").status().ok().filter(|status| status.success())?;
    let mut command = unshare();
    command.arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
    Some(command)
}

#[test]
fn helper_in_a_pid_namespace() {
    let Some(_) = role() else { return };
    assert_eq!((std::process::id(), getsid(None).expect("a session").as_raw()), (1, 0));
    let counter = Counter::bridge().start().expect("the bridge starts");
    assert_eq!(counter.add(2), Ok(2));
    assert_eq!(Counter::bridge().signals(TerminalSignals::Shared).start().expect("a start").add(3), Ok(3));
    say("done", "");
}

#[test]
fn fault_34_a_program_whose_session_lies_outside_of_its_pid_namespace_has_children() {
    within(PATIENCE, "a pid namespace", || {
        let Some(mut command) = in_pid_namespace(&support::helper("helper_in_a_pid_namespace", "first")) else {
            return println!("skipped: this process may make no pid namespace");
        };
        let mut first = Helper::of(&mut command).expect("the helper starts");
        first.hear("done");
        assert!(first.wait().expect("its end").success());
    });
}

// ---- terminals -----------------------------------------------------------------------------------------------------

/// A terminal, and a helper process that has it to itself: the leader of its session, in the foreground.
struct Terminal {
    /// Receives what is typed; closing it hangs up the terminal.
    keyboard: OwnedFd,
    helper: Helper,
}

impl Terminal {
    fn start(role: &str) -> Self {
        let pty = openpty(None, None).expect("a terminal");
        for end in [&pty.master, &pty.slave] {
            // The helper opens its own end, and must not inherit these.
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).expect("a descriptor");
        }
        let screen = std::fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).expect("its path");
        let mut command = support::helper("helper_at_a_terminal", role);
        let helper = Helper::of(command.env(SCREEN, screen)).expect("the helper starts");
        let mut terminal = Self { keyboard: pty.master, helper };
        terminal.helper.hear("ready");
        drop(pty.slave);
        terminal
    }

    fn press(&self, key: u8) {
        assert_eq!(rustix::io::write(&self.keyboard, &[key]), Ok(1));
    }
}

/// The environment variable with the path of a helper process's terminal.
const SCREEN: &str = "CALLGATE_TEST_SCREEN";

const CTRL_C: u8 = 3;
const CTRL_BACKSLASH: u8 = 28;
const CTRL_Z: u8 = 26;

/// The last signal that this process handled, and the number handled so far.
static HANDLED: (AtomicU32, AtomicU32) = (AtomicU32::new(0), AtomicU32::new(0));

extern "C" fn handle(number: i32) {
    HANDLED.0.store(number as u32, Ordering::Relaxed);
    HANDLED.1.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn helper_at_a_terminal() {
    let Some(role) = role() else { return };
    rustix::process::setsid().expect("a session");
    let screen = File::options().read(true).write(true).open(std::env::var_os(SCREEN).expect("a terminal"));
    let screen = screen.expect("the first terminal that a session opens is its own");
    for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP] {
        // SAFETY: the handler changes only atomics.
        unsafe { signal(number, SigHandler::Handler(handle)) }.expect("a handler");
    }
    match &*role {
        "storm" => start_in_a_storm(),
        "shared" => share(screen),
        _ => live_at(screen),
    }
}

/// Reports which signals arrive, and whether the child still answers after each.
fn live_at(screen: File) {
    let mut settings = tcgetattr(&screen).expect("settings");
    settings.local_flags |= LocalFlags::TOSTOP;
    tcsetattr(&screen, SetArg::TCSANOW, &settings).expect("settings");
    let stubborn = Stubborn::bridge().stdout(screen).start().expect("the bridge starts");
    assert_eq!(stubborn.start_another(), Ok(stubborn.child_pid() as i32));
    // From the background of a terminal that stops background processes when they print.
    stubborn.print("a line").expect("the child lives");
    say("child", stubborn.child_pid());
    say("ready", "");
    for count in 1.. {
        while HANDLED.1.load(Ordering::Relaxed) < count {
            std::thread::sleep(Duration::from_millis(5));
        }
        say("signal", HANDLED.0.load(Ordering::Relaxed));
        let counter = Counter::bridge().start().expect("another bridge starts");
        let answers = (stubborn.start_another().is_ok(), counter.add(1));
        say("answers", format!("{answers:?} {}", is_stopped(stubborn.child_pid())));
    }
}

#[test]
fn fault_34_children_survive_what_a_terminal_sends_and_end_with_their_parent() {
    within(PATIENCE, "a terminal's signals", || {
        let Terminal { keyboard, mut helper } = Terminal::start("isolated");
        let terminal = |key| assert_eq!(rustix::io::write(&keyboard, &[key]), Ok(1));
        let signals = [(CTRL_C, Signal::SIGINT), (CTRL_BACKSLASH, Signal::SIGQUIT), (CTRL_Z, Signal::SIGTSTP)];
        for (key, signal) in signals.into_iter().chain(signals) {
            terminal(key);
            assert_eq!(helper.hear("signal"), (signal as i32).to_string());
            assert_eq!(helper.hear("answers"), "(true, Ok(1)) false", "{signal}");
        }
        drop(keyboard);
        assert_eq!(helper.hear("signal"), (Signal::SIGHUP as i32).to_string());
        assert_eq!(helper.hear("answers"), "(true, Ok(1)) false", "hung up");
        let children = support_children(helper.pid());
        assert!(!children.is_empty(), "no child was found");
        helper.kill();
        assert!(eventually(GONE_WITHIN, "the children are gone", || !children.iter().any(|&pid| process_exists(pid))));
    });
}

/// The children of process `pid`, whichever of its threads started them.
fn support_children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// One child shares its parent's fate, and another does not.
fn share(_screen: File) {
    let start = |signals| Stubborn::bridge().signals(signals).stdout(Output::null()).start().expect("a start");
    let [shared, isolated] = [TerminalSignals::Shared, TerminalSignals::Isolated].map(start);
    let group = |bridge: &Bridge<Stubborn>| getpgid(Some(Pid::from_raw(bridge.child_pid() as i32)));
    assert_eq!(group(&shared), getpgid(None));
    assert_ne!(group(&isolated), getpgid(None));
    say("ready", "");
    let Err(CallError::Died { exit, .. }) = shared.sleep() else { panic!("it went on") };
    assert_eq!(exit, Exit::Signal(Signal::SIGINT as i32));
    assert!(isolated.start_another().is_ok());
    say("shared", "as it was to be");
    sleep_forever()
}

#[test]
fn fault_34_a_child_shares_its_parents_signals_if_it_is_to() {
    within(PATIENCE, "shared signals", || {
        let mut terminal = Terminal::start("shared");
        std::thread::sleep(Duration::from_millis(50));
        terminal.press(CTRL_C);
        terminal.helper.hear("shared");
    });
}

fn start_in_a_storm() {
    say("ready", "");
    for number in 0..30 {
        let counter = Counter::bridge().start().unwrap_or_else(|error| panic!("start {number}: {error}"));
        assert_eq!(counter.add(number), Ok(number));
    }
    assert!(HANDLED.1.load(Ordering::Relaxed) > 30, "no storm: {HANDLED:?}");
    say("calm", "");
    sleep_forever()
}

#[test]
fn fault_34_starts_go_well_while_somebody_keeps_ctrl_c_pressed() {
    within(PATIENCE, "a storm of signals", || {
        let Terminal { keyboard, mut helper } = Terminal::start("storm");
        let calm = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !calm.load(Ordering::Relaxed) {
                    let _ = rustix::io::write(&keyboard, &[CTRL_C, CTRL_BACKSLASH, CTRL_Z]);
                    std::thread::sleep(Duration::from_micros(200));
                    // Discards what the terminal echoes.
                    let _ = rustix::io::ioctl_fionread(&keyboard)
                        .map(|len| rustix::io::read(&keyboard, &mut vec![0; len as usize]));
                }
            });
            helper.hear("calm");
            calm.store(true, Ordering::Relaxed);
        });
    });
}
