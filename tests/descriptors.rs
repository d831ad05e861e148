//! Promise: whatever its parent has open, a child has only descriptors 0, 1, 2, its control socket and those that wake it. Descriptor 0 is
//! `/dev/null`; 1 and 2 are the parent's or what the builder says.

use callgate::manager::{AuthKey, Manager};
use callgate::{Bridge, Builder, Output, Signal, bridge};
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

    /// What the guest reads from its standard input.
    pub(crate) fn read_stdin(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
    }

    pub(crate) fn print(&self, out: &str, err: &str) {
        // Not `print!`: the harness may capture its output.
        rustix::io::write(rustix::stdio::stdout(), out.as_bytes()).expect("standard output");
        rustix::io::write(rustix::stdio::stderr(), err.as_bytes()).expect("standard error");
    }

    /// Like `print`, repeatedly for `milliseconds`.
    pub(crate) fn print_for(&self, milliseconds: u64) {
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(milliseconds) {
            self.print("a line to the one\n", "a line to the other\n");
        }
    }

    pub(crate) fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }

    /// The descriptors of a process started by the guest.
    pub(crate) fn grandchild(&self) -> Result<Vec<String>, String> {
        let sleeper = Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut sleeper = sleeper.map_err(|error| error.to_string())?;
        // The process may have files of its own open while it starts; inherited ones would stay.
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

/// Fails unless the guest has exactly the expected descriptors; `out` and `err` are what its 1 and 2 refer to.
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
    assert_eq!(eventfds, shared_with_guest(), "beside 0, 1 and 2: {rest:?}");
    rest.retain(|target| target != "anon_inode:[eventfd]");
    assert!(matches!(&rest[..], [socket] if socket.starts_with("socket:")), "beside 0, 1 and 2: {rest:?}");
}

/// The number of descriptors that the guest shares with its parent for doorbells: the bridge's ring, and perhaps one for each lane.
fn shared_with_guest() -> usize {
    1 + if has_eventfds() { LANES } else { 0 }
}

/// Whether bridges are woken through eventfds here.
fn has_eventfds() -> bool {
    std::env::var("CALLGATE_SIGNAL").is_ok_and(|signal| signal == "eventfd")
}

/// The builder's default.
const LANES: usize = 8;

/// What 1 and 2 of this process refer to.
fn own() -> (String, String) {
    (descriptor(std::process::id(), 1), descriptor(std::process::id(), 2))
}

fn start(builder: Builder<Guest>) -> Bridge<Guest> {
    builder.start().expect("the guest starts")
}

/// Copies of descriptor 0, each numbered from a value of `least` up, and inheritable by every started process.
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
            // The child may answer before it closes the descriptor of the memory that it received.
            assert!(
                eventually(10, "closing it", || open_descriptors(guest.child_pid()).len() == 4 + shared_with_guest())
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
        let _first = start(Guest::bridge()); // with it comes the watcher
        // Process, control socket, the child's ring, and the doorbell. Eventfds add two per lane, and the one that signals the end.
        let kept = if has_eventfds() { 4 + 2 * LANES + 1 } else { 4 };
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
            // SAFETY: standard descriptors, which nothing owns; code in this process that uses them finds them closed.
            let kept: Vec<_> = (0..=last).map(|number| (number, unsafe { closed(number) })).collect();
            // The first start opens the null device in place of the closed descriptors.
            drop(Guest::bridge().start());
            let held = Held::at_rest();
            let works = Guest::bridge().start().map(|guest| guest.echo(b"still").map(|bytes| bytes == b"still"));
            held.again("a bridge whose control socket may be one of 0, 1 and 2");
            for (number, copy) in &kept {
                // SAFETY: `number` is closed or the null device, so nothing is lost.
                assert_eq!(unsafe { nix::libc::dup2(std::os::fd::AsRawFd::as_raw_fd(copy), *number) }, *number);
            }
            assert!(matches!(works, Ok(Ok(true))), "with 0 to {last} closed: {works:?}");
        }
    });
}

/// Runs `body` with those of descriptors 0, 1 and 2 closed whose bits in `which` are set.
fn lacking<R>(which: i32, body: impl FnOnce() -> R) -> R {
    let numbers = (0..=2).filter(|number| which >> number & 1 == 1);
    // SAFETY: standard descriptors, which nothing owns; code in this process that uses them finds them closed.
    let kept: Vec<_> = numbers.map(|number| (number, unsafe { closed(number) })).collect();
    let result = body();
    for (number, copy) in &kept {
        // SAFETY: `number` is closed or the null device, so nothing is lost.
        assert_eq!(unsafe { nix::libc::dup2(std::os::fd::AsRawFd::as_raw_fd(copy), *number) }, *number);
    }
    result
}

