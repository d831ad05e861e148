//! Promise: a start that fails says why in one sentence and leaves nothing behind. Many starts at once do not disturb each other.

use callgate::{Builder, Output, StartError, bridge};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

#[path = "support/held.rs"]
mod held;
#[path = "programs/runtimes.rs"]
mod runtimes;
mod support;
use held::{Held, alone};
use support::{TempDir, helper, role, within};

callgate::test_support!();

struct Guest {
    name: String,
}

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest { name: "guest".into() }
    }

    pub(crate) fn with_name(name: &str) -> Self {
        Guest { name: name.into() }
    }

    /// Ends in the way that `fate` names.
    pub(crate) fn with_fate(fate: &str) -> Result<Self, String> {
        match fate {
            "error" => return Err("no luck".into()),
            "long error" => return Err("no luck. ".repeat(100_000)),
            "panic" => panic!("bad luck"),
            "long panic" => panic!("{}", "bad luck. ".repeat(100_000)),
            "odd panic" => std::panic::panic_any(7),
            "exit" => exit(7),
            "abort" => std::process::abort(),
            "kill" => raise(Signal::SIGKILL).map_err(|error| error.to_string())?,
            "stop" => raise(Signal::SIGSTOP).map_err(|error| error.to_string())?,
            _ => (),
        }
        forever()
    }

    pub(crate) fn greet(&self, number: u64) -> String {
        format!("{} {number}", self.name)
    }

    /// The length of the argument.
    pub(crate) fn weigh(&self, bytes: &[u8]) -> u64 {
        bytes.len() as u64
    }

    pub(crate) fn fill(&self, len: u64) -> Vec<u8> {
        vec![7; len as usize]
    }

    pub(crate) fn lost_of_the_library(&self) -> Vec<String> {
        runtimes::lost_of_the_library()
    }
}

fn forever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(60));
    }
}

/// Closes every descriptor.
fn hang_up() {
    // SAFETY: afterwards the process uses no descriptors and does nothing but wait to be killed.
    assert_eq!(unsafe { nix::libc::close_range(0, u32::MAX, 0) }, 0);
}

// ---- fake children -------------------------------------------------------------------------------------------------

/// The environment variable that tells a process started by a bridge what to do instead of being a child.
const FAKE: &str = "CALLGATE_TEST_FAKE";

const _: () = {
    extern "C" fn fake_child() {
        if let Ok(fake) = env::var(FAKE) {
            play(&fake);
        }
    }

    // The number puts it before `test_support!`, which would turn the process into a child.
    #[used]
    #[unsafe(link_section = ".init_array.00200")]
    static FAKE_CHILD: extern "C" fn() = fake_child;
};

/// Sends the parent what `fake` names, and waits for the parent's end.
fn play(fake: &str) -> ! {
    let socket = rustix::stdio::stdin();
    let mut hello = [0; 8192];
    let _ = rustix::io::read(socket, &mut hello);
    // The magic and the version of this build's protocol.
    let (prefix, version) = (&hello[..16], &hello[8..12]);
    let words = |words: [u64; 2]| [prefix, &words[0].to_le_bytes(), &words[1].to_le_bytes()].concat();
    let parts: Vec<_> = fake.split(' ').collect();
    let message = match parts[..] {
        ["silent"] => forever(),
        ["exit", code] => exit(code.parse().expect("a code")),
        ["hang-up"] => {
            hang_up();
            forever()
        }
        ["bytes", len, byte] => vec![byte.parse().expect("a byte"); len.parse().expect("a length")],
        ["answer", "ready"] => words([1, std::process::id().into()]),
        ["answer", kind, value] => words([kind, value].map(|word| word.parse().expect("a word"))),
        ["longer", kind] => [words([kind.parse().expect("a word"), 0]), vec![0]].concat(),
        ["prefix"] => prefix.to_vec(),
        ["version", len] => {
            let mut message = [&prefix[..8], &[version[0] + 1], &version[1..]].concat();
            message.resize(len.parse().expect("a length"), 7);
            message
        }
        _ => panic!("no fake `{fake}`"),
    };
    let sent = rustix::io::write(socket, &message);
    assert_eq!(sent, Ok(message.len()));
    while rustix::io::read(socket, &mut hello).is_ok_and(|len| len > 0) {}
    exit(0);
}

