//! What a sandbox is made of: one word for each thing that can be in force or not.

#![forbid(unsafe_code)]

use std::fmt;

/// Declares [`Measure`], the order in which all are applied, and what each is called.
macro_rules! measures {
    ($($(#[$about:meta])+ $measure:ident = $words:literal,)+) => {
        /// One thing that a [`Sandbox`](crate::plan::Sandbox) applies to a child.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Measure {
            $($(#[$about])+ $measure,)+
        }

        /// Every measure, in the order in which they are applied. What a measure is in messages is its place here, from 1.
        pub const ALL: &[Measure] = &[$(Measure::$measure,)+];

        impl fmt::Display for Measure {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Measure::$measure => $words,)+
                })
            }
        }
    };
}

measures! {
    /// No core dumps: they would hold what was in memory. In every sandbox.
    CoreDumps = "no core dumps",
    /// [`Sandbox::memory`](crate::plan::Sandbox::memory).
    Memory = "limit of memory",
    /// [`Sandbox::cpu_seconds`](crate::plan::Sandbox::cpu_seconds).
    CpuTime = "limit of CPU time",
    /// [`Sandbox::open_files`](crate::plan::Sandbox::open_files).
    OpenFiles = "limit of open files",
    /// A network of its own, in which there is nothing. Comes with [`Sandbox::no_network`](crate::plan::Sandbox::no_network) as a second wall,
    /// and is always optional.
    NetworkNamespace = "network of its own",
    /// [`Sandbox::chroot`](crate::plan::Sandbox::chroot).
    Chroot = "root directory",
    /// [`Sandbox::umask`](crate::plan::Sandbox::umask).
    Umask = "umask",
    /// [`Sandbox::groups`](crate::plan::Sandbox::groups), and none where the user or the group is changed.
    Groups = "groups",
    /// [`Sandbox::gid`](crate::plan::Sandbox::gid).
    Group = "group",
    /// [`Sandbox::uid`](crate::plan::Sandbox::uid).
    User = "user",
    /// [`Sandbox::no_capabilities`](crate::plan::Sandbox::no_capabilities).
    Capabilities = "no capabilities",
    /// Nothing that it executes has more rights than it. In every sandbox.
    NoNewPrivileges = "no new privileges",
    /// [`Sandbox::read_only`](crate::plan::Sandbox::read_only) and [`Sandbox::read_write`](crate::plan::Sandbox::read_write), and no other files.
    Files = "files",
    /// No TCP connection and no TCP port. Comes with [`Sandbox::no_network`](crate::plan::Sandbox::no_network) as a third wall, and is always
    /// optional.
    NetworkRules = "no TCP",
    /// No looking into, tracing or signalling of processes that it did not start itself, however they are reached. In every sandbox.
    Processes = "no hand on other processes",
    /// The system calls that nobody needs who only computes, opens files and talks to others: to trace, load, mount, reboot, set clocks,
    /// and change other processes. In every sandbox.
    SystemCalls = "no rare system calls",
    /// [`Sandbox::no_network`](crate::plan::Sandbox::no_network): no sockets.
    Network = "no sockets",
    /// [`Sandbox::no_new_processes`](crate::plan::Sandbox::no_new_processes).
    NewProcesses = "no new processes",
    /// No system calls but those on the list of [`Sandbox::strict`](crate::plan::Sandbox::strict).
    OrdinaryCalls = "ordinary system calls only",
}

impl Measure {
    /// The measure as a number.
    #[doc(hidden)]
    pub fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The inverse of [`code`](Self::code).
    #[doc(hidden)]
    pub fn from_code(code: u64) -> Option<Self> {
        let at = usize::try_from(code).ok()?.checked_sub(1)?;
        ALL.get(at).copied()
    }

    /// Walls behind another wall, which a sandbox stands without.
    pub(crate) fn is_extra(self) -> bool {
        matches!(self, Measure::NetworkNamespace | Measure::NetworkRules)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_a_number_of_its_own() {
        for &measure in ALL {
            assert_eq!(Measure::from_code(measure.code().into()), Some(measure));
        }
        assert_eq!([0, 20, u64::MAX].map(Measure::from_code), [None; 3]);
    }
}
