//! The outcome of a sandbox: the child's reply, and the report that the parent makes of it.

#![forbid(unsafe_code)]

use crate::measure::Measure;
use crate::plan::Plan;
use callgate_os::text::checked_words;
use rkyv::{Archive, Deserialize, Serialize};
use std::fmt;

/// What is in force in a sandboxed child, and what was left out: see `Bridge::sandbox_report`.
///
/// The child reports it before the service exists, after verifying it. `Display` prints one line for each measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxReport {
    in_force: Vec<(Measure, String)>,
    left_out: Vec<(Measure, String)>,
}

impl SandboxReport {
    /// The measures in force, in the order in which they were applied, each with its details.
    pub fn in_force(&self) -> impl Iterator<Item = (Measure, &str)> {
        self.in_force.iter().map(|(measure, how)| (*measure, how.as_str()))
    }

    /// The [optional](crate::plan::Sandbox::optional) measures that could not be applied, each with the reason.
    pub fn left_out(&self) -> impl Iterator<Item = (Measure, &str)> {
        self.left_out.iter().map(|(measure, why)| (*measure, why.as_str()))
    }

    /// Whether `measure` is fully in force.
    pub fn is_in_force(&self, measure: Measure) -> bool {
        self.in_force.iter().any(|(other, _)| *other == measure)
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines =
            self.in_force().map(|line| ("in force", line)).chain(self.left_out().map(|line| ("left out", line)));
        for (number, (state, (measure, words))) in lines.enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{state}: {measure}: {words}")?;
        }
        Ok(())
    }
}

/// The child's reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct SandboxReply {
    /// Codes of the measures in force, with details.
    pub in_force: Vec<(u8, String)>,
    /// Codes of the measures left out, with reasons.
    pub left_out: Vec<(u8, String)>,
}

impl SandboxReply {
    /// Turns the reply to `plan` into a report, or says what is wrong with it.
    pub fn checked(self, plan: &Plan) -> Result<SandboxReport, String> {
        let known = |lines: Vec<(u8, String)>| {
            let lines =
                lines.into_iter().map(|(code, words)| Some((Measure::from_code(code.into())?, checked_words(&words))));
            lines.collect::<Option<Vec<_>>>().ok_or("its sandbox report names an unknown measure")
        };
        let report = SandboxReport { in_force: known(self.in_force)?, left_out: known(self.left_out)? };
        let mut measures: Vec<_> = report.in_force().chain(report.left_out()).map(|(measure, _)| measure).collect();
        measures.sort_unstable_by_key(|measure| measure.code());
        if !measures.iter().copied().eq(plan.measures()) {
            return Err("its sandbox report does not match the requested measures".into());
        }
        let needed = report.left_out().find(|(measure, _)| !plan.is_optional(*measure)).map(|(measure, _)| measure);
        match needed {
            Some(measure) => Err(format!("it started without a measure that is not optional: {measure}")),
            None => Ok(report),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::plan::Sandbox;

    fn reply(in_force: &[Measure], left_out: &[Measure]) -> SandboxReply {
        let lines =
            |measures: &[Measure]| measures.iter().map(|measure| (measure.code(), "so\x1b[2J".into())).collect();
        SandboxReply { in_force: lines(in_force), left_out: lines(left_out) }
    }

    #[test]
    fn a_report_says_all_that_was_asked_for_and_nothing_else() {
        use Measure::{CoreDumps, NoNewPrivileges, Processes, SystemCalls, Umask};
        let plan = Sandbox::new().umask(0o77).optional(Umask).plan(0);
        let all = [CoreDumps, Umask, NoNewPrivileges, Processes, SystemCalls];
        let report = reply(&all, &[]).checked(&plan).unwrap();
        assert!(report.is_in_force(Umask) && !report.to_string().contains('\x1b'));
        assert_eq!(report.to_string().lines().count(), all.len());
        let without: Vec<_> = all.into_iter().filter(|&measure| measure != Umask).collect();
        assert!(!reply(&without, &[Umask]).checked(&plan).unwrap().is_in_force(Umask));
        assert!(reply(&without, &[]).checked(&plan).is_err());
        assert!(reply(&all, &[Umask]).checked(&plan).is_err());
        assert!(reply(&all[1..], &[CoreDumps]).checked(&plan).is_err());
        let unknown = SandboxReply { in_force: vec![(99, String::new())], ..SandboxReply::default() };
        assert!(unknown.checked(&plan).is_err());
    }
}
