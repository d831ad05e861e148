//! Snapshots of what a process holds, and separate processes in which tests can compare them.

#![allow(dead_code)]

use super::support;
pub(crate) use super::support::alone;

/// Like [`alone`], for a `body` that must leave nothing behind: no descriptor, mapping, thread, child, zombie or shared memory. Only what `first`,
/// the first start of a bridge, leaves for good may stay, and that is the watcher alone.
pub(crate) fn leaving_nothing(test: &str, secs: u64, first: impl FnOnce(), body: impl FnOnce()) {
    alone(test, secs, || {
        let held = Held::now().with_watcher();
        first();
        held.again("the first bridge");
        body();
        held.again(test);
    });
}

/// What this process holds that starting and stopping bridges could leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    descriptors: Vec<String>,
    mappings: usize,
    threads: usize,
    children: Vec<String>,
    zombies: usize,
    shared_memory: Vec<String>,
}

impl Held {
    pub(crate) fn now() -> Self {
        let pid = std::process::id();
        let own_names = format!("callgate-{pid}-");
        Self {
            descriptors: support::open_descriptors(pid),
            mappings: support::mappings_named(pid, "memfd:callgate"),
            threads: support::threads(pid),
            children: children(),
            zombies: support::zombies_of(pid),
            // Tests beside this one, in their own processes, may have names too.
            shared_memory: support::shm_entries().into_iter().filter(|name| name.starts_with(&own_names)).collect(),
        }
    }

    /// Like [`now`](Self::now), once everything that has just begun is complete and two snapshots agree.
    pub(crate) fn at_rest() -> Self {
        let mut held = Self::now();
        let at_rest = support::eventually(10, "rest", || {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let before = std::mem::replace(&mut held, Self::now());
            before == held
        });
        assert!(at_rest, "{held:?}");
        held
    }

    /// Adds what the first start of a bridge leaves for all later ones.
    pub(crate) fn with_watcher(mut self) -> Self {
        self.descriptors.extend(["anon_inode:[eventfd]", "anon_inode:[eventpoll]"].map(String::from));
        self.descriptors.sort();
        self.threads += 1;
        self
    }

    /// Fails unless this process soon holds exactly this again. `after` names what should have left nothing.
    #[track_caller]
    pub(crate) fn again(&self, after: &str) {
        let mut now = Self::now();
        let again = support::eventually(10, "holding no more than before", || {
            now = Self::now();
            now == *self
        });
        assert!(again, "left behind by {after}:\nbefore {self:?}\nnow    {now:?}");
    }
}

/// The processes that any thread of this one has started and not waited for.
pub(crate) fn children() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut children: Vec<_> =
        lists.flat_map(|list| list.split_whitespace().map(String::from).collect::<Vec<_>>()).collect();
    children.sort();
    children
}
