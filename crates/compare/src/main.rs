//! Measures other ways of crossing a process boundary under the workload of callgate's benchmarks. `callgate bench --compare` runs this.
//!
//! Each peer has its own file and is set up as its documentation recommends for low latency; [`transports`] lists them. The other process is
//! always this program, executed again. callgate itself takes turns with them in the same run.

#![forbid(unsafe_code)]

// The peers.
mod direct;
mod iceoryx2;
mod iceoryx2_loaned;
mod iceoryx2_streamed;
mod ipc_channel;
mod ipc_memory;
mod python;
mod remoc;
mod ringfire;
mod stream;
#[cfg(feature = "tachyon")]
mod tachyon;
mod tarpc;
mod threads;
mod transports;

// The peers that carry large payloads.
mod carriers;

// The peers that are compared by numbers alone.
mod flows;

// Shared by the peers.
mod files;
mod message;
mod peer;

mod measure;
mod print;

use callgate_suite::{BoxError, Budget};
use clap::Parser;
use measure::Peers;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

/// Compares callgate with other ways of crossing a process boundary.
#[derive(Parser)]
#[command(version, after_help = format!("Names: {}", names()))]
struct CompareArgs {
    /// Write the report as JSON to this file instead of printing a table. `-` means stdout.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure briefly, only to see whether everything works: the figures are worth little.
    #[arg(long)]
    quick: bool,
    /// Only make every call once and check the answers.
    #[arg(long, conflicts_with_all = ["json", "quick"])]
    verify: bool,
    /// What to compare: every peer whose name contains one of these words. Default: all peers.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// More than the longest run takes. Not every peer notices that the other side has died.
const LIMIT: Duration = Duration::from_secs(1800);

/// Ends this process after that time. Its peers then see the end of their stdin.
fn end_after(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("callgate-compare: not done after {} s", limit.as_secs());
        process::exit(1);
    });
}

fn names() -> String {
    measure::names().collect::<Vec<_>>().join(", ")
}

fn main() -> ExitCode {
    callgate_suite::init();
    peer::init();
    end_after(LIMIT);
    match run(&CompareArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("callgate-compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &CompareArgs) -> Result<(), BoxError> {
    let peers = Peers::find(&chosen(&arguments.names)?);
    peers.verify()?;
    if arguments.verify {
        return Ok(());
    }
    let report = peers.measure(if arguments.quick { Budget::quick() } else { measure::FULL })?;
    match &arguments.json {
        None => print::table(&report)?,
        Some(file) if file == Path::new("-") => println!("{}", serde_json::to_string_pretty(&report)?),
        Some(file) => std::fs::write(file, serde_json::to_vec_pretty(&report)?)?,
    }
    Ok(())
}

/// The peers whose names contain one of `words`.
fn chosen(words: &[String]) -> Result<Vec<&'static str>, BoxError> {
    let has = |name: &str, word: &str| name.to_lowercase().contains(&word.to_lowercase());
    if let Some(word) = words.iter().find(|word| !measure::names().any(|name| has(name, word))) {
        return Err(format!("nothing has `{word}` in its name; there are: {}", names()).into());
    }
    let wanted = |name: &&str| words.is_empty() || words.iter().any(|word| has(name, word));
    Ok(measure::names().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(words: &[&str]) -> Result<Vec<&'static str>, String> {
        chosen(&words.iter().map(|word| word.to_string()).collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn words_choose_peers_in_the_order_of_the_report() {
        assert_eq!(choose(&[]), Ok(measure::names().collect()));
        assert_eq!(
            choose(&["unix", "ICEORYX2"]),
            Ok(vec!["iceoryx2 polling", "iceoryx2 event", "Unix socket", "iceoryx2 loaned", "iceoryx2 streamed"])
        );
        assert!(choose(&["pipe", "carrier pigeon"]).expect_err("no such peer").contains("carrier pigeon"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CompareArgs::command().debug_assert();
    }
}
