//! Checks the kernel: its version, and every feature that callgate uses, by trying it.

use super::{Finding, Good, Missing, Slow};
use crate::machine;
use callgate::{Sandbox, bridge};
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};
use std::time::Instant;

pub fn checks() -> Vec<Finding> {
    vec![version(), memfd(), pidfd(), futex_waitv(), starting(), death_signal(), landlock(), seccomp(), sandbox()]
}

fn version() -> Finding {
    let value = machine::kernel();
    let (verdict, advice) = match number(&value) {
        Some(number) if number < (5, 9) => (Missing, "callgate needs Linux 5.9 or later."),
        Some(number) if number < (5, 16) => {
            (Slow, "Before Linux 5.16, a parked caller wakes every 5 ms to see whether its child lives.")
        }
        Some(_) => (Good, "Everything that callgate needs has been in Linux since 5.16."),
        None => (Missing, "This version cannot be read; the lines below say what it offers."),
    };
    Finding::new("kernel", value, verdict, advice)
}

/// The major and minor version in text such as `Linux 6.18`.
fn number(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split_once(' ')?.1.split(|char: char| !char.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The finding about a feature that was tried.
fn tried(name: &'static str, result: Result<(), Errno>, use_of_it: &str, without: &str) -> Finding {
    match result {
        Ok(()) => Finding::new(name, "works", Good, use_of_it),
        Err(error) => Finding::new(name, format!("fails: {error}"), Missing, without),
    }
}

fn memfd() -> Finding {
    let attempt = || {
        let file = rustix::fs::memfd_create("callgate-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, 4096)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        // Some kernels accept a seal but do not enforce it.
        match rustix::fs::ftruncate(&file, 0) {
            Err(Errno::PERM) => Ok(()),
            _ => Err(Errno::NOTSUP),
        }
    };
    let without = "Without sealed memory no bridge starts: a sandbox around this process may forbid memfd_create.";
    tried("memfd and seals", attempt(), "Shared memory has a size that no process can change.", without)
}

fn pidfd() -> Finding {
    let attempt = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map(drop);
    let without = "Without it no bridge starts: the death of a child could not be noticed at once.";
    tried("pidfd_open", attempt, "The death of a child is noticed at once.", without)
}

fn futex_waitv() -> Finding {
    // A kernel with this call refuses to wait for nothing; a kernel without it does not know the call.
    let nothing = rustix::thread::futex::waitv(
        &[],
        rustix::thread::futex::WaitvFlags::empty(),
        None,
        rustix::thread::ClockId::Monotonic,
    );
    let name = "futex_waitv";
    match nothing {
        Err(Errno::INVAL) | Ok(_) => Finding::new(
            name,
            "works",
            Good,
            "A parked caller waits for the reply and for the end of its child at once.",
        ),
        Err(error) => Finding::new(
            name,
            format!("fails: {error}"),
            Slow,
            "A parked caller wakes every 5 ms to see whether its child lives; Linux 5.16 has it.",
        ),
    }
}

/// Starts a whole child, which first closes the descriptors it inherited.
fn starting() -> Finding {
    let begin = Instant::now();
    let answered = Probe::bridge().start().map_err(|error| error.to_string()).and_then(|probe| {
        let answer = probe.double(21).map_err(|error| error.to_string())?;
        probe.stop().map_err(|error| error.to_string())?;
        if answer == 42 { Ok(()) } else { Err(format!("the child says that 2 x 21 is {answer}")) }
    });
    match answered {
        Ok(()) => Finding::new(
            "starting a child",
            format!("works: started, answered and stopped in {:.1} ms", begin.elapsed().as_secs_f64() * 1e3),
            Good,
            "Children inherit no descriptor.",
        ),
        Err(error) => Finding::new(
            "starting a child",
            format!("fails: {error}"),
            Missing,
            "Nothing works before this does. Before Linux 5.9 there is no close_range, which a child needs first.",
        ),
    }
}

struct Probe;

#[bridge]
impl Probe {
    pub fn new() -> Self {
        Self
    }

    pub fn double(&self, number: u64) -> u64 {
        2 * number
    }
}

fn death_signal() -> Finding {
    let attempt = || {
        let before = rustix::process::parent_process_death_signal()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let set = rustix::process::parent_process_death_signal()?;
        rustix::process::set_parent_process_death_signal(before)?;
        if set == Some(Signal::KILL) { Ok(()) } else { Err(Errno::NOTSUP) }
    };
    let without = "A child that hangs in native code could outlive its parent.";
    tried("PDEATHSIG", attempt(), "A child ends with its parent, however that ends.", without)
}

fn landlock() -> Finding {
    let name = "Landlock";
    match landlock_version() {
        Some(version) => {
            Finding::new(name, version, Good, "A sandbox takes files away from a child, and its parent's memory.")
        }
        None => Finding::new(
            name,
            "none",
            Missing,
            "No sandbox starts without `optional(Measure::Files)` and `optional(Measure::Processes)`: the kernel needs it built in and in \
             its `lsm=` list.",
        ),
    }
}

/// The newest Landlock version of which anything works here.
fn landlock_version() -> Option<&'static str> {
    let ruleset = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let files = |abi| ruleset().handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok();
    let has_scopes = ruleset().scope(Scope::from_all(ABI::V6)).and_then(Ruleset::create).is_ok();
    let has_network = ruleset().handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok();
    [
        (has_scopes, "version 6 or later"),
        (files(ABI::V5), "version 5"),
        (has_network, "version 4"),
        (files(ABI::V3), "version 3"),
        (files(ABI::V2), "version 2"),
        (files(ABI::V1), "version 1"),
    ]
    .into_iter()
    .find_map(|(works, version)| works.then_some(version))
}

fn seccomp() -> Finding {
    let name = "seccomp";
    let actions = machine::line_of("/proc/sys/kernel/seccomp/actions_avail");
    match rustix::thread::secure_computing_mode() {
        Ok(mode) => {
            let value = format!(
                "{}; this process: {mode:?}",
                actions.map_or("there".into(), |actions| format!("has {actions}"))
            );
            Finding::new(name, value, Good, "A sandbox takes system calls away from a child.")
        }
        Err(error) => Finding::new(name, format!("fails: {error}"), Missing, "No sandbox starts without it."),
    }
}

/// Starts a whole child in the strictest sandbox.
fn sandbox() -> Finding {
    const NAME: &str = "sandbox";
    let started = Probe::bridge().sandbox(Sandbox::strict()).start().map_err(|error| error.to_string());
    let outcome = started.and_then(|probe| {
        let report = probe.sandbox_report().ok_or("the child sent no report of it")?;
        Ok(report.left_out().map(|(measure, why)| format!("{measure} ({why})")).collect::<Vec<_>>())
    });
    match outcome {
        Ok(left_out) if left_out.is_empty() => {
            Finding::new(NAME, "works, every measure", Good, "A child can be kept from everything but computing.")
        }
        Ok(left_out) => Finding::new(
            NAME,
            format!("works, except for {}", left_out.join(", ")),
            Good,
            "The missing measures only back up others; they take root, user namespaces or a newer kernel.",
        ),
        Err(error) => Finding::new(
            NAME,
            format!("fails: {error}"),
            Missing,
            "What fails can be marked as optional, and is then not in force.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(number("Linux 6.18.2-generic"), Some((6, 18)));
        assert_eq!(number("Linux 5.9"), Some((5, 9)));
        assert_eq!(number("Linux"), None);
    }
}
