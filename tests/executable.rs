//! Promise: a service can live in an executable of its own. The handshake checks that it is the service that its parent expects, and the executable
//! explains itself when anything but a bridge starts it.

use callgate::{Bridge, Builder, StartError, bridge};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use std::{env, fs};

#[path = "support/held.rs"]
mod held;
mod support;
mod workers;
use held::{Held, alone};
use support::{TempDir, within};
use workers::tally::{Summary, Tally};
use workers::worker;

callgate::test_support!();

/// The same service again, with a trait that the worker does not know.
#[allow(dead_code, clippy::duplicate_mod)] // Another type for the compiler, the same for the worker.
#[path = "../examples/tally/mod.rs"]
mod more;

trait Longest {
    fn longest(&self) -> String;
}

#[bridge]
impl Longest for more::Tally {
    fn longest(&self) -> String {
        self.counts().into_iter().map(|(word, _)| word).max_by_key(String::len).unwrap_or_default()
    }
}

/// A generic service with a trait.
struct Pile<T>(Vec<T>);

#[bridge]
impl<T> Pile<T> {
    pub fn of(items: Vec<T>) -> Self {
        Pile(items)
    }
}

trait Height {
    fn height(&self) -> usize;
}

#[bridge]
impl<T> Height for Pile<T> {
    fn height(&self) -> usize {
        self.0.len()
    }
}

fn height(pile: &impl Height) -> usize {
    pile.height()
}

fn summary(of: &impl Summary, limit: usize) -> String {
    of.summary(limit)
}

/// Services with the same name as the worker's service, but with other methods.
mod others {
    pub(crate) mod argument {
        pub(crate) struct Tally;

        #[callgate::bridge]
        impl Tally {
            pub(crate) fn new(_least: u32) -> Self {
                Tally
            }
        }
    }

    pub(crate) mod method {
        pub(crate) struct Tally;

        #[callgate::bridge]
        impl Tally {
            pub(crate) fn new(_least: usize) -> Result<Self, String> {
                Ok(Tally)
            }
            pub(crate) fn subtract(&mut self, text: &str) -> u64 {
                text.len() as u64
            }
        }
    }
}

fn start() -> Bridge<Tally> {
    Tally::bridge(3).executable(worker()).start().expect("the worker starts")
}

