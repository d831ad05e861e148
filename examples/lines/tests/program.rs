//! Drives the program as its users do: on files, with output that is closed early, and on pipes that the test keeps open.

#![forbid(unsafe_code)]

#[path = "../../../tests/support/mod.rs"]
mod support;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;
use support::{TempDir, children_of, eventually, process_exists, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lines");
/// More than either process has mapped in by itself, and less than a file of which nothing may be kept.
const BOUND: u64 = 32 << 20;

#[test]
fn it_prints_the_lines_that_match_and_says_whether_any_does() {
    within(60, "it_prints_the_lines_that_match_and_says_whether_any_does", || {
        let (_directory, path) = file(b"one\ntwo\nthree\nfo\xffur\n\nlast: o");
        let output = run(&["o", &path]);
        assert_eq!(text(&output.stdout), "one\ntwo\nfo\u{fffd}ur\nlast: o\n");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(text(&run(&["^t.*e$", &path]).stdout), "three\n");
        let output = run(&["five", &path]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    });
}

#[test]
fn what_cannot_be_searched_is_named() {
    within(60, "what_cannot_be_searched_is_named", || {
        let (directory, path) = file(b"text\n");
        let missing = directory.file("missing");
        fails(&["x", &missing], &format!("lines: {missing}: No such file or directory (os error 2)\n"));
        fails(&["x", directory.path().to_str().expect("text")], ": Is a directory (os error 21)\n");
        fails(&["x(", &path], "unclosed group\n");
        fails(&["x"], "usage: lines PATTERN FILE\n");
        fails(&["x", &path, &path], "usage: lines PATTERN FILE\n");
    });
}

#[test]
fn a_line_without_end_costs_the_child_its_life_and_the_program_a_message() {
    within(60, "a_line_without_end_costs_the_child_its_life_and_the_program_a_message", || {
        fails(&["x", "/dev/zero"], "memory allocation failed");
    });
}

#[test]
fn a_line_is_printed_before_the_next_can_be_read() {
    within(60, "a_line_is_printed_before_the_next_can_be_read", || {
        let (mut program, mut pipe) = Program::on_a_pipe();
        for number in 0..100 {
            let line = format!("match {number}\n");
            pipe.write_all(line.as_bytes()).expect("it reads");
            assert_eq!(program.line(), line);
        }
        drop(pipe);
        assert_eq!(program.line(), "");
        assert!(program.process.wait().expect("it is our child").success());
    });
}

#[test]
fn output_that_nobody_reads_any_more_ends_it_quietly() {
    within(60, "output_that_nobody_reads_any_more_ends_it_quietly", || {
        let mut program = Program::start(file(&b"a line that matches\n".repeat(100_000)));
        assert_eq!(program.line(), "a line that matches\n");
        program.close();
        let output = program.ended();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    });
}

#[test]
fn sigint_ends_it_and_leaves_no_child() {
    within(60, "sigint_ends_it_and_leaves_no_child", || {
        let (mut program, mut pipe) = Program::on_a_pipe();
        pipe.write_all(b"match\n").expect("it reads");
        program.line();
        let children = children_of(program.process.id());
        assert_eq!(children.len(), 1, "one process searches");
        kill(Pid::from_raw(program.process.id().cast_signed()), Signal::SIGINT).expect("it runs");
        let output = program.ended();
        assert_eq!((output.status.signal(), text(&output.stderr)), (Some(2), ""));
        assert!(eventually(30, "the child is gone", || !process_exists(children[0])));
    });
}

#[test]
fn a_huge_file_takes_no_more_memory_than_a_small_one() {
    within(120, "a_huge_file_takes_no_more_memory_than_a_small_one", || {
        let (mut program, mut pipe) = Program::on_a_pipe();
        // The pipe comes back open, so both processes still run when they are looked at.
        let writer = thread::spawn(move || {
            let line = [&[b'x'; 1000][..], b" match\n"].concat();
            (0..100_000).for_each(|_| pipe.write_all(&line).expect("it reads"));
            pipe
        });
        (0..100_000).for_each(|_| assert_eq!(program.line().len(), 1007));
        let pid = program.process.id();
        let peaks: Vec<_> = [vec![pid], children_of(pid)].concat().into_iter().map(peak_memory).collect();
        assert!(peaks.len() == 2 && peaks.iter().all(|&peak| (1 << 20..BOUND).contains(&peak)), "{peaks:?}");
        drop(writer.join().expect("everything is read"));
        assert!(program.process.wait().expect("it is our child").success());
    });
}

/// The most memory that a process has had mapped in, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    1024 * peak.and_then(|kib| kib.parse::<u64>().ok()).expect(&status)
}

/// A file with this content, for as long as its directory is kept.
fn file(content: &[u8]) -> (TempDir, String) {
    let directory = TempDir::new();
    let path = directory.file("searched");
    fs::write(&path, content).expect("it can be written");
    (directory, path)
}

/// Runs the program to its end.
fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

/// Runs the program, which must print nothing but an error that contains `message`.
fn fails(args: &[&str], message: &str) {
    let output = run(args);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty() && text(&output.stderr).contains(message), "{output:?}");
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

/// The program, looking for `match`. Killed at the end of its test if it still runs.
struct Program {
    process: Child,
    stdout: Option<BufReader<ChildStdout>>,
    _directory: TempDir,
}

impl Program {
    fn start((_directory, path): (TempDir, String)) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["match", &path]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("the program starts");
        let stdout = process.stdout.take().map(BufReader::new);
        Self { process, stdout, _directory }
    }

    /// Starts it on a named pipe. Returns the end that the test writes to.
    fn on_a_pipe() -> (Self, File) {
        let directory = TempDir::new();
        let path = directory.file("pipe");
        mkfifo(&*path, Mode::S_IRWXU).expect("a pipe");
        let program = Self::start((directory, path.clone()));
        // Waits until the child opens it to read.
        let pipe = File::options().write(true).open(path).expect("it can be written to");
        (program, pipe)
    }

    /// Waits for the next line of its output; `""` is its end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.as_mut().expect("it is open").read_line(&mut line).expect("text");
        line
    }

    /// Reads no more.
    fn close(&mut self) {
        self.stdout = None;
    }

    fn ended(&mut self) -> Output {
        let mut stderr = Vec::new();
        self.process.stderr.take().expect("it is piped").read_to_end(&mut stderr).expect("it ends");
        Output { status: self.process.wait().expect("it is our child"), stdout: Vec::new(), stderr }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
