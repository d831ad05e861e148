//! Seccomp filters: which system calls a process may make, and which error the others get. A process never gets rid of its filters.
//!
//! Three filters are stacked, and a call must pass all of them. The first makes `clone3` look unimplemented, the second denies the listed calls, and
//! the third, if any, allows only the listed calls. A denied call fails with EPERM; a call newer than the third list fails with ENOSYS. A system call
//! of another architecture kills the process.

#![forbid(unsafe_code)]

mod lists;

use self::lists::*;
use nix::libc;
use rustix::thread::SecureComputingMode;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;

/// Which filters to install.
#[derive(Clone, Copy, Debug)]
pub struct Filters {
    /// This process's number, as it sees itself.
    pub own_pid: u32,
    /// No sockets.
    pub no_network: bool,
    /// No new processes and no other programs.
    pub no_new_processes: bool,
    /// No signals to other processes.
    pub(crate) no_signals: bool,
    /// Landlock restricts files, but does not see changes of attributes: no such changes by path.
    pub(crate) files_ruled: bool,
    /// No file may be changed: no changes of attributes through open files either.
    pub(crate) files_fixed: bool,
    /// Memory is limited: no memory that no limit counts.
    pub(crate) memory_limited: bool,
    /// Limits are set: no changes to them.
    pub(crate) limits_set: bool,
    /// Nothing but the ordinary calls.
    pub(crate) ordinary_only: Option<Ordinary>,
}

/// Which calls count as ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordinary {
    /// Those without a path.
    NoPaths,
    /// All of them.
    Paths,
}

impl Filters {
    /// Puts the calling thread, and everything it starts, under the filters for good.
    pub fn install(&self) -> io::Result<()> {
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        // `clone3` reads its arguments from memory, which a filter cannot see. Where it does not exist, libc falls back to `clone`.
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

    /// The rules for what no filtered process may do, and what this one may not do.
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
            // Without a path, the call changes an open file.
            rules.when(libc::SYS_utimensat, &[(1, Len::Qword, Op::Ne, 0)])?;
        }
        if self.files_fixed {
            rules.all(OPEN_ATTRIBUTES);
            for request in [FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR] {
                rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, request)])?;
            }
        }
        if self.memory_limited {
            // This memory grows by itself and is counted as stack.
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

    /// Denies changes to the limits, priorities and CPUs of other processes of the same user, which can kill them.
    fn deny_changing_others(&self, rules: &mut FilterRules) -> io::Result<()> {
        for call in OF_A_PROCESS {
            rules.when(*call, &self.not_self(0, &[0]))?;
        }
        // Allows only a single process, not a process group or all processes of a user.
        rules.when(libc::SYS_setpriority, &[(0, Len::Dword, Op::Ne, libc::PRIO_PROCESS.into())])?;
        rules.when(libc::SYS_setpriority, &self.not_self(1, &[0]))?;
        rules.when(libc::SYS_ioprio_set, &[(0, Len::Dword, Op::Ne, 1)])?;
        rules.when(libc::SYS_ioprio_set, &self.not_self(1, &[0]))?;
        rules.when(libc::SYS_pidfd_open, &self.not_self(0, &[]))
    }

    fn deny_signalling(&self, rules: &mut FilterRules) -> io::Result<()> {
        // 0 and -1, a process group and every process, are denied as well.
        let of_a_process =
            [libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];
        for call in of_a_process {
            rules.when(call, &self.not_self(0, &[]))?;
        }
        rules.all(&[libc::SYS_pidfd_send_signal]);
        // A descriptor's owner is sent a freely chosen signal when something happens to it.
        for command in [libc::F_SETOWN, F_SETOWN_EX, F_SETSIG] {
            rules.when(libc::SYS_fcntl, &[(1, Len::Dword, Op::Eq, command as u64)])?;
        }
        for request in [FIOSETOWN, SIOCSPGRP, FIOASYNC] {
            rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, request)])?;
        }
        // A terminal picks its owner itself: the process that reads from it.
        let asynchronous = libc::O_ASYNC as u64;
        let set = (1, Len::Dword, Op::Eq, libc::F_SETFL as u64);
        rules.when(libc::SYS_fcntl, &[set, (2, Len::Dword, Op::MaskedEq(asynchronous), asynchronous)])
    }

    /// Matches if argument `at` is neither this process nor one of `others`.
    fn not_self(&self, at: u8, others: &[u64]) -> Vec<Condition> {
        let own = u64::from(self.own_pid);
        others.iter().copied().chain([own]).map(|pid| (at, Len::Dword, Op::Ne, pid)).collect()
    }
}