/// The numbers of the descriptors of process `pid`, sorted.
fn numbers(pid: u32) -> Vec<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let mut numbers: Vec<_> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn fault_32_all_of_callgates_descriptors_are_beyond_the_standard_ones() {
    alone("fault_32_all_of_callgates_descriptors_are_beyond_the_standard_ones", 120, || {
        for signal in [Signal::Futex, Signal::EventFd] {
            for which in 0..8 {
                // Nothing was started before, so the first round creates the watcher's descriptors here too.
                let found = lacking(which, || {
                    let guest =
                        Guest::bridge().signal(signal).stdout(Output::null()).start().map_err(|e| e.to_string())?;
                    let echoed = guest.echo(&vec![7; 1 << 20]).map(|bytes| bytes.len());
                    let closed = (0..=2).filter(|number| which >> number & 1 == 1);
                    let nulls = closed.map(|number| descriptor(std::process::id(), number)).collect::<Vec<_>>();
                    let own = ["/dev/null", "/dev/null"].into_iter().zip([0, 1]);
                    let others =
                        own.filter(|&(target, number)| descriptor(guest.child_pid(), number) != target).count();
                    let err = descriptor(guest.child_pid(), 2);
                    Ok::<_, String>((echoed, nulls, others, err, numbers(guest.child_pid())))
                });
                let (echoed, nulls, others, err, numbers) = found.unwrap_or_else(|error| panic!("{which:#b}: {error}"));
                assert_eq!(echoed, Ok(1 << 20), "{which:#b}");
                assert!(
                    nulls.iter().all(|target| target == "/dev/null") && others == 0,
                    "{which:#b}: {nulls:?}, {others}"
                );
                assert!(!err.starts_with("socket:") && !err.contains("memfd"), "{which:#b}: {err}");
                // Its own descriptors stay clear of numbers that a program may choose.
                assert!(numbers[..3] == [0, 1, 2] && numbers[3] >= 200, "{which:#b}: {numbers:?}");
            }
        }
    });
}

#[test]
fn fault_32_nor_is_any_of_a_managers_a_standard_one() {
    alone("fault_32_nor_is_any_of_a_managers_a_standard_one", 120, || {
        let (key, timeout) = (AuthKey::new("a secret that both have"), Duration::from_secs(20));
        let address = support::address();
        let (hub, other) = (Manager::new(&address, &key), Manager::new(&address, &key));
        let found = lacking(0b111, || {
            hub.start(timeout).map_err(|error| error.to_string())?;
            let _len = hub.register_fn("len", |text: String| text.len() as i64).map_err(|error| error.to_string())?;
            other.connect(timeout).map_err(|error| error.to_string())?;
            let text = "a payload of its own memory".repeat(10_000);
            let len = other.call_as::<i64>("len", (text,)).map_err(|error| error.to_string())?;
            let others = (0..=2).filter(|&number| descriptor(std::process::id(), number) != "/dev/null");
            Ok::<_, String>((len, others.collect::<Vec<_>>()))
        });
        assert_eq!(found, Ok((Some(270_000), vec![])));
    });
}

/// Threads open descriptors at once, while another thread puts a file of the program's in place of standard output.
#[test]
fn fault_32_nor_when_threads_open_them_at_once() {
    alone("fault_32_nor_when_threads_open_them_at_once", 120, || {
        let dir = TempDir::new();
        let file = std::fs::File::create(dir.file("log")).expect("a file");
        for _ in 0..5 {
            let found = lacking(0b111, || {
                std::thread::scope(|scope| {
                    let start = || (0..10).try_for_each(|_| start_apart());
                    let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    // SAFETY: number 1 is closed, or held by a placeholder that may be replaced.
                    assert_eq!(unsafe { nix::libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&file), 1) }, 1);
                    threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))?;
                    let left = descriptor(std::process::id(), 1);
                    if left.ends_with("/log") { Ok(()) } else { Err(format!("the program's own file is {left}")) }
                })
            });
            assert_eq!(found, Ok(()));
        }
    });
}

/// Starts a bridge and passes memory through it. Fails if one of this process's standard descriptors is callgate's.
fn start_apart() -> Result<(), String> {
    let guest = Guest::bridge().signal(Signal::EventFd).stdout(Output::null()).start();
    let guest = guest.map_err(|error| error.to_string())?;
    guest.echo(&vec![7; 1 << 20]).map_err(|error| error.to_string())?;
    let found: Vec<_> = (0..=2).map(|number| descriptor(std::process::id(), number)).collect();
    let is_ours = |target: &String| ["socket", "memfd", "anon"].iter().any(|kind| target.contains(kind));
    if found.iter().any(is_ours) { Err(format!("{found:?}")) } else { Ok(()) }
}

#[test]
fn fault_32_a_line_is_never_written_into_what_is_callgates() {
    alone("fault_32_a_line_is_never_written_into_what_is_callgates", 120, || {
        let done = std::sync::atomic::AtomicBool::new(false);
        lacking(0b111, || {
            std::thread::scope(|scope| {
                let _write = scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for number in [1, 2, 0] {
                            let line = b"a line as long as a message: 24 bytes and more\n";
                            // SAFETY: the bytes live; the test is about where they go.
                            unsafe { nix::libc::write(number, line.as_ptr().cast(), line.len()) };
                        }
                    }
                });
                let started = (0..30).map(|number| {
                    let signal = if number % 2 == 0 { Signal::Futex } else { Signal::EventFd };
                    let guest = Guest::bridge().signal(signal).start().map_err(|error| error.to_string())?;
                    guest.print_for(1).map_err(|error| error.to_string())?;
                    let len = 100_000 + number;
                    let echo = guest.echo(&vec![7; len]).map_err(|error| error.to_string())?;
                    Ok::<_, String>(echo == vec![7; len])
                });
                let started = started.collect::<Result<Vec<_>, _>>();
                done.store(true, std::sync::atomic::Ordering::Relaxed);
                assert_eq!(started, Ok(vec![true; 30]));
            });
        });
    });
}

/// Closes a standard descriptor; returns a copy of it.
///
/// # Safety
///
/// Nothing may own it.
unsafe fn closed(number: i32) -> OwnedFd {
    // SAFETY: standard descriptors are open in a process that has just started; the borrow ends before `number` is closed.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let copy = rustix::io::fcntl_dupfd_cloexec(borrowed, 10).expect("a copy");
    // SAFETY: the caller's duty.
    unsafe { nix::libc::close(number) };
    copy
}