fn fake(fake: &str) -> Builder<Guest> {
    Guest::bridge().env(FAKE, fake)
}

// ---- failures ------------------------------------------------------------------------------------------------------

const SHORT: Duration = Duration::from_millis(300);

/// Starts that fail, and their messages; `*` stands for any text. They may create files in `dir`.
fn failures(dir: &Path) -> Vec<(Builder<Guest>, &'static str)> {
    let executable = |path: &str| Guest::bridge().executable(path);
    let fate = |fate: &str| Guest::bridge_with_fate(fate).timeout(Duration::from_secs(20));
    let empty = dir.join("empty");
    fs::write(&empty, "")
        .and_then(|()| fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)))
        .expect("a file");
    vec![
        // Files that cannot be executed.
        (executable("/nowhere/worker"), "starting `/nowhere/worker`: No such file or directory (os error 2)"),
        (executable("callgate-no-such-worker"), "starting `callgate-no-such-worker`: * (os error *)"),
        (executable("/etc/passwd"), "starting `/etc/passwd`: Permission denied (os error 13)"),
        (executable("/"), "starting `/`: Permission denied (os error 13)"),
        (Guest::bridge().executable(&empty), "starting `*/empty`: Exec format error (os error 8)"),
        (executable("nul\0nul"), "executable is \"nul\\0nul\" but must be a non-empty path without a zero byte"),
        (Guest::bridge().current_dir("/nowhere"), "*`/nowhere`*: No such file or directory (os error 2)"),
        (
            Guest::bridge().env("NUL\0", ""),
            "env is \"NUL\\0\" = \"\" but must be given a key and a value without a zero byte",
        ),
        // Programs that can be executed, but are not children.
        (executable("/bin/true"), "child * exited with code 0 during the handshake"),
        (executable("/bin/false"), "child * exited with code 1 during the handshake"),
        (
            executable("/bin/cat").stdout(Output::null()).start_timeout(SHORT),
            "`/bin/cat` did not answer within 300ms (does its main have #[callgate::main] above it, or begin with callgate::init() or callgate::serve()?)",
        ),
        (fake("silent").start_timeout(SHORT), "`/proc/self/exe` did not answer within 300ms (*)"),
        // With no time at all, the handshake is late; or the service's start is, if the child was quicker than its parent.
        (Guest::bridge().start_timeout(Duration::ZERO), "* answer within 0ns*"),
        (fake("exit 5"), "child * exited with code 5 during the handshake"),
        (fake("hang-up").start_timeout(SHORT), "child *: it closed its control socket*"),
        // Children, but not the expected ones.
        (fake("version 16"), "child * does not match: the version of callgate's protocol (here 0x*, there 0x*)"),
        (fake("version 32"), "child * does not match: the version of callgate's protocol (here 0x*, there 0x*)"),
        (fake("version 33"), "child * does not match: the version of callgate's protocol (here 0x*, there 0x*)"),
        (fake("version 4096"), "child * does not match: the version of callgate's protocol (here 0x*, there 0x*)"),
        (fake("answer 2 99"), "child * does not match: the version of callgate's protocol (here 0x*, there 0x63)"),
        (fake("answer 3 99"), "child * does not match: the format of rkyv's archives (here 0x*, there 0x63)"),
        (fake("answer 4 99"), "child * does not match: the build of the program (here 0x*, there 0x63)"),
        (
            fake("answer 5 99"),
            "child * does not match: the fingerprint of the service's methods and types (here 0x*, there 0x63)",
        ),
        (
            Guest::bridge().executable(env::current_exe().expect("a path")),
            "child *: its main begins with #[callgate::main] or callgate::init(), but a separate executable needs callgate::serve()",
        ),
        (
            fake("answer 7 0"),
            "child *: it could not map the bridge's segment, or was built without the backends that the bridge uses",
        ),
        // Nonsensical answers.
        (
            fake("answer 9 0"),
            "child *: it was built without callgate's feature `sandbox`, which the bridge's sandbox needs",
        ),
        (fake("answer 10 1"), "child *: it reported a sandbox failure, but none was requested"),
        (fake("longer 9"), "child *: a handshake answer of unknown kind"),
        (fake("answer 0 0"), "child *: a handshake answer of unknown kind"),
        (fake("answer 18446744073709551615 0"), "child *: a handshake answer of unknown kind"),
        (fake("answer 1 1"), "child *: it reported the process number 1"),
        (fake("answer 1 18446744073709551615"), "child *: it reported the process number 18446744073709551615"),
        (fake("prefix"), "child *: a handshake answer of unknown kind"),
        (fake("bytes 5 7"), "child *: a handshake message too short"),
        (fake("bytes 32 0"), "child *: a handshake message that is not callgate's"),
        (fake("bytes 100000 0"), "child *: a control message of the wrong shape"),
        (fake("longer 1"), "child *: it reported a sandbox, but none was requested"),
        (
            fake("answer ready").timeout(SHORT),
            "call `Guest::new` failed: child * gave no answer within 300ms; the call had not started",
        ),
        // Later failures: in the constructor.
        (fate("error"), "its constructor failed: no luck"),
        (fate("long error"), "its constructor failed: no luck. no luck. *"),
        (fate("panic"), "call `Guest::with_fate` failed: the child panicked at tests/start.rs:*: bad luck"),
        (fate("long panic"), "call `Guest::with_fate` failed: the child panicked at *: bad luck. bad luck. *"),
        (fate("odd panic"), "call `Guest::with_fate` failed: the child panicked at *: a payload that is not text"),
        (fate("exit"), "child * exited with code 7 in its constructor"),
        (fate("abort"), "child * was killed by signal 6 (SIGABRT) in its constructor"),
        (fate("kill"), "child * was killed by signal 9 (SIGKILL) in its constructor"),
        (
            fate("hang").timeout(SHORT),
            "call `Guest::with_fate` failed: child * gave no answer within 300ms; the call had started",
        ),
        (
            fate("stop").timeout(SHORT),
            "call `Guest::with_fate` failed: child * gave no answer within 300ms; the call had started",
        ),
        (
            Guest::bridge_with_name(&"long".repeat(25_000)).max_payload(50_000),
            "call `Guest::with_name` failed: its request is * bytes or more, and the limit is 50000",
        ),
    ]
}

