//! Whatever a method does to its process, the caller gets an error that says what happened, and the parent keeps working.
//!
//! A reply that was published before the child ended is still delivered.

#![allow(unreachable_pub)] // Services are written as users write them.

#[path = "support/held.rs"]
mod held;
mod support;

use callgate::{Bridge, CallError, Exit, Fault, Output, StartError, Started, Wait, bridge};
use held::{alone, children};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::CString;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Gate, Helper, TempDir, eventually, is_stopped, process_exists, role, say, within, zombies_of};

callgate::test_support!();

const PATIENCE: u64 = 120;

// ---- crashes -------------------------------------------------------------------------------------------------------

/// Methods that crash or fail.
struct Faulty {
    calls: u64,
}

#[bridge]
impl Faulty {
    pub fn new() -> Self {
        Faulty { calls: 0 }
    }

    pub fn count(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    pub fn abort(&self) {
        std::process::abort()
    }

    pub fn exit(&self, code: i32) {
        std::process::exit(code)
    }

    pub fn raise(&self, signal: i32) {
        // SAFETY: has no preconditions.
        unsafe { libc::raise(signal) };
    }

    /// Reads a field through a null pointer. A debug build's own checks would catch null itself, so this uses a small address.
    pub fn dereference_null(&self) -> u8 {
        let field = std::ptr::without_provenance::<u8>(black_box(8));
        // SAFETY: none. The page at 0 is not mapped, so the process is killed.
        unsafe { field.read_volatile() }
    }

    pub fn overflow_the_stack(&self) -> u64 {
        deeper(black_box(1))
    }

    pub fn exhaust_memory(&self) -> usize {
        black_box(Vec::<u8>::with_capacity(isize::MAX as usize / 2)).capacity()
    }

    pub fn panic_while_panicking(&self) {
        let _bomb = Bomb;
        panic!("the first of two")
    }

    pub fn panic_across_c(&self) {
        extern "C" fn called_from_c() {
            panic!("no unwinding through here")
        }
        called_from_c();
    }

    pub fn crash_in_another_thread(&self) {
        std::thread::spawn(|| std::process::abort());
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    deeper(frame[0] + 1) + frame[1]
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the second of two")
    }
}

/// Starts a `Faulty` whose stderr does not clutter the tests' output.
fn faulty() -> Bridge<Faulty> {
    Faulty::bridge().stderr(Output::null()).start().expect("the bridge starts")
}

/// A call that ends its child, and the possible ends.
struct Crash {
    method: &'static str,
    call: fn(&Bridge<Faulty>) -> Result<(), CallError>,
    ends: &'static [Exit],
}

const CRASHES: &[Crash] = &[
    Crash { method: "abort", call: |faulty| faulty.abort(), ends: &[Exit::Signal(libc::SIGABRT)] },
    Crash { method: "exit", call: |faulty| faulty.exit(3), ends: &[Exit::Code(3)] },
    Crash { method: "exit", call: |faulty| faulty.exit(0), ends: &[Exit::Code(0)] },
    Crash { method: "raise", call: |faulty| faulty.raise(libc::SIGKILL), ends: &[Exit::Signal(libc::SIGKILL)] },
    Crash { method: "raise", call: |faulty| faulty.raise(libc::SIGTERM), ends: &[Exit::Signal(libc::SIGTERM)] },
    Crash { method: "raise", call: |faulty| faulty.raise(40), ends: &[Exit::Signal(40)] },
    Crash {
        method: "dereference_null",
        call: |faulty| faulty.dereference_null().map(drop),
        ends: &[Exit::Signal(libc::SIGSEGV)],
    },
    Crash {
        method: "overflow_the_stack",
        call: |faulty| faulty.overflow_the_stack().map(drop),
        // SIGABRT if the standard library's handler is installed: it reports the overflow and aborts.
        ends: &[Exit::Signal(libc::SIGSEGV), Exit::Signal(libc::SIGABRT)],
    },
    Crash {
        method: "exhaust_memory",
        call: |faulty| faulty.exhaust_memory().map(drop),
        ends: &[Exit::Signal(libc::SIGABRT)],
    },
    Crash {
        method: "panic_while_panicking",
        call: |faulty| faulty.panic_while_panicking(),
        ends: &[Exit::Signal(libc::SIGABRT)],
    },
    Crash { method: "panic_across_c", call: |faulty| faulty.panic_across_c(), ends: &[Exit::Signal(libc::SIGABRT)] },
    Crash {
        method: "crash_in_another_thread",
        call: |faulty| faulty.crash_in_another_thread(),
        ends: &[Exit::Signal(libc::SIGABRT)],
    },
];

#[test]
fn fault_14_crash_is_an_error_that_names_the_method_and_the_end() {
    within(PATIENCE, "crashes", || {
        let witness = faulty();
        for (crashes, Crash { method, call, ends }) in (1..).zip(CRASHES) {
            let faulty = faulty();
            assert_eq!(faulty.count(), Ok(1));
            let error = call(&faulty).expect_err(method);
            let CallError::Died { call, pid, exit, started, .. } = error else { panic!("{method}: {error}") };
            assert_eq!((call.service, call.method), ("Faulty", *method));
            assert_eq!(pid, faulty.child_pid(), "{method}");
            assert!(ends.contains(&exit), "{method}: child {exit}");
            assert_eq!(started, Started::Yes, "{method}");
            assert!(!faulty.is_alive(), "{method}");
            // The parent and its other bridges are unharmed.
            assert_eq!(witness.count(), Ok(crashes), "after {method}");
        }
    });
}

#[test]
fn crash_is_what_every_later_call_and_stop_report() {
    within(PATIENCE, "calls to the dead", || {
        let faulty = faulty();
        assert!(faulty.abort().is_err());
        let (pid, exit) = (faulty.child_pid(), Exit::Signal(libc::SIGABRT));
        for _ in 0..3 {
            let error = faulty.count().expect_err("the child is dead");
            let CallError::Died { started, .. } = error else { panic!("{error}") };
            assert_eq!(started, Started::No);
        }
        for _ in 0..2 {
            let error = faulty.stop().expect_err("the child did not stop: it crashed");
            assert!(
                matches!(&error, CallError::Died { pid: at, exit: how, .. } if (*at, *how) == (pid, exit)),
                "{error}"
            );
        }
        assert_eq!(faulty.kill(), exit);
    });
}

#[test]
fn crash_fails_the_calls_of_all_threads() {
    within(PATIENCE, "calls of many threads", || {
        let faulty = faulty();
        std::thread::scope(|scope| {
            let calls = || loop {
                if let Err(error) = faulty.count() {
                    return error;
                }
            };
            let callers: Vec<_> = (0..4).map(|_| scope.spawn(calls)).collect();
            std::thread::sleep(Duration::from_millis(20));
            assert!(faulty.abort().is_err());
            for caller in callers {
                let error = caller.join().expect("no caller panics");
                assert!(matches!(error, CallError::Died { exit: Exit::Signal(libc::SIGABRT), .. }), "{error}");
            }
        });
    });
}

#[test]
fn crash_reads_as_a_sentence() {
    within(PATIENCE, "sentences", || {
        type Call = fn(&Bridge<Faulty>) -> Result<(), CallError>;
        let sentences: [(Call, &str); 4] = [
            (
                |faulty| faulty.dereference_null().map(drop),
                "call `Faulty::dereference_null` failed: child {pid} was killed by signal 11 (SIGSEGV); the call had started",
            ),
            (
                |faulty| faulty.exit(3),
                "call `Faulty::exit` failed: child {pid} exited with code 3; the call had started",
            ),
            (
                |faulty| faulty.raise(40),
                "call `Faulty::raise` failed: child {pid} was killed by signal 40; the call had started",
            ),
            (
                |faulty| faulty.abort().or_else(|_| faulty.count().map(drop)),
                "call `Faulty::count` failed: child {pid} was killed by signal 6 (SIGABRT); the call had not started",
            ),
        ];
        for (call, sentence) in sentences {
            let faulty = faulty();
            let error = call(&faulty).expect_err(sentence);
            assert_eq!(error.to_string(), sentence.replace("{pid}", &faulty.child_pid().to_string()));
        }
    });
}

// ---- last words ----------------------------------------------------------------------------------------------------

/// Methods that end the process with last words.
struct Doomed;

#[bridge]
impl Doomed {
    pub fn new() -> Self {
        Doomed
    }

