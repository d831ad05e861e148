//! Sandboxes: what a child gives up before its service exists.
//!
//! The parent turns the user's requests into a [`Plan`] and sends it after the greeting. The child carries it out (`apply`) and reports the outcome
//! (`report`). The child's program is trusted to do so, like everything it does before the service exists; its report is checked like any other
//! message from a child.

#![forbid(unsafe_code)]

use crate::measure::{self, Measure};
use rkyv::{Archive, Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// How many descriptors a strict sandbox's child may open by default. Each can be an epoll set with as many entries, so this bounds how long the
/// kernel can take to deliver a message to such a child.
const STRICT_FILES: u64 = 64;

/// The highest limit that can be set.
const MOST: u64 = 1 << 62;

/// What a bridge's child gives up before the service is built: see `Builder::sandbox`.
///
/// Every sandbox, [`new`](Self::new) included:
///
/// - sets `no_new_privs`, so that nothing the child executes gets more rights than the child, and disables core dumps;
/// - cuts the child off from other processes: it can neither trace nor inspect any process that it has not started itself (above all its parent,
///   whose memory a process of the same user could otherwise read and write), nor signal them, nor change their limits, priorities or CPUs. (A thread
///   that changes its own must refer to itself as 0: by its number it looks like another process, unless it is the first thread.)
/// - protects a terminal shared with the parent: the child cannot change its size or session, or use it to send signals. It also cannot punch holes
///   in memory that others have mapped, or have such memory paged out;
/// - denies system calls for tracing, `bpf`, `perf`, `io_uring`, keys, mounts, namespaces, kernel modules, clocks and the like, and those that would
///   let the child outlive its parent. They fail with `EPERM`.
///
/// [`strict`](Self::strict) takes everything else too. If a requested measure cannot be applied, starting fails with `StartError::Sandbox`, unless
/// the measure is [optional](Self::optional). `Bridge::sandbox_report` says what is in force.
///
/// What a sandbox does not do:
///
/// - It hides neither time nor CPUs: a child can keep all of them busy, with as many threads as the user may have.
/// - The child inherits its standard output and error, so it shares the files behind them with the parent: it can write anything there, read from a
///   terminal, make your `println!` fail or block, and truncate your log. Give it pipes of its own with `Builder::stdout`. It inherits the parent's
///   environment, too.
/// - It can fill its bridge's shared memory up to `Builder::memory`, and use up what the kernel counts for all processes of a user: threads,
///   descriptors in flight, pipe memory. [`open_files`](Self::open_files), a [user](Self::uid) of its own and a control group around the program
///   bound that.
/// - It can see which files exist, but not what they contain.
/// - Without rules for files and network, `new` with a few limits is hardening, not a wall: files of the same user, `/proc` and sockets are ways
///   around it. Limits apply to each process, and what a child may still [start](Self::no_new_processes) can outlive it.
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

/// What a child must give up. Paths are raw bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Plan {
    /// Only files beneath these paths can be used.
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
    /// Codes of the measures that may be left out.
    pub(crate) optional: Vec<u8>,
    /// The most shared memory that the bridge may have, in bytes; the child maps it too.
    pub(crate) shared: u64,
}

impl Sandbox {
    /// A sandbox that takes away only what no service needs; see the [type](Self).
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes away everything that a pure computing service can live without: files (unless added), network, new processes, capabilities, and all
    /// system calls but those for memory, threads, time, signals to itself and open descriptors. Other calls fail with `EPERM`. Until a path is
    /// added, calls that take a path fail too (except `stat`, which libc also uses for open files).
    ///
    /// Other processes, above all the parent, may share the child's open files. So the child can query terminals and devices but not change them, it
    /// cannot change the flags of an open file (pass `O_NONBLOCK` when opening it), and it cannot punch holes in files.
    ///
    /// The child may open 64 descriptors, unless [`open_files`](Self::open_files) says otherwise: with very many, it can make the kernel slow at
    /// delivering its parent's messages. Limits of memory and CPU time, and another user, are up to you.
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

    /// Lets the child read, list and execute this file, or everything beneath this directory. A file outside all paths given here and to
    /// [`read_write`](Self::read_write) cannot be opened. The path must exist when the child starts. It is resolved below the new
    /// [root](Self::chroot), if there is one, with the rights of the [user](Self::uid) that the child becomes. All paths together may have about
    /// 60,000 bytes.
    ///
    /// Without any writable path, file attributes cannot be changed at all; an open file can still be locked.
    ///
    /// Attributes that the file system stores (permissions, owners, times, extended ones) can be read, but only changed through open files.
    pub fn read_only(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.files = true;
        self.plan.read_only.push(bytes_of(path));
        self
    }

