//! The command `callgate`. It measures what a call into another process costs on this machine (`bench`), reports what the machine
//! offers (`doctor`), watches memory over very many calls (`soak`), and kills children while they are called (`chaos`). It also runs the
//! hub of named callbacks (`serve`), lists the registered callbacks (`names`, `watch`) and calls them (`call`).
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
    // With SIGXFSZ blocked, a write beyond the limit on file sizes fails; otherwise it would end this program and lose all measurements. Later
    // threads inherit the block; children do not.
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
            // The error may contain text from another process, in several lines.
            let lines: Vec<_> = error.to_string().split('\n').map(render::text::plainly).collect();
            eprintln!("callgate: {}", lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Shows a saved report as when it was new.
fn show(file: &Path, outputs: &outputs::Outputs) -> Result<(), BoxError> {
    outputs.check()?;
    let text = std::fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let report: BenchReport = serde_json::from_str(&text)
        .map_err(|error| format!("{} is not a report of `callgate bench --json`: {error}", file.display()))?;
    outputs.print(&render::text::report(&report))?;
    Ok(outputs.write(&report)?)
}

/// Writes to stdout. It is no error if the reader closes the pipe early (`callgate .. | head`).
fn print(text: &str) -> Result<(), BoxError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout cannot be written: {error}").into()),
        _ => Ok(()),
    }
}
