//! Validates an archive: at once, if nothing in it is doubtful, or else after asking the type, on copies.
//!
//! With `unsafe` in it: the two walks through the archive. Every way to a yes ends with one through the archive itself, not a copy. Writes to copies alone.

use super::asking::ask;
use super::marks::Trial;
use super::root_type::RootType;
use super::tables::{Tables, runaways};
use super::{Checked, Validator, Why};
use crate::bounds::{MAX_TABLES, TABLE_ROUNDS};
use crate::doorbell::Deadline;
use crate::reading::{self, DecodeRefusal, Need, refuse};
use rkyv::rancor::{self, Failure};

/// Validates the archive in `bytes`, whose root is an `A` at `root`, the last of them. Returns what making its value needs.
///
/// # Errors
///
/// If it is none, if it nests deeper than [`MAX_DEPTH`](crate::bounds::MAX_DEPTH), if it has too many elements of no size, or if there is no stack or no time left for it.
///
/// # Safety
///
/// `root` must be the last `size_of::<A>()` bytes of `bytes`, and aligned.
#[inline(always)]
pub(crate) unsafe fn validate<A: Checked>(root: *const A, bytes: &[u8], until: Deadline) -> Result<Need, Failure> {
    let mut validator = Validator { until, ..Validator::new(bytes, size_of::<A>()) };
    // SAFETY: aligned, and within `bytes`: the caller's duty.
    match unsafe { A::check_bytes(root, rancor::Strategy::wrap(&mut validator)) } {
        Ok(()) => {
            let need = validator.bounds.need();
            validator.end();
            Ok(need)
        }
        Err(_) => {
            let why = validator.why();
            drop(validator);
            validate_slow(RootType::of::<A>(), bytes, until, why)
        }
    }
}

/// Says what is wrong with an archive that failed validation, or validates it another way if that may help.
#[cold]
fn validate_slow(root: RootType, bytes: &[u8], until: Deadline, why: Why) -> Result<Need, Failure> {
    let most = Validator::new(bytes, root.size).claims.most;
    match why {
        Why::Over if runaways(bytes, until).next().is_none() => reading::with_stack_for_all_levels(|| {
            ask_in_time(root, bytes, until)?;
            // None of what was counted is an element.
            validate_again(root, bytes, until, usize::MAX, Tables::Bounded)
        }),
        Why::Over | Why::Runaway(_) => {
            reading::with_stack_for_all_levels(|| validate_without_runaways(root, bytes, until, most))
        }
        Why::Refused(DecodeRefusal::Stack { .. }) => {
            reading::with_stack_for_all_levels(|| validate_again(root, bytes, until, most, Tables::Unknown))
        }
        Why::Refused(refusal) => Err(refuse(refusal)),
    }
}

/// [`ask`], with the reason for a refusal.
fn ask_in_time(root: RootType, bytes: &[u8], until: Deadline) -> Result<(), Failure> {
    ask(root, bytes, until)
        .map_err(|_| refuse(if until.has_passed() { DecodeRefusal::Late } else { DecodeRefusal::Elements }))
}

/// Marks possible tables without end on a copy, validates the copy, and then the archive itself.
fn validate_without_runaways(root: RootType, bytes: &[u8], until: Deadline, most: usize) -> Result<Need, Failure> {
    // Those of -1 first: smaller ones may be pointers, to a few bytes just before the object that they begin.
    let suspects = runaways(bytes, until).filter(|(_, at)| bytes[*at] == u8::MAX).map(|(_, at)| at);
    let mut marked: Vec<usize> = suspects.take(MAX_TABLES).collect();
    for _ in 0..TABLE_ROUNDS {
        if bytes.len() >= 1 << 32 {
            return Err(refuse(DecodeRefusal::Invalid));
        }
        let trial = Trial::of(bytes, 0, until);
        if until.has_passed() {
            return Err(refuse(DecodeRefusal::Late));
        }
        let mut trial = trial.ok_or_else(|| refuse(DecodeRefusal::Memory { len: bytes.len() }))?;
        marked.iter().for_each(|at| trial.bytes_mut()[at + 4] &= !1);
        let mut checked = validate_with(root, trial.bytes(), until, most, Tables::Unknown);
        if let Err(Why::Over) = checked {
            ask_in_time(root, trial.bytes(), until)?;
            checked = validate_with(root, trial.bytes(), until, usize::MAX, Tables::Unknown);
        }
        match checked {
            // The archive is walked as the copy is: without tables without end, and with as many elements of no size.
            Ok(_) => return validate_again(root, bytes, until, usize::MAX, Tables::Bounded),
            Err(Why::Runaway(at)) => marked.push(at),
            Err(Why::Refused(refusal)) => return Err(refuse(refusal)),
            Err(Why::Over) => return Err(refuse(DecodeRefusal::Elements)),
        }
    }
    Err(refuse(DecodeRefusal::Invalid))
}

/// Validates again, with a limit of `most` zero-sized elements.
fn validate_again(root: RootType, bytes: &[u8], until: Deadline, most: usize, tables: Tables) -> Result<Need, Failure> {
    match validate_with(root, bytes, until, most, tables) {
        Ok(need) => Ok(need),
        Err(Why::Refused(refusal)) => Err(refuse(refusal)),
        Err(why) => validate_slow(root, bytes, until, why),
    }
}

fn validate_with(root: RootType, bytes: &[u8], until: Deadline, most: usize, tables: Tables) -> Result<Need, Why> {
    let mut validator = Validator { until, tables, ..Validator::new(bytes, root.size) };
    validator.claims.most = most;
    root.walk(&mut validator).map(|()| validator.bounds.need()).map_err(|Failure| validator.why())
}
