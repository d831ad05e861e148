//! Tests what the command `callgate` prints, what it writes and how it fails, by running the built program.

use callgate::manager::{AuthKey, Manager, Registration, Value};
use callgate_suite::BenchReport;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Runs the command. If it takes longer than `secs` seconds, kills it and fails; its children end with it.
fn callgate(secs: u64, args: &[impl AsRef<OsStr>]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name| folder.path().join(name);
    let create = |name| fs::File::create(file(name)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_callgate"));
    // A folder outside any checkout.
    command.args(args).current_dir(folder.path()).env_remove("CALLGATE_COMPARE").env_remove("CALLGATE_AUTHKEY");
    let streams = command.stdin(Stdio::null()).stdout(create("stdout")).stderr(create("stderr"));
    let mut child = streams.spawn().expect("the command starts");
    let deadline = Instant::now() + Duration::from_secs(secs);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().and_then(|()| child.wait()).expect("a child");
            panic!("the command hangs: not done within {secs} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let read = |name| fs::read(file(name)).expect("a file");
    Output { status, stdout: read("stdout"), stderr: read("stderr") }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[track_caller]
fn succeeded(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

/// What `doctor` checks.
const CHECKS: &[&str] = &[
    "CPUs",
    "hyperthreads",
    "frequency governor",
    "virtualisation",
    "clock source",
    "kernel",
    "memfd and seals",
    "pidfd_open",
    "futex_waitv",
    "starting a child",
    "PDEATHSIG",
    "Landlock",
    "seccomp",
    "sandbox",
    "floor",
    "futex wake",
    "timer slack",
    "huge pages for shared memory",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "ptrace_scope",
];

#[test]
fn doctor_says_something_of_each_check() {
    let output = callgate(60, &["doctor"]);
    succeeded(&output);
    let text = stdout(&output);
    for check in CHECKS {
        let line = text.lines().find(|line| line[9..].starts_with(&format!("{check}: ")));
        let line = line.unwrap_or_else(|| panic!("{check} is not in\n{text}"));
        assert!(["good", "slow", "missing"].contains(&line[..9].trim_end()), "{line}");
    }
    // The test suite itself cannot run where children do not start.
    assert!(text.contains("good     starting a child: works"), "{text}");
}

#[test]
fn doctor_writes_json() {
    let output = callgate(60, &["doctor", "--json"]);
    succeeded(&output);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let checks = json["checks"].as_array().expect("a list");
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().expect("a name")).collect();
    assert_eq!(names, CHECKS);
    for check in checks {
        for field in ["value", "verdict", "advice"] {
            assert!(check[field].as_str().is_some_and(|text| !text.is_empty()), "{check} has no {field}");
        }
    }
}

#[test]
fn bench_writes_every_form() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (json, html, markdown) = (file("a.json"), file("a.html"), file("A.md"));
    let outputs = ["--json", &json, "--html", &html, "--markdown", &markdown];
    let args = [&["bench", "--quick", "--only", "floor", "latency"][..], &outputs].concat();
    let output = callgate(300, &args);
    succeeded(&output);
    assert!(stderr(&output).contains("2/2 latency: "), "no progress:\n{}", stderr(&output));

    let report: BenchReport = serde_json::from_str(&fs::read_to_string(&json).expect("a file")).expect("a report");
    assert!(!report.machine.is_empty());
    assert_named_rows(&report);
    assert!(report.skipped.iter().any(|sentence| sentence.starts_with("payload: ")), "{:?}", report.skipped);

    let (text, page) = (stdout(&output), fs::read_to_string(&markdown).expect("a file"));
    let html = fs::read_to_string(&html).expect("a file");
    for row in &report.rows {
        for form in [&text, &page, &html] {
            assert!(form.contains(&row.name), "{} is not in\n{form}", row.name);
        }
    }
    assert_self_contained(&html);
    assert_plots_exist(&page, folder.path());
}

/// Asserts the rows. On a machine with one CPU, there is only the pair that shares it.
#[track_caller]
fn assert_named_rows(report: &BenchReport) {
    let has_two = callgate_suite::pin::allowed().len() > 1;
    let rows: &[_] = if has_two {
        &["ping-pong", "callgate add", "callgate greet", "futex", "callgate add parked", "callgate add one CPU"]
    } else {
        &["futex one CPU", "callgate add one CPU"]
    };
    for name in rows {
        let row = report.row("latency", name).unwrap_or_else(|| panic!("no row {name} in {:?}", report.rows));
        assert!(row.count > 0 && row.p50 > 0.0, "{row:?}");
        assert!(row.p50 <= row.p99 && row.p99 <= row.p999 && row.p999 <= row.max * 1.01, "{row:?}");
        assert_eq!(row.ratio.is_some(), row.floor.is_some(), "{row:?}");
    }
    let targets = report.targets.iter().map(|target| target.what.as_str());
    assert!(
        targets.into_iter().any(|what| what == "callgate add one CPU / futex one CPU (p50)"),
        "{:?}",
        report.targets
    );
}

#[track_caller]
fn assert_self_contained(html: &str) {
    for outside in ["http://", "https://", "src=", "href", "url(", "@import", "<script"] {
        assert!(!html.contains(outside), "{outside} is in the page");
    }
    assert!(html.contains("<svg ") && html.trim_end().ends_with("</html>"));
}

#[track_caller]
fn assert_plots_exist(page: &str, folder: &Path) {
    let plots: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("![")?.split_once("](")?.1.strip_suffix(')')).collect();
    assert!(!plots.is_empty(), "{page}");
    for plot in plots {
        let svg = fs::read_to_string(folder.join(plot)).expect("the plot that the page shows");
        assert!(svg.starts_with("<svg ") && svg.contains("<polyline "), "{plot}");
    }
}

#[test]
fn a_saved_report_is_shown_and_its_names_are_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (json, html) = (file("a.json"), file("a.html"));
    let mut report =
        BenchReport { machine: vec![("CPU".into(), "<i>fast</i> & \"new\"".into())], ..BenchReport::default() };
    report.rows.push(callgate_suite::report::Row {
        group: "<group>".into(),
        name: "<script>alert(1)</script>".into(),
        p50: 400.0,
        count: 1,
        ..Default::default()
    });
    report.series.push(callgate_suite::report::Series {
        plot: "payload".into(),
        name: "<img onerror=1>".into(),
        points: vec![(0.0, 400.0), (64.0, 800.0)],
    });
    fs::write(&json, serde_json::to_string(&report).expect("JSON")).expect("a file");
    let output = callgate(60, &["report", &json, "--html", &html]);
    succeeded(&output);
    assert!(stdout(&output).contains("<script>alert(1)</script>  400 ns"), "{}", stdout(&output));
    let html = fs::read_to_string(&html).expect("a file");
    for markup in ["<script", "<img", "<i>", "<group>"] {
        assert!(!html.contains(markup), "{markup} is in the page");
    }
    for text in [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "&lt;img onerror=1&gt;",
        "&lt;i&gt;fast&lt;/i&gt; &amp; &quot;new&quot;",
    ] {
        assert!(html.contains(text), "{text} is not in the page");
    }
}

