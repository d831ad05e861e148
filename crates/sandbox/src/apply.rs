//! The child's side of a sandbox: carries out a plan step by step and verifies each step.
//!
//! Runs before the service exists, in a process with one thread: a thread gives up most of these rights for itself alone, so other existing threads
//! would keep them.

#![forbid(unsafe_code)]

use crate::landlock::{Offered, PathRules};
use crate::measure::Measure;
use crate::plan::Plan;
use crate::report::SandboxReply;
use crate::seccomp::{Filters, Ordinary};
use crate::{limits, rights};
use callgate_os::selfproc;
use callgate_os::text::checked_words;
use rustix::process::Resource;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of private memory that callgate needs in a child, besides that for its workers.
const OWN_MEMORY: u64 = 4 << 20;
/// Bytes of private memory that each worker needs: its stack.
const WORKER_MEMORY: u64 = 8 << 20;
/// Bytes of address space that the C library's allocator reserves for each thread and does not use.
const ARENA_SPACE: u64 = 128 << 20;
/// Descriptors that callgate needs temporarily, for an arriving segment, for example.
const OWN_DESCRIPTORS: u64 = 4;

const NO_LANDLOCK: &str = "this kernel has no Landlock, or it is not enabled";

/// A measure that could not be applied and is not optional.
#[derive(Debug)]
pub struct MeasureFailure {
    pub measure: Measure,
    pub why: String,
}

/// Carries out `plan` in this process, which will have `workers` workers. Calls `bind_life`, which keeps the child from outliving its parent, once no
/// later step can make the kernel forget that.
pub fn apply(plan: &Plan, workers: u32, bind_life: impl FnOnce()) -> Result<SandboxReply, MeasureFailure> {
    let mut steps =
        Steps { plan, reply: SandboxReply::default(), namespace_for: None, signals_ruled: false, files_ruled: false };
    match callgate_os::limits::threads() {
        Ok(1) => {}
        Ok(threads) => {
            let why = format!(
                "the child already has {threads} threads, and a sandbox would bind only the threads that start later"
            );
            return Err(MeasureFailure { measure: Measure::NoNewPrivileges, why });
        }
        Err(error) => {
            return Err(MeasureFailure { measure: Measure::NoNewPrivileges, why: format!("/proc/self/task: {error}") });
        }
    }
    steps.limits(workers)?;
    steps.namespaces()?;
    steps.root_and_umask()?;
    steps.credentials()?;
    bind_life();
    steps.step(Measure::NoNewPrivileges, || rights::forbid_new_privileges().map(|()| "no_new_privs".into()))?;
    steps.landlock()?;
    steps.seccomp()?;
    Ok(steps.reply)
}

struct Steps<'a> {
    plan: &'a Plan,
    reply: SandboxReply,
    /// The measure for which the process entered a user namespace, in which it has every capability.
    namespace_for: Option<Measure>,
    /// Landlock restricts signals to other processes.
    signals_ruled: bool,
    /// Landlock restricts files.
    files_ruled: bool,
}

