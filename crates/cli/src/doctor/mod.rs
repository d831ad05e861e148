//! `callgate doctor`: reports what this machine offers, what it costs here, and what to do about it.
//!
//! Needs no privileges and relies on no file of the system: in a container many are missing.

mod cost;
mod cpu;
mod kernel;
mod limits;
mod wake;

use crate::print;
use callgate_suite::BoxError;
use serde::Serialize;

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    name: &'static str,
    value: String,
    verdict: Verdict,
    advice: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// Works, but costs something.
    Slow,
    /// Not available here, or not visible.
    Missing,
}
use Verdict::{Good, Missing, Slow};

impl Finding {
    fn new(name: &'static str, value: impl Into<String>, verdict: Verdict, advice: impl Into<String>) -> Self {
        Self { name, value: value.into(), verdict, advice: advice.into() }
    }

    /// Formats the finding, with the advice on a second line.
    fn text(&self) -> String {
        let Self { name, value, verdict, advice } = self;
        format!("{:<8} {name}: {value}\n         {advice}\n", verdict.word())
    }

    /// A finding for something that this machine does not show.
    fn hidden(name: &'static str, advice: impl Into<String>) -> Self {
        Self::new(name, "not shown here", Missing, advice)
    }
}

pub fn run(json: bool) -> Result<(), BoxError> {
    let checks = [cpu::checks(), kernel::checks(), cost::checks(), limits::checks()].concat();
    if json {
        return print(&(serde_json::to_string_pretty(&Checks { checks })? + "\n"));
    }
    print(&checks.iter().map(Finding::text).collect::<String>())
}

#[derive(Serialize)]
struct Checks {
    checks: Vec<Finding>,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Good => "good",
            Slow => "slow",
            Missing => "missing",
        }
    }
}
