//! Sandboxes: what a child gives up before its service exists.
//!
//! The parent makes a [`Plan`] of what the user asked for and sends it after the greeting; the child carries it out (`apply`) and tells
//! what came of it (`report`). The child's program is trusted to do so, as it is whatever happens before the service exists; what
//! it says is checked like all that a child says.

#![forbid(unsafe_code)]

use crate::measure::{self, Measure};
use rkyv::{Archive, Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many descriptors a strict sandbox's child may open, if nothing else is said. Each can be an epoll set, and each set have as many entries: that
/// is how long the kernel can be kept when something is sent to such a child.
const STRICT_FILES: u64 = 64;

/// The highest limit that can be given.
const MOST: u64 = 1 << 62;

/// What a bridge's child gives up before the service is built: see `Builder::sandbox`.
///
/// Every sandbox, [`new`](Self::new) included:
///
/// - sets `no_new_privs`, so that nothing the child executes has more rights than it, and makes no core dumps;
/// - takes its hand off other processes: it can neither trace nor look into any that it has not started itself (its parent above all, whose
///   memory a process of the same user could otherwise read and write), nor signal them, nor change their limits, priorities or CPUs. (A
///   thread that changes its own names itself 0: by its number it looks like another process, unless it is the first.)
/// - leaves alone a terminal that it shares with its parent, as far as size, session and signals are concerned, and makes no holes in memory that others have
///   mapped, nor has it paged out;
/// - denies the system calls for tracing, `bpf`, `perf`, `io_uring`, keys, mounts, namespaces, kernel modules, clocks and the like, and those
///   by which it would outlive its parent. They fail with `EPERM`.
///
/// [`strict`](Self::strict) takes everything else too. What is asked for and cannot be applied is a
/// `StartError::Sandbox`, unless it is [optional](Self::optional). What is in force says
/// `Bridge::sandbox_report`.
///
/// What it does not do:
///
/// - It hides neither time nor CPUs: a child can keep all of them busy, with as many threads as the user may have.
/// - The child has its standard output and error from its parent, and so shares what they refer to: it can write there what it likes, read
///   from a terminal, have your `println!` fail or wait, and truncate your log. Give it pipes of its own with
///   `Builder::stdout`. It has the parent's environment, too.
/// - It can fill the shared memory of its bridge up to `Builder::memory`, and use up what the kernel counts for all
///   processes of a user: threads, descriptors under way, memory of pipes. [`open_files`](Self::open_files), a [user](Self::uid) of its own and a control
///   group around the program bound that.
/// - It can see which files exist, not what is in them.
/// - Without rules about files and network, `new` with some limits is hardening, not a wall: files of the same user, `/proc` and sockets are ways
///   around it. Limits are for each process, and what a child may still [start](Self::no_new_processes) can outlive it.
///
/// # Examples
///
/// ```
/// use callgate::{Sandbox, bridge};
///
/// struct Decoder;
///
/// #[bridge]
/// impl Decoder {
///     pub fn new() -> Self { Decoder }
///     pub fn can_read(&self, path: &str) -> bool { std::fs::read(path).is_ok() }
/// }
///
/// #[callgate::main]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let sandbox = Sandbox::strict().memory(256 << 20).cpu_seconds(60);
///     let decoder = Decoder::bridge().sandbox(sandbox).start()?;
///     assert!(!decoder.can_read("/etc/passwd")?);
///     println!("{}", decoder.sandbox_report().ok_or("no sandbox")?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a sandbox does nothing until it is given to a builder"]
pub struct Sandbox {
    plan: Plan,
}

/// What a child must give up. Paths are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Plan {
    /// Files are ruled: those beneath these paths can be used and no others.
    pub(crate) files: bool,
    pub(crate) read_only: Vec<Vec<u8>>,
    pub(crate) read_write: Vec<Vec<u8>>,
    pub(crate) no_network: bool,
    pub(crate) no_new_processes: bool,
    pub(crate) no_capabilities: bool,
    pub(crate) ordinary_only: bool,
    pub(crate) memory: Option<u64>,
    pub(crate) cpu_seconds: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) chroot: Option<Vec<u8>>,
    pub(crate) umask: Option<u32>,
    /// Codes of the measures that the child may go without.
    pub(crate) optional: Vec<u8>,
    /// The shared memory that the bridge may have, which the child maps too.
    pub(crate) shared: u64,
}

