//! Promise: a program that never calls `init` gets an error saying so, and is never executed a second time. Separate executables need no `init` in
//! their parent. Nothing in this file calls it.

use callgate::{StartError, bridge};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::{env, fs, process};

#[path = "support/held.rs"]
mod held;
mod support;
mod workers;
use held::{Held, alone};
use support::{TempDir, helper, role, within};
use workers::tally::Tally;
use workers::worker;

/// The environment variable with the path of a file to which every execution of this program adds a line.
const EXECUTIONS: &str = "CALLGATE_TEST_EXECUTIONS";

const _: () = {
    extern "C" fn count_execution() {
        let Some(file) = env::var_os(EXECUTIONS) else { return };
        let mut file = OpenOptions::new().append(true).open(file).expect("the file");
        writeln!(file, "{}", process::id()).expect("a line");
    }

    #[used]
    #[unsafe(link_section = ".init_array")]
    static COUNT_EXECUTION: extern "C" fn() = count_execution;
};

struct Guest;

#[bridge]
impl Guest {
    pub(crate) fn new() -> Self {
        Guest
    }

    pub(crate) fn greet(&self) -> String {
        "hello".into()
    }
}

const SENTENCE: &str = "bridge to `Guest` not started: the program's main has no #[callgate::main] above it \
                        (put it there, or call callgate::init() first in main; in tests and benches: callgate::test_support!())";

#[test]
fn a_program_without_init_is_told_so_and_not_executed_again() {
    within(60, "a_program_without_init_is_told_so_and_not_executed_again", || {
        let dir = TempDir::new();
        let executions = dir.path().join("executions");
        fs::write(&executions, "").expect("a file");
        let output = helper("helper_starts_without_init", "start").env(EXECUTIONS, &executions).output();
        let output = output.expect("the helper starts");
        assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_to_string(&executions).expect("the file").lines().count(), 1);
    });
}

#[test]
fn helper_starts_without_init() {
    if role().is_none() {
        return;
    }
    within(30, "helper_starts_without_init", || {
        let held = Held::now();
        for _ in 0..3 {
            let error = Guest::bridge().start().expect_err("no bridge");
            assert!(matches!(error, StartError::NotInitialised { service: "Guest" }), "{error:?}");
            assert_eq!(error.to_string(), SENTENCE);
            held.again("a start without init");
        }
    });
}

#[test]
fn a_wrong_option_is_told_before() {
    let error = Guest::bridge().concurrent_callers(0).start().expect_err("no bridge");
    assert!(matches!(error, StartError::Option { option: "concurrent_callers", .. }), "{error:?}");
}

#[test]
fn a_separate_executable_needs_no_init_in_its_parent() {
    let worker = worker();
    alone("a_separate_executable_needs_no_init_in_its_parent", 60, || {
        let tally = Tally::bridge(1).executable(&worker).start().expect("a start");
        assert_eq!(tally.add("no init here"), Ok(3));
        assert!(tally.stop().is_ok_and(|exit| exit.success()));
        let error = Guest::bridge().executable(Path::new("/bin/true")).start().expect_err("no bridge");
        assert!(matches!(error, StartError::Died { .. }), "{error:?}");
    });
}
