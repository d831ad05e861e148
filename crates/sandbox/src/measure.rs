//! The measures that a sandbox consists of: each one is in force or not.

#![forbid(unsafe_code)]

use std::fmt;

/// Declares [`Measure`], with all measures in the order in which they are applied and the words for each.
macro_rules! measures {
    ($($(#[$about:meta])+ $measure:ident = $words:literal,)+) => {
        /// One thing that a [`Sandbox`](crate::plan::Sandbox) applies to a child.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Measure {
            $($(#[$about])+ $measure,)+
        }

        /// Every measure, in the order in which they are applied. A measure's code in messages is its position here, counted from 1.
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
    /// No core dumps, which would contain the process's memory. In every sandbox.
    CoreDumps = "no core dumps",
    /// [`Sandbox::memory`](crate::plan::Sandbox::memory).
    Memory = "limit of memory",
    /// [`Sandbox::cpu_seconds`](crate::plan::Sandbox::cpu_seconds).
    CpuTime = "limit of CPU time",
    /// [`Sandbox::open_files`](crate::plan::Sandbox::open_files).
    OpenFiles = "limit of open files",
    /// A network namespace without devices. Comes with [`Sandbox::no_network`](crate::plan::Sandbox::no_network) as a second wall, and is always
    /// optional.
    NetworkNamespace = "network of its own",
    /// [`Sandbox::chroot`](crate::plan::Sandbox::chroot).
    Chroot = "root directory",
    /// [`Sandbox::umask`](crate::plan::Sandbox::umask).
    Umask = "umask",
    /// [`Sandbox::groups`](crate::plan::Sandbox::groups); no groups if the user or the group changes.
    Groups = "groups",
    /// [`Sandbox::gid`](crate::plan::Sandbox::gid).
    Group = "group",
    /// [`Sandbox::uid`](crate::plan::Sandbox::uid).
    User = "user",
    /// [`Sandbox::no_capabilities`](crate::plan::Sandbox::no_capabilities).
    Capabilities = "no capabilities",
    /// Programs that it executes get no more rights than it has. In every sandbox.
    NoNewPrivileges = "no new privileges",
    /// Only the files of [`Sandbox::read_only`](crate::plan::Sandbox::read_only) and [`Sandbox::read_write`](crate::plan::Sandbox::read_write).
    Files = "files",
    /// No TCP connections and no TCP ports. Comes with [`Sandbox::no_network`](crate::plan::Sandbox::no_network) as a third wall, and is always
    /// optional.
    NetworkRules = "no TCP",
    /// No inspecting, tracing or signalling of processes that it did not start itself, by any route. In every sandbox.
    Processes = "no access to other processes",
    /// No system calls that a service does not need to compute, open files and communicate: those to trace, load, mount, reboot, set clocks, and
    /// change other processes. In every sandbox.
    SystemCalls = "no rare system calls",
    /// [`Sandbox::no_network`](crate::plan::Sandbox::no_network): no sockets.
    Network = "no sockets",
    /// [`Sandbox::no_new_processes`](crate::plan::Sandbox::no_new_processes).
    NewProcesses = "no new processes",
    /// Only the system calls on the list of [`Sandbox::strict`](crate::plan::Sandbox::strict).
    OrdinaryCalls = "ordinary system calls only",
}

impl Measure {
    /// The measure's code in messages.
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

    /// Whether the measure is only a further wall, without which a sandbox still stands.
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