/// Denies changes to the child's death with its parent and to who may inspect it, and the terminal requests and memory advice that others would feel.
fn deny_undoing(rules: &mut FilterRules) -> io::Result<()> {
    for option in [libc::PR_SET_PDEATHSIG, libc::PR_SET_DUMPABLE, libc::PR_SET_PTRACER] {
        rules.when(libc::SYS_prctl, &[(0, Len::Dword, Op::Eq, option as u64)])?;
    }
    for request in OF_A_TERMINAL {
        rules.when(libc::SYS_ioctl, &[(1, Len::Dword, Op::Eq, *request)])?;
    }
    // A thread that touches a page that is being removed from shared memory or moved has to wait, even in the parent.
    for advice in FELT_BY_OTHERS {
        rules.when(libc::SYS_madvise, &[(2, Len::Dword, Op::Eq, *advice)])?;
    }
    Ok(())
}

/// Denies a thread its own descriptor table, because the limit on descriptors applies to each table.
fn deny_more_descriptors(rules: &mut FilterRules) -> io::Result<()> {
    let (thread, files) = (libc::CLONE_THREAD as u64, libc::CLONE_FILES as u64);
    rules.when(
        libc::SYS_clone,
        &[(0, Len::Dword, Op::MaskedEq(thread), thread), (0, Len::Dword, Op::MaskedEq(files), 0)],
    )?;
    let unshare = u64::from(libc::CLOSE_RANGE_UNSHARE);
    rules.when(libc::SYS_close_range, &[(2, Len::Dword, Op::MaskedEq(unshare), unshare)])
}

/// Denies all sockets but pairs of streams: a pair of datagram sockets could send to any other socket.
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

/// The calls that `ordinary` allows.
fn allowed(ordinary: Ordinary) -> io::Result<FilterRules> {
    let mut rules = FilterRules::default();
    rules.all(ORDINARY);
    rules.all(LEGACY_ORDINARY);
    // The kernel only looks at the lower half of a request, so the upper half cannot turn it into another one.
    for (call, at, requests) in [
        (libc::SYS_prctl, 0, ORDINARY_PRCTL),
        (libc::SYS_ioctl, 1, ORDINARY_IOCTL),
        (libc::SYS_fcntl, 1, ORDINARY_FCNTL),
    ] {
        for request in requests {
            rules.when(call, &[(at, Len::Dword, Op::Eq, *request)])?;
        }
    }
    // No holes: only modes that extend a file.
    for mode in [0, FALLOC_FL_KEEP_SIZE] {
        rules.when(libc::SYS_fallocate, &[(1, Len::Dword, Op::Eq, mode)])?;
    }
    if ordinary == Ordinary::Paths {
        rules.all(ORDINARY_PATHS);
        rules.all(LEGACY_ORDINARY_PATHS);
    }
    Ok(rules)
}

/// An argument's index, how much of it counts, the comparison, and the value.
type Condition = (u8, Len, Op, u64);

/// System calls, each with its alternative rules, one of which must match. A call without rules always matches.
#[derive(Default)]
struct FilterRules(BTreeMap<i64, Vec<SeccompRule>>);

impl FilterRules {
    /// Adds calls, whatever their arguments.
    fn all(&mut self, calls: &[i64]) {
        self.0.extend(calls.iter().map(|call| (*call, Vec::new())));
    }

    /// Adds a call for arguments that meet all `conditions`. A call that was added unconditionally stays so.
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

/// Denies x32, x86-64's third calling convention, which shares the architecture value but has its own call numbers.
fn no_x32() -> [sock_filter; 3] {
    all_from(0x4000_0000, libc::EPERM)
}

/// Makes calls newer than the lists fail as not implemented: libc then falls back to others, which it would not do after EPERM.
fn no_newer() -> [sock_filter; 3] {
    all_from(SYS_FILE_SETATTR as u32 + 1, libc::ENOSYS)
}

/// The beginning of a filter: the call with this number and all higher ones fail with `error`.
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