#[test]
fn json_can_go_to_stdout_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("a.json");
    let report = BenchReport { skipped: vec!["lunch: it rained.".into()], ..BenchReport::default() };
    fs::write(&json, serde_json::to_string(&report).expect("JSON")).expect("a file");
    let output = callgate(60, &[OsStr::new("report"), json.as_os_str(), "--json".as_ref(), "-".as_ref()]);
    succeeded(&output);
    assert_eq!(serde_json::from_str::<BenchReport>(&stdout(&output)).expect("JSON and nothing else"), report);
    assert!(stderr(&output).contains("lunch: it rained."), "{}", stderr(&output));
    for form in ["--html", "--markdown"] {
        let output = callgate(60, &["bench", form, "-"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("only --json can be written to stdout"), "{}", stderr(&output));
    }
}

#[test]
fn soak_says_what_both_processes_keep() {
    let output = callgate(120, &["soak", "--calls", "300", "--most", "64KiB", "--seed", "5"]);
    succeeded(&output);
    let text = stdout(&output);
    assert!(text.starts_with("300 calls, requests and replies of 0 B to 64 KiB, seed 5\n"), "{text}");
    for done in (1..=10).map(|tenth| format!("{:>12}", 30 * tenth)) {
        assert!(text.lines().any(|line| line.starts_with(&done)), "{done} is not in\n{text}");
    }
    for words in ["of the budget\n", "from the first tenth to the last: "] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    for wrong in [["--calls", "9"], ["--most", "1 mile"]] {
        assert_eq!(callgate(60, &["soak", wrong[0], wrong[1]]).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn chaos_says_what_callers_were_told() {
    let output = callgate(120, &["chaos", "--kills", "200", "--threads", "3", "--seed", "4"]);
    succeeded(&output);
    let text = stdout(&output);
    assert!(text.starts_with("200 kills under 3 calling threads, seed 4\n"), "{text}");
    for words in ["children killed", "calls: answered", "leaks                                                0\n"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let output = callgate(120, &["chaos", "--kills", "30", "--seconds", "1", "--json"]);
    succeeded(&output);
    let tally: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert!(tally["kills"].as_u64().is_some_and(|kills| kills <= 30), "{tally}");
    assert_eq!(tally["wrong"].as_array().map(Vec::len), Some(0), "{tally}");
    for wrong in [&["chaos", "--kills", "0"][..], &["chaos", "--threads", "65"], &["chaos", "--sweep", "--kills", "5"]]
    {
        assert_eq!(callgate(60, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[cfg(not(feature = "failpoints"))]
#[test]
fn a_build_without_steps_says_so() {
    let output = callgate(60, &["chaos", "--sweep"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--features failpoints"), "{}", stderr(&output));
}

#[test]
fn with_one_cpu_what_needs_two_is_left_out() {
    let cpu = callgate_suite::pin::allowed()[0];
    // The command inherits the pinning.
    let _pin = callgate_suite::pin::Pinned::to(cpu).expect("an allowed CPU");
    let output = callgate(
        120,
        &[
            "bench",
            "--quick",
            "--json",
            "-",
            "--only",
            "floor,latency,pending,async,throughput,payload,large,waiting,manager,sandbox",
        ],
    );
    succeeded(&output);
    let report: BenchReport = serde_json::from_str(&stdout(&output)).expect("a report");
    for group in [
        "Floors",
        "Latency",
        "Pending calls",
        "Awaited calls",
        "Throughput",
        "Payloads",
        "Large payloads",
        "Waiting",
        "Callbacks",
        "Sandbox",
    ] {
        let sentence = format!("{group} between two CPUs: this process may run on one only.");
        assert!(report.skipped.contains(&sentence), "{sentence} is not in {:?}", report.skipped);
    }
    assert!(report.row("latency", "callgate add one CPU").is_some());
    assert!(report.row("waiting", "idle bridge").is_some());
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    for args in [&["bench", "--lunch"][..], &["bench", "--only", "lunch"], &["lunch"], &["doctor", "extra"], &[]] {
        let output = callgate(60, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && stderr(&output).contains("--help"), "{args:?}: {}", stderr(&output));
    }
    assert!(stderr(&callgate(60, &["bench", "--only", "lunch"])).contains("latency"), "it says which groups there are");
}

#[test]
fn what_cannot_be_written_is_said_before_anything_is_measured() {
    for option in ["--json", "--html", "--markdown"] {
        let output = callgate(60, &["bench", option, "/nonexistent/folder/report"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            stderr(&output),
            "callgate: the report cannot be written to /nonexistent/folder/report: No such file or directory (os error 2); \
             nothing was measured\n"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn without_the_program_to_compare_with_it_says_where_it_looked() {
    let folder = tempfile::tempdir().expect("a folder");
    // A copy of the command, so that nothing lies beside it. Another process makes the copy: if this process had the file open for writing, a child
    // that another test forks at that moment would inherit the descriptor, and the kernel does not execute a file that is open for writing.
    let copy = folder.path().join("callgate");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_callgate")).arg(&copy).status().expect("cp runs");
    assert!(copied.success());
    let mut command = Command::new(&copy);
    command.args(["bench", "--compare"]).current_dir(folder.path()).env("CALLGATE_COMPARE", "/nonexistent/compare");
    let output = command.output().expect("the command runs");
    assert_eq!(output.status.code(), Some(1));
    let (text, beside) = (stderr(&output), folder.path().join("callgate-compare"));
    for words in [&*beside.to_string_lossy(), "`/nonexistent/compare`", "not in a checkout", "cargo build --release"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn a_file_that_is_no_report_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notes.txt");
    for (content, words) in [(None, "cannot be read"), (Some("notes"), "is not a report of `callgate bench --json`")] {
        if let Some(content) = content {
            fs::write(&path, content).expect("a file");
        }
        let output = callgate(60, &[OsStr::new("report"), path.as_os_str()]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.starts_with(&format!("callgate: {} {words}", path.display())), "{text}");
    }
}

/// Returns an unused address and the path of a file with a key.
fn address_and_key(folder: &Path) -> (String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let file = folder.join("key");
    fs::write(&file, "the key of the tests\n").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a file of this user");
    let address = format!("@callgate-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    (address, file.to_str().expect("text").into())
}

/// A running `callgate serve`. Dropping it kills the process.
struct Served(Child);

impl Served {
    fn start(address: &str, key: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callgate"));
        command.args(["serve", address, "--authkey-file", key]).stdin(Stdio::null()).stdout(Stdio::piped());
        let served = Self(command.spawn().expect("the command starts"));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !callgate(60, &["names", address, "--authkey-file", key]).status.success() {
            assert!(Instant::now() < deadline, "no hub within a minute");
        }
        served
    }

    /// Waits for the end of the process. Returns its exit code and output.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            match self.0.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the hub does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
        (status.code(), text)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registered(address: &str) -> (Manager, Vec<Registration>) {
    let manager = Manager::new(address, &AuthKey::new("the key of the tests"));
    manager.connect(Duration::from_secs(60)).expect("a hub");
    let registrations = [
        manager.register_fn("add", |a: i64, b: i64| a + b),
        manager.register("show", |args: callgate::manager::Args| args.to_string()),
        manager.register("list", |args: callgate::manager::Args| Value::from(args.positional().to_vec())),
        manager.register_fn("fail", || Err::<(), _>("on purpose")),
        manager.register_fn("nothing", || ()),
        manager.register_fn("escape", || Err::<(), _>("\x1b]0;owned\x07 and\nmore")),
        manager.register_fn("sleep", || std::thread::sleep(Duration::from_secs(3))),
    ];
    let registrations = registrations.into_iter().collect::<Result<_, _>>().expect("free names");
    (manager, registrations)
}

#[test]
fn callbacks_are_called_from_a_shell() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, key) = address_and_key(folder.path());
    let served = Served::start(&address, &key);
    let (manager, registrations) = registered(&address);
    let call = |args: &[&str]| callgate(60, &[&["call", &address, "--authkey-file", &key][..], args].concat());
    for (args, answer) in [
        (&["add", "1", "-2"][..], "-1"),
        (&["nothing"], "null"),
        (
            &["list", "1", "2.5", "[true, null]", r#"{"a": "b"}"#, "text", r#""7""#],
            r#"[1,2.5,[true,null],{"a":"b"},"text","7"]"#,
        ),
        (&["show", "1", "--kw", "a=4", "b=five words"], r#""(1; a = 4, b = \"five words\")""#),
        (&["show", "1", "--kw", "a=4", "--kw", "b=[]"], r#""(1; a = 4, b = [])""#),
    ] {
        let output = call(args);
        succeeded(&output);
        assert_eq!(stdout(&output), format!("{answer}\n"), "{args:?}");
    }
    for (args, why) in [
        (&["subtract", "1"][..], format!("nobody has registered `subtract` at {address}")),
        (&["fail"], "`fail` failed: on purpose".into()),
        (&["escape"], "`escape` failed: \\u{1b}]0;owned\\u{7} and\nmore".into()),
        (&["show", "--kw", "a"], "`a` is not a keyword with a value: NAME=JSON".into()),
        (&["show", r#"{"$float": 1}"#], r#"the value in {"$float": ..} must be "nan", "inf" or "-inf""#.into()),
    ] {
        let output = call(args);
        assert_eq!((output.status.code(), stderr(&output)), (Some(1), format!("callgate: {why}\n")), "{args:?}");
        assert!(output.stdout.is_empty());
    }
    let mismatched = call(&["add", "1"]);
    assert_eq!(mismatched.status.code(), Some(1));
    assert!(stderr(&mismatched).contains("expected 2 arguments (i64, i64), found 1"), "{}", stderr(&mismatched));
    let late = call(&["sleep", "--timeout", "0.2"]);
    assert_eq!(late.status.code(), Some(1));
    assert!(stderr(&late).contains("200ms"), "{}", stderr(&late));
    succeeded(&call(&["sleep", "--timeout", "60"]));
    let meant = call(&["list", "[1, 2"]);
    assert_eq!(meant.status.code(), Some(1), "{}", stdout(&meant));
    assert!(stderr(&meant).contains("is not JSON"), "{}", stderr(&meant));

    manager.shutdown().expect("a hub");
    drop(registrations);
    let (code, text) = served.end();
    assert_eq!(code, Some(0));
    assert!(text.starts_with("hub ") && text.ends_with("ended by a client\n"), "{text}");
}

#[test]
fn names_and_watch_show_who_has_what() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, key) = address_and_key(folder.path());
    let _served = Served::start(&address, &key);
    let names = || callgate(60, &["names", &address, "--authkey-file", &key]);
    assert_eq!(stdout(&names()), "nothing is registered\n");
    let (manager, _registrations) = registered(&address);
    let caller = Manager::new(&address, &AuthKey::new("the key of the tests"));
    caller.connect(Duration::from_secs(60)).expect("a hub");
    assert_eq!(caller.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
    let listed = stdout(&names());
    let line = listed
        .lines()
        .find(|line| line.trim_start().starts_with("add "))
        .unwrap_or_else(|| panic!("no `add` in\n{listed}"));
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[1], std::process::id().to_string(), "{line}");
    assert!(line.contains("(i64, i64) -> i64") && words[words.len() - 2] == "1", "{line}");

    let done = AtomicBool::new(false);
    let watched = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(caller.call_as::<i64>("add", (1i64, 2i64)), Ok(Some(3)));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let watched = callgate(60, &["watch", &address, "--authkey-file", &key, "--once"]);
        done.store(true, Ordering::Relaxed);
        watched
    });
    succeeded(&watched);
    let text = stdout(&watched);
    let rate = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.split_whitespace().rev().nth(1).expect("a column").parse().expect("a number")
    };
    assert!(rate("add ") > 0.0 && rate("show ") == 0.0, "{text}");
    assert!(
        text.lines().nth(1).is_some_and(|line| line.trim_start().starts_with("add ")),
        "the one that is called is first:\n{text}"
    );
    drop(manager);
}

/// A running `callgate watch`. Dropping it kills the process.
struct Watching {
    process: Child,
    lines: Option<Receiver<String>>,
}

impl Watching {
    fn start(address: &str, key: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callgate"));
        command.args(["watch", address, "--authkey-file", key]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the command starts");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let (said, lines) = mpsc::sync_channel(0);
        // The thread ends and closes the pipe when the receiver of the lines is dropped.
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { process, lines: Some(lines) }
    }

    /// Waits for the line that begins with `start` and returns the rest of it.
    fn next(&self, start: &str) -> String {
        let lines = self.lines.as_ref().expect("somebody reads");
        loop {
            let line = lines.recv_timeout(Duration::from_secs(60)).expect("another line");
            if let Some(rest) = line.trim_start().strip_prefix(start) {
                return rest.to_owned();
            }
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.process.try_wait().expect("a child") {
                Some(status) => return status.code(),
                None => assert!(Instant::now() < deadline, "it goes on"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn watch_goes_on_until_the_hub_ends_or_nobody_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, key) = address_and_key(folder.path());
    let served = Served::start(&address, &key);
    let (manager, registrations) = registered(&address);
    let (mut watching, mut unread) = (Watching::start(&address, &key), Watching::start(&address, &key));
    for _ in 0..3 {
        assert!(watching.next("add ").contains("(i64, i64) -> i64"));
    }
    unread.next("add ");
    unread.lines = None;
    assert_eq!(unread.exit_code(), Some(0), "nobody reads");
    watching.next("add ");
    manager.shutdown().expect("a hub");
    assert_eq!(watching.next("the hub"), " has ended");
    assert_eq!(watching.exit_code(), Some(0));
    drop(registrations);
    assert_eq!(served.end().0, Some(0));
}

#[test]
fn watch_shows_how_long_calls_take_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, key) = address_and_key(folder.path());
    let _served = Served::start(&address, &key);
    let owner = Manager::new(&address, &AuthKey::new("the key of the tests"));
    owner.connect(Duration::from_secs(60)).expect("a hub");
    let work = |millis: u64| std::thread::sleep(Duration::from_millis(millis));
    let _registration = owner.register_fn("work", work).expect("a free name");
    let call = |millis: u64| assert_eq!(owner.call_as::<()>("work", (millis,)), Ok(Some(())));
    // Very many calls that take no time, before the first look.
    (0..100_000).for_each(|_| call(0));
    let watching = Watching::start(&address, &key);
    let (done, deadline) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(120));
    let mean = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                call(20);
            }
        });
        let line = watching.next("work ");
        done.store(true, Ordering::Relaxed);
        line.split_whitespace().next_back().expect("a column").to_owned()
    });
    let millis: f64 = mean.strip_suffix("ms").unwrap_or_else(|| panic!("{mean}")).parse().expect("a number");
    assert!(millis >= 20.0, "{mean}");
}

#[test]
fn a_hub_ends_at_a_signal_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, key) = address_and_key(folder.path());
        let place = folder.path().join("place");
        let address = place.join("hub").to_str().expect("text").to_owned();
        let served = Served::start(&address, &key);
        assert!(fs::exists(&address).expect("a folder"));
        rustix::process::kill_process(Pid::from_child(&served.0), signal).expect("a process");
        let (code, text) = served.end();
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(fs::read_dir(place).expect("a folder").count(), 0, "something is left of the hub");
    }
}

#[test]
fn who_has_no_key_or_no_hub_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (address, key) = address_and_key(folder.path());
    for command in [&["serve", &address][..], &["names", &address], &["call", &address, "add"], &["watch", &address]] {
        let output = callgate(60, command);
        let why = "callgate: there is no key: name a file with --authkey-file, or set CALLGATE_AUTHKEY\n";
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), why), "{command:?}");
    }
    let nobody = callgate(60, &["names", &address, "--authkey-file", &key]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains(&address), "{}", stderr(&nobody));

    let _served = Served::start(&address, &key);
    let with = |value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callgate"));
        command.args(["names", &address]).env("CALLGATE_AUTHKEY", value).output().expect("the command runs")
    };
    let wrong = with("another key");
    assert_eq!(wrong.status.code(), Some(1), "{}", stderr(&wrong));
    let second = callgate(60, &["serve", &address, "--authkey-file", &key]);
    assert_eq!(second.status.code(), Some(1), "there is a hub already");
    succeeded(&with("the key of the tests"));
}

#[test]
fn help_has_examples_and_the_version_is_there() {
    let help = callgate(60, &["--help"]);
    succeeded(&help);
    assert!(stdout(&help).contains("callgate bench --html report.html"));
    let version = callgate(60, &["--version"]);
    succeeded(&version);
    assert_eq!(stdout(&version), concat!("callgate ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn fault_24_a_limit_on_files_keeps_the_command_from_writing_and_not_from_saying_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let (saved, page) = (folder.path().join("saved.json"), folder.path().join("page.html"));
    fs::write(&saved, serde_json::to_string(&BenchReport::default()).expect("JSON")).expect("a file");
    // `ulimit` counts blocks of 512 bytes.
    let limited = r#"ulimit -f 1; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_callgate"), "report"]).arg(&saved).arg("--html").arg(&page);
    let output = command.current_dir(folder.path()).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("File too large"), "{}", stderr(&output));
}
