//! The ledger of every call: the outcome that its caller got, and how often the child ran it, which the child counts in a file.
//!
//! The two are compared when no child is left that could still run anything. The file counts independently of the bridge, so a bug in the bridge
//! cannot falsify the count.

#![forbid(unsafe_code)]

use crate::BoxError;
use callgate::{CallError, Payload, Started};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The outcome that a caller got for a call, or how it gave the call up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallOutcome {
    /// A correct answer.
    Answered,
    /// `Died` or `Stopped`, and the call had not started.
    NotStarted,
    /// `Died` or `Stopped`, and the call had started.
    Started,
    /// `TimedOut`: the call may still run.
    TimedOut,
    /// `TimedOut`, and the call had not started.
    NeverInTime,
    /// It was cancelled, and had not started.
    Withdrawn,
    /// It was cancelled, and may have started.
    CancelledLate,
    /// It was sent one-way, and nothing says that it was carried out.
    Sent,
    /// `Busy`: there was no room for it, so it was never sent.
    Busy,
    /// `Down`: there was no child to send the call to.
    Down,
    /// No memory was left for its arguments, so it was never sent.
    Unsent,
    /// It ran, but no memory was left for its result.
    Unreturned,
    /// `Refused`: the call may have run.
    Refused,
    /// Its caller gave it up without waiting.
    GivenUp,
    /// A wrong answer.
    Wrong,
    /// `Corrupt`: what the parent read is nothing that a healthy child writes. All children here are healthy.
    Corrupt,
    /// The method panicked. No method here should.
    Panicked,
}

impl CallOutcome {
    /// The outcome that `error` reports.
    pub fn of(error: &CallError) -> Self {
        match error {
            CallError::Died { started, .. } | CallError::Stopped { started, .. } => match started {
                Started::No => CallOutcome::NotStarted,
                Started::Yes | Started::Unknown => CallOutcome::Started,
            },
            CallError::TimedOut { started: Started::No, .. } => CallOutcome::NeverInTime,
            CallError::TimedOut { .. } => CallOutcome::TimedOut,
            CallError::Busy { .. } => CallOutcome::Busy,
            CallError::Down { .. } => CallOutcome::Down,
            CallError::TooLarge { what, .. } | CallError::Exhausted { what, .. } => match what {
                Payload::Reply => CallOutcome::Unreturned,
                _ => CallOutcome::Unsent,
            },
            CallError::Corrupt { .. } => CallOutcome::Corrupt,
            CallError::Panicked { .. } => CallOutcome::Panicked,
            _ => CallOutcome::Refused,
        }
    }

    /// How often a call with this outcome may have run; `None` if the outcome is always wrong.
    pub fn runs(self) -> Option<RangeInclusive<u8>> {
        match self {
            CallOutcome::Answered | CallOutcome::Unreturned => Some(1..=1),
            CallOutcome::NotStarted | CallOutcome::NeverInTime | CallOutcome::Withdrawn => Some(0..=0),
            CallOutcome::Down | CallOutcome::Unsent | CallOutcome::Busy => Some(0..=0),
            CallOutcome::Started | CallOutcome::TimedOut | CallOutcome::CancelledLate => Some(0..=1),
            CallOutcome::Refused | CallOutcome::GivenUp | CallOutcome::Sent => Some(0..=1),
            CallOutcome::Wrong | CallOutcome::Corrupt | CallOutcome::Panicked => None,
        }
    }

    /// The outcome in a few words.
    pub fn words(self) -> &'static str {
        match self {
            CallOutcome::Answered => "answered",
            CallOutcome::NotStarted => "not started",
            CallOutcome::Started => "started",
            CallOutcome::TimedOut => "timed out",
            CallOutcome::NeverInTime => "timed out, and not started",
            CallOutcome::Withdrawn => "cancelled, and not started",
            CallOutcome::CancelledLate => "cancelled late",
            CallOutcome::Sent => "sent one-way",
            CallOutcome::Busy => "no room",
            CallOutcome::Down => "no child",
            CallOutcome::Unsent => "no memory to send it",
            CallOutcome::Unreturned => "no memory for its result",
            CallOutcome::Refused => "refused",
            CallOutcome::GivenUp => "given up",
            CallOutcome::Wrong => "answered wrongly",
            CallOutcome::Corrupt => "corrupt",
            CallOutcome::Panicked => "panicked",
        }
    }
}

