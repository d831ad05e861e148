//! Filters of system calls, which a process puts itself under for good: which calls, and which error they get.
//!
//! Three filters lie on top of each other, and a call must pass all of them. The first has `clone3` say that it does not exist, the second
//! denies what is listed, the third, if there is one, allows what is listed and nothing else. What is denied gets EPERM; what is newer than
//! that list, ENOSYS. A system call of another architecture ends the process.

#![forbid(unsafe_code)]

use nix::libc;
use rustix::thread::SecureComputingMode;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

/// Which filters are to be put in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filters {
    /// This process's number, as it sees itself.
    pub(crate) own_pid: u32,
    /// No sockets.
    pub(crate) no_network: bool,
    /// No new processes, and no other programs.
    pub(crate) no_new_processes: bool,
    /// No signals but to itself.
    pub(crate) no_signals: bool,
    /// Files are ruled by what does not see changes of their attributes: none of those by path.
    pub(crate) files_ruled: bool,
    /// No file may be changed at all: no attributes of open ones either.
    pub(crate) files_fixed: bool,
    /// No memory that no limit counts.
    pub(crate) memory_limited: bool,
    /// Limits stay as they are.
    pub(crate) limits_set: bool,
    /// Nothing but the ordinary calls.
    pub(crate) ordinary_only: Option<Ordinary>,
}

/// Which calls are ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordinary {
    /// Those without a path.
    NoPaths,
    /// All of them.
    Paths,
}

impl Filters {
    /// Puts this thread, and what it starts, under the filters for good.
    pub(crate) fn install(&self) -> io::Result<()> {
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        // What `clone3` is to do lies in memory, which a filter cannot see. libc falls back to `clone` where it does not exist.
        let absent = SeccompAction::Errno(libc::ENOSYS as u32);
        let mut no_clone3 = FilterRules::default();
        no_clone3.all(&[libc::SYS_clone3]);
        apply(no_clone3.compile(SeccompAction::Allow, absent)?)?;
        apply(self.denied()?.compile(SeccompAction::Allow, denied.clone())?)?;
        if let Some(ordinary) = self.ordinary_only {
            let program = allowed(ordinary)?.compile(denied, SeccompAction::Allow)?;
            apply([&no_newer()[..], &program].concat())?;
        }
        match rustix::thread::secure_computing_mode()? {
            SecureComputingMode::Filter => Ok(()),
            other => Err(io::Error::other(format!("the mode is {other:?} afterwards"))),
        }
    }

    /// What no filtered process may do, and what this one in particular may not.
    fn denied(&self) -> io::Result<FilterRules> {
        let mut rules = FilterRules::default();
        rules.all(NEVER);
        rules.all(LEGACY_NEVER);
        self.deny_changing_others(&mut rules)?;
        deny_undoing(&mut rules)?;
        for flag in NEVER_CLONED {
            rules.when(libc::SYS_clone, &[(0, Len::Dword, Op::MaskedEq(flag), flag)])?;
        }
        if self.no_new_processes {
            let thread = libc::CLONE_THREAD as u64;
            rules.when(libc::SYS_clone, &[(0, Len::Dword, Op::MaskedEq(thread), 0)])?;
            rules.all(&[libc::SYS_execve, libc::SYS_execveat]);
            rules.all(LEGACY_FORK);
        }
        if self.no_signals {
            self.deny_signalling(&mut rules)?;
        }
        if self.no_network {
            deny_sockets(&mut rules)?;
        }
        if self.files_ruled {
            rules.all(ATTRIBUTES);
            rules.all(LEGACY_ATTRIBUTES);
            // Without a path it changes what is open.
            rules.when(libc::SYS_utimensat, &[(1, Len::Qword, Op::Ne, 0)])?;
        }
        if self.files_fixed {
            rules.all(OPEN_ATTRIBUTES);
            for request in [FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR] {
                rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, request)])?;
            }
        }
        if self.memory_limited {
            // Which grows by itself, and is counted with the stack.
            let grows = libc::MAP_GROWSDOWN as u64;
            rules.when(libc::SYS_mmap, &[(3, Len::Dword, Op::MaskedEq(grows), grows)])?;
            let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;
            rules.when(libc::SYS_mmap, &[(3, Len::Dword, Op::MaskedEq(shared), shared)])?;
            rules.all(&[libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_shmget]);
        }
        if self.limits_set {
            rules.all(&[libc::SYS_setrlimit]);
            rules.when(libc::SYS_prlimit64, &[(2, Len::Qword, Op::Ne, 0)])?;
            deny_more_descriptors(&mut rules)?;
        }
        Ok(rules)
    }

    /// Limits, priorities and CPUs of other processes of the same user could be changed, which can be the end of them.
    fn deny_changing_others(&self, rules: &mut FilterRules) -> io::Result<()> {
        for call in OF_A_PROCESS {
            rules.when(*call, &self.not_self(0, &[0]))?;
        }
        // Of a process, and not of all of a group or a user.
        rules.when(libc::SYS_setpriority, &[(0, Len::Dword, Op::Ne, libc::PRIO_PROCESS.into())])?;
        rules.when(libc::SYS_setpriority, &self.not_self(1, &[0]))?;
        rules.when(libc::SYS_ioprio_set, &[(0, Len::Dword, Op::Ne, 1)])?;
        rules.when(libc::SYS_ioprio_set, &self.not_self(1, &[0]))?;
        rules.when(libc::SYS_pidfd_open, &self.not_self(0, &[]))
    }

    fn deny_signalling(&self, rules: &mut FilterRules) -> io::Result<()> {
        // 0 and -1 are all of a group and all there are.
        let of_a_process =
            [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];
        for call in of_a_process {
            rules.when(call, &self.not_self(0, &[]))?;
        }
        rules.all(&[libc::SYS_pidfd_send_signal]);
        // Whoever owns a descriptor is sent a signal of choice when something happens to it.
        for command in [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG] {
            rules.when(libc::SYS_fcntl, &[(1, Len::Dword, Op::Eq, command as u64)])?;
        }
        for request in [FIOSETOWN, SIOCSPGRP, FIOASYNC] {
            rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, request)])?;
        }
        // A terminal finds itself an owner: whoever reads from it.
        let asynchronous = libc::O_ASYNC as u64;
        let set = (1, Len::Dword, Op::Eq, libc::F_SETFL as u64);
        rules.when(libc::SYS_fcntl, &[set, (2, Len::Dword, Op::MaskedEq(asynchronous), asynchronous)])
    }

    /// Matches if argument `at` is none of `others`, nor this process.
    fn not_self(&self, at: u8, others: &[u64]) -> Vec<Condition> {
        let own = u64::from(self.own_pid);
        others.iter().copied().chain([own]).map(|pid| (at, Len::Dword, Op::Ne, pid)).collect()
    }
}

