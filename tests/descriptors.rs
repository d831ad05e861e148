//! Promise: a child has descriptors 0, 1, 2 and its control socket, and those that it is woken through, whatever its parent had
//! open; 0 is `/dev/null`, and 1 and 2 are the parent's or what the builder says.

use callgate::{Bridge, Builder, Output, bridge};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

#[path = "support/held.rs"]
mod held;
mod support;
use held::{Held, alone};
use support::{TempDir, eventually, open_descriptors, within};

callgate::test_support!();

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    /// What the guest's standard input holds.
    pub(crate) fn read_stdin(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
    }

    pub(crate) fn print(&self, out: &str, err: &str) {
        // Not `print!`, which the harness may capture.
        rustix::io::write(rustix::stdio::stdout(), out.as_bytes()).expect("standard output");
        rustix::io::write(rustix::stdio::stderr(), err.as_bytes()).expect("standard error");
    }

    pub(crate) fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    /// The descriptors of a process that the guest starts.
    pub(crate) fn grandchild(&self) -> Result<Vec<String>, String> {
        let sleeper = Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut sleeper = sleeper.map_err(|error| error.to_string())?;
        // It may have files of its own open while it comes up; what it was left stays.
        let mut descriptors = open_descriptors(sleeper.id());
        for _ in 0..100 {
            if descriptors.len() <= 3 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            descriptors = open_descriptors(sleeper.id());
        }
        sleeper.kill().and_then(|()| sleeper.wait()).map_err(|error| error.to_string())?;
        Ok(descriptors)
    }
}

/// What descriptor `number` of process `pid` refers to.
fn descriptor(pid: u32, number: u32) -> String {
    std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
        .map_or_else(|error| error.to_string(), |path| path.display().to_string())
}

/// Fails unless the guest has just what it should; `out` and `err` are what its 1 and 2 refer to.
#[track_caller]
fn check(guest: &Bridge<Guest>, out: &str, err: &str) {
    let pid = guest.child_pid();
    assert_eq!(["/dev/null", out, err], [0, 1, 2].map(|number| descriptor(pid, number)));
    let mut rest = open_descriptors(pid);
    for known in ["/dev/null", out, err] {
        let at = rest.iter().position(|target| target == known).expect("found above");
        rest.remove(at);
    }
    let eventfds = rest.iter().filter(|target| *target == "anon_inode:[eventfd]").count();
    assert_eq!(eventfds, shared_with(guest), "beside 0, 1 and 2: {rest:?}");
    rest.retain(|target| target != "anon_inode:[eventfd]");
    assert!(matches!(&rest[..], [socket] if socket.starts_with("socket:")), "beside 0, 1 and 2: {rest:?}");
}

/// How many descriptors the guest shares with its parent for its doorbells: one for each lane, or none.
fn shared_with(guest: &Bridge<Guest>) -> usize {
    if guest.doorbell_fd().is_some() { LANES } else { 0 }
}

/// Unless the builder says otherwise.
const LANES: usize = 8;

/// What 1 and 2 of this process refer to.
fn own() -> (String, String) {
    (descriptor(std::process::id(), 1), descriptor(std::process::id(), 2))
}

fn start(builder: Builder<Guest>) -> Bridge<Guest> {
    builder.start().expect("the guest starts")
}

/// Copies of descriptor 0 from `least` on, which every process that is started inherits.
fn inheritable(least: &[i32]) -> Vec<OwnedFd> {
    let copy = |&least: &i32| {
        let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), least)?;
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
        Ok(copy)
    };
    least.iter().map(copy).collect::<rustix::io::Result<_>>().expect("copies")
}

#[test]
fn fault_18_nothing_is_inherited() {
    within(60, "fault_18_nothing_is_inherited", || {
        let opened = inheritable(&[3, 3, 4, 100, 100, 1000, 1023]);
        let (out, err) = own();
        let guest = start(Guest::bridge());
        check(&guest, &out, &err);
        drop(opened);
        check(&guest, &out, &err);
    });
}

#[test]
fn fault_18_bridges_started_at_the_same_time_inherit_nothing_of_each_other() {
    within(60, "fault_18_bridges_started_at_the_same_time_inherit_nothing_of_each_other", || {
        const AT_ONCE: usize = 8;
        let (started, (out, err)) = (Barrier::new(AT_ONCE), own());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let _opened = inheritable(&[3]);
                    let guest = start(Guest::bridge());
                    started.wait();
                    check(&guest, &out, &err);
                });
            }
        });
    });
}

