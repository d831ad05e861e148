//! What a sandbox is made of: one word for each thing that can be in force or not.

#![forbid(unsafe_code)]

use std::fmt;

/// One thing that a [`Sandbox`](crate::Sandbox) applies to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Measure {
    /// No core dumps: they would hold what was in memory. In every sandbox.
    CoreDumps,
    /// [`Sandbox::memory`](crate::Sandbox::memory).
    Memory,
    /// [`Sandbox::cpu_seconds`](crate::Sandbox::cpu_seconds).
    CpuTime,
    /// [`Sandbox::open_files`](crate::Sandbox::open_files).
    OpenFiles,
    /// A network of its own, in which there is nothing. Comes with [`Sandbox::no_network`](crate::Sandbox::no_network) as a second wall,
    /// and is always optional.
    NetworkNamespace,
    /// [`Sandbox::chroot`](crate::Sandbox::chroot).
    Chroot,
    /// [`Sandbox::umask`](crate::Sandbox::umask).
    Umask,
    /// [`Sandbox::groups`](crate::Sandbox::groups), and none where the user or the group is changed.
    Groups,
    /// [`Sandbox::gid`](crate::Sandbox::gid).
    Group,
    /// [`Sandbox::uid`](crate::Sandbox::uid).
    User,
    /// [`Sandbox::no_capabilities`](crate::Sandbox::no_capabilities).
    Capabilities,
    /// Nothing that it executes has more rights than it. In every sandbox.
    NoNewPrivileges,
    /// [`Sandbox::read_only`](crate::Sandbox::read_only) and [`Sandbox::read_write`](crate::Sandbox::read_write), and no other files.
    Files,
    /// No TCP connection and no TCP port. Comes with [`Sandbox::no_network`](crate::Sandbox::no_network) as a third wall, and is always
    /// optional.
    NetworkRules,
    /// No looking into, tracing or signalling of processes that it did not start itself, however they are reached. In every sandbox.
    Processes,
    /// The system calls that nobody needs who only computes, opens files and talks to others: to trace, load, mount, reboot, set clocks,
    /// and change other processes. In every sandbox.
    SystemCalls,
    /// [`Sandbox::no_network`](crate::Sandbox::no_network): no sockets.
    Network,
    /// [`Sandbox::no_new_processes`](crate::Sandbox::no_new_processes).
    NewProcesses,
    /// No system calls but those on the list of [`Sandbox::strict`](crate::Sandbox::strict).
    OrdinaryCalls,
}

/// Every measure, in the order in which they are applied. What a measure is in messages is its place here, from 1.
pub(crate) const ALL: [Measure; 19] = {
    use Measure::*;
    [
        CoreDumps,
        Memory,
        CpuTime,
        OpenFiles,
        NetworkNamespace,
        Chroot,
        Umask,
        Groups,
        Group,
        User,
        Capabilities,
        NoNewPrivileges,
        Files,
        NetworkRules,
        Processes,
        SystemCalls,
        Network,
        NewProcesses,
        OrdinaryCalls,
    ]
};

impl Measure {
    /// The measure as a number.
    pub(crate) fn code(self) -> u8 {
        ALL.iter().position(|&measure| measure == self).map_or(0, |at| at as u8 + 1)
    }

    /// The inverse of [`code`](Self::code).
    pub(crate) fn from_code(code: u64) -> Option<Self> {
        let at = usize::try_from(code).ok()?.checked_sub(1)?;
        ALL.get(at).copied()
    }

    /// Walls behind another wall, which a sandbox stands without.
    pub(crate) fn is_extra(self) -> bool {
        matches!(self, Measure::NetworkNamespace | Measure::NetworkRules)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Measure::CoreDumps => "no core dumps",
            Measure::Memory => "limit of memory",
            Measure::CpuTime => "limit of CPU time",
            Measure::OpenFiles => "limit of open files",
            Measure::NetworkNamespace => "network of its own",
            Measure::Chroot => "root directory",
            Measure::Umask => "umask",
            Measure::Groups => "groups",
            Measure::Group => "group",
            Measure::User => "user",
            Measure::Capabilities => "no capabilities",
            Measure::NoNewPrivileges => "no new privileges",
            Measure::Files => "files",
            Measure::NetworkRules => "no TCP",
            Measure::Processes => "no hand on other processes",
            Measure::SystemCalls => "no rare system calls",
            Measure::Network => "no sockets",
            Measure::NewProcesses => "no new processes",
            Measure::OrdinaryCalls => "ordinary system calls only",
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_number_of_its_own() {
        for measure in ALL {
            assert_eq!(Measure::from_code(measure.code().into()), Some(measure));
        }
        assert_eq!([0, 20, u64::MAX].map(Measure::from_code), [None; 3]);
    }
}
