//! The command line.

use crate::group::Group;
use crate::outputs::Outputs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measures what a call into another process costs here, and says what this machine offers.
#[derive(Debug, Parser)]
#[command(name = "callgate", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  callgate doctor                                what this machine offers, each with advice
  callgate bench --quick                         every measurement, shortly: does it all work?
  callgate bench --html report.html              every measurement, with plots
  callgate bench --only latency --only payload   two groups of them
  callgate bench --compare --json report.json    other ways of crossing processes too
  callgate report report.json --html report.html the same report again, as a page";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures calls beside the floors of this machine.
    Bench(Bench),
    /// Says what this machine offers, what it costs, and what to do about it.
    Doctor(Doctor),
    /// Shows a report that `bench --json` has written, or writes it in another form.
    Report(Saved),
}

#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Measure other ways of crossing processes too, with the program `callgate-compare`.
    #[arg(long)]
    pub compare: bool,
    /// Measure shortly: enough to see that it works, not to quote.
    #[arg(long)]
    pub quick: bool,
    /// Measure only these groups; with none given, all.
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
pub struct Saved {
    /// The report.
    pub file: PathBuf,
    #[command(flatten)]
    pub outputs: Outputs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn groups_are_given_one_by_one_or_together() {
        for line in [
            &["callgate", "bench", "--only", "latency", "--only", "waiting"][..],
            &["callgate", "bench", "--only", "latency", "waiting"],
            &["callgate", "bench", "--only", "latency,waiting"],
        ] {
            let Command::Bench(bench) = Args::try_parse_from(line).expect("a good line").command else {
                panic!("{line:?} is no bench");
            };
            assert_eq!(bench.only, [Group::Latency, Group::Waiting], "{line:?}");
        }
        assert!(Args::try_parse_from(["callgate", "bench", "--only", "lunch"]).is_err());
    }
}
