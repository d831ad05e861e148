//! Shared by the integration tests: a watchdog, waiting for a condition, helper processes, and counts of what a process holds.

#![allow(dead_code)]

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Runs `body`. If it takes longer than `secs` seconds, aborts the whole test process, naming `name`: a hang is a failure.
pub(crate) fn within(secs: u64, name: &str, body: impl FnOnce()) {
    let _watchdog = Watchdog::start(secs, name.to_owned());
    body();
}

struct Watchdog {
    /// Dropped to stop the watchdog.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    fn start(secs: u64, name: String) -> Self {
        let (done, called_off) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if called_off.recv_timeout(Duration::from_secs(secs)) == Err(RecvTimeoutError::Timeout) {
                // Not `eprintln`: the harness captures its output, and an abort would lose it.
                let _ = writeln!(std::io::stderr(), "\nwatchdog: `{name}` hangs: not done within {secs} s");
                Helper::kill_all();
                std::process::abort();
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Watchdog {
    /// Joins the thread too, so that it does not appear in a later count of threads.
    fn drop(&mut self) {
        drop(self.done.take());
        self.thread.take().map(JoinHandle::join);
    }
}

/// Waits up to `secs` seconds until `cond` holds. Returns whether it did; if not, prints that `what` did not happen.
#[must_use = "whether it happened is what the test is about"]
pub(crate) fn eventually(secs: u64, what: &str, mut cond: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(secs);
    while !cond() {
        if Instant::now() >= deadline {
            eprintln!("not within {secs} s: {what}");
            return cond();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// What the descriptors of process `pid` refer to, sorted: the link targets in `/proc/<pid>/fd`.
pub(crate) fn open_descriptors(pid: u32) -> Vec<String> {
    let dir = format!("/proc/{pid}/fd");
    let links = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let targets = links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.to_string_lossy().into_owned()));
    // Reading the directory opens it, so it lists itself.
    let mut targets: Vec<_> = targets.filter(|target| *target != dir).collect();
    targets.sort();
    targets
}

/// The number of threads of process `pid`.
pub(crate) fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count()
}

/// The number of children of process `pid` that have ended and have not been waited for.
pub(crate) fn zombies_of(pid: u32) -> usize {
    processes().filter_map(Status::of).filter(|status| status.parent == pid && status.state == 'Z').count()
}

/// The children of process `pid`, those that have ended included.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    processes().filter(|&child| Status::of(child).is_some_and(|status| status.parent == pid)).collect()
}

/// The number of each process.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether process `pid` runs, sleeps or is stopped. A zombie does not count.
pub(crate) fn process_exists(pid: u32) -> bool {
    Status::of(pid).is_some_and(|status| !matches!(status.state, 'Z' | 'X'))
}

/// Whether a signal has stopped process `pid`.
pub(crate) fn is_stopped(pid: u32) -> bool {
    Status::of(pid).is_some_and(|status| status.state == 'T')
}

/// Fields of `/proc/<pid>/stat`.
struct Status {
    state: char,
    parent: u32,
}

impl Status {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything, even parentheses.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
        Some(Self { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
    }
}

/// The names in `/dev/shm`, sorted.
pub(crate) fn shm_entries() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The number of lines in `/proc/<pid>/maps` that contain `needle`.
pub(crate) fn mappings_named(pid: u32, needle: &str) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter(|line| line.contains(needle)).count()
}

// ---- helper processes ----------------------------------------------------------------------------------------------

/// The environment variable that gives a helper process its role.
const ROLE: &str = "CALLGATE_TEST_ROLE";

/// The role of this process, if it is a helper process.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs this test binary again, in a process that runs only the test `test` and plays `role`.
///
/// The test asks for its [`role`], and does nothing without one.
pub(crate) fn helper(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Has a helper process play `role`, and fails unless it succeeds.
pub(crate) fn play(test: &str, role: &str) {
    let output = helper(test, role).output().expect("the helper starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = output.status.success() && out.contains("1 passed");
    assert!(passed, "the helper `{role}` failed: {}\n{out}\n{err}", output.status);
    print!("{out}");
}

/// Runs `body`, the body of the test with the full name `test`, in a helper process: every thread, child, descriptor, mapping and limit there
/// belongs to this test alone. Fails as the helper does, after at most `secs` seconds.
pub(crate) fn alone(test: &str, secs: u64, body: impl FnOnce()) {
    match role() {
        Some(_) => within(secs, test, body),
        None => within(secs + 10, test, || play(test, test)),
    }
}

/// Reports a value to the test that started this helper process; see [`Helper::hear`].
pub(crate) fn say(what: &str, value: impl Display) {
    println!("\n@{what} {value}");
}

/// A helper process that keeps running while the test acts on it. Killed when dropped.
pub(crate) struct Helper {
    process: Child,
    says: BufReader<ChildStdout>,
}

impl Helper {
    pub(crate) fn start(test: &str, role: &str) -> Self {
        Self::of(&mut helper(test, role)).expect("the helper starts")
    }

    /// Starts the helper from a `command` that the test may have extended.
    pub(crate) fn of(command: &mut Command) -> std::io::Result<Self> {
        let mut helpers = HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        helpers.push(process.id());
        drop(helpers);
        let says = BufReader::new(process.stdout.take().expect("its output is piped"));
        Ok(Self { process, says })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the helper or a child of it [`says`](say) `what`. Returns the value.
    pub(crate) fn hear(&mut self, what: &str) -> String {
        let prefix = format!("@{what} ");
        let mut heard = String::new();
        let mut line = 0;
        while self.says.read_line(&mut heard).expect("the helper's output is text") > 0 {
            if let Some(value) = heard[line..].strip_prefix(&prefix) {
                return value.trim_end().to_owned();
            }
            line = heard.len();
        }
        let ended = self.wait().map_or("nobody knows how".into(), |status| status.to_string());
        panic!("the helper ended ({ended}) without saying `{what}`: {heard}")
    }

    /// Waits for the helper's end, and returns its exit status.
    pub(crate) fn wait(&mut self) -> std::io::Result<ExitStatus> {
        // Until someone reaps it, its process number stays its own, so a watchdog may kill it.
        let _ = waitid(Id::Pid(Pid::from_raw(self.pid().cast_signed())), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        self.forget();
        self.process.wait()
    }

    /// Kills the helper, and returns when it is gone.
    pub(crate) fn kill(&mut self) {
        self.forget();
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Stops tracking the helper: once it is reaped, its number may become another process's.
    fn forget(&self) {
        HELPERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|pid| *pid != self.pid());
    }

    /// Kills all helpers of this process, which is about to abort: they would run for ever and keep its output open.
    fn kill_all() {
        // A start that hangs holds the lock.
        for pid in HELPERS.try_lock().iter().flat_map(|helpers| helpers.iter()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// The running helpers.
static HELPERS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

impl Drop for Helper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies this test binary to `copy`, to be executed. Another process does the copying: a child forked from this process during the copy would
/// inherit the open file, and the kernel executes no file that is open for writing.
pub(crate) fn copy_program(copy: impl AsRef<Path>) {
    let own = std::env::current_exe().expect("the test binary has a path");
    let copied = Command::new("cp").arg(own).arg(copy.as_ref()).status().expect("cp runs");
    assert!(copied.success(), "cp ended with {copied}");
}

// ---- files ---------------------------------------------------------------------------------------------------------

/// A new directory, removed with its contents when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("callgate-test-{}-{number}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Self(path),
                // Left by a process that was killed, or that has the same number in another pid namespace.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The path of `name` in the directory, as text to pass to a child.
    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the temporary directory's name is text").to_owned()
    }
}

impl Drop for TempDir {
    /// Renames the directory first: a process that still uses it finds it gone as a whole, and adds no files while it is being emptied.
    fn drop(&mut self) {
        let going = self.0.with_extension("going");
        let _ = std::fs::rename(&self.0, &going);
        // A file that was being created during the renaming fails one removal, but not two.
        let _ = std::fs::remove_dir_all(&going).or_else(|_| std::fs::remove_dir_all(&going));
    }
}

/// An abstract address that is unique even beside processes with the same number in another pid namespace.
pub(crate) fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("@callgate-test-{}-{}-{since:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A gate at which a method in a child waits until the test opens it.
pub(crate) struct Gate(TempDir);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(TempDir::new())
    }

    /// The argument that the child needs for [`pass`](Self::pass).
    pub(crate) fn path(&self) -> String {
        self.0.file("gate")
    }

    /// Waits until a child has reached the gate.
    pub(crate) fn wait_for_child(&self) {
        let reached = format!("{}.reached", self.path());
        assert!(eventually(30, "the child reaches the gate", || Path::new(&reached).exists()));
    }

    /// Lets the child continue.
    pub(crate) fn open(&self) {
        std::fs::write(self.path(), "").expect("the gate can be opened");
    }

    /// Waits, in a child, until the gate at `path` opens or is removed because the test has finished.
    pub(crate) fn pass(path: &str) {
        let path = Path::new(path);
        let _ = std::fs::write(path.with_extension("reached"), "");
        while !path.exists() && path.parent().is_some_and(Path::exists) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