/// One caller's record of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEntry {
    /// The call's number.
    pub id: u64,
    /// The kind of call, in a word or two.
    pub what: &'static str,
    /// Whether the bridge may run it again after it lost the outcome.
    pub may_repeat: bool,
    /// The outcome that its caller got.
    pub outcome: CallOutcome,
    /// The error's own words, if the outcome is always wrong.
    pub why: Option<Box<str>>,
}

impl CallEntry {
    /// The record of a call that is made once only.
    pub fn of_one(id: u64, what: &'static str, outcome: CallOutcome) -> Self {
        Self { id, what, may_repeat: false, outcome, why: None }
    }
}

/// The number of calls for each outcome.
pub type Outcomes = BTreeMap<CallOutcome, u64>;

/// The file in which runs are counted, and the numbers given to calls. Dropping it removes the file.
#[derive(Debug)]
pub struct RunLedger {
    path: PathBuf,
    next: AtomicU64,
    /// Whether dropping this removes the file.
    is_own: bool,
}

impl RunLedger {
    /// Creates a ledger in the directory for temporary files.
    ///
    /// # Errors
    ///
    /// If the file cannot be created.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("callgate-chaos-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        File::create_new(&path)?;
        Ok(Self { path, next: AtomicU64::new(0), is_own: true })
    }

    /// The ledger of another process that has not made any calls yet.
    pub fn of(path: &str) -> Self {
        Self { path: path.into(), next: AtomicU64::new(0), is_own: false }
    }

    /// The path of the file, for the child.
    pub fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Assigns a number to a call that is about to be made.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    /// Compares the callers' outcomes with the runs. Returns the contradictions. No child may be left.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn judge(&self, entries: &[CallEntry]) -> Result<Vec<String>, BoxError> {
        let mut runs = fs::read(&self.path)?;
        runs.resize(runs.len().max(self.next.load(Relaxed) as usize), 0);
        runs.truncate(self.next.load(Relaxed) as usize);
        Ok(judge(entries, &runs))
    }

    /// The most runs of any call. For calls whose callers are dead.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn most_runs(&self) -> io::Result<u8> {
        Ok(fs::read(&self.path)?.into_iter().max().unwrap_or(0))
    }
}