#[test]
fn a_service_in_another_executable_is_called_as_any_other() {
    let worker = worker();
    within(60, "a_service_in_another_executable_is_called_as_any_other", || {
        let tally = start();
        assert_eq!(tally.executable(), Ok(worker.canonicalize().expect("a path").display().to_string()));
        assert_eq!(tally.add("the gate is the bridge"), Ok(4));
        assert_eq!(tally.counts(), Ok([("bridge", 1), ("gate", 1), ("the", 2)].map(|(w, n)| (w.into(), n)).into()));
        let long = "word ".repeat(1_000_000);
        assert_eq!(tally.add(&long), Ok(1_000_000));
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

#[test]
fn its_constructor_can_fail() {
    worker();
    within(60, "its_constructor_can_fail", || {
        let error = Tally::bridge(0).executable(worker()).start().expect_err("no worker");
        let expected = "bridge to `Tally` not started: its constructor failed: a word has at least one byte";
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn options_reach_it() {
    worker();
    within(60, "options_reach_it", || {
        let tally = Tally::bridge(1).executable(worker()).name("tally man").current_dir("/").start().expect("a start");
        let proc = format!("/proc/{}", tally.child_pid());
        assert_eq!(fs::read_to_string(format!("{proc}/comm")).ok().as_deref(), Some("tally man\n"));
        assert_eq!(fs::read_link(format!("{proc}/cwd")).ok(), Some("/".into()));
    });
}

#[test]
fn fault_48_the_methods_of_a_trait_are_called_in_another_executable() {
    worker();
    within(60, "fault_48_the_methods_of_a_trait_are_called_in_another_executable", || {
        let tally = start();
        assert_eq!(tally.add("the gate is the bridge"), Ok(4));
        assert_eq!(summary(&tally, usize::MAX), "bridge: 1, gate: 1, the: 2");
        assert_eq!(tally.begin().summary(1).wait().as_deref(), Ok("bridge: 1"));
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

#[test]
fn fault_48_a_trait_that_the_executable_lacks_is_refused_at_the_start() {
    let worker = worker();
    alone("fault_48_a_trait_that_the_executable_lacks_is_refused_at_the_start", 60, || {
        let _first = start();
        let held = Held::now();
        let error = more::Tally::bridge(3).executable(&worker).start().expect_err("it has no such trait");
        let expected = "its executable has no bridged trait `Longest` of `Tally` with the same methods and types";
        assert!(error.to_string().contains(expected), "{error}");
        held.again("a refused start");
        // This program itself has the trait.
        assert_eq!(more::Tally::bridge(1).start().expect("a start").longest(), "");

        let pile = Pile::<u8>::bridge_of(vec![1]);
        let error = pile.executable(&worker).start().expect_err("a generic type's trait");
        assert!(matches!(error, StartError::Option { option: "executable", .. }), "{error:?}");
        assert!(error.to_string().contains("the trait `Height` is bridged for a generic type"), "{error}");
        assert_eq!(height(&Pile::<u8>::bridge_of(vec![1]).start().expect("a start")), 1);
    });
}

#[test]
fn a_worker_with_other_methods_is_refused_and_nothing_is_left() {
    let worker = worker();
    alone("a_worker_with_other_methods_is_refused_and_nothing_is_left", 60, || {
        let _first = start();
        let held = Held::now();
        let errors = [
            others::argument::Tally::bridge(3).executable(&worker).start().expect_err("no bridge"),
            others::method::Tally::bridge(3).executable(&worker).start().expect_err("no bridge"),
        ];
        for error in errors {
            assert!(matches!(error, StartError::Mismatch { .. }), "{error:?}");
            let said = error.to_string();
            assert!(
                said.contains("does not match: the fingerprint of the service's methods and types (here 0x"),
                "{said}"
            );
            held.again("a mismatch");
        }
    });
}

#[test]
fn a_worker_that_calls_init_instead_of_serve_is_refused_in_words() {
    within(60, "a_worker_that_calls_init_instead_of_serve_is_refused_in_words", || {
        let builder: Builder<Tally> = Tally::bridge(3).executable(env::current_exe().expect("a path"));
        let error = builder.start().expect_err("no worker");
        assert!(matches!(error, StartError::Handshake { .. }), "{error:?}");
        let expected = "its main begins with #[callgate::main] or callgate::init(), but a separate executable needs callgate::serve()";
        assert!(error.to_string().ends_with(expected), "{error}");
    });
}

/// The child has no descriptor left for what it needs before it can read its parent's messages.
#[test]
fn fault_27_what_keeps_a_program_from_becoming_a_child_is_told_its_parent() {
    let worker = worker();
    alone("fault_27_what_keeps_a_program_from_becoming_a_child_is_told_its_parent", 60, || {
        let dir = TempDir::new();
        let script = dir.file("few-descriptors");
        let text = format!("#!/bin/sh\nulimit -n 4\nexec '{}'\n", worker.display());
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it may be executed");
        let _first = start();
        let held = Held::now();
        let error =
            Tally::bridge(3).executable(&script).stderr(callgate::Output::null()).start().expect_err("no worker");
        assert!(matches!(error, StartError::Handshake { .. }), "{error:?}");
        let expected = ": it ended: taking the control socket from stdin: Too many open files (os error 24)";
        assert!(error.to_string().ends_with(expected), "{error}");
        held.again("a child that could not become one");
    });
}

// ---- the worker, not started by a bridge ---------------------------------------------------------------------------

const BY_HAND: &str = "this program serves `Tally` to the program that starts it through callgate's Builder::executable; \
                       it does nothing when started by hand\n";

/// The worker's exit code and its stderr. Fails if it prints anything on stdout.
#[track_caller]
fn ended(output: std::io::Result<Output>) -> (Option<i32>, String) {
    let output = output.expect("the worker starts");
    assert_eq!(output.stdout, b"");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn by_hand() -> Command {
    let mut command = Command::new(worker());
    command.stdin(Stdio::null());
    command
}

#[test]
fn a_worker_started_by_hand_says_what_it_is_for() {
    worker();
    within(60, "a_worker_started_by_hand_says_what_it_is_for", || {
        assert_eq!(ended(by_hand().output()), (Some(2), BY_HAND.into()));
        // A variable and a socket that do not belong together do not make it a child either.
        for variable in ["1", "", "no number", "18446744073709551616"] {
            assert_eq!(ended(by_hand().env(VARIABLE, variable).output()), (Some(2), BY_HAND.into()));
            let (_parent, child) = sockets();
            assert_eq!(ended(by_hand().env(VARIABLE, variable).stdin(child).output()), (Some(2), BY_HAND.into()));
        }
    });
}

/// Tells a child that its stdin is the control socket, by the socket's inode.
const VARIABLE: &str = "CALLGATE_CHILD";

fn sockets() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("sockets")
}

/// Sends a worker `messages` as its handshake and closes the socket. Returns its exit code, its stderr and its answer.
fn told(messages: &[&[u8]]) -> (Option<i32>, String, Vec<u8>) {
    let (parent, child) = sockets();
    let inode = rustix::fs::fstat(child.as_fd()).expect("a socket").st_ino;
    for message in messages {
        assert_eq!(rustix::io::write(&parent, message), Ok(message.len()));
    }
    rustix::net::shutdown(&parent, rustix::net::Shutdown::Write).expect("a socket");
    let (code, stderr) = ended(by_hand().env(VARIABLE, inode.to_string()).stdin(child).output());
    let mut answer = [0; 4096];
    let len = rustix::io::read(&parent, &mut answer).unwrap_or(0);
    (code, stderr, answer[..len].to_vec())
}

#[test]
fn a_worker_whose_parent_makes_no_sense_ends_and_says_so() {
    worker();
    within(60, "a_worker_whose_parent_makes_no_sense_ends_and_says_so", || {
        let cases: [(&[&[u8]], &str); 6] = [
            (&[], ""),
            (&[b"short"], "a handshake message too short"),
            (&[&[0; 32]], "a handshake message that is not callgate's"),
            (&[b"callgate\x06\0\0\0\0\0\0\0"], "a handshake message that cannot be read"),
            (&[b"callgate\x06\0\0\0\0\0\0\0garbage instead of an archive"], "a handshake message that cannot be read"),
            (&[&[7; 100_000]], "a control message of the wrong shape"),
        ];
        for (messages, why) in cases {
            let (code, stderr, answer) = told(messages);
            let complaint = stderr.split_once(" ends: ").map(|(_, complaint)| complaint.trim_end());
            let expected = (!why.is_empty()).then(|| format!("receiving the handshake: {why}"));
            assert_eq!((code, complaint.map(String::from)), (Some(70), expected.clone()));
            // The parent receives the same text, after 32 bytes that say what kind of answer it is.
            let told = answer.get(32..).map(|words| String::from_utf8_lossy(words).into_owned());
            assert_eq!(told, expected, "{why}");
        }
    });
}

#[test]
fn a_worker_tells_a_parent_of_another_version_its_own() {
    worker();
    within(60, "a_worker_tells_a_parent_of_another_version_its_own", || {
        let (code, _, answer) = told(&[b"callgate\xff\xff\0\0\0\0\0\0whatever that version says"]);
        assert_eq!(code, Some(70));
        let (version, kind, told) = (&answer[8..12], &answer[16..24], &answer[24..28]);
        assert_eq!((&answer[..8], kind), (&b"callgate"[..], &2u64.to_le_bytes()[..]));
        assert_eq!(version, told);
        assert_ne!(version, [0xff, 0xff, 0, 0]);
    });
}

// ---- the running program, replaced ---------------------------------------------------------------------------------

#[test]
fn a_program_whose_file_is_gone_starts_bridges_all_the_same() {
    within(60, "a_program_whose_file_is_gone_starts_bridges_all_the_same", || {
        let original = env::current_exe().expect("a path");
        let copy = original.with_file_name(format!("executable-{}-gone", std::process::id()));
        fs::hard_link(&original, &copy).expect("a link");
        let helper = "helper_removes_its_file";
        let output =
            Command::new(&copy).args(["--exact", helper, "--nocapture"]).env("CALLGATE_TEST_GONE", &copy).output();
        let _ = fs::remove_file(&copy);
        let output = output.expect("the helper starts");
        assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn helper_removes_its_file() {
    let Some(own) = env::var_os("CALLGATE_TEST_GONE") else { return };
    within(60, "helper_removes_its_file", || {
        fs::remove_file(&own).expect("its own file");
        let tally = Tally::bridge(1).start().expect("a start");
        assert_eq!(tally.add("still here"), Ok(2));
        assert_eq!(summary(&tally, 1), "here: 1");
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
    });
}

// ---- the running program, changed or hidden ------------------------------------------------------------------------

/// The environment variable that tells a copy of this program what happens to its own file while it runs.
const FATE: &str = "CALLGATE_TEST_FATE";

/// Changes the file as its fate requires.
type Change = fn(&Path) -> std::io::Result<()>;

/// What can happen to a program's file between two starts. The copy exists only at its path.
const FATES: &[(&str, Change)] = &[
    ("nothing", |_| Ok(())),
    ("touched", |own| {
        let yesterday = SystemTime::now() - Duration::from_secs(86_400);
        fs::File::open(own)?.set_modified(yesterday)
    }),
    ("linked", |own| fs::hard_link(own, own.with_extension("link"))),
    ("moved", |own| fs::rename(own, own.with_extension("moved"))),
    ("removed", |own| fs::remove_file(own)),
    ("replaced by another program", |own| {
        fs::copy("/bin/true", own.with_extension("new"))?;
        fs::rename(own.with_extension("new"), own)
    }),
    ("replaced by what is no program", |own| {
        fs::write(own.with_extension("new"), "an upgrade that has just begun")?;
        fs::rename(own.with_extension("new"), own)
    }),
    ("replaced by a copy", |own| {
        fs::copy(own, own.with_extension("new"))?;
        fs::rename(own.with_extension("new"), own)
    }),
];

/// Makes a copy of this program in `dir`.
fn copy(dir: &TempDir) -> PathBuf {
    let copy = dir.path().join("program");
    support::copy_program(&copy);
    copy
}

/// Runs a copy of this program as `command` says, while `fate` changes its file.
fn befall(fate: &str, copy: &Path, mut command: Command) {
    command.args(["--exact", "helper_whose_file_changes", "--nocapture", "--test-threads=1"]);
    let output = command.env(FATE, fate).env("CALLGATE_TEST_OWN", copy).output().expect("the copy starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{fate}: {command:?}: {}\n{out}{err}", output.status);
}

#[test]
fn helper_whose_file_changes() {
    let Ok(fate) = env::var(FATE) else { return };
    within(60, "helper_whose_file_changes", || {
        let own = PathBuf::from(env::var_os("CALLGATE_TEST_OWN").expect("its own file"));
        let before = Tally::bridge(1).start().expect("a start before");
        let (_, change) = FATES.iter().find(|(name, _)| *name == fate).expect("a fate");
        change(&own).expect(&fate);
        for _ in 0..2 {
            let after = Tally::bridge(1).start().unwrap_or_else(|error| panic!("{fate}: {error}"));
            assert_eq!((after.add("still here"), summary(&after, 1)), (Ok(2), "here: 1".into()));
        }
        assert_eq!(before.add("one"), Ok(1));
    });
}

#[test]
fn fault_28_a_running_program_starts_what_it_is_whatever_becomes_of_its_file() {
    within(240, "fault_28_a_running_program_starts_what_it_is_whatever_becomes_of_its_file", || {
        for (fate, _) in FATES {
            let dir = TempDir::new();
            let copy = copy(&dir);
            befall(fate, &copy, Command::new(&copy));
        }
    });
}

/// The loader that this program names, if any.
fn loader() -> Option<PathBuf> {
    let known = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1"];
    let program = fs::read(env::current_exe().ok()?).ok()?;
    let names = |path: &&&str| program[..8192].windows(path.len()).any(|bytes| bytes == path.as_bytes());
    known.iter().find(names).map(PathBuf::from)
}

#[test]
fn fault_28_a_program_that_a_loader_was_told_to_load_starts_itself_and_not_the_loader() {
    const TEST: &str = "fault_28_a_program_that_a_loader_was_told_to_load_starts_itself_and_not_the_loader";
    let Some(loader) = loader() else { return println!("skipped: no loader is known") };
    within(240, TEST, || {
        for (fate, _) in FATES {
            let dir = TempDir::new();
            let copy = copy(&dir);
            let mut command = Command::new(&loader);
            command.args(["--library-path", "/nowhere"]).arg(&copy);
            befall(fate, &copy, command);
        }
    });
}

#[test]
fn fault_28_a_program_behind_a_script_or_without_a_name_starts_itself() {
    within(120, "fault_28_a_program_behind_a_script_or_without_a_name_starts_itself", || {
        let dir = TempDir::new();
        let copy = copy(&dir);
        let script = dir.path().join("script");
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", copy.display())).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script");
        befall("removed", &copy, Command::new(&script));

        let nameless = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::empty()).expect("memory");
        let mut file = fs::File::from(nameless.try_clone().expect("a copy"));
        std::io::copy(&mut fs::File::open(env::current_exe().expect("a path")).expect("itself"), &mut file)
            .expect("room");
        drop(file);
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&nameless));
        // A file that is open for writing cannot be executed.
        let to_read = fs::File::open(&path).expect("itself");
        drop(nameless);
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&to_read));
        befall("nothing", Path::new(&path), Command::new(&path));
    });
}