/// Whether `text` matches `pattern`, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(tail) = text.strip_prefix(head) else { return false };
    (0..=tail.len()).any(|at| tail.is_char_boundary(at) && fits(rest, &tail[at..]))
}

/// The message of a start that must fail, without its common beginning.
#[track_caller]
fn failure(builder: Builder<Guest>) -> String {
    let error = builder.start().expect_err("a start that fails").to_string();
    let begin = "bridge to `Guest` not started: ";
    error.strip_prefix(begin).unwrap_or_else(|| panic!("`{error}` does not begin with `{begin}`")).to_owned()
}

#[test]
fn fault_20_a_failed_start_says_why_and_leaves_nothing() {
    alone("fault_20_a_failed_start_says_why_and_leaves_nothing", 240, || {
        let (dir, first) = (TempDir::new(), Guest::bridge().start().expect("a start"));
        let held = Held::at_rest();
        let mut wrong = Vec::new();
        for (builder, expected) in failures(dir.path()) {
            let begin = Instant::now();
            let said = failure(builder);
            if !fits(expected, &said) {
                wrong
                    .push(format!("expected `{expected}`,\n     got `{}`", said.chars().take(300).collect::<String>()));
            }
            if begin.elapsed() > Duration::from_secs(4) {
                wrong.push(format!("`{expected}` took {:?}", begin.elapsed()));
            }
            held.again(expected);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!(first.greet(1).as_deref(), Ok("guest 1"));
    });
}

// ---- options -------------------------------------------------------------------------------------------------------

#[test]
fn options_out_of_range_are_refused_and_those_in_range_work() {
    within(120, "options_out_of_range_are_refused_and_those_in_range_work", || {
        let guest = Guest::bridge;
        let refused = [
            (guest().concurrent_callers(0), "concurrent_callers is 0 but must be from 1 to 64"),
            (guest().concurrent_callers(65), "concurrent_callers is 65 but must be from 1 to 64"),
            (guest().concurrent_callers(u32::MAX), "concurrent_callers is 4294967295 but must be from 1 to 64"),
            (guest().pending_calls(0), "pending_calls is 0 but must be from 2 to 4096"),
            (guest().pending_calls(1), "pending_calls is 1 but must be from 2 to 4096"),
            (guest().pending_calls(8192), "pending_calls is 8192 but must be from 2 to 4096"),
            (guest().pending_calls(3), "pending_calls is 3 but must be a power of two"),
            (guest().pending_calls(4095), "pending_calls is 4095 but must be a power of two"),
            (guest().slot_size(0), "slot_size is 0 but must be from 1 to 65472"),
            (guest().slot_size(65_473), "slot_size is 65473 but must be from 1 to 65472"),
            (guest().slot_size(usize::MAX), "slot_size is 18446744073709551615 but must be from 1 to 65472"),
            (guest().max_payload(0), "max_payload is 0 but must be from 560 to 2147483647"),
            (guest().max_payload(559), "max_payload is 559 but must be from 560 to 2147483647"),
            (guest().slot_size(1).max_payload(47), "max_payload is 47 but must be from 48 to 2147483647"),
            (guest().max_payload(1 << 31), "max_payload is 2147483648 but must be from 560 to 2147483647"),
            (guest().max_payload(u64::MAX), "max_payload is 18446744073709551615 but must be from 560 to 2147483647"),
        ];
        for (builder, expected) in refused {
            assert_eq!(failure(builder), expected);
        }
        let accepted = [
            guest().concurrent_callers(1),
            guest().concurrent_callers(64),
            guest().pending_calls(2),
            guest().pending_calls(4096),
            guest().slot_size(1),
            guest().slot_size(64),
            guest().slot_size(65),
            guest().slot_size(65_472),
            guest().concurrent_callers(1).pending_calls(2).slot_size(1),
            guest().max_payload(560),
            guest().slot_size(1).max_payload(48),
            guest().max_payload((1 << 31) - 1),
            guest().timeout(Duration::MAX).start_timeout(Duration::MAX).stop_grace(Duration::MAX),
        ];
        for (number, builder) in (0..).zip(accepted) {
            let guest = builder.start().unwrap_or_else(|error| panic!("number {number}: {error}"));
            assert_eq!(guest.greet(number), Ok(format!("guest {number}")));
            assert!(guest.stop().is_ok_and(|exit| exit.success()), "number {number}");
        }
    });
}

// ---- limits --------------------------------------------------------------------------------------------------------

#[test]
fn fault_20_no_memory_for_the_segment() {
    alone("fault_20_no_memory_for_the_segment", 60, || {
        let _first = Guest::bridge().start().expect("a start");
        let held = Held::now();
        limited(Resource::RLIMIT_AS, virtual_memory() + (1 << 30), || {
            let said = failure(Guest::bridge().concurrent_callers(64).pending_calls(4096).slot_size(16 << 10));
            let expected = "creating a segment of 8* bytes: Cannot allocate memory (os error 12)";
            assert!(fits(expected, &said), "{said}");
            held.again(expected);
            let guest = Guest::bridge().start().expect("there is memory for a small one");
            assert_eq!(guest.greet(2).as_deref(), Ok("guest 2"));
        });
    });
}

/// Bytes of address space used by this process.
fn virtual_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("its size");
    size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Runs `body` under a lower limit.
fn limited<R>(resource: Resource, limit: u64, body: impl FnOnce() -> R) -> R {
    let (soft, hard) = getrlimit(resource).expect("getrlimit");
    setrlimit(resource, limit, hard).expect("setrlimit");
    let result = body();
    setrlimit(resource, soft, hard).expect("setrlimit");
    result
}

/// More descriptors than any start needs, including the watcher's, with any backend: with eventfds, a start needs two for each of 8 lanes and two
/// more.
const ENOUGH: usize = 24;

/// Runs `body` while exactly `spare` descriptors can be opened.
fn with_spare<R>(spare: usize, body: impl FnOnce() -> R) -> R {
    let is_free = |number: &u64| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err();
    let limit = (0..).filter(is_free).nth(spare).expect("endless");
    limited(Resource::RLIMIT_NOFILE, limit, body)
}

const NONE_LEFT: &str = "Too many open files (os error 24)";

#[test]
fn fault_20_no_descriptors_left() {
    alone("fault_20_no_descriptors_left", 120, || {
        let first = Guest::bridge().start().expect("a start");
        let held = Held::now();
        let mut failed = 0;
        for spare in 0..=ENOUGH {
            match with_spare(spare, || Guest::bridge().start()) {
                Ok(guest) => assert_eq!(guest.greet(1).as_deref(), Ok("guest 1")),
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().ends_with(NONE_LEFT), "{spare} spare: {error}");
                }
            }
            held.again(&format!("a start with {spare} descriptors to spare"));
        }
        assert!((3..ENOUGH).contains(&failed), "{failed} of the starts failed");
        assert_eq!(first.greet(3).as_deref(), Ok("guest 3"));
    });
}

