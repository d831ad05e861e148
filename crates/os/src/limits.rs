//! Which limit of this process caused a refusal.

#![forbid(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt::Write;
use std::fs;
use std::io;

/// What the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Shared memory, or a descriptor.
    Memory,
    /// A process or a thread.
    Task,
}

/// A limit: its name, the resource, and the unit to print after its value.
type SystemLimit = (&'static str, Resource, &'static str);

const FILES: SystemLimit = ("RLIMIT_NOFILE", Resource::Nofile, "");
const FILE_SIZE: SystemLimit = ("RLIMIT_FSIZE", Resource::Fsize, " bytes");
const ADDRESSES: SystemLimit = ("RLIMIT_AS", Resource::As, " bytes");
const DATA: SystemLimit = ("RLIMIT_DATA", Resource::Data, " bytes");
const LOCKED: SystemLimit = ("RLIMIT_MEMLOCK", Resource::Memlock, " bytes");
const TASKS: SystemLimit = ("RLIMIT_NPROC", Resource::Nproc, "");
/// `RLIMIT_NOFILE` also bounds how many descriptors a user may have in flight through sockets.
const UNDER_WAY: SystemLimit = ("RLIMIT_NOFILE", Resource::Nofile, " descriptors in flight");

/// The limits that can cause `error`, the likeliest first, and the explanation to give if none of them is set.
fn candidates(error: &io::Error, wanted: Wanted) -> (&'static [SystemLimit], &'static str) {
    match (error.raw_os_error().map(Errno::from_raw_os_error), wanted) {
        (Some(Errno::MFILE), _) => (&[FILES], ""),
        (Some(Errno::TOOMANYREFS), _) => (&[UNDER_WAY], ""),
        (Some(Errno::NFILE), _) => (&[], ", at the system's limit of open files (fs.file-max)"),
        (Some(Errno::FBIG), _) => (&[FILE_SIZE], ""),
        (Some(Errno::NOMEM), _) => (&[ADDRESSES, DATA], ""),
        (Some(Errno::AGAIN), Wanted::Memory) => (&[LOCKED], ""),
        // The C library also reports this when there is no room for a thread's stack.
        (Some(Errno::AGAIN), Wanted::Task) => {
            (&[TASKS, ADDRESSES, DATA], ", at the limit of tasks of the cgroup (pids.max) or the system")
        }
        _ => (&[], ""),
    }
}

/// Names the limits that can cause `error`, with their current values, to go between what was wanted and the error: `, with RLIMIT_NOFILE at 64`.
/// Empty if no limit can cause the error.
pub fn behind(error: &io::Error, wanted: Wanted) -> String {
    let (limits, otherwise) = candidates(error, wanted);
    let mut said = String::new();
    for (name, resource, unit) in limits {
        if let Some(now) = getrlimit(*resource).current {
            let link = if said.is_empty() { ", with" } else { " and" };
            let _ = write!(said, "{link} {name} at {now}{unit}");
        }
    }
    if said.is_empty() { otherwise.into() } else { said }
}

/// The limits in the order of the numbers in [`packed`].
const NUMBERED: [SystemLimit; 7] = [FILES, FILE_SIZE, ADDRESSES, DATA, LOCKED, TASKS, UNDER_WAY];

/// Packs a refusal into two numbers for a process that has other limits: the error, with the number of the limit in the upper half; and the limit's
/// value.
pub fn packed(error: &io::Error, wanted: Wanted) -> [u64; 2] {
    let number = error.raw_os_error().unwrap_or(0);
    let (limits, _) = candidates(error, wanted);
    let first = limits.iter().find_map(|limit| {
        let now = getrlimit(limit.1).current?;
        let at = NUMBERED.iter().position(|numbered| numbered == limit)?;
        Some((at as u64 + 1, now))
    });
    let (which, now) = first.unwrap_or((0, 0));
    [which << 32 | u64::from(number.unsigned_abs()), now]
}

/// The refusal of [`packed`] in words, to follow what was wanted; accepts any numbers.
pub fn unpacked(error: u64, now: u64) -> String {
    let limit = (error >> 32).checked_sub(1).and_then(|at| NUMBERED.get(usize::try_from(at).ok()?));
    let limit = limit.map_or(String::new(), |(name, _, unit)| format!(", with {name} at {now}{unit}"));
    match error as u32 {
        0 => limit,
        number => format!("{limit}: {}", io::Error::from_raw_os_error(number.cast_signed())),
    }
}

/// How many threads this process has. Needs procfs.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fault_24_refusals_name_the_limit_behind_them() {
        let behind = |error: Errno, wanted| behind(&io::Error::from(error), wanted);
        let files = getrlimit(Resource::Nofile).current.expect("every system has one");
        assert_eq!(behind(Errno::MFILE, Wanted::Memory), format!(", with RLIMIT_NOFILE at {files}"));
        assert!(behind(Errno::NFILE, Wanted::Task).contains("fs.file-max"));
        let tasks = behind(Errno::AGAIN, Wanted::Task);
        assert!(tasks.contains("RLIMIT_NPROC") || tasks.contains("pids.max") || tasks.contains("RLIMIT_AS"), "{tasks}");
        let [error, limit] = packed(&Errno::MFILE.into(), Wanted::Memory);
        assert_eq!(
            unpacked(error, limit),
            format!(", with RLIMIT_NOFILE at {files}: {}", io::Error::from(Errno::MFILE))
        );
        assert_eq!((unpacked(0, 0), unpacked(9 << 32, 7)), (String::new(), String::new()));
        assert_eq!(behind(Errno::NOENT, Wanted::Task), "");
        assert_eq!(super::behind(&io::Error::other("words"), Wanted::Memory), "");
    }

    #[test]
    fn fault_24_descriptors_under_way_and_tasks_have_a_limit_too() {
        let error = io::Error::from(Errno::TOOMANYREFS);
        let files = getrlimit(Resource::Nofile).current.expect("every system has one");
        let named = format!(", with RLIMIT_NOFILE at {files} descriptors in flight");
        assert_eq!(behind(&error, Wanted::Memory), named);
        let [number, limit] = packed(&error, Wanted::Memory);
        assert_eq!(unpacked(number, limit), format!("{named}: {error}"));
        // For a thread that cannot be started, the first limit that is set is also named to the other process.
        let error = io::Error::from(Errno::AGAIN);
        let [number, limit] = packed(&error, Wanted::Task);
        let said = unpacked(number, limit);
        let first = [TASKS, ADDRESSES, DATA].into_iter().find(|limit| getrlimit(limit.1).current.is_some());
        let named = first.map_or(String::new(), |(name, ..)| format!(", with {name} at {limit}"));
        assert!(said.starts_with(&named) && said.ends_with(&error.to_string()), "{said}");
        for limit in NUMBERED {
            let is_listed = |error: Errno, wanted| candidates(&error.into(), wanted).0.contains(&limit);
            let errors = [Errno::MFILE, Errno::FBIG, Errno::NOMEM, Errno::AGAIN, Errno::TOOMANYREFS];
            let is_wanted = |wanted| errors.into_iter().any(|error| is_listed(error, wanted));
            assert!(is_wanted(Wanted::Memory) || is_wanted(Wanted::Task), "{} is behind no error", limit.0);
        }
    }
}