impl Steps<'_> {
    /// Applies `measure` if the plan asks for it. `take` returns how it is in force.
    fn step(&mut self, measure: Measure, take: impl FnOnce() -> io::Result<String>) -> Result<(), MeasureFailure> {
        if !self.plan.asks_for(measure) {
            return Ok(());
        }
        match take() {
            Ok(how) => {
                self.reply.in_force.push((measure.code(), how));
                Ok(())
            }
            Err(error) => self.left_out(measure, &error.to_string()),
        }
    }

    /// Records `measure` as left out; fails if it is not optional.
    fn left_out(&mut self, measure: Measure, why: &str) -> Result<(), MeasureFailure> {
        let why = checked_words(why);
        if !self.plan.is_optional(measure) {
            return Err(MeasureFailure { measure, why });
        }
        self.reply.left_out.push((measure.code(), why));
        Ok(())
    }

    fn limits(&mut self, workers: u32) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        self.step(Measure::CoreDumps, || {
            // The kernel ignores a limit of 0 where dumps are piped to a program; 1 byte is too short for any dump.
            let most = limits::fix(Resource::Core, 1)?;
            Ok(format!("RLIMIT_CORE {most}"))
        })?;
        self.step(Measure::OpenFiles, || {
            let own = limits::descriptors_end()? + OWN_DESCRIPTORS;
            let most = own.saturating_add(plan.open_files.unwrap_or(0));
            let most = limits::limit(Resource::Nofile, most, most)?;
            Ok(format!("RLIMIT_NOFILE {most}, {own} of them for callgate"))
        })?;
        self.step(Measure::CpuTime, || {
            let seconds = plan.cpu_seconds.unwrap_or(0);
            let seconds = limits::limit(Resource::Cpu, seconds, seconds.saturating_add(1))?;
            Ok(format!("RLIMIT_CPU {seconds} s"))
        })?;
        self.step(Measure::Memory, || limit_memory(plan, workers))
    }

    /// Enters the network namespace, and first a user namespace if the process lacks the rights for this or for `chroot`. A user namespace cannot be
    /// combined with a change of user, because it contains no other user.
    fn namespaces(&mut self) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        let measure = match plan.no_network {
            true => Measure::NetworkNamespace,
            false => Measure::Chroot,
        };
        let lacks_network = plan.no_network && !rights::may_make_namespaces();
        let lacks_root = plan.chroot.is_some() && !rights::may_change_root();
        let names = selfproc::effective_ids();
        let may = match () {
            () if !lacks_network && !lacks_root => Ok("a network namespace"),
            () if plan.groups().is_some() => {
                Err("it takes CAP_SYS_ADMIN, or a user namespace, which has no other user to change to".into())
            }
            () => match rights::enter_user_namespace() {
                Ok(()) => {
                    self.namespace_for = Some(measure);
                    Ok("a network namespace, in a user namespace")
                }
                Err(error) => Err(format!("it takes CAP_SYS_ADMIN, or a user namespace: {error}")),
            },
        };
        if self.namespace_for.is_some() {
            // This cannot be undone: a process without a user in its namespace must not go on.
            rights::keep_names(names).map_err(|error| MeasureFailure {
                measure,
                why: format!("its user namespace has no user for it: {error}"),
            })?;
        }
        self.step(Measure::NetworkNamespace, || {
            let how = may.map_err(io::Error::other)?;
            rights::enter_network_namespace()?;
            Ok(how.into())
        })
    }

    fn root_and_umask(&mut self) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        self.step(Measure::Chroot, || {
            let path = path_of(plan.chroot.as_deref().unwrap_or_default());
            let named = |error: io::Error| {
                let hint = match error.kind() {
                    io::ErrorKind::PermissionDenied => " (it takes CAP_SYS_CHROOT, or user namespaces)",
                    _ => "",
                };
                io::Error::new(error.kind(), format!("`{}`: {error}{hint}", path.display()))
            };
            rights::change_root(path).map_err(named)?;
            Ok(format!("`{}`", path.display()))
        })?;
        self.step(Measure::Umask, || {
            let mask = plan.umask.unwrap_or(0);
            rights::set_umask(mask)?;
            Ok(format!("{mask:#o}"))
        })
    }

    fn credentials(&mut self) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        // Done first: a process that changes from root to another user loses the right to do this.
        let bounding_set = if plan.no_capabilities { rights::empty_bounding_set() } else { Ok(()) };
        let takes_root = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), format!("{error} (it takes root)")),
            _ => error,
        };
        self.step(Measure::Groups, || {
            let groups = plan.groups().unwrap_or_default();
            rights::set_supplementary_groups(groups).map_err(takes_root)?;
            Ok(if groups.is_empty() { "none".into() } else { format!("{groups:?}") })
        })?;
        self.step(Measure::Group, || {
            let group = plan.group.unwrap_or_default();
            rights::set_group(group).map_err(takes_root)?;
            Ok(group.to_string())
        })?;
        self.step(Measure::User, || {
            let user = plan.user.unwrap_or_default();
            rights::set_user(user).map_err(takes_root)?;
            Ok(user.to_string())
        })?;
        self.step(Measure::Capabilities, || {
            rights::drop_capabilities()?;
            Ok(match bounding_set {
                Ok(()) => "none, and none can be regained".into(),
                // Only execution could bring capabilities back, and it gives no new privileges.
                Err(error) => format!("none; the bounding set is unchanged ({error})"),
            })
        })?;
        match self.namespace_for {
            // Drops the capabilities over the user namespace, which the plan did not ask for.
            Some(measure) if !plan.no_capabilities => rights::drop_capabilities().map_err(|error| MeasureFailure {
                measure,
                why: format!("the capabilities over its user namespace cannot be dropped: {error}"),
            }),
            _ => Ok(()),
        }
    }

    /// Applies one set of rules for files, TCP and other processes.
    fn landlock(&mut self) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        let Some(offered) = Offered::here() else {
            return self.unruled(&[Measure::Files, Measure::NetworkRules, Measure::Processes], NO_LANDLOCK);
        };
        let paths = |list: &[Vec<u8>]| list.iter().map(|bytes| path_of(bytes).to_owned()).collect::<Vec<PathBuf>>();
        let files = plan.files.then(|| (paths(&plan.read_only), paths(&plan.read_write)));
        match offered.restrict(&PathRules { files, no_network: plan.no_network }) {
            Ok(()) => return self.ruled(offered, plan.files),
            Err(error) => self.unruled(&[Measure::Files], &error.to_string())?,
        }
        // A missing path must not make the other rules fail.
        match offered.restrict(&PathRules { files: None, no_network: plan.no_network }) {
            Ok(()) => self.ruled(offered, false),
            Err(error) => self.unruled(&[Measure::NetworkRules, Measure::Processes], &error.to_string()),
        }
    }

    fn unruled(&mut self, measures: &[Measure], why: &str) -> Result<(), MeasureFailure> {
        measures.iter().try_for_each(|&measure| self.step(measure, || Err(io::Error::other(why))))
    }

    /// Records which measures Landlock has put in force.
    fn ruled(&mut self, offered: Offered, files: bool) -> Result<(), MeasureFailure> {
        let (plan, version) = (self.plan, offered.version());
        self.files_ruled = files;
        if files {
            self.step(Measure::Files, || {
                if !offered.rules_truncation() {
                    return Err(io::Error::other(format!(
                        "Landlock {version} does not restrict truncation, so the child could empty files that it may only read (Linux 6.2 restricts it)"
                    )));
                }
                let (read, write) = (plan.read_only.len(), plan.read_write.len());
                Ok(format!("Landlock {version}; {read} paths to read, {write} to write"))
            })?;
        }
        self.step(Measure::NetworkRules, || {
            let missing = || io::Error::other(format!("Landlock {version} does not restrict it (Linux 6.7 does)"));
            offered.rules_network().then(|| format!("Landlock {version}")).ok_or_else(missing)
        })?;
        self.signals_ruled = offered.rules_signals();
        let how = if self.signals_ruled { "tracing and signals" } else { "tracing; signals by seccomp" };
        self.step(Measure::Processes, || Ok(format!("Landlock {version}: {how}")))
    }

    /// Installs the seccomp filters, which apply all together or not at all.
    fn seccomp(&mut self) -> Result<(), MeasureFailure> {
        let plan = self.plan;
        // If Landlock does not restrict files, calls with paths are denied as if no path were allowed.
        let no_paths = !self.files_ruled || plan.read_only.is_empty() && plan.read_write.is_empty();
        let ordinary = if no_paths { Ordinary::NoPaths } else { Ordinary::Paths };
        let filters = Filters {
            own_pid: std::process::id(),
            no_network: plan.no_network,
            no_new_processes: plan.no_new_processes,
            // A process with children signals them, and a filter cannot tell them from other processes.
            no_signals: plan.no_new_processes || !self.signals_ruled,
            files_ruled: plan.files,
            files_fixed: plan.files && plan.read_write.is_empty(),
            memory_limited: plan.memory.is_some(),
            limits_set: plan.memory.or(plan.cpu_seconds).or(plan.open_files).is_some(),
            ordinary_only: plan.ordinary_only.then_some(ordinary),
        };
        let installed = filters.install();
        for measure in [Measure::SystemCalls, Measure::Network, Measure::NewProcesses, Measure::OrdinaryCalls] {
            self.step(measure, || match &installed {
                Ok(()) => Ok("seccomp".into()),
                Err(error) => Err(io::Error::other(format!("seccomp: {error}"))),
            })?;
        }
        Ok(())
    }
}

/// Limits private memory by `RLIMIT_DATA`, and everything by the address space.
fn limit_memory(plan: &Plan, workers: u32) -> io::Result<String> {
    let usage = limits::usage()?;
    let bytes = plan.memory.unwrap_or(0);
    let own = OWN_MEMORY + u64::from(workers) * WORKER_MEMORY;
    let data = usage.data.saturating_add(bytes).saturating_add(own);
    let reserved = ARENA_SPACE * (u64::from(workers) + 1);
    let space = usage.address_space.saturating_add(bytes).saturating_add(own).saturating_add(reserved);
    let space = space.saturating_add(plan.shared);
    let data = limits::limit(Resource::Data, data, data)?;
    let space = limits::limit(Resource::As, space, space)?;
    Ok(format!("{bytes} bytes more: RLIMIT_DATA {data}, RLIMIT_AS {space}"))
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