    /// A constructor that does not return.
    pub fn with_end(end: u32) -> Self {
        doom(end);
        Doomed
    }

    pub fn end(&self, end: u32) {
        doom(end)
    }

    pub fn end_in_a_thread(&self, end: u32) {
        let _ = std::thread::Builder::new().name("aside".into()).spawn(move || doom(end)).expect("a thread").join();
    }

    pub fn count(&self) -> u32 {
        1
    }
}

const IN_C: u32 = 0;
const DOUBLE: u32 = 1;
const PRECONDITION: u32 = 2;
const OVERFLOW: u32 = 3;
const NO_MEMORY: u32 = 4;
const HOOK_ABORTS: u32 = 5;
const HOOK_EXITS: u32 = 6;
const HEAP: u32 = 7;
const SILENT: u32 = 8;
const CAUGHT_THEN_ABORT: u32 = 9;
const CAUGHT_THEN_KILLED: u32 = 10;
const CAUGHT_THEN_EXIT: u32 = 11;
const CAUGHT: u32 = 12;
const ODD_TEXT: u32 = 13;
const NULL: u32 = 14;

fn doom(end: u32) {
    let chain_hook = |end: fn()| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            end()
        }));
    };
    let catch = || std::panic::catch_unwind(|| panic!("caught at once")).is_err();
    match end {
        IN_C => Faulty { calls: 0 }.panic_across_c(),
        DOUBLE => Faulty { calls: 0 }.panic_while_panicking(),
        PRECONDITION => {
            let (bytes, index) = (vec![1_u8], black_box(5));
            // SAFETY: none; the standard library's own check catches it.
            black_box(unsafe { bytes.get_unchecked(index) });
        }
        OVERFLOW => _ = deeper(black_box(1)),
        NO_MEMORY => _ = Faulty { calls: 0 }.exhaust_memory(),
        // Like a build with `panic = "abort"`.
        HOOK_ABORTS => {
            chain_hook(|| std::process::abort());
            panic!("as with abort: {end}")
        }
        HOOK_EXITS => {
            chain_hook(|| std::process::exit(3));
            panic!("as a hook has it: {end}")
        }
        HEAP => {
            let bytes = Box::leak(vec![0_u8; 64].into_boxed_slice());
            let within = &raw mut bytes[16];
            // SAFETY: none; the C library's own check catches it.
            unsafe { libc::free(within.cast()) }
        }
        SILENT => std::process::abort(),
        CAUGHT_THEN_ABORT if catch() => std::process::abort(),
        // SAFETY: has no preconditions.
        CAUGHT_THEN_KILLED if catch() => _ = unsafe { libc::raise(libc::SIGKILL) },
        CAUGHT_THEN_EXIT if catch() => std::process::exit(3),
        CAUGHT => assert!(catch()),
        ODD_TEXT => {
            chain_hook(|| std::process::abort());
            panic!("red \x1b[31m\u{202e}\n\t{}", "x".repeat(100_000))
        }
        NULL => _ = Faulty { calls: 0 }.dereference_null(),
        _ => {}
    }
}

