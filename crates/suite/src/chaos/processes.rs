//! The children of this process, as the system sees them: what is killed, and what must not be left.

#![forbid(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The children of this process, whoever started them; also those that have ended and not been waited for.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    match lists.collect::<Result<Vec<_>, _>>() {
        Ok(lists) => lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect(),
        // A kernel without that list, or a thread that has just ended.
        Err(_) => everybody().filter(|&pid| parent_of(pid) == Some(own)).collect(),
    }
}

fn everybody() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The state of a process, as one letter: `Z` = ended and not waited for, `T` = stopped.
pub fn state(pid: u32) -> Option<char> {
    stat(pid).map(|(state, _)| state)
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

/// Whether callgate's watcher in this process has done all that it had to do: it sleeps.
#[cfg(feature = "failpoints")]
pub(super) fn watcher_sleeps() -> bool {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path());
    let is_watcher = |task: &std::path::PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == "callgate-watch")
    };
    tasks.filter(is_watcher).all(|task| {
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        parse(&stat).is_some_and(|(state, _)| state == 'S')
    })
}

fn stat(pid: u32) -> Option<(char, u32)> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<(char, u32)> {
    // The name, in parentheses, may hold anything, parentheses too.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process runs, sleeps or is stopped.
pub fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// A child of this process, held so that its number cannot come to mean another process.
#[derive(Debug)]
pub struct Held {
    /// Its number.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Held {
    /// Holds the child `pid`; `None` if it has ended, or is no child of this process.
    pub fn new(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // It might have ended, and its number gone to another process, before it was held: but not to a child of this one that lives,
        // unless that is one to be held as well.
        let (state, parent) = stat(pid)?;
        (parent == std::process::id() && !matches!(state, 'Z' | 'X')).then_some(Self { pid, pidfd })
    }

    /// Any that there is.
    pub fn any(pick: impl FnOnce(usize) -> usize) -> Option<Self> {
        let children = children();
        Self::new(*children.get(pick(children.len()))?)
    }

    /// Whether it was still there to get the signal.
    pub fn signal(&self, signal: Signal) -> bool {
        // A zombie takes signals too, without effect.
        lives(self.pid) && pidfd_send_signal(&self.pidfd, signal) != Err(Errno::SRCH)
    }

    /// Waits until it has ended, at most so long. Whether it has.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        eventually(timeout, || !lives(self.pid))
    }
}

/// Waits until `condition` holds, at most so long. Whether it does.
pub fn eventually(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What this process holds that a bridge needs, and must not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    descriptors: usize,
    mappings: usize,
    threads: usize,
    children: usize,
    names: usize,
}

impl Holdings {
    /// What it holds now.
    pub fn now() -> Self {
        let entries = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let own_names = format!("callgate-{}-", std::process::id());
        let is_own = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&own_names);
        // The watcher has one of these, and closes it half a second after the last memory was released, which `tests/leak.rs` waits for.
        let is_inotify = |entry: &fs::DirEntry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:inotify")
        };
        let (inotify, others): (Vec<_>, Vec<_>) = entries("/proc/self/fd").partition(is_inotify);
        Self {
            descriptors: others.len() + inotify.len().saturating_sub(1),
            mappings: maps.lines().filter(|line| line.contains("callgate") && line.contains("memfd:")).count(),
            threads: entries("/proc/self/task").count(),
            children: children().len(),
            names: entries("/dev/shm").filter(is_own).count(),
        }
    }

    /// What there is more of than `before`, as sentences. What goes by itself, as threads that undo mappings do, is given some time for that.
    pub fn grown_since(before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        eventually(PATIENCE, || {
            grown = Self::now().beyond(before);
            grown.is_empty()
        });
        grown
    }

    fn beyond(&self, before: &Self) -> Vec<String> {
        let compared = [
            ("descriptors", before.descriptors, self.descriptors),
            ("mappings of memory objects", before.mappings, self.mappings),
            ("threads", before.threads, self.threads),
            ("children", before.children, self.children),
            ("names in /dev/shm", before.names, self.names),
        ];
        let more = compared.into_iter().filter(|(_, before, now)| now > before);
        more.map(|(what, before, now)| format!("{now} {what}, and there were {before}")).collect()
    }
}

/// How long what goes by itself may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_seen() {
        let before = Holdings { descriptors: 5, mappings: 0, threads: 2, children: 0, names: 0 };
        assert_eq!(before.beyond(&before), [] as [&str; 0]);
        let now = Holdings { descriptors: 7, threads: 1, children: 1, ..before.clone() };
        assert_eq!(now.beyond(&before), ["7 descriptors, and there were 5", "1 children, and there were 0"]);
        let now = Holdings { mappings: 1, names: 2, ..before.clone() };
        assert_eq!(now.beyond(&before).len(), 2);
    }

    #[test]
    fn only_own_children_are_held() {
        assert!(Held::new(std::process::id()).is_none());
        assert!(Held::new(1).is_none());
    }
}
