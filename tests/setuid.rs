//! Promise: a program that runs with more rights than whoever executes it takes no orders from there. A child does what its
//! parent says, so a setuid program must not become the child of an ordinary user's process, nor run its `main` instead.

mod support;

use callgate::{Bridge, bridge};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, geteuid};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use support::{TempDir, role, within};

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

/// A copy of this program that runs as root whoever executes it.
fn setuid_copy(dir: &TempDir) -> String {
    let copy = dir.file("setuid-copy");
    std::fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
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
        std::fs::copy(&copy, &plain).expect("a copy");
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

/// Executes the setuid copy as nobody, with everything that a bridge's child is started with.
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
    assert!(err.contains("whoever started it may not command it"), "{err}");
    // The same program without the bit becomes a child, and waits for a handshake that does not come: the socket closes.
    let plain = std::env::var("CALLGATE_TEST_PLAIN").expect("the copy's path");
    let executed = as_nobody(Command::new(&plain).arg("--list"));
    assert_eq!(executed.status.code(), Some(70));
    assert!(!String::from_utf8_lossy(&executed.stderr).contains("may not command it"));
}

/// Runs `command` as nobody, with one end of a socket as its stdin and the variable that names it. The other end is closed.
fn as_nobody(command: &mut Command) -> Output {
    // The kernel records who makes the pair, so that must be nobody too.
    nix::unistd::seteuid(Uid::from_raw(NOBODY)).expect("root may be nobody");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    nix::unistd::seteuid(Uid::from_raw(0)).expect("and root again");
    let theirs = OwnedFd::from(theirs);
    let inode = std::fs::metadata(format!("/proc/self/fd/{}", theirs.as_raw_fd())).expect("it is open").ino();
    drop(ours);
    command.env("CALLGATE_CHILD", inode.to_string()).stdin(theirs).uid(NOBODY).gid(0);
    command.output().expect("it runs")
}

/// A program with the rights of its parent is a child as ever.
#[test]
fn an_ordinary_program_is_a_child() {
    let guest: Bridge<Guest> = Guest::bridge().start().expect("a start");
    assert_eq!(guest.user(), Ok(geteuid().as_raw()));
}
