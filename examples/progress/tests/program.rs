//! Drives the program as its users do: to the end, up to a step, and with Ctrl-C, in a terminal and without one.

#![forbid(unsafe_code)]

#[path = "../../../tests/support/mod.rs"]
mod support;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use support::{children_of, eventually, process_exists, within};

const PROGRAM: &str = env!("CARGO_BIN_EXE_progress");
/// Enough for many seconds.
const LONG: [&str; 2] = ["--below", "10000000"];

#[test]
fn it_runs_to_the_end() {
    within(60, "it_runs_to_the_end", || {
        let output = run(&["--below", "3000"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout), "30 of 30 steps: 430 primes below 3000\n");
    });
}

#[test]
fn cancelled_at_a_step_it_ends_there() {
    within(60, "cancelled_at_a_step_it_ends_there", || {
        let output = run(&["--below", "3000", "--cancel-at", "7"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(text(&output.stdout), "7 of 30 steps: 125 primes below 700\n");
        assert_eq!(text(&output.stderr).lines().last(), Some("7/30 125 primes below 700"));
    });
}

#[test]
fn without_a_terminal_its_output_is_plain_lines() {
    within(60, "without_a_terminal_its_output_is_plain_lines", || {
        let output = run(&["--below", "3000"]);
        let steps = text(&output.stderr);
        assert!(!steps.contains(|c: char| c.is_control() && c != '\n'), "{steps:?}");
        assert_eq!(steps.lines().count(), 30);
        assert_eq!(steps.lines().next(), Some("1/30 25 primes below 100"));
    });
}

#[test]
fn an_argument_that_it_does_not_know_is_refused() {
    within(60, "an_argument_that_it_does_not_know_is_refused", || {
        for args in [&["--below"][..], &["--cancel-at", "x"], &["3000"]] {
            let output = run(args);
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            assert!(text(&output.stderr).starts_with("usage: "), "{output:?}");
        }
    });
}

#[test]
fn sigint_ends_it_at_the_next_step_and_leaves_no_child() {
    within(60, "sigint_ends_it_at_the_next_step_and_leaves_no_child", || {
        let (steps, stderr) = io::pipe().expect("a pipe");
        let program = Program::start(Command::new(PROGRAM).args(LONG).stderr(stderr));
        let mut steps = BufReader::new(steps).lines(); // open to the end, as the program writes to it
        let first = steps.next().expect("a line").expect("text");
        assert!(first.starts_with("1/30 "), "{first}");
        let children = children_of(program.0.id());
        assert_eq!(children.len(), 1, "one process counts");
        kill(Pid::from_raw(program.0.id().cast_signed()), Signal::SIGINT).expect("it runs");
        program.was_stopped_midway();
        assert!(eventually(30, "the child is gone", || !process_exists(children[0])));
    });
}

#[test]
fn a_terminal_has_a_bar_and_its_ctrl_c_ends_the_count() {
    within(60, "a_terminal_has_a_bar_and_its_ctrl_c_ends_the_count", || {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let terminal = openpty(Some(&size), None).expect("a terminal");
        let stdin = terminal.slave.try_clone().expect("a descriptor");
        // Makes the terminal that of the program, whose process number stays the same.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(PROGRAM).args(LONG).env("TERM", "xterm");
        let program = Program::start(command.stdin(stdin).stderr(terminal.slave));
        drop(command);
        let mut keyboard = File::from(terminal.master);
        let mut screen = String::new();
        while !screen.contains(" 1/30 ") {
            screen += &some_text(&mut keyboard);
        }
        assert!(screen.contains('█') || screen.contains('░'), "{screen:?}");
        keyboard.write_all(b"\x03").expect("it reads");
        program.was_stopped_midway();
    });
}

/// Runs the program to its end.
fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

/// Reads what a terminal shows next.
fn some_text(terminal: &mut File) -> String {
    let mut bytes = [0; 4096];
    let len = terminal.read(&mut bytes).expect("the program still runs");
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// The program, killed at the end of its test if it still runs.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().expect("the program starts"))
    }

    fn was_stopped_midway(mut self) {
        let mut said = String::new();
        self.0.stdout.take().expect("it is piped").read_to_string(&mut said).expect("text");
        let taken: u32 = said.split(' ').next().and_then(|steps| steps.parse().ok()).expect(&said);
        assert!((1..30).contains(&taken) && said.contains(" of 30 steps: "), "{said}");
        assert_eq!(self.0.wait().expect("it is our child").code(), Some(1));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