/// Ends without callgate, in a process of the test's own, to compare the output. Does nothing in other processes.
#[test]
fn helper_doomed() {
    if let Some(end) = role().and_then(|role| role.strip_prefix("doom ")?.parse().ok()) {
        doom(end);
    }
}

/// What a process printed, without the names and numbers of its threads and without backtraces.
fn anonymous(printed: &str) -> String {
    let mut parts = printed.split("thread '");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (_, after) = part.split_once("' ").expect("a name's end");
        let after = after.strip_prefix('(').and_then(|after| after.split_once(") ")).map_or(after, |(_, after)| after);
        text += "thread ";
        text += after;
    }
    let is_said = |line: &&str| !line.starts_with("  ") && *line != "stack backtrace:";
    text.trim().lines().filter(is_said).collect::<Vec<_>>().join("\n")
}

/// Makes `call` with a child that prints into a file. Returns its last words, all that it printed, and the call's error.
fn last_words(call: impl FnOnce(&Bridge<Doomed>) -> Result<(), CallError>) -> (Option<String>, String, CallError) {
    let dir = support::TempDir::new();
    let file = std::fs::File::create(dir.file("stderr")).expect("a file");
    let doomed = Doomed::bridge().env("RUST_BACKTRACE", "0").stderr(file).start().expect("the bridge starts");
    let error = call(&doomed).expect_err("the child ends");
    let CallError::Died { last_words, .. } = error.clone() else { panic!("{error}") };
    drop(doomed);
    (last_words, std::fs::read_to_string(dir.file("stderr")).expect("text"), error)
}