    /// Like [`read_only`](Self::read_only), and files there can be written, created, moved and removed. Device nodes cannot be created.
    pub fn read_write(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.files = true;
        self.plan.read_write.push(bytes_of(path));
        self
    }

    /// Denies sockets, except pairs of connected Unix streams: the child can connect to nobody, by any protocol or path. Where the system allows it,
    /// the child also gets an empty network namespace and a Landlock rule against TCP, as a second and third wall ([`Measure::NetworkNamespace`],
    /// [`Measure::NetworkRules`]). The files behind descriptors 0, 1 and 2 stay open.
    pub fn no_network(mut self) -> Self {
        self.plan.no_network = true;
        self
    }

    /// Denies `fork`, `vfork` and `execve`. Threads can still be started.
    pub fn no_new_processes(mut self) -> Self {
        self.plan.no_new_processes = true;
        self
    }

    /// Removes all capabilities for good, even from root, which then is a user who merely owns root's files.
    pub fn no_capabilities(mut self) -> Self {
        self.plan.no_capabilities = true;
        self
    }

    /// Limits the child's private memory to `bytes` beyond what it has at the start and what callgate needs there (4 MiB, plus 8 MiB for each
    /// worker's stack). Large arguments that arrive as owned values are private memory; shared memory has its own limit. The child cannot create
    /// shared memory itself, because no limit counts it.
    ///
    /// An allocation beyond the limit fails. Where Rust code cannot handle that, it aborts, and the caller gets `CallError::Died` with SIGABRT.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.plan.memory = Some(bytes);
        self
    }

    /// Limits the CPU time that the child may use in its life, in seconds, including time spent spinning. Then it is killed by SIGXCPU, or, if it
    /// handles that signal, by SIGKILL a second later.
    pub fn cpu_seconds(mut self, seconds: u64) -> Self {
        self.plan.cpu_seconds = Some(seconds);
        self
    }

    /// Limits the descriptors that the child may open beyond those that it starts with and four that callgate needs now and then. A service that uses
    /// up these four too gets no more memory for large payloads. Default: no limit; with [`strict`](Self::strict), 64.
    pub fn open_files(mut self, descriptors: u64) -> Self {
        self.plan.open_files = Some(descriptors);
        self
    }

    /// Sets the child's user, by number. Needs root. Without [`gid`](Self::gid) the group stays the same: for a child of root, root's.
    pub fn uid(mut self, user: u32) -> Self {
        self.plan.user = Some(user);
        self
    }

    /// Sets the child's group, by number. Needs root.
    pub fn gid(mut self, group: u32) -> Self {
        self.plan.group = Some(group);
        self
    }

    /// Sets the child's supplementary groups, by number. Needs root. Default: none if the user or group changes; otherwise unchanged.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.plan.groups = Some(groups.into_iter().collect());
        self
    }

    /// Sets the child's root and working directory. Needs root or user namespaces. On its own, it does not confine a child that has capabilities. The
    /// program is loaded before; whatever it loads later must lie inside.
    pub fn chroot(mut self, path: impl AsRef<Path>) -> Self {
        self.plan.chroot = Some(bytes_of(path));
        self
    }

    /// Sets the permissions that files created by the child do not get, 0 to 0o777.
    pub fn umask(mut self, mask: u32) -> Self {
        self.plan.umask = Some(mask);
        self
    }

    /// Lets the child start without `measure` where it cannot be applied; the report says so.
    pub fn optional(mut self, measure: Measure) -> Self {
        self.plan.optional.push(measure.code());
        self
    }

    /// The plan for the child of a bridge that may have `shared` bytes of shared memory.
    pub fn plan(&self, shared: u64) -> Plan {
        Plan { shared, ..self.plan.clone() }
    }

    /// Returns what is invalid, if anything: the method, its value, and what it accepts.
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
        // The kernel takes such a value to mean "no limit".
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
    /// The supplementary groups to set, if any.
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

    /// The requested measures, in the order in which they are applied.
    pub(crate) fn measures(&self) -> impl Iterator<Item = Measure> {
        measure::ALL.iter().copied().filter(|&measure| self.asks_for(measure))
    }
}

fn bytes_of(path: impl AsRef<Path>) -> Vec<u8> {
    path.as_ref().as_os_str().as_bytes().to_vec()
}
