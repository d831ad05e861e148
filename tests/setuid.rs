//! Promise: a program that runs with more rights than its caller takes no orders from the caller. A child obeys its parent, so a setuid program must
//! not become the child of an ordinary user's process, nor run its `main` instead.

mod support;

use callgate::{Bridge, Builder, CallError, Exit, StartError, bridge};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, geteuid};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use support::{TempDir, eventually, process_exists, role, within};

callgate::test_support!();

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn user(&self) -> u32 {
        geteuid().as_raw()
    }
}

const NOBODY: u32 = 65_534;
const ROLE: &str = "attack";

/// A copy of this program that runs as root, whichever user executes it.
fn setuid_copy(dir: &TempDir) -> String {
    let copy = dir.file("setuid-copy");
    support::copy_program(&copy);
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("may be entered");
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o4755)).expect("may be executed");
    copy
}

#[test]
fn a_setuid_program_is_no_child_of_an_ordinary_users_process() {
    within(60, "a_setuid_program_is_no_child_of_an_ordinary_users_process", || {
        if !Uid::effective().is_root() {
            return println!("skipped: only root can make a program setuid root");
        }
        let dir = TempDir::new();
        let flags = statvfs(dir.path()).expect("it is there").flags();
        if flags.contains(FsFlags::ST_NOSUID) {
            return println!("skipped: the temporary directory's file system ignores setuid");
        }
        let copy = setuid_copy(&dir);
        let plain = dir.file("plain-copy");
        support::copy_program(&plain);
        std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o755)).expect("may be executed");
        let output = support::helper("attacker", ROLE)
            .env("CALLGATE_TEST_COPY", &copy)
            .env("CALLGATE_TEST_PLAIN", &plain)
            .output()
            .expect("the attacker runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

/// Executes the setuid copy as nobody, with everything that a bridge gives a child at its start.
#[test]
fn attacker() {
    if role().as_deref() != Some(ROLE) {
        return;
    }
    let copy = std::env::var("CALLGATE_TEST_COPY").expect("the copy's path");
    let executed = as_nobody(Command::new(&copy).arg("--list"));
    let (out, err) = (String::from_utf8_lossy(&executed.stdout), String::from_utf8_lossy(&executed.stderr));
    if out.contains(": test") && !err.contains("callgate") {
        panic!("it ran its main: {out}");
    }
    assert_eq!(executed.status.code(), Some(70), "{out}{err}");
    assert!(err.contains("which process started it") && err.contains("another user's"), "{err}");
    // Without the setuid bit, the same program becomes a child, and waits for a handshake. None comes: the socket closes.
    let plain = std::env::var("CALLGATE_TEST_PLAIN").expect("the copy's path");
    let executed = as_nobody(Command::new(&plain).arg("--list"));
    assert_eq!(executed.status.code(), Some(70));
    assert!(!String::from_utf8_lossy(&executed.stderr).contains("checking which process started it"));
}

/// Runs `command` as nobody. Its stdin is one end of a socket pair, and the variable names that end; the other end is closed.
fn as_nobody(command: &mut Command) -> Output {
    // The kernel records the pair's creator, so that must be nobody too.
    nix::unistd::seteuid(Uid::from_raw(NOBODY)).expect("root may be nobody");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    nix::unistd::seteuid(Uid::from_raw(0)).expect("and root again");
    let theirs = OwnedFd::from(theirs);
    let inode = std::fs::metadata(format!("/proc/self/fd/{}", theirs.as_raw_fd())).expect("it is open").ino();
    drop(ours);
    command.env("CALLGATE_CHILD", inode.to_string()).stdin(theirs).uid(NOBODY).gid(0);
    command.output().expect("it runs")
}

/// A program with the same rights as its parent becomes a child as usual.
#[test]
fn an_ordinary_program_is_a_child() {
    let guest: Bridge<Guest> = Guest::bridge().start().expect("a start");
    assert_eq!(guest.user(), Ok(geteuid().as_raw()));
}

// ---- parents that drop their rights --------------------------------------------------------------------------------

/// A service whose methods can run for ever.
struct Busy;

#[bridge]
impl Busy {
    pub(crate) fn new() -> Self {
        Busy
    }

    /// Runs for ever if there is a file at `path`.
    pub(crate) fn behind(path: &str) -> Self {
        if std::path::Path::new(path).exists() {
            Busy.spin();
        }
        Busy
    }

    pub(crate) fn answer(&self) -> u64 {
        42
    }

    pub(crate) fn spin(&self) {
        loop {
            std::hint::black_box(());
        }
    }
}

/// Runs `role` in a helper process of `test`, as root.
fn as_root(test: &str, role: &str) {
    within(120, test, || match Uid::effective().is_root() {
        true => support::play(test, role),
        false => println!("skipped: only root can become somebody else"),
    });
}

fn become_nobody() {
    nix::unistd::setresuid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY)).expect("root may");
}