#[test]
fn fault_27_last_words_are_in_the_error_and_printed_as_ever() {
    within(PATIENCE, "last words", || {
        let precondition: &[&str] = match cfg!(debug_assertions) {
            true => &["panicked at", "crash.rs", "unsafe precondition(s) violated"],
            false => &[],
        };
        let cases: &[(u32, &[&str])] = &[
            (IN_C, &["thread '", "' panicked at", "crash.rs", "no unwinding through here; then", "cannot unwind"]),
            (DOUBLE, &["panicked at", "the first of two; then", "the second of two; then", "during cleanup"]),
            (PRECONDITION, precondition),
            (NO_MEMORY, &["memory allocation failed"]),
            (HOOK_ABORTS, &["panicked at", "crash.rs", "as with abort: 5"]),
            (HOOK_EXITS, &["panicked at", "crash.rs", "as a hook has it: 6"]),
            #[cfg(target_env = "gnu")]
            (HEAP, &["free(): invalid pointer"]),
        ];
        for &(end, parts) in cases.iter().filter(|(_, parts)| !parts.is_empty()) {
            let (words, printed, error) = last_words(|doomed| doomed.end(end));
            let words = words.unwrap_or_else(|| panic!("{end}: no words: {error}"));
            for part in parts {
                assert!(words.contains(part), "{end}: {part}: {words}");
            }
            assert!(error.to_string().ends_with(&format!("; its last words: {words}")), "{error}");
            let alone = support::helper("helper_doomed", &format!("doom {end}")).env("RUST_BACKTRACE", "0").output();
            let alone = alone.expect("the helper runs");
            assert!(!alone.status.success());
            assert!(!printed.is_empty(), "{end}");
            assert_eq!(anonymous(&printed), anonymous(&String::from_utf8_lossy(&alone.stderr)), "{end}");
        }
    });
}

#[test]
fn fault_27_last_words_of_other_threads_and_of_constructors_count() {
    within(PATIENCE, "last words elsewhere", || {
        let (words, ..) = last_words(|doomed| doomed.end_in_a_thread(IN_C));
        let words = words.expect("words");
        assert!(words.starts_with("thread 'aside' panicked at ") && words.contains("no unwinding"), "{words}");
        let (words, ..) = last_words(|doomed| doomed.end(OVERFLOW));
        assert_eq!(words.as_deref(), Some("thread 'main' has overflowed its stack"));
        for end in [DOUBLE, OVERFLOW] {
            let error = Doomed::bridge_with_end(end).stderr(Output::null()).start().expect_err("it ends");
            let StartError::Died { last_words, .. } = &error else { panic!("{error}") };
            let words = last_words.as_deref().expect("words");
            assert!(words.starts_with("thread '") && error.to_string().ends_with(words), "{error}");
        }
    });
}

#[test]
fn fault_27_what_was_caught_is_not_the_last_word() {
    within(PATIENCE, "caught panics", || {
        for end in [SILENT, CAUGHT_THEN_ABORT, CAUGHT_THEN_KILLED, CAUGHT_THEN_EXIT, NULL] {
            let (words, _, error) = last_words(|doomed| doomed.end(end));
            assert_eq!(words, None, "{end}: {error}");
        }
        // The panics are caught by a thread's end, by the method and by the library; then an outside signal kills the child.
        let (words, printed, error) = last_words(|doomed| {
            doomed.end_in_a_thread(CAUGHT)?;
            doomed.end(CAUGHT)?;
            doomed.end_in_a_thread(HOOK_ABORTS + 100)?;
            kill(Pid::from_raw(doomed.child_pid() as i32), Signal::SIGABRT).expect("it lives");
            loop {
                doomed.count()?;
            }
        });
        assert_eq!((words, printed.matches("caught at once").count()), (None, 2), "{error}");
        let panicky = panicky("0");
        assert!(panicky.with_str().is_err());
        kill(Pid::from_raw(panicky.child_pid() as i32), Signal::SIGSEGV).expect("it lives");
        let error = std::iter::repeat_with(|| panicky.count()).find_map(Result::err).expect("it ends");
        assert!(matches!(&error, CallError::Died { last_words: None, .. }), "{error}");
    });
}

#[test]
fn fault_27_last_words_are_short_and_plain() {
    within(PATIENCE, "odd last words", || {
        let (words, printed, _) = last_words(|doomed| doomed.end(ODD_TEXT));
        let words = words.expect("words");
        assert!(words.contains("red [31m xxx") && words.len() <= 2048, "{words}");
        assert!(!words.contains(|char: char| char.is_control() || char == '\u{202e}'), "{words:?}");
        assert!(printed.contains("\x1b[31m\u{202e}\n\t") && printed.len() > 100_000);
    });
}

// ---- panics --------------------------------------------------------------------------------------------------------

/// Methods that fail without ending the process.
struct Panicky {
    calls: u64,
}

#[bridge]
impl Panicky {
    pub fn new() -> Self {
        Panicky { calls: 0 }
    }

