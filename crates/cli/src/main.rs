//! The command `callgate`: measures what a call into another process costs on this machine (`bench`), says what the machine
//! offers (`doctor`), watches the memory of very many calls (`soak`), and kills children while they are called (`chaos`). And the
//! hub of named callbacks (`serve`), with what is registered there (`names`, `watch`) and calls of it (`call`).
//!
//! Exit codes: 0 all done, 1 something failed, 2 the command line was wrong.

#![forbid(unsafe_code)]

mod args;
mod bench;
mod chaos;
mod compare;
mod doctor;
mod group;
mod hub;
mod json;
mod machine;
mod outputs;
mod progress;
mod render;
mod soak;
mod watch;

use args::{CliArgs, CliCommand};
use callgate_suite::{BenchReport, BoxError};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    callgate_suite::init();
    // A limit on the size of files is to fail what is written, and not to end this program with all that it has measured. Later threads
    // block it, too; children do not.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let done = match CliArgs::parse().command {
        CliCommand::Bench(bench) => bench::run(&bench),
        CliCommand::Doctor(doctor) => doctor::run(doctor.json),
        CliCommand::Soak(args) => soak::run(&args),
        CliCommand::Chaos(args) => chaos::run(&args),
        CliCommand::Serve(args) => hub::serve(&args),
        CliCommand::Names(hub) => hub::names(&hub),
        CliCommand::Call(args) => hub::call(&args),
        CliCommand::Watch(args) => watch::run(&args),
        CliCommand::Report(saved) => show(&saved.file, &saved.outputs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It may hold what another process has said, in several lines.
            let lines: Vec<_> = error.to_string().split('\n').map(render::text::plainly).collect();
            eprintln!("callgate: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// A saved report, shown as it was when it was new.
fn show(file: &Path, outputs: &outputs::Outputs) -> Result<(), BoxError> {
    outputs.check()?;
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let report: BenchReport = serde_json::from_str(&text)
        .map_err(|error| format!("{} is no report of `callgate bench --json`: {error}", file.display()))?;
    outputs.print(&render::text::report(&report))?;
    Ok(outputs.write(&report)?)
}

/// Writes to stdout. A reader that has seen enough (`callgate .. | head`) is no error.
fn print(text: &str) -> Result<(), BoxError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout cannot be written: {error}").into()),
        _ => Ok(()),
    }
}