#[test]
fn fault_20_descriptors_run_out_at_random() {
    alone("fault_20_descriptors_run_out_at_random", 120, || {
        let first = Guest::bridge().start().expect("a start");
        let (held, done) = (Held::now(), AtomicBool::new(false));
        let (mut started, mut failed) = (0, 0);
        let is_eventfd = std::env::var("CALLGATE_SIGNAL").is_ok_and(|signal| signal == "eventfd");
        let for_doorbells = if is_eventfd { 20 } else { 0 };
        with_spare(6 + for_doorbells, || {
            thread::scope(|scope| {
                scope.spawn(|| take_descriptors_until(&done));
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_secs(3) {
                    let counter = if Guest::bridge().start().is_ok() { &mut started } else { &mut failed };
                    *counter += 1;
                }
                done.store(true, Ordering::Relaxed);
            });
        });
        held.again(&format!("{started} starts, and {failed} that failed"));
        assert!(started > 0 && failed > 0, "{started} started, {failed} failed");
        assert_eq!(first.greet(4).as_deref(), Ok("guest 4"));
    });
}

/// In a loop, leaves all spare descriptors to others for a while, then takes each one as soon as it becomes free.
fn take_descriptors_until(done: &AtomicBool) {
    for microseconds in (0..1500).step_by(37).cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(Duration::from_micros(microseconds));
        let (begin, mut taken) = (Instant::now(), Vec::new());
        while begin.elapsed() < Duration::from_millis(2) {
            taken.extend(fs::File::open("/dev/null"));
        }
    }
}