    pub fn count(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    pub fn with_str(&self) {
        panic!("plain words")
    }

    pub fn with_string(&mut self, who: &str) -> u64 {
        self.calls += 1;
        panic!("words for {who}")
    }

    pub fn with_number(&self) -> String {
        std::panic::panic_any(7_u32)
    }

    pub fn with_bomb(&self) {
        std::panic::panic_any(Bomb)
    }

    pub fn with_novel(&self, len: u64) {
        panic!("{}", "x".repeat(len as usize))
    }

    pub fn index_out_of_range(&self, index: u64) -> u8 {
        [1, 2, 3][index as usize]
    }

    pub fn resume(&self) {
        // Runs no panic hook, so there is no location.
        std::panic::resume_unwind(Box::new("resumed"))
    }
}

fn panicky(backtrace: &str) -> Bridge<Panicky> {
    Panicky::bridge().env("RUST_BACKTRACE", backtrace).stderr(Output::null()).start().expect("the bridge starts")
}

struct Panic {
    method: &'static str,
    call: fn(&Bridge<Panicky>) -> Result<(), CallError>,
    message: &'static str,
    /// Part of the line of this file that panics, if there is one.
    line: Option<&'static str>,
}

const PANICS: &[Panic] = &[
    Panic {
        method: "with_str",
        call: |it| it.with_str(),
        message: "plain words",
        line: Some("panic!(\"plain words\")"),
    },
    Panic {
        method: "with_string",
        call: |it| it.with_string("you").map(drop),
        message: "words for you",
        line: Some("panic!(\"words for {who}\")"),
    },
    Panic {
        method: "with_number",
        call: |it| it.with_number().map(drop),
        message: "a payload that is not text",
        line: Some("panic_any(7_u32)"),
    },
    Panic {
        method: "with_bomb",
        call: |it| it.with_bomb(),
        message: "a payload that is not text",
        line: Some("panic_any(Bomb)"),
    },
    Panic {
        method: "index_out_of_range",
        call: |it| it.index_out_of_range(3).map(drop),
        message: "index out of bounds: the len is 3 but the index is 3",
        line: Some("[1, 2, 3][index as usize]"),
    },
    Panic { method: "resume", call: |it| it.resume(), message: "resumed", line: None },
];

fn fault_of(result: Result<(), CallError>, method: &str) -> Fault {
    let error = result.expect_err(method);
    let CallError::Panicked { call, fault } = error else { panic!("{method}: {error}") };
    assert_eq!((call.service, call.method), ("Panicky", method));
    *fault
}

/// The line of this file that the location `file:line:column` points to.
fn line_at(location: &str) -> &'static str {
    let mut parts = location.rsplit(':');
    let (_column, line, file) = (parts.next(), parts.next(), parts.next());
    assert!(file.is_some_and(|file| file.ends_with("crash.rs")), "{location}");
    let line: usize = line.and_then(|line| line.parse().ok()).expect("a line number");
    include_str!("crash.rs").lines().nth(line - 1).expect("a line of this file")
}

#[test]
fn fault_14_panic_is_an_error_that_says_where_and_the_child_goes_on() {
    within(PATIENCE, "panics", || {
        let panicky = panicky("0");
        for Panic { method, call, message, line } in PANICS {
            let before = panicky.count().expect("the child goes on");
            let fault = fault_of(call(&panicky), method);
            assert_eq!(fault.message, *message, "{method}");
            match (line, fault.location) {
                (Some(line), Some(location)) => assert!(line_at(&location).contains(line), "{method}: {location}"),
                (line, location) => assert_eq!((*line, location), (None, None), "{method}"),
            }
            assert_eq!(fault.backtrace, None, "{method}");
            // The work done before the panic is kept.
            let done = u64::from(*method == "with_string");
            assert_eq!(panicky.count(), Ok(before + done + 1), "after {method}");
        }
        assert_eq!(panicky.stop(), Ok(Exit::Code(0)));
    });
}

#[test]
fn panic_message_of_any_length_arrives() {
    within(PATIENCE, "long panics", || {
        let panicky = panicky("0");
        for len in [0, 1, 500, 10_000, 3_000_000] {
            let fault = fault_of(panicky.with_novel(len), "with_novel");
            assert_eq!(fault.message.len() as u64, len);
        }
        assert_eq!(panicky.count(), Ok(1));
    });
}

#[test]
fn panic_brings_a_backtrace_if_the_child_is_asked_for_one() {
    within(PATIENCE, "backtraces", || {
        let fault = fault_of(panicky("1").with_str(), "with_str");
        let backtrace = fault.backtrace.expect("RUST_BACKTRACE is 1");
        assert!(backtrace.contains("crash.rs") || backtrace.contains("with_str"), "{backtrace}");
        assert_eq!(fault_of(panicky("0").with_str(), "with_str").backtrace, None);
    });
}

#[test]
fn panic_reads_as_a_sentence() {
    within(PATIENCE, "sentences", || {
        let text = panicky("0").with_str().expect_err("it panics").to_string();
        let (before, after) = ("call `Panicky::with_str` failed: the child panicked at ", ": plain words");
        assert!(text.starts_with(before) && text.ends_with(after), "{text}");
        assert!(text.contains("tests/crash.rs:"), "{text}");
        let text = panicky("0").resume().expect_err("it panics").to_string();
        assert_eq!(text, "call `Panicky::resume` failed: the child panicked: resumed");
    });
}

