//! Checks that every peer answers correctly and leaves nothing behind: no process, no file.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The program under test, with its own temporary directory. Dropping this kills it.
struct CompareRun {
    process: Child,
    home: TempDir,
}

/// Anything that takes longer counts as hanging. This is more than the time allowed for a new virtual environment and for pip, 120 s each.
const PATIENCE: Duration = Duration::from_secs(300);

impl CompareRun {
    fn start(arguments: &[&str]) -> Self {
        let home = TempDir::new().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_callgate-compare"));
        command.args(arguments).env("TMPDIR", home.path()).stdin(Stdio::null());
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        Self { process, home }
    }

    /// Waits for the end of the program. Returns its success, stdout and stderr, and the names left in its temporary directory.
    fn finish(mut self) -> Finished {
        let [stdout, stderr] = [reader(self.process.stdout.take()), reader(self.process.stderr.take())];
        let success = until(|| self.process.try_wait().expect("a child")).is_some_and(|status| status.success());
        drop(self.process.kill());
        let left = names_in(self.home.path());
        // The pipes end only when the last process that has them ends, so this also checks that no peer outlives the program.
        let text = |thread: thread::JoinHandle<String>| {
            assert!(until(|| thread.is_finished().then_some(())).is_some(), "a peer has outlived the program");
            thread.join().expect("a reader")
        };
        Finished { success, stdout: text(stdout), stderr: text(stderr), left }
    }
}

impl Drop for CompareRun {
    fn drop(&mut self) {
        // Both fail if the program has been reaped already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
struct Finished {
    success: bool,
    stdout: String,
    stderr: String,
    left: BTreeSet<String>,
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut pipe = pipe.expect("a pipe");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a readable pipe");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn until<T>(mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = probe();
        if found.is_some() || begin.elapsed() > PATIENCE {
            return found;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The files in `/dev/shm` of the program with that process number.
fn shared_memory_of(pid: u32) -> Vec<String> {
    let prefix = format!("callgate_compare_{pid}_");
    names_in(Path::new("/dev/shm")).into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// Defines one test for each peer, so that the test harness runs them in parallel.
macro_rules! answers_truly {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            let program = CompareRun::start(&["--verify", $name]);
            let pid = program.process.id();
            let finished = program.finish();
            assert!(finished.success, "{finished:?}");
            if finished.stderr.contains("left out") {
                println!("skipped: {}", finished.stderr.trim());
            }
            assert_eq!(finished.left, BTreeSet::new(), "left in the temporary directory");
            assert_eq!(shared_memory_of(pid), Vec::<String>::new());
        })*

        /// Every peer has a test above, so that none goes unverified.
        #[test]
        fn every_peer_has_its_test() {
            let help = CompareRun::start(&["--help"]).finish().stdout;
            let (_, names) = help.split_once("Names: ").expect("the names");
            // The names form one paragraph, which may have several lines.
            let names = names.split("\n\n").next().unwrap_or_default().split(',');
            let names: BTreeSet<String> = names.map(|name| name.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            assert_eq!(names, BTreeSet::from([$($name.to_owned()),*]));
        }
    };
}

answers_truly! {
    dyn_call: "dyn call",
    crossbeam: "crossbeam threads",
    iceoryx2_polling: "iceoryx2 polling",
    iceoryx2_event: "iceoryx2 event",
    unix_socket: "Unix socket",
    pipe: "pipe",
    ipc_channel: "ipc-channel",
    ipc_channel_memory: "ipc-channel memory",
    iceoryx2_loaned: "iceoryx2 loaned",
    iceoryx2_streamed: "iceoryx2 streamed",
    ringfire: "ringfire",
    tachyon_ipc: "tachyon-ipc",
    tarpc: "tarpc",
    remoc: "remoc",
    cross_process_bridge: "cross-process-bridge",
    manager: "multiprocessing.Manager",
    connection: "multiprocessing.connection",
    capnp: "Cap'n Proto",
}

#[test]
fn a_peer_does_not_outlive_a_caller_that_was_killed() {
    let small = ["iceoryx2 polling", "iceoryx2 event", "Unix socket", "pipe", "ipc-channel", "tarpc"];
    let others = ["iceoryx2 loaned", "ipc-channel memory", "iceoryx2 streamed", "ringfire", "remoc"];
    let optional = cfg!(feature = "tachyon").then_some("tachyon-ipc");
    for name in small.into_iter().chain(others).chain(optional) {
        // A full measurement takes long enough to interrupt it.
        let mut program = CompareRun::start(&[name]);
        let pid = program.process.id();
        let of_peer = || children_of(pid).into_iter().next();
        until(of_peer).unwrap_or_else(|| panic!("{name}: no peer has started"));
        program.process.kill().expect("a running program");
        let home = program.home.path().to_owned();
        // `finish` waits for the end of pipes that the peer has too, and thus for the peer.
        let finished = program.finish();
        assert!(!finished.success);
        let is_gone = || (shared_memory_of(pid).is_empty()).then_some(());
        assert!(until(is_gone).is_some(), "{name}: {:?} is left", shared_memory_of(pid));
        assert!(!home.exists());
    }
}

/// The processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

#[test]
fn a_report_has_a_row_for_each_call_beside_callgates() {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("skipped: a comparison needs two CPUs");
        return;
    }
    let finished = CompareRun::start(&["--quick", "--json", "-", "pipe", "ringfire", "Cap'n"]).finish();
    assert!(finished.success, "{finished:?}");
    let report: callgate_suite::BenchReport = serde_json::from_str(&finished.stdout).expect("a report");
    for call in ["add", "greet", "echo 4096"] {
        let own = report.row("compare", &format!("callgate {call}")).expect("callgate's row");
        let row = report.row("compare", &format!("pipe {call}")).expect("the peer's row");
        assert_eq!((row.floor.as_ref(), own.floor.as_ref()), (Some(&own.name), None));
        assert!(row.p50 > 0.0 && row.count > 0 && row.cpu.is_some_and(|cpu| cpu > 0.0), "{row:?}");
        assert_eq!(row.repeats.len(), own.repeats.len());
        assert!(row.ratio.is_some());
    }
    assert!(report.row("compare", "callgate parked add").is_some());
    let floors = [("add", "callgate add"), ("add 32 in flight", "callgate add"), ("stream", "raw stream")];
    for (kind, floor) in floors {
        let row = report.row("compare", &format!("ringfire {kind}")).expect("the peer's row");
        assert_eq!((row.floor.as_deref(), row.averaged), (Some(floor), kind != "add"));
        assert!(row.p50 > 0.0 && row.ratio.is_some(), "{row:?}");
    }
    let drawn: Vec<_> = report.series.iter().map(|series| (&*series.plot, &*series.name)).collect();
    let curves = ["callgate add", "callgate parked add", "pipe add", "ringfire add"];
    assert_eq!(drawn, curves.map(|name| ("distribution-compare", name)));
    assert_eq!(report.rows.len(), 13);
    assert!(report.skipped.len() == 1 && report.skipped[0].starts_with("Cap'n Proto: "), "{:?}", report.skipped);
}