/// That it dies with its parent, and who may look into it.
fn deny_undoing(rules: &mut FilterRules) -> io::Result<()> {
    for option in [libc::PR_SET_PDEATHSIG, libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER] {
        rules.when(libc::SYS_prctl, &[(0, Len::Dword, Op::Eq, option as u64)])?;
    }
    for request in OF_A_TERMINAL {
        rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, *request)])?;
    }
    // Whoever touches what has been taken out of shared memory, or is being moved, waits: its parent, too.
    for advice in FELT_BY_OTHERS {
        rules.when(libc::SYS_madvise, &[(2, Len::Dword, Op::Eq, *advice)])?;
    }
    Ok(())
}

/// Descriptors are limited for each table of them: no thread has one of its own.
fn deny_more_descriptors(rules: &mut FilterRules) -> io::Result<()> {
    let (thread, files) = (libc::CLONE_THREAD as u64, libc::CLONE_FILES as u64);
    rules.when(
        libc::SYS_clone,
        &[(0, Len::Dword, Op::MaskedEq(thread), thread), (0, Len::Dword, Op::MaskedEq(files), 0)],
    )?;
    let unshare = u64::from(libc::CLOSE_RANGE_UNSHARE);
    rules.when(libc::SYS_close_range, &[(2, Len::Dword, Op::MaskedEq(unshare), unshare)])
}

/// No socket but a pair of streams: a pair of datagram sockets could send to any other.
fn deny_sockets(rules: &mut FilterRules) -> io::Result<()> {
    rules.all(&[
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
    ]);
    rules.when(libc::SYS_socketpair, &[(0, Len::Dword, Op::Ne, libc::AF_UNIX as u64)])?;
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
        rules.when(libc::SYS_socketpair, &[(1, Len::Dword, Op::MaskedEq(0xf), kind as u64)])?;
    }
    Ok(())
}

/// The calls that `ordinary` means.
fn allowed(ordinary: Ordinary) -> io::Result<FilterRules> {
    let mut rules = FilterRules::default();
    rules.all(ORDINARY);
    rules.all(LEGACY_ORDINARY);
    // The kernel looks at the lower half of a request: what the upper half holds makes no other of it.
    for (call, at, requests) in [
        (libc::SYS_prctl, 0, ORDINARY_PRCTL),
        (libc::SYS_ioctl, 1, ORDINARY_IOCTL),
        (libc::SYS_fcntl, 1, ORDINARY_FCNTL),
    ] {
        for request in requests {
            rules.when(call, &[(at, Len::Dword, Op::Eq, *request)])?;
        }
    }
    // No holes: only what adds to a file.
    for mode in [0, FALLOC_FL_KEEP_SIZE] {
        rules.when(libc::SYS_fallocate, &[(1, Len::Dword, Op::Eq, mode)])?;
    }
    if ordinary == Ordinary::Paths {
        rules.all(ORDINARY_PATHS);
        rules.all(LEGACY_ORDINARY_PATHS);
    }
    Ok(rules)
}