impl Sandbox {
    /// A sandbox that takes from the child only what no service needs; see the [type](Self).
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that a service which only computes can live without: no files but those that are added, no network, no new processes, no
    /// capabilities, and no system calls but those on a list: memory, threads, time, signals to itself, and descriptors that are open. All
    /// others fail with `EPERM`. As long as no path is added, those with a path are not on the list either (but for `stat`, which libc uses
    /// for open files too).
    ///
    /// Other processes, above all its parent, may share the child's open files. So the child can query terminals and devices but not change them; it
    /// cannot change the flags of an open file (pass `O_NONBLOCK` when opening it); and it cannot punch holes in files.
    ///
    /// The child may open 64 descriptors, unless [`open_files`](Self::open_files) says otherwise: with very many, a child can make the kernel slow at
    /// delivering what its parent sends. Add limits of memory and CPU time, and another user, yourself.
    ///
    /// Everything that callgate does in a child still works: payloads of any size, several workers, every way of waiting, panics. Backtraces of
    /// panics lack function names, unless the child may read the program's file and `/proc/self`.
    pub fn strict() -> Self {
        let plan = Plan {
            files: true,
            no_network: true,
            no_new_processes: true,
            no_capabilities: true,
            ordinary_only: true,
            open_files: Some(STRICT_FILES),
            ..Plan::default()
        };
        Self { plan }
    }

    /// The file, or all that is beneath the directory, can be read, listed and executed; what is not beneath a path given here or to
    /// [`read_write`](Self::read_write) cannot be opened. The path must exist when the child starts, and is looked up below the
    /// [root directory](Self::chroot), if that is changed, by the [user](Self::uid) that the child is to be. All paths together may have some
    /// 60,000 bytes.
    ///
    /// Without any path to write to, attributes cannot be changed at all; a lock on an open file can still be taken.
    ///
    /// Where the file system keeps attributes of files (permissions, owners, times, extended ones), they can only be changed through open
    /// files, and still be seen.
    pub fn read_only(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.files = true;
        self.plan.read_only.push(bytes_of(path));
        self
    }

    /// As [`read_only`](Self::read_only), and files can be written, created, moved and removed there. No device nodes.
    pub fn read_write(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.files = true;
        self.plan.read_write.push(bytes_of(path));
        self
    }

    /// No sockets, but for pairs of connected Unix streams: so no connection to anybody, by whatever protocol or path. Where the system
    /// allows it, also a network namespace of its own and no TCP by Landlock, which are two more walls ([`Measure::NetworkNamespace`],
    /// [`Measure::NetworkRules`]). What 0, 1 and 2 refer to stays.
    pub fn no_network(mut self) -> Self {
        self.plan.no_network = true;
        self
    }

    /// No `fork`, `vfork` or `execve`. Threads can be started.
    pub fn no_new_processes(mut self) -> Self {
        self.plan.no_new_processes = true;
        self
    }

    /// No capabilities, now or later, also if the child is root: then it is a user who owns root's files.
    pub fn no_capabilities(mut self) -> Self {
        self.plan.no_capabilities = true;
        self
    }