#[test]
fn fault_20_no_descriptors_left_for_the_first_start() {
    within(180, "fault_20_no_descriptors_left_for_the_first_start", || {
        for spare in 0..=ENOUGH {
            let output = helper("helper_first_start", &spare.to_string()).output().expect("the helper starts");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "with {spare} descriptors to spare: {}\n{stderr}", output.status);
        }
    });
}

/// The first start lacks descriptors. The second still works, and both together leave only the watcher.
#[test]
fn helper_first_start() {
    let Some(spare) = role() else { return };
    within(60, "helper_first_start", || {
        let held = Held::now();
        let first = with_spare(spare.parse().expect("a number"), || Guest::bridge().start());
        match &first {
            Ok(guest) => assert_eq!(guest.greet(1).as_deref(), Ok("guest 1")),
            Err(error) => assert!(error.to_string().ends_with(NONE_LEFT), "{error}"),
        }
        drop(first);
        let second = Guest::bridge().start().expect("a second start");
        assert_eq!(second.greet(2).as_deref(), Ok("guest 2"));
        drop(second);
        held.with_watcher().again("two starts");
    });
}

/// How many SIGXFSZ this process has handled.
static FILE_SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_file_signal(_: i32) {
    FILE_SIGNALS.fetch_add(1, Ordering::Relaxed);
}

const TOO_LONG: &str = "File too large (os error 27)";