#[test]
fn payloads_of_any_size_leave_no_descriptor() {
    within(60, "payloads_of_any_size_leave_no_descriptor", || {
        let (out, err) = own();
        let guest = start(Guest::bridge());
        for len in [1, 1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 12] {
            assert_eq!(guest.echo(&vec![7; len]).expect("an echo").len(), len);
            // The child may have answered before it closed the descriptor of the memory that it had been given.
            assert!(
                eventually(10, "closing it", || open_descriptors(guest.child_pid()).len() == 4 + shared_with(&guest))
            );
            check(&guest, &out, &err);
        }
    });
}

#[test]
fn standard_input_is_empty() {
    within(60, "standard_input_is_empty", || {
        let guest = start(Guest::bridge());
        assert_eq!(guest.read_stdin(), Ok(Ok(Vec::new())));
    });
}

#[test]
fn output_goes_where_the_builder_says() {
    within(60, "output_goes_where_the_builder_says", || {
        let (dir, (out, err)) = (TempDir::new(), own());
        let [out_file, err_file] = ["out", "err"].map(|name| dir.path().join(name));
        let file = |path| File::create(path).expect("a new file");
        let [out_name, err_name] = [&out_file, &err_file].map(|path| path.display().to_string());

        let cases: [(Builder<Guest>, &str, &str); 4] = [
            (Guest::bridge(), &out, &err),
            (Guest::bridge().stdout(file(&out_file)), &out_name, &err),
            (Guest::bridge().stderr(file(&err_file)), &out, &err_name),
            (Guest::bridge().stdout(Output::null()).stderr(Output::null()), "/dev/null", "/dev/null"),
        ];
        for (builder, out, err) in cases {
            check(&start(builder), out, err);
        }

        let guest = start(Guest::bridge().stdout(file(&out_file)).stderr(file(&err_file)));
        guest.print("to the one", "to the other").expect("the guest prints");
        let read = |path| std::fs::read_to_string(path).expect("a file");
        assert_eq!((read(&out_file), read(&err_file)), ("to the one".into(), "to the other".into()));
    });
}

#[test]
fn fault_18_a_grandchild_gets_0_1_and_2_only() {
    within(60, "fault_18_a_grandchild_gets_0_1_and_2_only", || {
        let guest = start(Guest::bridge());
        assert_eq!(guest.grandchild(), Ok(Ok(vec!["/dev/null".into(); 3])));
    });
}

#[test]
fn the_parent_keeps_few_descriptors_for_a_bridge() {
    alone("the_parent_keeps_few_descriptors_for_a_bridge", 60, || {
        let first = start(Guest::bridge()); // with it comes the watcher
        // Process and control socket; with eventfds, also those, the one that tells of the end, and the epoll set of them all.
        let kept = if first.doorbell_fd().is_some() { 2 + LANES + 2 } else { 2 };
        let held = || open_descriptors(std::process::id()).len();
        let before = held();
        let guests: Vec<_> = (0..5).map(|_| start(Guest::bridge())).collect();
        assert_eq!(held(), before + kept * guests.len());
        drop(guests);
        assert!(eventually(10, "closing them", || held() == before), "{} before, then {}", before, held());
    });
}

#[test]
fn a_parent_may_lack_standard_descriptors() {
    alone("a_parent_may_lack_standard_descriptors", 60, || {
        let _first = start(Guest::bridge()); // with it comes the watcher
        for last in 0..=2 {
            // SAFETY: standard descriptors, which nothing owns; whoever would use them in this process finds them closed.
            let kept: Vec<_> = (0..=last).map(|number| (number, unsafe { closed(number) })).collect();
            let held = Held::now();
            let works = Guest::bridge().start().map(|guest| guest.echo(b"still").map(|bytes| bytes == b"still"));
            held.again("a bridge whose control socket may be one of 0, 1 and 2");
            for (number, copy) in &kept {
                // SAFETY: `number` is closed, so nothing is lost.
                assert_eq!(unsafe { nix::libc::dup2(std::os::fd::AsRawFd::as_raw_fd(copy), *number) }, *number);
            }
            assert!(matches!(works, Ok(Ok(true))), "with 0 to {last} closed: {works:?}");
        }
    });
}

/// Closes a standard descriptor; returns a copy of it.
///
/// # Safety
///
/// Nothing may own it.
unsafe fn closed(number: i32) -> OwnedFd {
    // SAFETY: standard descriptors are open in a process that has just started; the borrow ends before it is closed.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let copy = rustix::io::fcntl_dupfd_cloexec(borrowed, 10).expect("a copy");
    // SAFETY: the caller's duty.
    unsafe { nix::libc::close(number) };
    copy
}
