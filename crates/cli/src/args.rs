//! The command line.

use crate::group::Group;
use crate::outputs::Outputs;
use callgate_suite::soak;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Measures what a call into another process costs on this machine, and reports what the machine offers.
#[derive(Debug, Parser)]
#[command(name = "callgate", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct CliArgs {
    #[command(subcommand)]
    pub command: CliCommand,
}

const EXAMPLES: &str = "\
Examples:
  callgate doctor                                what this machine offers, each with advice
  callgate bench --quick                         every measurement, briefly: does it all work?
  callgate bench --html report.html              every measurement, with plots
  callgate bench --only latency --only payload   two groups of them
  callgate bench --compare --json report.json    other ways of crossing processes too
  callgate soak --calls 1000000 --most 1MiB      does memory grow over many calls of random sizes?
  callgate chaos --kills 1000                    does each caller learn what became of its call?
  callgate serve metrics                         run the hub of named callbacks at that address
  callgate call metrics add 1 2                  call one of them, with the key in CALLGATE_AUTHKEY
  callgate call metrics describe 1 --kw scale=4  the same with a keyword, if it takes any
  callgate call metrics rebuild --timeout 600    the same, if that takes minutes
  callgate watch metrics                         who has registered what, and how often it is called
  callgate report report.json --html report.html the same report again, as a page";

#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Measures calls and compares them with the floors of this machine.
    Bench(Bench),
    /// Reports what this machine offers, what it costs, and what to do about it.
    Doctor(Doctor),
    /// Makes very many calls with payloads of random sizes. Fails if the memory of both processes grows.
    Soak(SoakArgs),
    /// Kills, stops and continues children while they are called. Fails if a call hangs, anything is left behind, or a caller gets a
    /// wrong outcome.
    Chaos(ChaosArgs),
    /// Runs the hub of named callbacks until Ctrl-C or a client ends it.
    Serve(ServeArgs),
    /// Lists the callbacks that are registered at a hub.
    Names(HubArgs),
    /// Calls a callback by its name and prints its result as JSON.
    Call(CallOf),
    /// Shows, once a second, which callbacks are registered at a hub and how often they are called.
    Watch(WatchArgs),
    /// Shows a report that `bench --json` wrote, or writes it in another form.
    Report(Saved),
}

#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Also measure other ways of crossing a process boundary, with the program `callgate-compare`.
    #[arg(long)]
    pub compare: bool,
    /// Measure briefly: enough to see that everything works, too little to quote.
    #[arg(long)]
    pub quick: bool,
    /// Measure only these groups. Default: all.
    #[arg(long, value_name = "GROUP", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<Group>,
    #[command(flatten)]
    pub outputs: Outputs,
}

#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Write JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct SoakArgs {
    /// How many calls to make.
    #[arg(long, default_value = "1000000", value_parser = clap::value_parser!(u64).range(soak::PARTS..))]
    pub calls: u64,
    /// The longest request and reply: bytes, or a number with KiB or MiB.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub most: usize,
    /// Seed of the random sizes: the same seed gives the same sizes.
    #[arg(long, default_value = "1")]
    pub seed: u64,
}

#[derive(Debug, clap::Args)]
pub struct ChaosArgs {
    /// How many children to kill.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    pub kills: u64,
    /// Seed of the random moments and calls. The machine's own timing still varies.
    #[arg(long, default_value = "1")]
    pub seed: u64,
    /// How many threads call; three share a bridge.
    #[arg(long, default_value = "6", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
    /// Stop after this many seconds, even if fewer children have been killed.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Have the bridges restart their children themselves.
    #[arg(long)]
    pub restart: bool,
    /// Instead, kill and stop both sides at every step of the protocol, in a build with the feature `failpoints`.
    #[arg(long, conflicts_with_all = ["kills", "seed", "threads", "seconds", "restart"])]
    pub sweep: bool,
    /// Write JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// The largest payload that a bridge accepts, less its overhead.
const LARGEST: usize = (1 << 31) - (64 << 10);

/// A size as people write it: `4096`, `64KiB`, `1 MiB`.
fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        unit => return Err(format!("`{unit}` is not a unit: use B, KiB or MiB")),
    };
    let number: usize = digits.parse().map_err(|error| format!("`{digits}`: {error}"))?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= LARGEST);
    bytes.ok_or_else(|| format!("more than {LARGEST} bytes, the longest payload"))
}

#[derive(Debug, clap::Args)]
pub struct Saved {
    /// The report to show.
    pub file: PathBuf,
    #[command(flatten)]
    pub outputs: Outputs,
}

/// A hub's address and the key to it.
#[derive(Debug, clap::Args)]
pub struct HubArgs {
    /// Address of the hub: a path, `@name`, or the name of a socket in the user's runtime directory.
    pub address: String,
    #[command(flatten)]
    pub key: Key,
}

/// The key that a hub and its clients share. Without a file, it is in the environment variable CALLGATE_AUTHKEY. It is never an
/// argument, which every process could read.
#[derive(Debug, clap::Args)]
pub struct Key {
    /// File with the key, readable by you alone. Default: the key is in the environment variable CALLGATE_AUTHKEY.
    #[arg(long, value_name = "FILE")]
    pub authkey_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Address to listen at: a path, `@name`, or the name of a socket in the user's runtime directory.
    #[arg(default_value = "callgate")]
    pub address: String,
    #[command(flatten)]
    pub key: Key,
}

#[derive(Debug, clap::Args)]
pub struct CallOf {
    #[command(flatten)]
    pub hub: HubArgs,
    /// Name of the callback.
    pub name: String,
    /// Its arguments, as JSON. An argument that does not begin like JSON ({, [, ", a digit, or - and a digit) is a text.
    #[arg(allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Its keyword arguments, as NAME=JSON.
    #[arg(long = "kw", value_name = "NAME=JSON", num_args = 1..)]
    pub keywords: Vec<String>,
    /// How long the call may take, in seconds; fractions are allowed.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
}

/// A time in seconds, as people write it: `60`, `0.5`.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| format!("`{text}`: {error}"))?;
    if time.is_zero() { Err("the time must be longer than zero".into()) } else { Ok(time) }
}

#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    #[command(flatten)]
    pub hub: HubArgs,
    /// Print one table after a second, then exit.
    #[arg(long)]
    pub once: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CliArgs::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64KiB", 64 << 10), ("1 MiB", 1 << 20), ("7 B", 7)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1 mile", "-1", "2048MiB", "99999999999999999999"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_seconds() {
        for (text, time) in [("60", Duration::from_secs(60)), ("0.5", Duration::from_millis(500))] {
            assert_eq!(seconds(text), Ok(time), "{text}");
        }
        for text in ["", "0", "-1", "inf", "nan", "1e30", "1m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn groups_are_given_one_by_one_or_together() {
        for line in [
            &["callgate", "bench", "--only", "latency", "--only", "waiting"][..],
            &["callgate", "bench", "--only", "latency", "waiting"],
            &["callgate", "bench", "--only", "latency,waiting"],
        ] {
            let CliCommand::Bench(bench) = CliArgs::try_parse_from(line).expect("a good line").command else {
                panic!("{line:?} is no bench");
            };
            assert_eq!(bench.only, [Group::Latency, Group::Waiting], "{line:?}");
        }
        assert!(CliArgs::try_parse_from(["callgate", "bench", "--only", "lunch"]).is_err());
    }
}