#[test]
fn fault_24_a_limit_on_files_fails_a_start_or_a_call_and_signals_nobody() {
    alone("fault_24_a_limit_on_files_fails_a_start_or_a_call_and_signals_nobody", 60, || {
        for handled in [false, true] {
            let guest = Guest::bridge().start().expect("a start");
            if handled {
                // SAFETY: the handler changes only an atomic.
                unsafe { signal(Signal::SIGXFSZ, SigHandler::Handler(count_file_signal)) }.expect("a handler");
            }
            limited(Resource::RLIMIT_FSIZE, 4096, || {
                let said = failure(Guest::bridge());
                let expected = format!("creating a segment of * bytes, with RLIMIT_FSIZE at 4096 bytes: {TOO_LONG}");
                assert!(fits(&expected, &said), "{said}");
                // Children inherit the limit, but the parent creates their memory.
                let error = guest.weigh(&vec![7; 64 << 20]).expect_err("no memory").to_string();
                assert!(error.contains("RLIMIT_FSIZE at 4096 bytes") && error.contains(TOO_LONG), "{error}");
                let error = guest.fill(64 << 20).expect_err("no memory").to_string();
                assert!(error.contains("RLIMIT_FSIZE at 4096 bytes"), "{error}");
                assert_eq!(guest.greet(1).as_deref(), Ok("guest 1"));
            });
            assert_eq!(guest.weigh(&vec![7; 64 << 20]), Ok(64 << 20));
        }
        assert_eq!(FILE_SIGNALS.load(Ordering::Relaxed), 0);
        assert!(!SigSet::thread_get_mask().expect("a mask").contains(Signal::SIGXFSZ));
    });
}

#[test]
fn fault_24_limits_on_descriptors_and_addresses_are_named() {
    alone("fault_24_limits_on_descriptors_and_addresses_are_named", 60, || {
        let _first = Guest::bridge().start().expect("a start");
        let said = with_spare(0, || failure(Guest::bridge()));
        assert!(fits("*, with RLIMIT_NOFILE at *: Too many open files (os error 24)", &said), "{said}");
        limited(Resource::RLIMIT_AS, virtual_memory() + (1 << 30), || {
            let said = failure(Guest::bridge().concurrent_callers(64).pending_calls(4096).slot_size(16 << 10));
            assert!(fits("*, with RLIMIT_AS at * bytes: Cannot allocate memory (os error 12)", &said), "{said}");
        });
    });
}

/// A child's payload takes memory twice in its parent: where it lies, and for a copy. The child says how much.
#[test]
fn fault_24_a_reply_that_there_is_no_memory_for_fails_its_call() {
    alone("fault_24_a_reply_that_there_is_no_memory_for_fails_its_call", 120, || {
        let guest = Guest::bridge().start().expect("a start");
        // Room for the reply's memory, and for what the allocator reserves for a thread that starts meanwhile, but not for a copy.
        limited(Resource::RLIMIT_AS, virtual_memory() + (480 << 20), || {
            let refused = guest.fill(256 << 20).expect_err("it cannot be copied").to_string();
            let expected = "call `Guest::fill` failed: *no memory for the * bytes that reading it takes, with RLIMIT_AS at * bytes*";
            assert!(fits(expected, &refused), "{refused}");
            assert_eq!(guest.fill(1000).map(|bytes| bytes.len()), Ok(1000));
        });
        assert_eq!(guest.fill(256 << 20).map(|bytes| bytes.len()), Ok(256 << 20));
    });
}

#[test]
fn fault_24_a_limit_on_tasks_is_named() {
    const TEST: &str = "fault_24_a_limit_on_tasks_is_named";
    alone(TEST, 60, || {
        if !nix::unistd::Uid::effective().is_root() {
            return println!("skipped, as it takes root");
        }
        let first = Guest::bridge().start().expect("a start");
        // The limit does not apply to root, so become a user that nothing else runs as.
        let user = nix::unistd::Uid::from_raw(3_000_000 + std::process::id());
        nix::unistd::setresuid(user, user, user).expect("root may become anybody");
        limited(Resource::RLIMIT_NPROC, 0, || {
            let said = failure(Guest::bridge().executable("/bin/true"));
            // This backend's doorbells need threads, and are created first.
            let has_threads = std::env::var("CALLGATE_SIGNAL").is_ok_and(|signal| signal == "raw-sync");
            let what = if has_threads { "creating its doorbells" } else { "starting `/bin/true`" };
            let expected = format!("{what}, with RLIMIT_NPROC at 0: Resource temporarily unavailable (os error 11)");
            assert_eq!(said, expected);
            // Memory for a large result is sealed on a separate thread.
            let error = first.fill(64 << 20).expect_err("no thread").to_string();
            assert!(error.contains(", with RLIMIT_NPROC at 0: Resource temporarily unavailable"), "{error}");
        });
        assert_eq!(first.fill(64 << 20).map(|filled| filled.len()), Ok(64 << 20));
    });
}

