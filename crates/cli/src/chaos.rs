//! `callgate chaos`: kills, stops and continues children during calls and checks that every caller gets the true outcome.

use crate::args::ChaosArgs;
use crate::print;
use crate::render::units;
use callgate_suite::BoxError;
use callgate_suite::chaos::{self, Tally};
use serde::Serialize;
use std::time::Duration;

pub fn run(args: &ChaosArgs) -> Result<(), BoxError> {
    if args.sweep {
        return sweep(args.json);
    }
    let plan = chaos::Chaos {
        kills: args.kills,
        seed: args.seed,
        threads: usize::from(args.threads),
        limit: args.seconds.map(Duration::from_secs),
        restart: args.restart,
    };
    let say = |text: &str| if args.json { Ok(()) } else { print(text) };
    say(&header(args))?;
    let mut printed = Ok(());
    let tally = plan.run(&mut |tally| {
        printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| say(&line(tally)));
    })?;
    printed?;
    if args.json {
        print_json(&tally)?
    } else {
        print(&summary(&tally))?
    }
    tally.verdict()
}

fn print_json(result: &impl Serialize) -> Result<(), BoxError> {
    print(&(serde_json::to_string_pretty(result)? + "\n"))
}

fn header(args: &ChaosArgs) -> String {
    let columns = row(["kills", "starts", "calls", "not started", "started", "worst"].map(str::to_owned));
    format!(
        "{} kills under {} calling threads, seed {}\n\n{columns}",
        units::count(args.kills),
        args.threads,
        args.seed
    )
}

fn line(tally: &Tally) -> String {
    let told = |outcome| units::count(tally.outcomes.get(&outcome).copied().unwrap_or(0));
    let [kills, starts, calls] = [tally.kills, tally.starts, tally.calls()].map(units::count);
    use chaos::ledger::CallOutcome::{NotStarted, Started};
    row([kills, starts, calls, told(NotStarted), told(Started), units::nanoseconds(tally.worst_ms * 1e6)])
}

fn row(cells: [String; 6]) -> String {
    cells.iter().map(|cell| format!("{cell:>13}")).collect::<String>() + "\n"
}

fn summary(tally: &Tally) -> String {
    let mut lines = vec![
        ("children killed".into(), units::count(tally.kills)),
        ("  of them while stopped".into(), units::count(tally.kills_of_stopped)),
        ("children stopped and continued".into(), units::count(tally.pauses)),
        ("bridges started".into(), units::count(tally.starts)),
        ("starts that failed by a kill".into(), units::count(tally.failed_starts)),
        ("children that took over from one".into(), units::count(tally.restarts)),
        ("bridges stopped or killed by callers".into(), units::count(tally.retired)),
    ];
    lines.extend(tally.outcomes.iter().map(|(outcome, count)| {
        let words = outcome.words();
        (format!("calls: {words}"), units::count(*count))
    }));
    lines.extend([
        ("worst time from kill to outcome".into(), units::nanoseconds(tally.worst_ms * 1e6)),
        ("leaks".into(), tally.leaks.len().to_string()),
        ("wrong outcomes".into(), tally.wrong.len().to_string()),
        ("time".into(), units::nanoseconds(tally.seconds * 1e9)),
    ]);
    let lines = lines.iter().map(|(what, value): &(String, String)| format!("{what:<40}{value:>14}\n"));
    "\n".to_owned() + &lines.collect::<String>()
}

#[cfg(feature = "failpoints")]
fn sweep(json: bool) -> Result<(), BoxError> {
    let swept = chaos::sweep::run(0, 1, &mut |row| if json { Ok(()) } else { print(&row.line()) })?;
    if json {
        print_json(&swept)?
    } else {
        print(&swept.summary())?
    }
    swept.verdict()
}

#[cfg(not(feature = "failpoints"))]
fn sweep(_: bool) -> Result<(), BoxError> {
    Err("this build has no steps to sweep: build it with `--features failpoints`".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use callgate_suite::chaos::ledger::CallOutcome;

    #[test]
    fn the_table_says_what_callers_were_told() {
        let mut tally = Tally { kills: 10_000, worst_ms: 2.5, ..Tally::default() };
        tally.outcomes.insert(CallOutcome::NotStarted, 1_234);
        tally.outcomes.insert(CallOutcome::Answered, 5);
        let expected = ["10,000", "0", "1,239", "1,234", "0", "2.50 ms"].map(|cell| format!("{cell:>13}")).concat();
        assert_eq!(line(&tally), expected + "\n");
        let summary = summary(&tally);
        assert!(summary.contains("calls: not started                               1,234\n"), "{summary}");
        assert!(summary.contains("leaks                                                0\n"), "{summary}");
    }
}