fn hung(builder: Builder<Busy>) -> Bridge<Busy> {
    let busy = builder.start().expect("a start");
    assert!(busy.with_timeout(Duration::from_millis(50)).spin().is_err());
    busy
}

fn may_not_be_killed(pid: u32) {
    let killed = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), None);
    assert_eq!(killed, Err(nix::errno::Errno::EPERM));
}

#[test]
fn fault_29_a_child_ends_that_its_parent_may_no_longer_kill() {
    const TEST: &str = "fault_29_a_child_ends_that_its_parent_may_no_longer_kill";
    let Some(_) = role() else { return as_root(TEST, "drops its rights") };
    let grace = Duration::from_millis(100);
    type End = fn(Bridge<Busy>);
    let ways: [(&str, End); 4] = [
        ("kill", |busy| assert_eq!(busy.kill(), Exit::Signal(9))),
        ("stop", |busy| assert!(matches!(busy.stop(), Err(CallError::TimedOut { .. })))),
        ("drop", drop),
        ("restart and drop", |busy| drop(busy)),
    ];
    let hung: Vec<_> = ways
        .into_iter()
        .map(|(what, end)| {
            let builder = Busy::bridge().stop_grace(grace);
            (what, end, hung(if what == "restart and drop" { builder.on_death(|_| {}) } else { builder }))
        })
        .collect();
    let idle = Busy::bridge().start().expect("a start");
    become_nobody();
    for (what, end, busy) in hung {
        let pid = busy.child_pid();
        may_not_be_killed(pid);
        assert!(busy.is_alive(), "{what}");
        end(busy);
        assert!(eventually(30, what, || !process_exists(pid)), "{what}");
    }
    // A child that does not resist stops in an orderly way.
    assert_eq!(idle.answer(), Ok(42));
    assert_eq!(idle.stop(), Ok(Exit::Code(0)));
}

#[test]
fn fault_29_what_still_runs_is_not_said_to_be_gone() {
    const TEST: &str = "fault_29_what_still_runs_is_not_said_to_be_gone";
    let Some(_) = role() else { return as_root(TEST, "drops its rights") };
    let busy = Busy::bridge().start().expect("a start");
    let pid = busy.child_pid();
    // A child that a signal has stopped cannot end itself.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGSTOP)
        .expect("its own child");
    assert!(eventually(30, "the child stops", || support::is_stopped(pid)));
    // The helper forks a helper of its own, which stays root and resumes the child when told to.
    let (mut told, tell) = std::io::pipe().expect("a pipe");
    // SAFETY: the fork calls only `read`, `kill` and `_exit`, which a fork may call.
    let root = match unsafe { nix::unistd::fork() }.expect("a fork") {
        nix::unistd::ForkResult::Child => {
            drop(tell);
            let _ = std::io::Read::read(&mut told, &mut [0]);
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGCONT);
            // SAFETY: ends the fork without running the exit code of the process that it was forked from.
            unsafe { nix::libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => child,
    };
    become_nobody();
    assert_eq!(busy.kill(), Exit::Running);
    assert!(busy.is_alive() && process_exists(pid));
    assert!(!busy.answer().expect_err("it was to be killed").to_string().contains("gone"));
    drop(tell);
    nix::sys::wait::waitpid(root, None).expect("the fork's end");
    assert!(eventually(30, "its end", || !process_exists(pid)));
    assert!(eventually(30, "its end is noticed", || !busy.is_alive()));
    assert_eq!(busy.kill(), Exit::Signal(9));
}

#[test]
fn fault_29_a_start_that_fails_leaves_nothing_that_may_not_be_killed() {
    const TEST: &str = "fault_29_a_start_that_fails_leaves_nothing_that_may_not_be_killed";
    let Some(_) = role() else { return as_root(TEST, "drops its rights") };
    // The thread that starts children stays root, so the child is root's; the other threads of its parent are not root.
    let dir = TempDir::new();
    std::fs::write(dir.file("hangs"), "").expect("a file");
    drop(Busy::bridge().start().expect("a start"));
    // SAFETY: changes only the user of this thread.
    let changed = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(changed, 0);
    let begin = Instant::now();
    let error =
        Busy::bridge_behind(&dir.file("hangs")).timeout(Duration::from_millis(200)).start().expect_err("it hangs");
    let StartError::Call { error: CallError::TimedOut { pid, .. }, .. } = error else { panic!("{error}") };
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert!(eventually(30, "its end", || !process_exists(pid)));
}