// ---- many at once --------------------------------------------------------------------------------------------------

#[test]
fn fault_19_many_threads_start_bridges_while_others_allocate_and_lock() {
    const STARTERS: u64 = 64;
    const OTHERS: usize = 8;
    within(240, "fault_19_many_threads_start_bridges_while_others_allocate_and_lock", || {
        let (done, shared, all_live) =
            (AtomicBool::new(false), Mutex::new(Vec::new()), Barrier::new(STARTERS as usize));
        thread::scope(|scope| {
            for _ in 0..OTHERS {
                scope.spawn(|| busy_until(&done, &shared));
            }
            let start = |number| {
                let guest = Guest::bridge_with_name(&format!("guest {number}")).start().expect("a start");
                all_live.wait();
                assert_eq!(guest.greet(number), Ok(format!("guest {number} {number}")));
                guest.child_pid()
            };
            let starters: Vec<_> = (0..STARTERS).map(|number| scope.spawn(move || start(number))).collect();
            let mut pids: Vec<_> = starters.into_iter().map(|starter| starter.join().ok()).collect();
            done.store(true, Ordering::Relaxed);
            pids.sort();
            pids.dedup();
            assert!(pids.len() == STARTERS as usize && pids[0].is_some(), "not every start went well: {pids:?}");
        });
    });
}

/// Allocates memory, and takes the locks that a forked process could find taken.
fn busy_until(done: &AtomicBool, shared: &Mutex<Vec<Vec<u8>>>) {
    for size in (1..100_000).step_by(997).cycle() {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let mut shared = shared.lock().expect("nobody panics");
        shared.push(vec![1; size]);
        if shared.len() > 100 {
            shared.clear();
        }
        drop(shared);
        let _ = env::var_os("PATH");
        drop(std::io::stdout().lock());
    }
}

#[test]
fn fault_36_words_that_the_system_would_not_take_are_refused_before_a_process_is_started() {
    within(60, "fault_36_words_that_the_system_would_not_take_are_refused_before_a_process_is_started", || {
        let refused = |option: &str, builder: Builder<Guest>| {
            // If a child were started, this would be the error.
            let error = builder.start_timeout(Duration::ZERO).start().expect_err("it cannot be");
            assert!(
                matches!(&error, StartError::Option { option: named, .. } if *named == option),
                "{option}: {error:?}"
            );
            assert!(error.to_string().starts_with(&format!("bridge to `Guest` not started: {option} is ")), "{error}");
        };
        for (key, value) in
            [("X=Y", "1"), ("=", ""), ("", "1"), ("A\0B", "1"), ("A", "1\x002"), ("CALLGATE_CHILD", "7"), ("X=", "")]
        {
            refused("env", Guest::bridge().env("FINE", "1").env(key, value));
        }
        // `KEY=value` and a zero byte.
        let longest = "v".repeat((128 << 10) - "KEY=\0".len());
        refused("env", Guest::bridge().env("KEY", format!("{longest}v")));
        refused("env", Guest::bridge().env(&longest, &longest));
        let said = Guest::bridge().env("KEY", format!("{longest}v")).start().expect_err("too long").to_string();
        let expected = "env is a string `KEY=..` of 131072 bytes but must be less than 128 KiB in all, because the kernel accepts no longer string";
        assert!(said.ends_with(expected), "{said}");
        let fine = Guest::bridge().env("KEY", &longest).name("x".repeat(5000)).start().expect("a start");
        assert_eq!(fine.greet(1).as_deref(), Ok("guest 1"));
        for path in ["", "/tmp\0/x"] {
            refused("current_dir", Guest::bridge().current_dir(path));
            refused("executable", Guest::bridge().executable(path));
        }
        refused("name", Guest::bridge().name("a\0b"));
        let said = Guest::bridge().env("X=Y", "1").start().expect_err("no key").to_string();
        assert!(
            said.ends_with(
                "env is \"X=Y\" = \"1\" but must be given a key without `=` and the value as a separate argument"
            ),
            "{said}"
        );
        let fine = Guest::bridge().env("A.B-c", "=x=").current_dir("/").name("").start().expect("a start");
        assert_eq!(fine.greet(1).as_deref(), Ok("guest 1"));
    });
}