/// An argument, how much of it counts, and what it is compared with.
type Condition = (u8, Len, Op, u64);

/// System calls, each with the conditions of which one must hold, or none.
#[derive(Default)]
struct FilterRules(BTreeMap<i64, Vec<SeccompRule>>);

impl FilterRules {
    /// Adds calls whatever their arguments.
    fn all(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// Adds a call if all conditions hold. What stands there without conditions stays so.
    fn when(&mut self, call: i64, conditions: &[Condition]) -> io::Result<()> {
        let conditions: Result<Vec<_>, _> = conditions
            .iter()
            .map(|(at, len, op, value)| SeccompCondition::new(*at, len.clone(), op.clone(), *value))
            .collect();
        let rule = SeccompRule::new(conditions.map_err(io::Error::other)?).map_err(io::Error::other)?;
        match self.0.entry(call) {
            Entry::Vacant(entry) => drop(entry.insert(vec![rule])),
            Entry::Occupied(mut entry) if !entry.get().is_empty() => entry.get_mut().push(rule),
            Entry::Occupied(_) => {}
        }
        Ok(())
    }

    fn compile(self, otherwise: SeccompAction, matched: SeccompAction) -> io::Result<BpfProgram> {
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
        let filter = SeccompFilter::new(self.0, otherwise, matched, arch).map_err(io::Error::other)?;
        BpfProgram::try_from(filter).map_err(io::Error::other)
    }
}

const LOAD: u16 = 0x20;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Denies the calls of x86-64's third calling convention, which have the same architecture and numbers of their own.
fn no_x32() -> [sock_filter; 3] {
    all_from(0x4000_0000, libc::EPERM)
}

/// Has calls that were not there when the lists were written not exist: libc then does without, which it would not after EPERM.
fn no_newer() -> [sock_filter; 3] {
    all_from(SYS_FILE_SETATTR as u32 + 1, libc::ENOSYS)
}

/// A start of a filter: calls with this number and higher ones get `error`.
fn all_from(number: u32, error: i32) -> [sock_filter; 3] {
    let failed = libc::SECCOMP_RET_ERRNO | error as u32;
    [
        sock_filter { code: LOAD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: number },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: failed },
    ]
}

fn apply(program: BpfProgram) -> io::Result<()> {
    apply_filter(&[&no_x32()[..], &program].concat()).map_err(|error| match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
        other => io::Error::other(other),
    })
}

// ---- what libc lacks on one of the architectures ---------------------------------------------------------------------

const F_SETOWN_EX: i32 = 15;
const F_SETSIG: i32 = 10;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const FIOASYNC: u64 = 0x5452;
const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
const FALLOC_FL_KEEP_SIZE: u64 = 1;

#[cfg(target_arch = "x86_64")]
const SYS_KEXEC_FILE_LOAD: i64 = 320;
#[cfg(not(target_arch = "x86_64"))]
const SYS_KEXEC_FILE_LOAD: i64 = 294;
// Calls from 424 on have the same number everywhere.
const SYS_FCHMODAT2: i64 = 452;
const SYS_FUTEX_WAKE: i64 = 454;
const SYS_FUTEX_WAIT: i64 = 455;
const SYS_FUTEX_REQUEUE: i64 = 456;
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_OPEN_TREE_ATTR: i64 = 467;
/// The newest that the lists know.
const SYS_FILE_SETATTR: i64 = 469;

// ---- the lists -------------------------------------------------------------------------------------------------------

/// Namespaces, which take other calls too that are denied; a child of its parent's; one that is traced.
const NEVER_CLONED: [u64; 9] = [
    libc::CLONE_PARENT as u64,
    libc::CLONE_NEWUSER as u64,
    libc::CLONE_NEWNS as u64,
    libc::CLONE_NEWPID as u64,
    libc::CLONE_NEWNET as u64,
    libc::CLONE_NEWIPC as u64,
    libc::CLONE_NEWUTS as u64,
    libc::CLONE_NEWCGROUP as u64,
    libc::CLONE_PTRACE as u64,
];

/// What a process can do to another one, to the machine, or through doors in the kernel that it has no use for.
const NEVER: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // The kernel's insides.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    SYS_KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_personality,
];