    /// How much private memory the child may have beyond what it has when it starts and what callgate needs there (4 MiB, and 8 MiB for each
    /// worker's stack), in bytes. Large arguments that arrive as owned values are private memory; shared memory has its own
    /// limit. Shared memory of the child's own making is denied, because no limit counts it.
    ///
    /// An allocation beyond it fails, and where Rust code cannot do without it, it aborts: the caller gets
    /// `CallError::Died` with SIGABRT.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.plan.memory = Some(bytes);
        self
    }

    /// How much CPU time the child may use in its life, in seconds, waiting by spinning included. Then it is killed by SIGXCPU,
    /// and if it has a handler for that, by SIGKILL a second later.
    pub fn cpu_seconds(mut self, seconds: u64) -> Self {
        self.plan.cpu_seconds = Some(seconds);
        self
    }

    /// How many descriptors the child may have open beyond those that it starts with and four that callgate needs now and then. A service that
    /// uses up all of these too can get no more memory for large payloads. Default: no limit; of [`strict`](Self::strict), 64.
    pub fn open_files(mut self, descriptors: u64) -> Self {
        self.plan.open_files = Some(descriptors);
        self
    }

    /// The child's user, by number. Needs root. Without [`gid`](Self::gid) its group stays what it was, which for a child
    /// of root is root's.
    pub fn uid(mut self, user: u32) -> Self {
        self.plan.user = Some(user);
        self
    }

    /// The child's group, by number. Needs root.
    pub fn gid(mut self, group: u32) -> Self {
        self.plan.group = Some(group);
        self
    }

    /// The child's supplementary groups, by number. Needs root. Default: none if the user or group changes; otherwise
    /// unchanged.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.plan.groups = Some(groups.into_iter().collect());
        self
    }

    /// The child's root and working directory. Takes root, or user namespaces; alone it holds nobody who has capabilities. The program
    /// has been loaded by then; what it loads later must be in there.
    pub fn chroot(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.chroot = Some(bytes_of(path));
        self
    }

    /// The permissions that files made by the child do not get, 0 to 0o777.
    pub fn umask(mut self, mask: u32) -> Self {
        self.plan.umask = Some(mask);
        self
    }

    /// Where `measure` cannot be applied, the child starts without it, and the report says so.
    pub fn optional(mut self, measure: Measure) -> Self {
        self.plan.optional.push(measure.code());
        self
    }

    /// The plan for a child of a bridge that may have `shared` bytes of shared memory.
    pub fn plan(&self, shared: u64) -> Plan {
        Plan { shared, ..self.plan.clone() }
    }

    /// What is wrong with the sandbox: the method, its value, and what it accepts.
    pub fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let plan = &self.plan;
        if let Some(mask) = plan.umask.filter(|&mask| mask > 0o777) {
            return Err(("umask", format!("{mask:#o}"), "from 0 to 0o777"));
        }
        // To the kernel, -1 means "unchanged".
        let ids = [("uid", plan.user), ("gid", plan.group)].into_iter().filter_map(|(name, id)| Some((name, id?)));
        let groups = plan.groups.iter().flatten().map(|&id| ("groups", id));
        if let Some((name, id)) = ids.chain(groups).find(|(_, id)| *id == u32::MAX) {
            return Err((name, id.to_string(), "from 0 to 4294967294"));
        }
        // A value that the kernel takes for "no limit".
        let limits = [("memory", plan.memory), ("cpu_seconds", plan.cpu_seconds), ("open_files", plan.open_files)];
        if let Some((name, limit)) = limits.into_iter().find(|(_, limit)| limit.is_some_and(|limit| limit > MOST)) {
            return Err((name, limit.unwrap_or_default().to_string(), "at most 2^62"));
        }
        let paths = plan.read_only.iter().chain(&plan.read_write).chain(&plan.chroot);
        match paths.clone().find(|path| path.contains(&0)) {
            Some(path) => Err(("sandbox", format!("{:?}", String::from_utf8_lossy(path)), "paths without a zero byte")),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// The supplementary groups to be set.
    pub(crate) fn groups(&self) -> Option<&[u32]> {
        let default = self.user.or(self.group).map(|_| &[][..]);
        self.groups.as_deref().or(default)
    }

    pub(crate) fn is_optional(&self, measure: Measure) -> bool {
        measure.is_extra() || self.optional.contains(&measure.code())
    }

    /// Whether `measure` belongs to this plan.
    pub(crate) fn asks_for(&self, measure: Measure) -> bool {
        match measure {
            Measure::CoreDumps | Measure::NoNewPrivileges | Measure::Processes | Measure::SystemCalls => true,
            Measure::Memory => self.memory.is_some(),
            Measure::CpuTime => self.cpu_seconds.is_some(),
            Measure::OpenFiles => self.open_files.is_some(),
            Measure::Network | Measure::NetworkNamespace | Measure::NetworkRules => self.no_network,
            Measure::Chroot => self.chroot.is_some(),
            Measure::Umask => self.umask.is_some(),
            Measure::Groups => self.groups().is_some(),
            Measure::Group => self.group.is_some(),
            Measure::User => self.user.is_some(),
            Measure::Capabilities => self.no_capabilities,
            Measure::Files => self.files,
            Measure::NewProcesses => self.no_new_processes,
            Measure::OrdinaryCalls => self.ordinary_only,
        }
    }

    /// What the plan comes to, in the order in which it is carried out.
    pub(crate) fn measures(&self) -> impl Iterator<Item = Measure> {
        measure::ALL.iter().copied().filter(|&measure| self.asks_for(measure))
    }
}

fn bytes_of(path: impl AsRef<Path>) -> Vec<u8> {
    path.as_ref().as_os_str().as_bytes().to_vec()
}