struct LastBreath;

#[bridge]
impl LastBreath {
    pub fn new() -> Self {
        LastBreath
    }
}

impl Drop for LastBreath {
    fn drop(&mut self) {
        panic!("in the destructor")
    }
}

#[test]
fn fault_14_panic_in_the_destructor_is_what_stop_reports_and_the_child_exits() {
    within(PATIENCE, "panic in Drop", || {
        let bridge = LastBreath::bridge().stderr(Output::null()).start().expect("the bridge starts");
        let error = bridge.stop().expect_err("the destructor panics");
        let CallError::Panicked { call, fault } = &error else { panic!("{error}") };
        assert_eq!((call.service, fault.message.as_str()), ("LastBreath", "in the destructor"));
        assert!(line_at(fault.location.as_deref().expect("a location")).contains("panic!(\"in the destructor\")"));
        assert!(!process_exists(bridge.child_pid()));
        assert_eq!(bridge.stop(), Ok(Exit::Code(0)));
        // Dropping a bridge must not panic in the parent either.
        drop(LastBreath::bridge().stderr(Output::null()).start().expect("the bridge starts"));
    });
}

// ---- replies of dying children -------------------------------------------------------------------------------------

/// Answers, and ends its process at about the same time.
struct Dying;

#[bridge]
impl Dying {
    pub fn new() -> Self {
        Dying
    }

    pub fn answer(&self, len: u64) -> Vec<u8> {
        vec![7; len as usize]
    }

    /// Answers while another thread spins `spins` times and then ends the process.
    pub fn answer_while_exiting(&self, len: u64, spins: u64) -> Vec<u8> {
        leave_then(move || (0..spins).for_each(|_| std::hint::spin_loop()));
        self.answer(len)
    }

    /// Answers, and ends the process as soon as the answer has been published.
    pub fn answer_then_exit(&self, len: u64) -> Vec<u8> {
        leave_then(await_publication);
        self.answer(len)
    }

    /// Waits for the gate, then does the same.
    pub fn pass_and_answer_then_exit(&self, gate: &str, len: u64) -> Vec<u8> {
        Gate::pass(gate);
        self.answer_then_exit(len)
    }
}

/// Starts a thread that, from about now, runs `wait` and then ends the process.
fn leave_then(wait: impl FnOnce() + Send + 'static) {
    static LEAVING: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(move || {
        while !LEAVING.load(Ordering::Acquire) {
            std::hint::spin_loop();
        }
        wait();
        // SAFETY: has no preconditions.
        unsafe { libc::_exit(0) }
    });
    LEAVING.store(true, Ordering::Release);
}

/// Waits until the main thread sleeps. After the method it sleeps only while it waits for the next request, which happens after the publication of
/// this reply, provided that it need not ask for memory.
fn await_publication() {
    let stat = format!("/proc/self/task/{}/stat", std::process::id());
    let sleeps = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S "));
    while !sleeps() {}
}

/// Lengths of a reply in a slot and of one in a block.
const LENS: [u64; 2] = [8, 200_000];

#[test]
fn fault_13_reply_published_before_the_child_exits_is_delivered() {
    within(PATIENCE, "replies of the dead", || {
        for round in 0..200 {
            let len = LENS[round % LENS.len()];
            let wait = [Wait::Adaptive, Wait::Park][round / 2 % 2];
            let dying = Dying::bridge().wait(wait).start().expect("the bridge starts");
            // From now on the child has memory for a reply of this length.
            assert_eq!(dying.answer(len).expect("the child lives").len() as u64, len);
            let reply = dying.answer_then_exit(len);
            assert_eq!(reply, Ok(vec![7; len as usize]), "round {round}, {wait:?}");
        }
    });
}

