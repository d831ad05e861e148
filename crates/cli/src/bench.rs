//! `callgate bench`: takes the requested measurements and writes the report in the requested forms.

use crate::args::Bench;
use crate::compare::CompareProgram;
use crate::group::Group;
use crate::machine;
use crate::progress::ProgressLine;
use crate::render::text;
use callgate_suite::{BenchReport, BoxError, targets};

pub fn run(args: &Bench) -> Result<(), BoxError> {
    args.outputs.check()?;
    let (chosen, others): (Vec<_>, Vec<_>) = Group::ALL.into_iter().partition(|group| is_chosen(args, *group));
    if chosen.contains(&Group::Compare) {
        // Fail now if the program is missing, not after minutes of measuring.
        CompareProgram::find()?;
    }
    let mut failures = Vec::new();
    let mut report = measure(args.quick, &chosen, &mut failures);
    report.skipped.extend(others.into_iter().map(left_out));
    // Print first, so that the tables are seen whatever becomes of the files.
    args.outputs.print(&text::report(&report))?;
    if let Err(error) = args.outputs.write(&report) {
        failures.push(error.to_string());
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

fn is_chosen(args: &Bench, group: Group) -> bool {
    match group {
        Group::Compare => args.compare || args.only.contains(&group),
        _ => args.only.is_empty() || args.only.contains(&group),
    }
}

fn left_out(group: Group) -> String {
    match group {
        Group::Compare => "compare: other ways of crossing processes are measured with `--compare`.".into(),
        _ => format!("{}: not among the groups that `--only` names.", group.name()),
    }
}

/// Measures `groups`. A group that fails is left out and does not stop the others.
fn measure(quick: bool, groups: &[Group], failures: &mut Vec<String>) -> BenchReport {
    let mut progress = ProgressLine::new(groups.len());
    let mut report = BenchReport { machine: machine::describe(quick), ..BenchReport::default() };
    for group in groups {
        progress.begin(group.name());
        take(&mut report, group.name(), group.measure(quick, &mut progress), failures);
    }
    report.targets = targets::of(&report);
    report
}

fn take(report: &mut BenchReport, name: &str, part: Result<BenchReport, BoxError>, failures: &mut Vec<String>) {
    match part {
        // The whole report describes the machine and judges the targets once.
        Ok(part) => {
            report.append(BenchReport { machine: Vec::new(), targets: Vec::new(), ..part });
        }
        Err(error) => {
            report.skipped.push(format!("{name}: its measurement failed: {error}."));
            failures.push(format!("{name} could not be measured: {error}"));
        }
    }
}
