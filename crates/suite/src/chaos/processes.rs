//! The children of this process as the system sees them, to kill them and to check that none is left.

#![forbid(unsafe_code)]

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// All children of this process, including zombies and those that the library started.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    match lists.collect::<Result<Vec<_>, _>>() {
        Ok(lists) => lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect(),
        // The kernel has no such list, or a thread has just ended.
        Err(_) => everybody().filter(|&pid| parent_of(pid) == Some(own)).collect(),
    }
}

fn everybody() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The state of a process, as one letter: `Z` = zombie, `T` = stopped.
pub fn state(pid: u32) -> Option<char> {
    stat(pid).map(|(state, _)| state)
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

/// Whether callgate's watcher in this process is idle, that is, asleep.
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
    // The name is in parentheses and may itself contain parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Whether a process is alive: running, asleep or stopped.
pub fn lives(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// A child of this process, held by a pidfd so that its number cannot come to mean another process.
#[derive(Debug)]
pub struct Held {
    /// The child's process number.
    pub pid: u32,
    pidfd: OwnedFd,
}

impl Held {
    /// Holds the child `pid`; `None` if it has ended or is not a child of this process.
    pub fn new(pid: u32) -> Option<Self> {
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).ok()?;
        // The child may have ended before this, and its number gone to another process. If that is a living child of this process, it may be
        // held just as well; all others are refused here.
        let (state, parent) = stat(pid)?;
        (parent == std::process::id() && !matches!(state, 'Z' | 'X')).then_some(Self { pid, pidfd })
    }

    /// Holds a child of this process: `pick` gets the number of children and returns the index of one.
    pub fn any(pick: impl FnOnce(usize) -> usize) -> Option<Self> {
        let children = children();
        Self::new(*children.get(pick(children.len()))?)
    }

    /// Sends `signal`. Returns whether the child was still alive to get it.
    pub fn signal(&self, signal: Signal) -> bool {
        // Signalling a zombie succeeds without effect, hence the check.
        lives(self.pid) && pidfd_send_signal(&self.pidfd, signal) != Err(Errno::SRCH)
    }

    /// Waits at most `timeout` for the child to end. Returns whether it has.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        eventually(timeout, || !lives(self.pid))
    }
}

/// Waits at most `timeout` for `condition` to hold. Returns whether it does.
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

/// Counts what this process holds for bridges and must release with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    descriptors: usize,
    mappings: usize,
    threads: usize,
    children: usize,
    names: usize,
}

impl Holdings {
    /// Counts what the process holds now.
    pub fn now() -> Self {
        let entries = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let own_names = format!("callgate-{}-", std::process::id());
        let is_own = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&own_names);
        // The watcher has one inotify descriptor and closes it half a second after the last memory was released. `tests/leak.rs` waits for that.
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

    /// Returns a sentence for everything of which there is more than `before`. Things that disappear by themselves, such as threads that undo mappings,
    /// get some time to do so.
    pub fn grown_since(before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        eventually(TIMEOUT, || {
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

/// How long such things may take to disappear.
const TIMEOUT: Duration = Duration::from_secs(10);

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