#[test]
fn fault_13_reply_of_a_child_that_exits_in_the_act_is_delivered_or_the_child_died() {
    within(PATIENCE, "replies of the dying", || {
        let (mut delivered, mut died) = (0, 0);
        for round in 0..300 {
            let len = LENS[round % LENS.len()];
            let dying = Dying::bridge().start().expect("the bridge starts");
            match dying.answer_while_exiting(len, round as u64 * 20) {
                Ok(reply) => {
                    assert_eq!(reply, vec![7; len as usize]);
                    delivered += 1;
                }
                Err(CallError::Died { exit: Exit::Code(0), started: Started::Yes, .. }) => died += 1,
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        println!("{delivered} replies delivered, {died} children died before");
    });
}

/// A parent that is stopped while its child runs on, so it sees everything that the child did only after the child's death.
struct StoppedParent {
    parent: Helper,
    child: u32,
    gate: Gate,
}

impl StoppedParent {
    /// Stops a parent whose child waits at the gate, in a call.
    fn start(role: &str) -> Self {
        let gate = Gate::new();
        let mut parent = Helper::start("helper_parent", &format!("{role} {}", gate.path()));
        let child = parent.hear("child").parse().expect("a process number");
        gate.wait_for_child();
        let pid = Pid::from_raw(parent.pid() as i32);
        kill(pid, Signal::SIGSTOP).expect("the parent is there");
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it is a child of this process");
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        Self { parent, child, gate }
    }

    /// Opens the gate and, once the child is dead, resumes the parent. Returns what its call returned, as it reports.
    fn outcome(mut self) -> String {
        self.gate.open();
        assert!(eventually(30, "the child exits", || !process_exists(self.child)));
        kill(Pid::from_raw(self.parent.pid() as i32), Signal::SIGCONT).expect("the parent is there");
        self.parent.hear("outcome").replace(&self.child.to_string(), "{pid}")
    }
}

#[test]
fn helper_parent() {
    let Some(role) = role() else { return };
    let [wait, known, len, gate] = role.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let wait = if wait == "park" { Wait::Park } else { Wait::Adaptive };
    let len = len.parse().expect("a length");
    let dying = Dying::bridge().wait(wait).start().expect("the bridge starts");
    if known == "known" {
        assert!(dying.answer(len).is_ok());
    }
    say("child", dying.child_pid());
    match dying.pass_and_answer_then_exit(gate, len) {
        Ok(reply) => say("outcome", format!("{} bytes", reply.len())),
        Err(error) => say("outcome", error),
    }
}

#[test]
fn fault_13_reply_is_delivered_to_a_parent_that_looks_only_after_the_death() {
    within(PATIENCE, "a parent that looks late", || {
        for wait in ["adaptive", "park"] {
            for len in LENS {
                let parent = StoppedParent::start(&format!("{wait} known {len}"));
                assert_eq!(parent.outcome(), format!("{len} bytes"), "{wait}");
            }
        }
    });
}

// ---- deaths during an exchange over the control socket -------------------------------------------------------------

const ANSWER_NEVER_CAME: &str =
    "call `Dying::pass_and_answer_then_exit` failed: child {pid} exited with code 0; the call had started";

#[test]
fn fault_12_child_that_dies_while_it_asks_for_memory_died() {
    within(PATIENCE, "a child that asks and dies", || {
        // While it waits for memory for its reply, the child sleeps, and therefore exits.
        let parent = StoppedParent::start("adaptive unknown 200000");
        assert_eq!(parent.outcome(), ANSWER_NEVER_CAME);
    });
}

#[test]
fn fault_12_child_that_dies_before_it_takes_the_memory_of_a_request_died() {
    within(PATIENCE, "a child that is given memory and dies", || {
        let taker = Taker::bridge().start().expect("the bridge starts");
        let child = Pid::from_raw(taker.child_pid() as i32);
        kill(child, Signal::SIGSTOP).expect("the child is there");
        assert!(eventually(30, "the child stops", || is_stopped(taker.child_pid())));
        let call = taker.with_timeout(Duration::from_millis(50)).take(&[1; 200_000]);
        assert!(matches!(call, Err(CallError::TimedOut { .. })), "{call:?}");
        kill(child, Signal::SIGKILL).expect("the child is there");
        let error = taker.take(&[2; 8]).expect_err("the child is dead");
        let died = matches!(error, CallError::Died { exit: Exit::Signal(libc::SIGKILL), .. });
        assert!(died, "{error}");
    });
}

/// The first large request needs memory, but a child that has just died cannot receive it.
#[test]
fn fault_12_child_that_dies_before_it_is_given_memory_died() {
    within(PATIENCE, "large requests to the dying", || {
        let bytes = vec![1; 200_000];
        for round in 0..300 {
            let taker = Taker::bridge().start().expect("the bridge starts");
            assert_eq!(taker.take(&[1; 8]), Ok(8));
            kill(Pid::from_raw(taker.child_pid() as i32), Signal::SIGKILL).expect("the child is there");
            (0..round * 50).for_each(|_| std::hint::spin_loop());
            if let Err(error) = taker.take(&bytes) {
                let died = matches!(error, CallError::Died { exit: Exit::Signal(libc::SIGKILL), .. });
                assert!(died, "round {round}: {error}");
            }
        }
    });
}

struct Taker;

#[bridge]
impl Taker {
    pub fn new() -> Self {
        Taker
    }

    pub fn take(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }
}

// ---- ends that the kernel holds back -------------------------------------------------------------------------------

/// A child traced by another process, which holds back its end.
struct Traced;

#[bridge]
impl Traced {
    pub fn new() -> Self {
        Traced
    }

    pub fn add(&self, n: u64) -> u64 {
        n + 1
    }

    /// Starts a process that traces this one until there is a file at `until`. With `stops`, it stops this one just before the end; otherwise it
    /// holds it back after the end.
    pub fn traced(&self, until: String, stops: bool) -> bool {
        let until = CString::new(until).expect("a path without a zero");
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let options = if stops { libc::PTRACE_O_TRACEEXIT } else { 0 };
        // SAFETY: has no preconditions with these arguments.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        // SAFETY: until it ends, the new process only makes system calls, with memory that existed before.
        if unsafe { libc::fork() } == 0 {
            #[allow(clippy::multiple_unsafe_ops_per_block)] // They share one reason.
            // SAFETY: as above; of the pointers, only `until` is accessed, and it ends with a zero.
            unsafe {
                let seized = libc::ptrace(libc::PTRACE_SEIZE, libc::getppid(), 0usize, options as usize);
                libc::write(writer.as_raw_fd(), [(seized == 0) as u8].as_ptr().cast(), 1);
                (0..6000).take_while(|_| libc::access(until.as_ptr(), libc::F_OK) != 0).for_each(|_| {
                    libc::usleep(10_000);
                });
                libc::_exit(0)
            }
        }
        let mut seized = [0];
        nix::unistd::read(&reader, &mut seized).is_ok_and(|read| read == 1) && seized == [1]
    }

    pub fn end(&self) {
        // SAFETY: has no preconditions.
        unsafe { libc::_exit(3) }
    }

    /// Ends only the first thread.
    pub fn end_first_thread(&self) {
        // SAFETY: ends only this thread, and nothing of it is used afterwards.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// CPU time, in clock ticks, of this process's thread named `name`.
fn ticks_of(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let of_name = stats.filter(|stat| stat.contains(&format!("({name})")));
    let ticks = |stat: String| {
        let fields = stat[stat.rfind(')').expect("a name") + 2..].split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>()
    };
    of_name.map(ticks).sum()
}

#[test]
fn fault_42_a_traced_end_is_an_end() {
    alone("fault_42_a_traced_end_is_an_end", PATIENCE, || {
        let gate = TempDir::new();
        let (traced, other) = (Traced::bridge().start().expect("a child"), Traced::bridge().start().expect("a child"));
        assert_eq!(traced.traced(gate.file("open"), false), Ok(true));
        // Without a timeout.
        let error = traced.end().expect_err("it ends");
        assert!(matches!(error, CallError::Died { exit: Exit::Unknown, .. }), "{error}");
        assert!(!traced.is_alive());
        assert!(traced.add(1).is_err());
        assert_eq!(zombies_of(std::process::id()), 1, "its tracer holds it");
        // The watcher does not poll the child.
        let before = ticks_of("callgate-watch");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(other.add(1), Ok(2));
        assert!(ticks_of("callgate-watch") - before < 20, "the watcher spins");
        drop(traced);
        std::fs::write(gate.file("open"), "").expect("a file");
        assert!(eventually(20, "it is taken from the process table", || zombies_of(std::process::id()) == 0));
    });
}

#[test]
fn fault_42_a_kill_that_a_tracer_holds_back_returns() {
    alone("fault_42_a_kill_that_a_tracer_holds_back_returns", PATIENCE, || {
        let gate = TempDir::new();
        let traced = Traced::bridge().start().expect("a child");
        assert_eq!(traced.traced(gate.file("open"), true), Ok(true));
        let begun = Instant::now();
        traced.kill();
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        assert!(traced.add(1).is_err() && !traced.is_alive());
        std::fs::write(gate.file("open"), "").expect("a file");
        assert!(eventually(20, "no child is left", || children().is_empty()));
    });
}

/// The other threads and the process live on: this is a child that does not answer.
#[test]
fn fault_42_a_child_without_its_first_thread_can_be_killed() {
    within(PATIENCE, "fault_42_a_child_without_its_first_thread_can_be_killed", || {
        let traced = Traced::bridge().timeout(Duration::from_millis(300)).start().expect("a child");
        let error = traced.end_first_thread().expect_err("nobody answers");
        assert!(matches!(error, CallError::TimedOut { .. } | CallError::Died { .. }), "{error}");
        traced.kill();
        assert!(!traced.is_alive() && !process_exists(traced.child_pid()));
    });
}