impl Drop for RunLedger {
    fn drop(&mut self) {
        if self.is_own {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Counts a run of call number `id`, in the child. Not safe for two concurrent runs of one call, but these cannot happen: a second run takes place in
/// another child, after the first child has died.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn count_run(file: &File, id: u64) -> io::Result<()> {
    let mut runs = [0];
    let _ = file.read_at(&mut runs, id)?;
    file.write_all_at(&[runs[0].saturating_add(1)], id)
}

/// Adds the outcomes of `entries` to `to`.
pub fn add_up(entries: &[CallEntry], to: &mut Outcomes) {
    entries.iter().for_each(|entry| *to.entry(entry.outcome).or_default() += 1);
}

/// Returns each contradiction as a sentence. `runs[id]` is how often call number `id` ran.
fn judge(entries: &[CallEntry], runs: &[u8]) -> Vec<String> {
    let (mut told, mut wrong) = (vec![0u8; runs.len()], Vec::new());
    for CallEntry { id, what, may_repeat, outcome, why } in entries {
        let place = *id as usize;
        let (Some(told), Some(&ran)) = (told.get_mut(place), runs.get(place)) else {
            wrong.push(format!("call {id} ({what}) has an outcome and was never made"));
            continue;
        };
        *told = told.saturating_add(1);
        let counted = if *may_repeat { ran.min(1) } else { ran };
        if outcome.runs().is_none_or(|may| !may.contains(&counted)) {
            let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            wrong.push(format!("call {id} ({what}) was reported as `{}`, and ran {ran} times{why}", outcome.words()));
        }
    }
    let odd = told.iter().enumerate().filter(|&(_, &told)| told != 1);
    wrong.extend(odd.map(|(id, told)| format!("call {id} has {told} outcomes")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(outcome: CallOutcome, ran: u8) -> Vec<String> {
        judge(&[CallEntry { id: 0, what: "small", may_repeat: false, outcome, why: None }], &[ran])
    }

    #[test]
    fn what_may_be_repeated_still_runs_as_reported() {
        let judged =
            |outcome, ran| judge(&[CallEntry { id: 0, what: "again", may_repeat: true, outcome, why: None }], &[ran]);
        for ran in 0..=3 {
            assert_eq!(judged(CallOutcome::Answered, ran).is_empty(), ran > 0, "{ran}");
            assert_eq!(judged(CallOutcome::Started, ran), [] as [&str; 0], "{ran}");
            for none in [CallOutcome::NotStarted, CallOutcome::Down] {
                assert_eq!(judged(none, ran).is_empty(), ran == 0, "{none:?}, {ran}");
            }
        }
    }

    #[test]
    fn a_wrong_report_is_caught() {
        // The promise under test: a call reported as not started never ran, and no call ran twice.
        assert_eq!(judged(CallOutcome::NotStarted, 0), [] as [&str; 0]);
        assert_eq!(
            judged(CallOutcome::NotStarted, 1),
            ["call 0 (small) was reported as `not started`, and ran 1 times"]
        );
        for (outcome, fine) in [
            (CallOutcome::Answered, &[1][..]),
            (CallOutcome::Started, &[0, 1]),
            (CallOutcome::TimedOut, &[0, 1]),
            (CallOutcome::Down, &[0]),
            (CallOutcome::Unsent, &[0]),
            (CallOutcome::Unreturned, &[1]),
            (CallOutcome::GivenUp, &[0, 1]),
            (CallOutcome::NeverInTime, &[0]),
            (CallOutcome::Withdrawn, &[0]),
            (CallOutcome::CancelledLate, &[0, 1]),
            (CallOutcome::Sent, &[0, 1]),
            (CallOutcome::Busy, &[0]),
            (CallOutcome::Wrong, &[]),
            (CallOutcome::Corrupt, &[]),
        ] {
            for ran in 0..=3 {
                assert_eq!(judged(outcome, ran).is_empty(), fine.contains(&ran), "{outcome:?}, {ran} runs");
            }
        }
    }

    #[test]
    fn every_call_has_exactly_one_outcome() {
        let entry = |id| CallEntry { id, what: "small", may_repeat: false, outcome: CallOutcome::Answered, why: None };
        assert_eq!(judge(&[entry(0), entry(1)], &[1, 1]), [] as [&str; 0]);
        assert_eq!(judge(&[entry(0)], &[1, 1]), ["call 1 has 0 outcomes"]);
        assert_eq!(judge(&[entry(0), entry(0)], &[1]), ["call 0 has 2 outcomes"]);
        assert_eq!(judge(&[entry(0), entry(1)], &[1]), ["call 1 (small) has an outcome and was never made"]);
    }

    #[test]
    fn runs_are_counted_one_by_one_in_the_file() {
        let ledger = RunLedger::new().expect("a file");
        let (first, second) = (ledger.number(), ledger.number());
        let file = File::options().read(true).write(true).open(ledger.path()).expect("the file");
        count_run(&file, second).expect("a count");
        let told = [(first, CallOutcome::NotStarted), (second, CallOutcome::Answered)];
        let entries = told.map(|(id, outcome)| CallEntry { id, what: "small", may_repeat: false, outcome, why: None });
        assert_eq!(ledger.judge(&entries).expect("the file"), [] as [&str; 0]);
        // Now one call has run twice, and the other has run too.
        count_run(&file, second).and_then(|()| count_run(&file, first)).expect("counts");
        assert_eq!(ledger.judge(&entries).expect("the file").len(), 2);
        let path = ledger.path();
        drop(ledger);
        assert!(!fs::exists(path).expect("the directory"));
    }
}