/// What takes a terminal away that the child may share with its parent, stops it, types there, or has its programs signalled.
const OF_A_TERMINAL: &[u64] = &[
    0x540a,      // TCXONC
    0x540c,      // TIOCEXCL
    0x540e,      // TIOCSCTTY
    0x5410,      // TIOCSPGRP
    0x5412,      // TIOCSTI
    0x5414,      // TIOCSWINSZ
    0x541c,      // TIOCLINUX
    0x541d,      // TIOCCONS
    0x5422,      // TIOCNOTTY
    0x5423,      // TIOCSETD
    0x5437,      // TIOCVHANGUP
    0x4004_5436, // TIOCSIG
];

/// Advice about memory that is felt by others who have it mapped.
const FELT_BY_OTHERS: &[u64] = &[
    libc::MADV_REMOVE as u64,
    libc::MADV_COLD as u64,
    libc::MADV_PAGEOUT as u64,
    libc::MADV_HWPOISON as u64,
    25,  // MADV_COLLAPSE
    101, // MADV_SOFT_OFFLINE
];

/// What changes the process that its first argument names; 0 is the calling one.
const OF_A_PROCESS: &[i64] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
    libc::SYS_setpgid,
];

/// Changes of files' attributes by their path.
const ATTRIBUTES: &[i64] = &[
    libc::SYS_fchmodat,
    SYS_FCHMODAT2,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
];

/// The same of files that are open.
const OPEN_ATTRIBUTES: &[i64] =
    &[libc::SYS_fchmod, libc::SYS_fchown, libc::SYS_fsetxattr, libc::SYS_fremovexattr, libc::SYS_utimensat];

/// What a service that computes, and its child's own runtime, may call.
const ORDINARY: &[i64] = &[
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_mseal,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_get_mempolicy,
    // Threads, and waiting for each other.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    SYS_FUTEX_WAKE,
    SYS_FUTEX_WAIT,
    SYS_FUTEX_REQUEUE,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getpriority,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // What it is, and how much it has used.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_getrusage,
    libc::SYS_prlimit64,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_umask,
    libc::SYS_getrandom,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // Descriptors that are open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_flock,
    libc::SYS_fstat,
    // How libc and std ask about what is open, too.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    // Not `sendfile`, `splice`, `tee` or `vmsplice`: pages of shared memory stay in a pipe when the object they were of is gone.
    libc::SYS_copy_file_range,
    libc::SYS_getdents64,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    // Sockets that are open, and pairs. Nothing that sends descriptors: those under way count for all processes of a user.
    libc::SYS_socketpair,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
];

/// Those with a path, where Landlock says which.
const ORDINARY_PATHS: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_statfs,
    libc::SYS_truncate,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
];

const PR_SET_VMA: u64 = 0x5356_4d41;

/// Names of threads and mappings, and looking at what holds.
const ORDINARY_PRCTL: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_GET_PDEATHSIG as u64,
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_GET_NO_NEW_PRIVS as u64,
    libc::PR_GET_SECCOMP as u64,
    PR_SET_VMA,
];

/// What asks, or concerns the descriptor alone. Everything else is about a device, or about what others have open too.
const ORDINARY_IOCTL: &[u64] = &[
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x540f,      // TIOCGPGRP
    0x5411,      // TIOCOUTQ
    0x5413,      // TIOCGWINSZ
    0x541b,      // FIONREAD
    0x5429,      // TIOCGSID
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
];

/// The same, and locks. Flags (`F_SETFL`) are those of everybody who has the file open, as a parent has its child's output.
const ORDINARY_FCNTL: &[u64] = &[
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_GETLK as u64,
    libc::F_SETLK as u64,
    libc::F_SETLKW as u64,
    libc::F_OFD_GETLK as u64,
    libc::F_OFD_SETLK as u64,
    libc::F_OFD_SETLKW as u64,
    libc::F_GETPIPE_SZ as u64,
    libc::F_SETPIPE_SZ as u64,
    libc::F_ADD_SEALS as u64,
    libc::F_GET_SEALS as u64,
    1027, // F_DUPFD_QUERY
];

// ---- calls that only x86-64 has ------------------------------------------------------------------------------------------

#[cfg(target_arch = "x86_64")]
const LEGACY_NEVER: &[i64] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_ustat, libc::SYS__sysctl];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_NEVER: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const LEGACY_FORK: &[i64] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_FORK: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const LEGACY_ATTRIBUTES: &[i64] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_ATTRIBUTES: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const LEGACY_ORDINARY: &[i64] = &[
    libc::SYS_arch_prctl,
    libc::SYS_time,
    libc::SYS_alarm,
    libc::SYS_pause,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_eventfd,
    libc::SYS_signalfd,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_getdents,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_ORDINARY: &[i64] = &[];

#[cfg(target_arch = "x86_64")]
const LEGACY_ORDINARY_PATHS: &[i64] = &[
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY_ORDINARY_PATHS: &[i64] = &[];
